"""Model cards: a README.md in every folder that holds a student of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from understudy.data.sources.hub import HUB
from understudy.models.hub import hub_name
from understudy.report.model_card import model_card
from understudy.results.schema import Results, Row, SeedResult
from understudy.runs.folder import MAX_RECIPE_BYTES, RunFolder
from understudy.utils import files
from understudy.utils.errors import UserError
from understudy.utils.untrusted import plain_json, text_of

__all__ = ["CARD_FILE", "card_of", "write_cards"]

CARD_FILE = "README.md"


def write_cards(run: RunFolder, results: Results) -> None:
    """Write README.md beside the student of every row and seed."""
    for row in results.rows:
        for seed in row.seeds:
            folder = run.students / row.name / f"seed{seed.seed}"
            text = card_of(run, results, row, seed)
            files.write_atomically(folder / CARD_FILE, text.encode("utf-8", errors="backslashreplace"))


def card_of(run: RunFolder, results: Results, row: Row, seed: SeedResult) -> str:
    """The model card of one student of a run."""
    recipe = run.recipe()
    student = row.student
    return model_card(
        results,
        row,
        seed,
        environment=_environment(run),
        dataset=_dataset(recipe),
        base_model=hub_name(student.model) if student.starts_from.startswith("pretrained weights") else None,
    )


def _environment(run: RunFolder) -> dict[str, Any]:
    try:
        found = plain_json(text_of(run.environment_file, most_bytes=MAX_RECIPE_BYTES))
    except (UserError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _dataset(recipe: dict[str, Any]) -> str | None:
    """'uoft-cs/cifar100' of a recipe whose data come from the hub."""
    data = recipe.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    if not isinstance(root, str) or not root.startswith(HUB) or Path(root.removeprefix(HUB)).exists():
        return None
    return root.removeprefix(HUB).partition(":")[0]
