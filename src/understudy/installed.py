"""What installed packages add: each declares an entry point, and importing what it names registers it."""

from __future__ import annotations

from importlib.metadata import entry_points

from understudy.config import UserError

__all__ = ["GROUPS", "installed_names", "load_installed"]

GROUPS = {
    "understudy.methods": "method",
    "understudy.updates": "update",
    "understudy.trackers": "tracker",
}  # by entry point group: what it is of


def installed_names(group: str) -> list[str]:
    """Names that installed packages declare under an entry point group; nothing of theirs is imported."""
    return sorted(entry_points(group=group).names)


def load_installed() -> None:
    """Import everything that installed packages declare under the entry point groups of `GROUPS`.

    Raises:
        UserError: one of them cannot be imported; names the package.
    """
    for group, kind in GROUPS.items():
        for entry in entry_points(group=group):
            try:
                entry.load()
            except Exception as error:  # whatever somebody else's module raises at import
                package = entry.dist.name if entry.dist else entry.value
                raise UserError(
                    f"the {kind} {entry.name!r} of package {package} cannot be imported: "
                    f"{type(error).__name__}: {error}"
                ) from error
