"""The command line: `main` is what `understudy` calls."""

from understudy.cli.app import main

__all__ = ["main"]
