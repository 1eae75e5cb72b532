"""How `understudy predict` is told to write what a student of a task says of pictures."""

from __future__ import annotations

__all__ = ["predict_option"]

_OPTIONS = {
    "segmentation": (" --masks MASKS", "shares of classes, and a PNG of every mask"),
    "detection": (" --boxes PICTURES", "boxes and how sure, drawn on the pictures"),
}


def predict_option(task: str) -> tuple[str, str]:
    """The option behind the command, "" where the task has none, and what is told and written then."""
    return _OPTIONS.get(task, ("", "names of classes and how sure"))
