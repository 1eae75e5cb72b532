"""How many processes load images, and why none do where the data set or the script cannot be started anew."""

from __future__ import annotations

import ast
import multiprocessing
import sys
from collections.abc import Iterable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from understudy.data.config import DataConfig
from understudy.utils.errors import UserError
from understudy.utils.machine import num_cpus

__all__ = ["note_on_workers", "num_workers_for", "refuse_in_a_worker"]

GUARD = 'if __name__ == "__main__":'


def num_workers_for(config: DataConfig, loaded: Any) -> int:
    """Processes that load images; none where they are not forked and `loaded` cannot be sent to them."""
    wanted = min(8, num_cpus()) if config.workers is None else config.workers
    return 0 if wanted and _hindrance(loaded) else wanted


def note_on_workers(config: DataConfig, loaded: Iterable[Any]) -> list[str]:
    """Why images are loaded by the main process alone, where it is not as the settings say."""
    if config.workers == 0:
        return []
    reasons = [reason for one in loaded if (reason := _hindrance(one))]
    return [f"images are loaded without worker processes, which is slower: {reasons[0]}"] if reasons else []


def refuse_in_a_worker() -> None:
    """Stop a script that a starting worker process runs again, before it leaves anything behind.

    Raises:
        UserError: called while a process that is not forked imports the script that started it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            f"a process that loads images runs this script again, which has no {GUARD!r} around its calls; put them "
            "below such a line, or set data.workers=0 (settings={'data': {'workers': 0}})"
        )


def _hindrance(loaded: Any) -> str | None:
    """Why no process can be started that loads this; None where it can."""
    if multiprocessing.get_start_method() == "fork":
        return None
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is not None and not _has_guard(Path(script)):
        return (
            f"{Path(script).name} has no {GUARD!r} around its calls, and each process would run it again (processes "
            f"are started by {multiprocessing.get_start_method()!r} here)"
        )
    try:
        ForkingPickler.dumps(loaded)
    except Exception as error:  # whatever a data set of somebody's own raises
        return f"the data set cannot be sent to another process ({' '.join(str(error).split())[:200]})"
    if script is None and type(getattr(loaded, "dataset", None)).__module__ == "__main__":
        return "the data set's class is written in a notebook or at a prompt, where another process cannot find it"
    return None


def _has_guard(script: Path) -> bool:
    """Whether a script asks for its own name anywhere; a file that cannot be read is believed to."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in ast.walk(tree))
