"""Detectors on a GPU that is not there (pretended_cuda): everything that a run computes lies on one device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from helpers.dense_recipes import DETECTOR, dense_recipe
from helpers.pretended_cuda import CUDA, pretended_cuda
from helpers.pretended_runs import check_losses, on_cuda, opened, trainer_of
from helpers.query_configs import DETR, RT_DETR
from understudy.models.cost import count_macs
from understudy.models.detectors.deployed import FoundBoxes, RawBoxes
from understudy.runs.components import Components

BACKBONE = {"channels": [8, 8, 16, 16], "stem_width": 8}
RETINANET = {"width": 16, "backbone": BACKBONE, "anchor_sizes": [16, 32, 48, 64, 96]}
DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn": DETECTOR,
    "detr": {"model": "hf:mine", "kwargs": DETR, "weights": "none"},
    "retinanet": {"model": "retinanet:resnet10t", "kwargs": RETINANET, "weights": "none"},
    "fcos": {"model": "fcos:resnet10t", "kwargs": {"width": 64, "backbone": BACKBONE}, "weights": "none"},
    "ssd": {"model": "torchvision:ssdlite320_mobilenet_v3_large", "weights": "none"},
    "rt_detr": {"model": "hf:mine", "kwargs": RT_DETR, "weights": "none"},
}
KINDS = [kind if kind == "fasterrcnn" else pytest.param(kind, marks=pytest.mark.slow) for kind in DETECTORS]


def of_boxes(kind: str) -> Components:
    """A tiny run's parts."""
    rows = ["dkd", "fgfi"] if kind == "fasterrcnn" else ["dist"]
    settings = {"student": DETECTORS[kind], "teacher": {**DETECTORS[kind], "allow_weak": True}, "rows": rows}
    return opened(dense_recipe("detection", {**settings, "data": {"batch_size": 2}, "fold_teacher": False}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_an_evaluation_and_what_is_deployed_lie_on_the_device(kind: str) -> None:
    if DETECTORS[kind]["model"].startswith("hf:"):
        pytest.importorskip("transformers", reason="needs pip install 'understudy[hf]'")
    components = of_boxes(kind)
    with pretended_cuda():
        components = on_cuda(components)
        trainer = trainer_of(components)
        check_losses(trainer, next(iter(components.train_loader(0).epoch(1))).to(CUDA))
        found = trainer.evaluate(components.eval_loader("val"))
        assert set(found) == {student.name for student in trainer.students}
        student = trainer.students[-1]
        network = torch.nn.Sequential(student.model.prepare, student.model.module).eval()
        assert {one.device for one in FoundBoxes(network)(torch.rand(1, 3, 64, 64, device=CUDA))} == {CUDA}
        if kind != "fasterrcnn":  # which sifts its boxes on the way
            assert {one.device for one in RawBoxes(network)(torch.rand(1, 3, 64, 64, device=CUDA))} == {CUDA}
        assert count_macs(network, 64) > 0


def test_the_guard_sees_a_buffer_of_a_detector_that_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    components = of_boxes("fasterrcnn")
    monkeypatch.setattr(AnchorGenerator, "set_cell_anchors", lambda *_: None)  # by which torchvision moves them
    with pretended_cuda():
        components = on_cuda(components)
        with pytest.raises(RuntimeError, match=r"two devices|different devices"):
            trainer_of(components).evaluate(components.eval_loader("val"))
