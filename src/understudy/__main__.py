"""`python -m understudy`, the form that torchrun starts."""

from understudy.cli import main

if __name__ == "__main__":
    main()
