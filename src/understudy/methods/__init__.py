"""Distillation methods, one file each. Every module of this folder is imported, so that its method is registered."""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from understudy.config import UserError
from understudy.methods.base import METHODS, Method, MethodConfig, method_named

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "Method", "MethodConfig", "load_installed_methods", "method_named"]


def load_installed_methods() -> None:
    """Import what installed packages declare under the entry point group `understudy.methods`.

    Raises:
        UserError: one of them cannot be imported; names the package.
    """
    for entry in entry_points(group=__name__):
        try:
            entry.load()
        except Exception as error:  # whatever somebody else's module raises at import
            package = entry.dist.name if entry.dist else entry.value
            raise UserError(
                f"the method {entry.name!r} of package {package} cannot be imported: {type(error).__name__}: {error}"
            ) from error


def __getattr__(name: str) -> type[Method]:
    """`understudy.methods.DIST` and the like: method classes by class name."""
    for method in METHODS.values():
        if method.__name__ == name:
            return method
    raise AttributeError(
        f"there is no method class {name!r}; there are: {sorted(m.__name__ for m in METHODS.values())}"
    )
