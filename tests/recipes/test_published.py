"""Every number that a recipe carries stands in a paper's table, and every table's number is carried by a recipe."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache

import pytest
from dense_tables import DENSE_CELLS
from paper_tables import CELLS as CLASSIFICATION_CELLS
from paper_tables import Cell

from understudy.core.published import Published
from understudy.recipes.loading import recipe_names
from understudy.recipes.schema import Recipe, load_recipe

CELLS = [*CLASSIFICATION_CELLS, *DENSE_CELLS]
ASSUMED = "classification/"
NAMES = [name.removeprefix(ASSUMED) for name in recipe_names()]

# What no recipe trains, and why.
LEFT_OUT = {
    "imagenet/teachers/regnety_160": "a published checkpoint; its top-1 is teacher.expected_top1",
    "imagenet/teachers/resnet50_a1": "a published checkpoint; its top-1 is teacher.expected_top1",
    "detection/coco/teachers/fasterrcnn_resnet50": "detectron2's checkpoint; torchvision's stands in for it",
    "detection/coco/teachers/cascade_rcnn_resnext101": "cascades are not built here; a Faster R-CNN stands in for it",
    "detection/coco/teachers/yolov5m": "a checkpoint with anchors; one without, of ultralytics, stands in for it",
    "imagenet/teachers/swin_large": "a published checkpoint, from ImageNet-22k; its top-1 is teacher.expected_top1",
}
# Cells whose recipe is None are settings of tables that vary one; the reference run has a recipe of its own.


@cache
def shipped(name: str) -> Recipe:
    return load_recipe(name)


def tables_of(source: str) -> list[str]:
    """'DOT, tables 3 (a), 6 and 8' names 'DOT, table 3 (a)', 'DOT, table 6', 'DOT, table 8'."""
    paper, several, numbers = source.partition(", tables ")
    return [f"{paper}, table {number}" for number in re.split(", | and ", numbers)] if several else [source]


def head(cell: Cell) -> list[tuple[str, float]]:
    """The first score of a cell, the headline's."""
    return list(cell.scores.items())[:1]


def carries(published: Published, cell: Cell) -> bool:
    return (
        cell.source in tables_of(published.source)
        and all(published.scores.get(metric) == score for metric, score in cell.scores.items())
        and cell.task_loss in (None, published.task_loss)
    )


def test_several_tables_of_one_paper_are_told_apart() -> None:
    assert tables_of("DOT, table 3 (a)") == ["DOT, table 3 (a)"]
    assert tables_of("DOT, tables 3 (a), 6 and 8") == ["DOT, table 3 (a)", "DOT, table 6", "DOT, table 8"]


def test_every_cell_of_a_table_is_carried_by_its_recipe() -> None:
    missing = [
        cell
        for cell in CELLS
        if cell.recipe is not None
        and cell.recipe not in LEFT_OUT
        and (cell.recipe not in NAMES or not any(carries(found, cell) for found in shipped(cell.recipe).published))
    ]
    assert missing == []


def test_what_is_left_out_has_no_recipe_and_stands_in_a_table() -> None:
    assert set(LEFT_OUT) <= {cell.recipe for cell in CELLS}
    assert not set(LEFT_OUT) & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_that_a_recipe_carries_stands_in_each_table_that_it_names(name: str) -> None:
    for published in shipped(name).published:
        cells: list[Cell] = []
        for table in tables_of(published.source):
            here = [cell for cell in CELLS if cell.source == table and cell.recipe in (name, None)]
            here = [cell for cell in here if all(published.scores.get(key) == value for key, value in head(cell))]
            assert here, f"{table} has no {published.scores} for it"
            cells += here
        for metric, score in published.scores.items():
            assert score in {cell.scores.get(metric) for cell in cells}, metric
        assert published.task_loss in (None, *(cell.task_loss for cell in cells))


def test_the_tables_hold_as_many_top5_values_as_the_papers_print() -> None:
    num_top5 = defaultdict[str, int](int)
    for cell in CELLS:
        num_top5[cell.source.split(" (")[0]] += "top5" in cell.scores
    assert (num_top5["DOT, table 3"], num_top5["DIST, table 2"]) == (63, 15)
    assert (num_top5["projector paper, table 5"], num_top5["projector paper, table 6"]) == (7, 8)


# Accuracy of a teacher, by table and name; the tables that name none go by CRD's.
TEACHERS = {
    (cell.source, cell.recipe.rpartition("/")[2]): head(cell)[0][1]
    for cell in CELLS
    if cell.recipe is not None and "/teachers/" in cell.recipe and "stands in" not in LEFT_OUT.get(cell.recipe, "")
}


@pytest.mark.parametrize("name", [name for name in NAMES if load_recipe(name).teacher and "-" in name.split("/")[-1]])
def test_a_teacher_is_expected_to_reach_what_the_headlines_table_says(name: str) -> None:
    found = shipped(name)
    teacher = name.split("/")[-1].partition("-")[0]
    headline = [table for published in found.published[:1] for table in tables_of(published.source)]
    known = [TEACHERS[table, teacher] for table in headline if (table, teacher) in TEACHERS]
    known += [TEACHERS[table, teacher] for table in ("CRD, table 1", "CRD, table 2") if (table, teacher) in TEACHERS]
    if not headline or not known:
        return
    assert found.teacher is not None
    assert known[0] in (found.teacher.expected_top1, found.teacher.expected)


def test_averages_of_three_runs_are_reproduced_by_three_seeds() -> None:
    for name in NAMES:
        published = shipped(name).published
        if published and published[0].source.startswith("DOT, ") and "/teachers/" not in name:
            assert shipped(name).seeds == (0, 1, 2), name  # DOT, section 5.1
