"""What a network's own package asks of those who use it, where that is more than a notice."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["is_exported_here", "licence_notes"]

_NOTES = {
    "ultralytics": (
        "is run by the package ultralytics, which is under the AGPL-3.0 (or a licence that its makers sell): whoever "
        "passes on what is built with it, or offers it as a service, has that licence to keep"
    )
}


def licence_notes(models: Iterable[str]) -> list[str]:
    """A sentence for each package under such a licence, naming its models; none of all others."""
    by_source: dict[str, list[str]] = {}
    for model in dict.fromkeys(models):
        source = model.partition(":")[0]
        if source in _NOTES:
            by_source.setdefault(source, []).append(model)
    return [f"{' and '.join(named)} {_verb(named, _NOTES[source])}" for source, named in by_source.items()]


def is_exported_here(model: str) -> bool:
    """Whether files to deploy are written of it; of ultralytics, that package writes them, under its licence."""
    return model.partition(":")[0] not in _NOTES


def _verb(named: list[str], note: str) -> str:
    return note if len(named) == 1 else note.replace("is run", "are run", 1)
