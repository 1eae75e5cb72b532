"""The figures of a run, one file each. Every module of this folder is imported, so that its figure is registered."""

from importlib import import_module
from pkgutil import iter_modules

from understudy.report.figures.base import FIGURES, Lacking, all_figures, all_plots, register_figure
from understudy.report.figures.hover import hover_points
from understudy.report.figures.style import Plot

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["FIGURES", "Lacking", "Plot", "all_figures", "all_plots", "hover_points", "register_figure"]
