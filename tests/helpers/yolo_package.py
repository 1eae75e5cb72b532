"""A package with the call interface of `ultralytics`, written from its documentation, with a network of a few layers.

It stands in where that package, which is AGPL-3.0, is not installed; in either form of predictions that it has had.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_convert, box_iou

STRIDES = (8.0, 16.0, 32.0)
CONFIG = {"nc": 80, "width": 8, "backbone": [[-1, 1, "Conv", [8]]], "head": [[[2, 3, 4], 1, "Detect", ["nc"]]]}
KNOWN = {"yolov5m.yaml": CONFIG | {"width": 12}, "yolov5s.yaml": CONFIG, "yolov5n-seg.yaml": CONFIG | {"task": "seg"}}
KNOWN["yolo26n.yaml"] = CONFIG | {"end2end": True}


class Conv(nn.Module):
    """A strided convolution with a norm."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(given, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x)))


class Detect(nn.Module):
    """Four sides, in strides, and a logit for each class, at every position."""

    as_maps = False

    def __init__(self, nc: int, widths: list[int]) -> None:
        super().__init__()
        self.nc, self.nl, self.stride = nc, len(widths), torch.tensor(STRIDES)
        self.cv2 = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in widths)
        self.cv3 = nn.ModuleList(nn.Conv2d(width, nc, 1) for width in widths)
        for conv in self.cv3:
            nn.init.constant_(conv.bias, -3.0)

    def forward(self, x: list[Tensor]) -> Any:
        sizes = [one.shape[2:] for one in x]
        for level in range(self.nl):  # as older heads do, into the list that they are given
            x[level] = torch.cat([self.cv2[level](x[level]), self.cv3[level](x[level])], 1)
        flat = torch.cat([one.flatten(2) for one in x], 2)
        named = {"boxes": flat[:, :4], "scores": flat[:, 4:], "sizes": sizes}
        said = x if self.as_maps else named
        if self.training:
            return said
        corners = decoded(flat[:, :4], sizes)
        return torch.cat([box_convert(corners, "xyxy", "cxcywh").mT, flat[:, 4:].sigmoid()], 1), said


class Segment(Detect):
    """A head for another task."""


