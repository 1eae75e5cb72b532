"""One self-contained HTML page about a run: nothing is loaded from elsewhere, every string is escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from understudy.report.run_data import RunData, read_run
from understudy.utils.files import write_atomically

__all__ = ["rendered", "write_page", "write_report"]


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page about a run folder.

    Args:
        run: a folder with results.json; other files that are missing are named on the page.
        out: where the page goes, a file or an existing folder; None: report.html in the run folder.

    Returns:
        The file that was written. The same run gives the same bytes.

    Raises:
        UserError: results.json is missing or not readable.
    """
    return write_page(_render(read_run(run)), run, out)


def write_page(content: str, run: Path, out: Path | None = None) -> Path:
    """Write a page whole or not at all; arguments and what is returned as in `write_report`."""
    target = run / "report.html" if out is None else out / "report.html" if out.is_dir() else out
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content.encode())  # and replaces a link, instead of writing to where it points
    return target


def rendered(template: str, **values: Any) -> str:
    """A template of this package, with these values escaped, in the style and with the script of every page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("understudy", "report"),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name in the template is an error, not a gap on the page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = _with_code
    style, script = _part("page.css"), _part("page.js")
    return environment.get_template(template).render(style=style, script=script, script_hash=_hash_of(script), **values)


def _with_code(text: str) -> str:
    """Text, escaped, in which `words` between backticks are set as code."""
    from markupsafe import Markup, escape  # jinja2's own

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _render(run: RunData) -> str:
    from understudy.report.run_page import run_page  # with matplotlib, which nothing before the page needs

    return rendered("page.html.j2", title=run.results.title or run.results.name, page=run_page(run))


@cache
def _part(name: str) -> str:
    """Style or script of every page; no string of a run goes into either."""
    return files("understudy.report").joinpath(name).read_text(encoding="utf-8")


def _hash_of(script: str) -> str:
    """What a page's policy allows this very script by (CSP level 2): 'sha256-...'."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
