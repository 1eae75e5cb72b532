"""Probes: what is looked at while a student trains, and changes nothing of it.

Every module of this folder is imported, so that its probe is registered.
"""

from importlib import import_module
from pkgutil import iter_modules

from understudy.probes.base import PROBES, EpochSight, Probe, Probed, Sight, probe_names

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["PROBES", "EpochSight", "Probe", "Probed", "Sight", "probe_names"]
