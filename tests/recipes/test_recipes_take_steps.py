"""Every shipped recipe builds what it names and takes two steps, on a few digits and from random weights."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import yolo_package
from helpers.query_configs import RT_DETR
from understudy.recipes.comparison import rows_of
from understudy.recipes.loading import merged, read_recipe, recipe_names
from understudy.recipes.schema import recipe_from
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows
from understudy.runs.components import Components, open_components
from understudy.training.connector_weights import save_connectors
from understudy.training.trainer import Trainer

# Stages of torchvision's networks, and pre-activations of timm's: neither are declared.
FAST = ["imagenet/at/resnet34-resnet18", "imagenet/ofd/resnet50-mobilenetv1"]
DENSE_DATA = {"segmentation": {"root": "shapes", "image_size": 64},
              "detection": {"root": "boxes-of-shapes", "image_size": None, "shorter_side": None,
                            "shorter_sides": [64, 96]}}  # fmt: skip
FIRST_STAGES = {"ft": "paraphraser", "sskd": "head", "hsakd": "heads"}  # whose connectors a second run wants
DIGITS = {
    "fraction": None,
    "root": "digits",
    "format": "auto",
    "train_rows": "0:8",
    "val_rows": "1000:1016",
    "val": "auto",
}
# Swin-L as it is built, with a hundredth of its weights.
SMALL_SEGFORMER = {"model_type": "segformer", "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16}
FEW_PROPOSALS = {f"rpn_{when}_nms_top_n_{mode}": 32 for when in ("pre", "post") for mode in ("train", "test")}
FEW_PROPOSALS |= {"box_batch_size_per_image": 32}
SMALL_SWIN = {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}


@cache
def stand_in(name: str) -> dict[str, Any]:
    """A shipped recipe on eight digits or drawn shapes: four images a step, and twelve more where copies are beside."""
    shipped = read_recipe(name)
    task = shipped.get("task", "classification")
    is_dense = task != "classification"
    is_large = not is_dense and (shipped["data"].get("image_size") or 0) >= 224
    has_places = "/cat_kd/" not in name or "mobilenetv2" not in name  # in its last map of 16 pixels
    size = 32 if is_large or not has_places else 16  # pixels: a quarter of the work of twice as many
    over: dict[str, Any] = {
        "data": {**DIGITS, "batch_size": 4, "image_size": size, "workers": 0},
        "student": {"weights": "none"},
        "seeds": [0],
        "device": "cpu",
        "lr_is_for_images": None,
    }
    if is_dense:
        drawn = {**DENSE_DATA[task], "train_rows": "0:8", "val_rows": "100:104"}
        over |= {"data": {**over["data"], **drawn}, "steps": None}
    if shipped.get("teacher"):
        over["teacher"] = {"weights": "none", "allow_weak": True, "expected_top1": None, "expected": None}
        if also := shipped["teacher"].get("also"):
            over["teacher"]["also"] = {head: {"weights": "none"} for head in also}
        if "swin_large" in shipped["teacher"]["model"]:
            over["teacher"]["kwargs"] = SMALL_SWIN
    for side in ("teacher", "student"):
        if shipped.get(side) and (small := small_kwargs(shipped[side]["model"])):
            over.setdefault(side, {})["kwargs"] = small
    return merged(shipped, over)


def small_kwargs(model: str) -> dict[str, Any]:
    """What makes a network of the hub or a detector a small one."""
    if model.startswith("hf:nvidia/mit-"):
        return SMALL_SEGFORMER
    if model.startswith("hf:PekingU/rtdetr"):
        return RT_DETR
    if model.startswith("fasterrcnn:"):
        return {**FEW_PROPOSALS, "width": 16, "head_width": 32}
    if model.startswith("torchvision:fasterrcnn"):
        return FEW_PROPOSALS
    return {"width": 16} if model.startswith("retinanet:") else {}


def trainer_of(recipe: Mapping[str, Any]) -> tuple[Components, Trainer]:
    components = open_components(recipe_from(recipe), allow_code=False, say=lambda text: None)
    rows = rows_of(components.recipe)
    check_rows(components, rows)
    return components, build_trainer(components, rows, 0)


def after_a_first_run(recipe: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The recipe; where it is the second run of two, with connectors of the first, untrained ones."""
    method = recipe.get("method", {})
    stage = FIRST_STAGES.get(method.get("name")) if isinstance(method, Mapping) else None
    if stage is None or "stage" in method:
        return recipe
    _, first = trainer_of(merged(recipe, {"method": {"stage": stage}}))
    save_connectors(folder, [weighted.method for weighted in first.students[0].methods])
    return merged(recipe, {"method": {"init_from": str(folder)}})


def check(name: str, folder: Path) -> None:
    recipe = after_a_first_run(stand_in(name), folder)
    components, trainer = trainer_of(recipe)
    loader = components.train_loader(0)
    trainer.begin(epochs=components.recipe.epochs, steps_per_epoch=loader.steps_per_epoch)
    losses = []
    for student in trainer.students:
        student.train()
    for batch in loader.epoch(1):
        trainer.take_step(batch)
        trainer.measures.close_interval()
        losses += [trainer.measures.interval[student.name] for student in trainer.students]
        trainer.step_in_epoch += 1
    assert len(losses) == 2 * len(trainer.students)
    assert all(torch.tensor(list(step.values())).isfinite().all() for step in losses), losses


@pytest.mark.parametrize("name", FAST)
def test_a_recipe_whose_networks_declare_too_little_takes_two_steps(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names() if name.partition("/")[2] not in FAST])
def test_every_other_shipped_recipe_takes_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yolo_package.installed(monkeypatch)
    check(name, tmp_path)
