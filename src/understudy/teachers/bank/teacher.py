"""A teacher that is looked up: its outputs on some views of the training set, made once by `understudy bank`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.batch import Batch, Observation, PlannedBatch
from understudy.core.tap_shapes import TapShapes
from understudy.core.taps import TapShape
from understudy.teachers.bank.maps_alone import CANVAS
from understudy.teachers.bank.packing import feature_names, map_tapped, unpacked
from understudy.teachers.bank.store import BankFolder, Manifest
from understudy.teachers.bank.view import BankView
from understudy.teachers.base import KeptScores, Teacher
from understudy.utils.errors import UserError
from understudy.utils.text import plural

__all__ = ["BankTeacher", "teacher_tensors"]


class BankTeacher(Teacher):
    """What a teacher said about every image of some views of a seed, by (sample, view, draw); its network is not built.

    Args:
        folder: of one seed's bank.

    Raises:
        UserError: there is none, or it is not complete.
    """

    looks_at_images = False

    def __init__(self, folder: Path) -> None:
        self.folder = BankFolder(folder)
        self.manifest = self.folder.manifest()
        _refuse_incomplete(self.folder, self.manifest)
        self.name = f"bank {folder}"
        self.taps: tuple[str, ...] = ()
        self._num_views = self.manifest.num_views
        tensors = self.folder.teacher_tensors(self.manifest)
        self._classifier = _classifier(self.manifest, tensors)
        self._norms = {tap: _norm(tap, eps, tensors) for tap, eps in self.manifest.teacher.norms.items()}
        self._evaluated = {
            split: KeptScores(scores, _below(split, tensors)) for split, scores in self.manifest.teacher.scores.items()
        }
        self._view: tuple[int, BankView] | None = None
        self._num_readings = 0  # of views
        self._checked: set[int] = set()  # views whose checksums were looked at

    @property
    def num_views(self) -> int:
        """V: epochs after which the augmentation repeats."""
        return self._num_views

    @property
    def num_classes(self) -> int:
        """C_t, the teacher's."""
        return self.manifest.layout.num_classes

    @property
    def origin(self) -> str:
        """Where the teacher's weights came from, and where its outputs come from now."""
        return f"{self.manifest.teacher.starts_from}; from {self.name} ({plural(self.num_views, 'view')}), not loaded"

    def facts(self) -> dict[str, Any]:
        """Of the network that was looked at when the bank was made."""
        names = ("model", "starts_from", "parameters", "macs", "image_size")
        return {name: getattr(self.manifest.teacher, name) for name in names}

    def num_outputs(self, sample: Tensor) -> int:
        """How many logits the network gave."""
        return self.num_classes

    def kept_scores(self) -> Mapping[str, KeptScores]:
        """What the network reached when the bank was made."""
        return self._evaluated

    def shapes(self, sample: Tensor) -> TapShapes:
        """Sizes of the tapped features, and what was stored of the network."""
        layout = self.manifest.layout
        outputs = {name: TapShape(*size) for name, size in layout.maps.items()}
        tapped = {tap: map_tapped(tap, outputs) for tap in self.taps}
        return TapShapes(
            {tap: TapShape(*layout.taps[tap]) if name is None else outputs[name] for tap, name in tapped.items()},
            num_classes=self.num_classes,
            outputs=outputs,
            classifier=self._classifier,
            norms={tap: norm for tap, norm in self._norms.items() if tap in self.taps},
        )

    def limit_views(self, num_views: int | None) -> int:
        """Show the first so many views alone: more may have been added since a run began. How many there are."""
        there = self.manifest.num_views
        assert num_views is None or num_views <= there
        self._num_views = there if num_views is None else num_views
        return there

    def release(self) -> None:
        """Let go of the view that is held, of up to 1 GiB on an accelerator; the next look reads its own again."""
        self._view = None

    def tap(self, taps: Iterable[str]) -> None:
        """Return these features, and no others, from now on.

        Raises:
            UserError: the bank does not hold one of them.
        """
        self.taps = tuple(dict.fromkeys(self._expanded(taps)))

    def check_taps(self, taps: Iterable[str]) -> None:
        """Raise the UserError that tapping would, and change nothing."""
        for _ in self._expanded(taps):
            pass

    def observe(self, batch: Batch) -> Observation:
        """What the teacher said about the images of the batch, in float32 on their device.

        Raises:
            UserError: the images have no numbers, a shard is damaged, or the teacher never saw one of them.
        """
        if batch.indices is None:
            raise UserError(f"{self.name} is asked by sample number, and these batches have none; look at them live")
        device = batch.images.device
        names = [*self.manifest.layout.output.names, *(name for tap in self.taps for name in feature_names(tap))]
        kept = self._at(batch.view, device).select(batch.indices, batch.draws, names)
        self._check_canvas(batch, kept)
        # Sent as narrow as they are stored.
        there = {name: rows.to(device, non_blocking=True) for name, rows in kept.items()}
        output, features = unpacked(there, self.manifest.layout, self.taps)
        return Observation(output=output, features=features)

    def baked_in(self, batch: Batch | PlannedBatch) -> Hashable:
        """The view, and where its rows lie: read once more, they lie elsewhere."""
        is_there = self._view is not None and self._view[0] == batch.view
        return batch.view, self._num_readings if is_there else None

    def _check_canvas(self, batch: Batch, kept: Mapping[str, Tensor]) -> None:
        """Refuse images that are padded otherwise than those that the teacher saw."""
        canvas, here = self.manifest.layout.canvas, tuple(batch.images.shape[2:])
        if canvas is None or canvas == here:
            return
        seen = {canvas} if canvas != "batch" else {(height, width) for height, width in kept[CANVAS].tolist()}
        if seen != {here}:
            others = ", ".join(f"{height}x{width}" for height, width in sorted(seen - {here}))
            raise UserError(
                f"{self.name} is of images padded to {others}, and this batch is padded to {here[0]}x{here[1]}, which "
                "the teacher's maps depend on; give the batches of the recipe that the bank was made of"
            )

    def _expanded(self, taps: Iterable[str]) -> Iterable[str]:
        layout = self.manifest.layout
        for tap in taps:
            for name in layout.groups.get(tap, (tap,)):
                if name not in layout.taps and map_tapped(name, layout.maps) is None:
                    outputs = [] if layout.canvas is not None else layout.maps or ["logits"]
                    there = ", ".join([*outputs, *layout.taps])
                    raise UserError(
                        f"{self.name} does not hold {tap!r} of the teacher, only {there}; bank a recipe with this "
                        "method into another --out (feature maps with --feature-maps), or leave out the bank"
                    )
                yield name

    def _at(self, number: int, device: torch.device) -> BankView:
        if self._view is None or self._view[0] != number:
            self._view = None  # its maps are let go before others come
            if not 0 <= number < self.num_views:
                raise UserError(f"{self.name} holds views 0 to {self.num_views - 1}, and view {number} was asked for")
            shards = [
                self.folder.read_shard(self.manifest, number, shard, checked=number in self._checked)
                for shard in range(self.manifest.layout.num_shards)
            ]
            self._checked.add(number)
            self._num_readings += 1
            self._view = number, BankView(shards, self.manifest.layout, name=self.name, device=device)
        return self._view[1]


