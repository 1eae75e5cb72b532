"""What the tests of strategies and of shipped recipes share."""

from __future__ import annotations

from functools import cache

from understudy.data import DataConfig
from understudy.recipes.loading import merged, read_recipe
from understudy.recipes.schema import Recipe, recipe_from

ANY = {"data": {"root": "digits"}, "student": {"model": "cifar:resnet8"}, "teacher": {"model": "cifar:resnet8"}}


@cache
def under(strategy: str) -> Recipe:
    """Any recipe under a strategy."""
    return recipe_from(merged(ANY, read_recipe(f"strategies/{strategy}")))


def augmentation(data: DataConfig) -> dict[str, object]:
    assert data.augment != "auto"
    return data.augment.model_dump()
