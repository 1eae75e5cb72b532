"""Write docs/methods/NAME.md for every method, from its docstring and Config: `make docs`."""

from pathlib import Path

from understudy.cli.method_pages import method_page
from understudy.methods import METHODS

FOLDER = Path(__file__).parent / "methods"

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for page in FOLDER.glob("*.md"):
        page.unlink()
    for name in METHODS:
        (FOLDER / f"{name}.md").write_text(method_page(name), encoding="utf-8")