def teacher_tensors(classifier: nn.Module | None, norms: Mapping[str, nn.BatchNorm2d]) -> dict[str, Tensor]:
    """Weights of the teacher's last layer and of the norms behind its taps, as teacher.safetensors holds them."""
    layers: dict[str, nn.Module] = {f"norms.{tap}": norm for tap, norm in norms.items()}
    if classifier is not None:
        layers["classifier"] = classifier
    return {
        f"{name}.{key}": value.detach().cpu().clone().contiguous()
        for name, layer in layers.items()
        for key, value in layer.state_dict().items()
    }


def _refuse_incomplete(folder: BankFolder, manifest: Manifest) -> None:
    done = len(manifest.shards)
    if done < manifest.num_shards or manifest.missing:
        raise UserError(
            f"bank {folder.path} is incomplete: {done} of {manifest.num_shards} shards; the `understudy bank` command "
            "that began it goes on from there"
        )
    absent = folder.absent(manifest)
    if absent:
        raise UserError(
            f"bank {folder.path} is damaged: {len(absent)} of {manifest.num_shards} shards are gone or cut short, "
            f"such as {absent[0].relative_to(folder.path)}; the `understudy bank` command that made it writes them "
            "again"
        )


def _classifier(manifest: Manifest, tensors: dict[str, Tensor]) -> nn.Module | None:
    if manifest.teacher.classifier is None:
        return None
    weight, bias = tensors["classifier.weight"], tensors.get("classifier.bias")
    layer: nn.Module
    if manifest.teacher.classifier == "linear":
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    else:
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, dtype=weight.dtype)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer.eval().requires_grad_(False)


def _norm(tap: str, eps: float, tensors: dict[str, Tensor]) -> nn.BatchNorm2d:
    state = _below(f"norms.{tap}", tensors)
    size = next(value for value in state.values() if value.ndim == 1)
    norm = nn.BatchNorm2d(
        len(size), eps=eps, affine="weight" in state, track_running_stats="running_mean" in state, dtype=size.dtype
    )
    norm.load_state_dict(state)
    return norm.eval().requires_grad_(False)


def _below(place: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a place and a dot, by the rest of their names."""
    prefix = f"{place}."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
