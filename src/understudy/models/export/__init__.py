"""Files to deploy, one format a file of this folder: written, held against torch, and timed."""

from importlib import import_module
from pkgutil import iter_modules

from understudy.models.export.base import FORMATS, Format, Runner, Subject, Written, at_rest, write

for _module in iter_modules(__path__):  # so that every format is registered
    import_module(f"{__name__}.{_module.name}")

__all__ = ["FORMATS", "Format", "Runner", "Subject", "Written", "at_rest", "write"]