def centres(sizes: list[Any]) -> tuple[Tensor, Tensor]:
    """(A,2) of all places, in pixels, and (A,1) their strides."""
    places, strides = [], []
    for (height, width), stride in zip(sizes, STRIDES, strict=True):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places.append((torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((height * width, 1), stride))
    return torch.cat(places), torch.cat(strides)


def decoded(sides: Tensor, sizes: list[Any]) -> Tensor:
    """(B,A,4) corners of (B,4,A) sides."""
    middle, strides = centres(sizes)
    reach = F.softplus(sides.mT) * strides
    return torch.cat([middle - reach[..., :2], middle + reach[..., 2:]], 2)


class Assigner(nn.Module):
    """A place is of the last box that it lies in."""

    def forward(self, middle: Tensor, labels: list[Tensor], corners: list[Tensor]) -> tuple[Tensor, ...]:
        found, boxes = [], []
        for of_image, where in zip(labels, corners, strict=True):
            label, box = torch.full((len(middle),), -1), torch.zeros(len(middle), 4)
            for one, (x1, y1, x2, y2) in zip(of_image.tolist(), where.tolist(), strict=True):
                inside = (middle[:, 0] > x1) & (middle[:, 0] < x2) & (middle[:, 1] > y1) & (middle[:, 1] < y2)
                label[inside], box[inside] = int(one), torch.tensor([x1, y1, x2, y2])
            found.append(label)
            boxes.append(box)
        target, box = torch.stack(found), torch.stack(boxes)
        return target.clamp(min=0), box, target, target >= 0, target


class Criterion:
    """Classes and overlaps, multiplied by the images of the batch."""

    def __init__(self, network: DetectionModel) -> None:
        self.gains, self.nc, self.assigner = network.args, network.model[-1].nc, Assigner()

    def __call__(self, preds: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        sizes = preds["sizes"] if isinstance(preds, dict) else [one.shape[2:] for one in preds]
        flat = preds if isinstance(preds, dict) else torch.cat([one.flatten(2) for one in preds], 2)
        sides, logits = (flat["boxes"], flat["scores"]) if isinstance(flat, dict) else (flat[:, :4], flat[:, 4:])
        height, width = (float(side) * STRIDES[0] for side in sizes[0])
        corners = box_convert(batch["bboxes"], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
        images = [batch["batch_idx"] == number for number in range(len(logits))]
        middle, _ = centres(sizes)
        labels, boxes, _, is_object, _ = self.assigner(
            middle, [batch["cls"][here, 0] for here in images], [corners[here] for here in images]
        )
        wanted = F.one_hot(labels.long(), self.nc) * is_object[..., None]
        count = is_object.sum().clamp(min=1)
        parts = [F.binary_cross_entropy_with_logits(logits.mT, wanted.float(), reduction="sum") / count]
        found = decoded(sides, sizes)[is_object]
        parts.append((1 - box_iou(found, boxes[is_object]).diagonal()).sum() / count)
        loss = torch.stack([parts[1] * self.gains.box, parts[0] * self.gains.cls, 0 * parts[0]])
        return loss * len(logits), loss.detach()


class DetectionModel(nn.Module):
    """Layers one after the other, each of which says where its inputs come from."""

    def __init__(self, cfg: Any = None, ch: int = 3, nc: int | None = None, verbose: bool = True) -> None:
        super().__init__()
        self.yaml, width = dict(cfg), cfg["width"]
        head = (Segment if cfg.get("task") == "seg" else Detect)(nc or cfg["nc"], [width, width, 2 * width])
        if cfg.get("end2end"):
            head.one2one_cv2 = nn.Conv2d(width, 4, 1)
        widths = [(ch, width, 4), (width, width, 1), (width, width, 2), (width, width, 2), (width, 2 * width, 2)]
        layers = [*(Conv(*one) for one in widths), head]
        for place, layer in enumerate(layers):
            layer.i, layer.f = place, [2, 3, 4] if layer is head else -1
        self.model, self.stride = nn.Sequential(*layers), torch.tensor(STRIDES)

    def forward(self, x: Tensor) -> Any:
        given: list[Any] = []
        for layer in self.model:
            x = layer(x if layer.f == -1 else [given[place] for place in layer.f])
            given.append(x)
        return x

    def init_criterion(self) -> Criterion:
        return Criterion(self)

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.init_criterion()(self(batch["img"]), batch)


class YOLO:
    """What is read from a checkpoint."""

    def __init__(self, file: str) -> None:
        self.model = torch.load(file, weights_only=False)["model"].float()


def non_max_suppression(
    prediction: Tensor, conf_thres: float, iou_thres: float, multi_label: bool, max_det: int, max_time_img: float
) -> list[Tensor]:
    assert multi_label
    assert max_time_img > 1000, "what is found must not depend on the time that it takes"
    found = []
    for one in prediction.mT:
        places, labels = (one[:, 4:] > conf_thres).nonzero(as_tuple=True)
        corners, sure = box_convert(one[places, :4], "cxcywh", "xyxy"), one[places, 4 + labels]
        kept = batched_nms(corners, sure, labels, iou_thres)[:max_det]
        found.append(torch.cat([corners[kept], sure[kept, None], labels[kept, None].float()], 1))
    return found


def yaml_model_load(path: str) -> dict[str, Any]:
    if path not in KNOWN:
        raise FileNotFoundError(f"'{Path(path).name}' does not exist")
    return dict(KNOWN[path])


def get_cfg(overrides: Mapping[str, float]) -> SimpleNamespace:
    return SimpleNamespace(**{"box": 7.5, "cls": 0.5, "dfl": 1.5, **overrides})


def installed(patch: pytest.MonkeyPatch, *, as_maps: bool = False) -> None:
    """The stand-in where the package would be; `as_maps` as its older versions give predictions."""
    kinds = {kind.__name__: kind for kind in (DetectionModel, Detect, Segment)}
    parts: dict[str, dict[str, Any]] = {
        "": {"YOLO": YOLO},
        ".nn.tasks": {**kinds, "yaml_model_load": yaml_model_load},
        ".cfg": {"get_cfg": get_cfg},
        ".utils.ops" if as_maps else ".utils.nms": {"non_max_suppression": non_max_suppression},
    }
    # Of the package itself none is imported, where it is there.
    for name in ("", ".nn", ".nn.tasks", ".cfg", ".utils", ".utils.ops", ".utils.nms"):
        module: Any = None
        if name in parts or name in (".nn", ".utils"):
            module = ModuleType(f"ultralytics{name}")
            vars(module).update(parts.get(name, {}), __path__=[])
        patch.setitem(sys.modules, f"ultralytics{name}", module)
    for kind in kinds.values():
        patch.setattr(kind, "__module__", "ultralytics.nn.tasks")
    patch.setattr(Detect, "as_maps", as_maps)


def absent(patch: pytest.MonkeyPatch) -> None:
    """Nothing where the package would be."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ultralytics"]:
        patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, "ultralytics", None)
