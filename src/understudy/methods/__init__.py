"""Distillation methods, one file each. Every module of this folder is imported, so that its method is registered."""

from importlib import import_module
from pkgutil import iter_modules

from understudy.methods.base import METHODS, Method, MethodConfig, method_named

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "Method", "MethodConfig", "method_named"]


def __getattr__(name: str) -> type[Method]:
    """`understudy.methods.DIST` and the like: method classes by class name."""
    for method in METHODS.values():
        if method.__name__ == name:
            return method
    raise AttributeError(
        f"there is no method class {name!r}; there are: {sorted(m.__name__ for m in METHODS.values())}"
    )
