"""Write docs/methods/, docs/settings.md and the tables of docs/results.md from what the code says: `make docs`."""

from pathlib import Path

from understudy.cli.method_pages import method_page
from understudy.cli.results_page import with_tables
from understudy.cli.settings_pages import settings_page
from understudy.methods import METHODS

FOLDER = Path(__file__).parent / "methods"
RESULTS = Path(__file__).parent / "results.md"
SETTINGS = Path(__file__).parent / "settings.md"

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for page in FOLDER.glob("*.md"):
        page.unlink()
    for name in METHODS:
        (FOLDER / f"{name}.md").write_text(method_page(name), encoding="utf-8")
    SETTINGS.write_text(settings_page(), encoding="utf-8")
    RESULTS.write_text(with_tables(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")
