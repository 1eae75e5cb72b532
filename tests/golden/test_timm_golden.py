"""What we take from timm as it is, against stored trajectories: RMSpropTF, weight averages, Mixup and CutMix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data.mixup
import torch
from cases import ABSENT, Case, load, paths_of, problem
from timm.data import Mixup
from timm.optim import RMSpropTF
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn


def cases(method: str) -> list[Any]:
    """The case files of a golden method; where the folder is absent, one skip that says so."""
    absent = pytest.param(None, id="absent", marks=pytest.mark.skip(f"{method}: {ABSENT}"))
    return [pytest.param(path, id=f"{method}/{path.name}") for path in paths_of(method)] or [absent]


def problems(case: Case, found: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> list[str]:
    assert case.expected.keys() <= found.keys(), f"not answered: {sorted(case.expected.keys() - found.keys())}"
    return [text for name in sorted(case.expected) if (text := problem(name, found[name], case, dtype))]


def part(case: Case, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): case[name] for name in case.inputs if name.startswith(prefix)}


@pytest.mark.parametrize("path", cases("rmsprop_tf"))
def test_rmsprop_tf_takes_the_stored_steps(path: Path) -> None:
    case = load(path, torch.float64)
    weights = {name: nn.Parameter(tensor.clone()) for name, tensor in part(case, "init.").items()}
    settings = {name: value for name, value in case.hyper.items() if name not in ("steps", "lr_schedule")}
    optimizer, new_lr = RMSpropTF(weights.values(), **settings), dict(case.hyper["lr_schedule"])

    found = {}
    for step in range(case.hyper["steps"]):
        optimizer.param_groups[0]["lr"] = new_lr.get(step, optimizer.param_groups[0]["lr"])
        for name, gradient in part(case, f"gradient.{step}.").items():
            weights[name].grad = gradient.clone()
        optimizer.step()
        for name, weight in weights.items():
            for kind, tensor in {"param": weight, **optimizer.state[weight]}.items():
                found[f"out.step{step}.{kind}.{name}"] = tensor.detach().clone()

    assert not problems(case, found)


def model_of(state: dict[str, Tensor]) -> nn.Module:
    outputs, inputs = state["fc.weight"].shape
    layers = {"fc": nn.Linear(inputs, outputs), "bn": nn.BatchNorm1d(len(state["bn.weight"]))}
    return nn.ModuleDict(layers).double()


def average_of(model: nn.Module, hyper: dict[str, Any]) -> ModelEmaV2 | ModelEmaV3:
    if hyper["variant"] != "v3":
        return ModelEmaV2(model, decay=hyper["decay"])  # image_classification_sota's is the same rule
    names = ("decay", "min_decay", "update_after_step", "use_warmup", "warmup_gamma", "warmup_power", "exclude_buffers")
    return ModelEmaV3(model, **{name: hyper[name] for name in names})


@pytest.mark.parametrize("path", cases("ema_warmup"))
def test_weight_averages_take_the_stored_steps(path: Path) -> None:
    case = load(path, torch.float64)
    model = model_of(part(case, "model.0."))
    model.load_state_dict(part(case, "model.0."))
    average, steps = average_of(model, case.hyper), range(1, case.hyper["steps"] + 1)

    def decays(steps: Any) -> Tensor:
        warms_up = isinstance(average, ModelEmaV3)
        found = [average.get_decay(step) if warms_up else average.decay for step in steps]
        return torch.tensor(found, dtype=torch.float64)

    found = {"out.decay": decays(steps), "out.decay_at": decays(case.hyper.get("extra_steps", []))}
    for step in steps:
        model.load_state_dict(part(case, f"model.{step}."))
        average.update(model, step) if isinstance(average, ModelEmaV3) else average.update(model)
        for name, tensor in average.module.state_dict().items():
            found[f"out.step{step}.ema.{name}"] = tensor.clone()

    assert not problems(case, found)


@pytest.mark.parametrize("path", cases("mixup_cutmix"))
def test_mixup_and_cutmix_mix_the_stored_images(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load(path, torch.float32)
    hyper = dict(case.hyper)
    np.random.seed(hyper.pop("numpy_seed"))
    lams: list[Tensor] = []
    boxes: list[Tensor] = []
    mix_targets, draw_box = timm.data.mixup.mixup_target, timm.data.mixup.cutmix_bbox_and_lam

    def noted_targets(target: Tensor, num_classes: int, lam: float | Tensor = 1.0, *rest: Any) -> Tensor:
        lams.append(torch.as_tensor(lam))
        return mix_targets(target, num_classes, lam, *rest)

    def noted_box(*args: Any, **settings: Any) -> Any:
        corners, lam = draw_box(*args, **settings)
        boxes.append(torch.tensor([*map(float, corners), float(lam)], dtype=torch.float64))
        return corners, lam

    monkeypatch.setattr(timm.data.mixup, "mixup_target", noted_targets)
    monkeypatch.setattr(timm.data.mixup, "cutmix_bbox_and_lam", noted_box)
    images, targets = Mixup(**hyper)(case["images"].clone(), case["target"])

    found = {"out.mixed_images": images, "out.mixed_target": targets, "out.lam": lams[0]}
    found["out.cutmix_boxes"] = torch.stack(boxes) if boxes else torch.zeros(0, 5)
    for name in ("out.lam", "out.cutmix_boxes"):  # one for the batch, or one for each image or pair
        if name in case.expected:
            found[name] = found[name].reshape(case.expected[name].shape)
    assert not problems(case, found, torch.float32)
