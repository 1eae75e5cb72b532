"""What has to be said to use a student: how its answers are written, and which code builds it."""

from __future__ import annotations

import re

__all__ = ["code_options", "predict_option"]

_OPTIONS = {
    "segmentation": (" --masks MASKS", "shares of classes, and a PNG of every mask"),
    "detection": (" --boxes PICTURES", "boxes and how sure, drawn on the pictures"),
}


def predict_option(task: str) -> tuple[str, str]:
    """The option behind the command, "" where the task has none, and what is told and written then."""
    return _OPTIONS.get(task, ("", "names of classes and how sure"))


def code_options(model: str) -> tuple[str, str]:
    """What opening a student of this name takes: options of a command, and arguments of `load_student`.

    Both are empty for networks of installed libraries; own code is not run unasked, and a network that Python handed
    over has nothing that builds it.
    """
    from understudy.models.names import NAMED_SOURCES  # here, since it imports timm

    source, colon, _ = model.partition(":")
    if not colon:
        return " --module FILE.py:CLASS --allow-code", f", module={re.sub(r'[^A-Za-z0-9_.]', '', model)}(...)"
    return ("", "") if source in NAMED_SOURCES else (" --allow-code", ", allow_code=True")
