"""The shipped recipes of Cityscapes and COCO against the papers' code, and what keeps their numbers apart from ours."""

import pytest

from understudy.core.published import as_list
from understudy.optim import lr_factor
from understudy.recipes.comparison import rows_of
from understudy.recipes.loading import read_shipped, recipe_names
from understudy.recipes.schema import Recipe, load_recipe

R18 = "segmentation/cityscapes/{}/deeplabv3_resnet101-deeplabv3_resnet18"
MV2 = "detection/coco/{}/fasterrcnn_resnet50-fasterrcnn_mobilenetv2"


def rate(recipe: Recipe, step: float) -> float:
    assert recipe.steps is not None
    epoch = step * recipe.epochs / recipe.steps
    return recipe.update.lr * lr_factor(recipe.schedule, epoch, recipe.epochs, lr=recipe.update.lr)


@pytest.mark.parametrize(
    ("name", "by_step"),
    [
        (R18.format("kd"), {0: 0.02, 20_000: 0.02 * 0.5**0.9, 40_000: 0}),
        (R18.format("dist-equal"), {0: 0.02, 40_000: 0}),
        (R18.format("dist"), {0: 0.02, 40_000: 1e-4}),
        (MV2.format("dkd"), {0: 1e-5, 500: 0.005005, 1_000: 0.01, 119_999: 0.01, 120_001: 1e-3, 160_001: 1e-4}),
        ("detection/coco/reviewkd/retinanet_resnet101-retinanet_resnet50", {0: 5e-6, 1_000: 0.005, 179_999: 5e-5}),
    ],
)
def test_rates_at_given_steps(name: str, by_step: dict[int, float]) -> None:
    recipe = load_recipe(name)
    assert {step: rate(recipe, step) for step in by_step} == pytest.approx(by_step, abs=1e-9)


def test_cirkds_rivals_differ_in_the_method_alone_and_dist_in_its_schedule_too() -> None:
    kd, dist, equal = (load_recipe(R18.format(row)) for row in ("kd", "dist", "dist-equal"))
    rivals = [load_recipe(R18.format(row)) for row in ("skd", "ifvd", "cwd", "dsd", "cirkd", "at", "fitnet")]
    for rival in [equal, *rivals]:
        assert (rival.update, rival.schedule, rival.data) == (kd.update, kd.schedule, kd.data)
    assert [len(rival.method) for rival in rivals] == [2, 2, 3, 1, 2, 2, 2]  # all but DSD have KD beside them
    assert dist.method == equal.method
    assert (dist.update.weight_decay, equal.update.weight_decay) == (5e-4, 1e-4)


def test_rows_of_a_comparison_on_coco_have_the_settings_of_their_own_recipes() -> None:
    base = load_recipe(MV2.format("kd"))
    names = ("alone", "kd", "fitnet", "fgfi", "reviewkd", "dkd", "dist", "dkd+reviewkd")
    rows = {row.name: row for row in rows_of(base.with_rows(names))}
    assert rows["reviewkd"].method[0].weight == 2
    assert rows["fgfi"].settings_from == "recipe detection/coco/fgfi/fasterrcnn_resnet50-fasterrcnn_mobilenetv2"
    reported = {name: row.published[0].scores["ap"] if row.published else None for name, row in rows.items()}
    assert reported == {
        "alone": 29.47, "kd": 30.13, "fitnet": 30.2, "fgfi": 31.16, "reviewkd": 33.71, "dkd": 32.34, "dist": None,
        "dkd+reviewkd": 34.35,
    }  # fmt: skip


def test_every_number_of_a_dense_task_says_why_it_may_not_stand_beside_ours() -> None:
    dense = [name for name in recipe_names() if name.startswith(("segmentation/", "detection/"))]
    numbers = [number for name in dense for number in as_list(read_shipped(name).get("published"))]
    assert len(numbers) > 40
    assert all(number.get("caveat") for number in numbers)
    (first,) = load_recipe(MV2.format("projector")).published
    assert first.cited == "projector paper, table 8; one run; detectron2's networks, and its teacher of 40.22"


def test_rows_of_anybodys_boxes_take_the_defaults_of_detectors_where_a_method_has_others() -> None:
    own = {
        "task": "detection",
        "data": {"root": "MY/BOXES"},
        "teacher": {"model": "fasterrcnn:resnet50"},
        "student": {"model": "fasterrcnn:mobilenetv2_100"},
        "rows": ["alone", "reviewkd", "projector", "dist"],
    }
    rows = {row.name: row for row in rows_of(Recipe.read(own, what="own"))}

    (reviewkd,), (projector,), (dist,) = (rows[name].method for name in ("reviewkd", "projector", "dist"))
    assert (reviewkd.model_dump()["embedding"], projector.model_dump()["spatial"]) == (False, True)
    assert rows["projector"].settings_from == "defaults of detection"
    assert (dist, rows["dist"].settings_from) == (type(dist)(), "the method's own defaults")


def test_rows_of_anybodys_masks_take_the_defaults_of_segmenters() -> None:
    own = {
        "task": "segmentation",
        "data": {"root": "MY/MASKS"},
        "teacher": {"model": "deeplabv3:resnet50"},
        "student": {"model": "fpn:mobilenetv3_small_100"},
        "rows": ["reviewkd", "projector", "cwd", "dist"],
    }
    rows = {row.name: row.method[0].model_dump() for row in rows_of(Recipe.read(own, what="own"))}
    assert (rows["reviewkd"]["embedding"], rows["projector"]["student_tap"]) == (False, "head")
    assert rows["cwd"]["student_stages"] == ("output.logits",)
