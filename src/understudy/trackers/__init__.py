"""Trackers: who keeps the lines that a run measures, one file each.

Every module of this folder is imported, so that its tracker is registered.
"""

from importlib import import_module
from pkgutil import iter_modules

from understudy.trackers.base import TRACKERS, Tracker

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["TRACKERS", "Tracker"]
