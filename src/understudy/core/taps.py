"""TappedModel: named features of any nn.Module, returned from forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.core.cam import CAM, averaged_map, class_activations
from understudy.core.classifier import classifier_name, is_candidate
from understudy.core.feature_layout import as_map, described, only_map
from understudy.core.image_size import squares_note
from understudy.core.networks import in_one_line, is_channels_last, other_dtype_note
from understudy.core.outputs import named_outputs
from understudy.core.passes import Repeat, left_as_it_was
from understudy.core.stages import gives_channels_last, plain_norm, stages_of
from understudy.core.tap_hooks import Catcher, place
from understudy.core.tap_names import check_taps, expanded, output_name, resolved, shown_names, submodule, tap_names
from understudy.utils.errors import UserError

__all__ = ["TapShape", "TappedModel", "Taps", "check_taps", "classifier_name"]


@dataclass(frozen=True, slots=True)
class Taps:
    """What a method looks at on either side.

    Names: "embedding" (the classifier's input), "stages" and "preact_stages" (all of them; they arrive as
    "stages.0", "stages.1", ...), "attention" (queries, keys and values of a vision transformer's last block, (B,3D,H,W)
    on the grid of its patches), "cam" ((B,C,H,W), the classifier's weights at every place of the map whose mean
    it takes), "module.path" for a module's output, "module.path:input" for its input and
    "module.path:tokens" for the mean of all its tokens, those of class and distillation among them, or "output.NAME"
    for a tensor that the network gives ("output.logits" where it gives one alone).
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TapShape:
    """Size of one tapped feature without its batch axis: a vector (D,) or a map (D,H,W)."""

    channels: int
    height: int | None = None
    width: int | None = None

    def __str__(self) -> str:
        return "x".join(str(side) for side in (self.channels, self.height, self.width) if side is not None)


class TappedModel(nn.Module):
    """A model whose forward returns (output, features).

    Maps arrive as (B,D,H,W) whatever the model's own layout (NHWC, tokens); vectors as (B,D). A feature is what the
    module gave, also where the network writes into it later. Hooks are on the network while its forward pass runs, and
    no longer: it can be copied and pickled between two passes. `hold` leaves them there until `untapped`.

    Args:
        module: any network.
        prepare: the network's own first operation on images in [0,1] (normalisation, resizing); None: nothing.
        taps: names as in `Taps`; "stages" and "preact_stages" are expanded as `stages_of` finds them.
        name: what error messages call the model.

    Raises:
        UserError: a name that the model does not have, with the nearest one and the list.
    """

    def __init__(
        self, module: nn.Module, taps: Iterable[str] = (), *, prepare: nn.Module | None = None, name: str = "the model"
    ) -> None:
        super().__init__()
        self.module = module
        self.prepare = nn.Identity() if prepare is None else prepare
        self.model_name = name
        self.taps: tuple[str, ...] = tuple(dict.fromkeys(expanded(module, taps, name)))
        self.classifier = classifier_name(module)  # its path; until a pass has shown it, what the network says
        self.is_contiguous_only = False  # whether a dry forward has shown that it cannot run in channels_last
        self._has_shown_classifier = False
        self._has_cam = CAM in self.taps and submodule(module, CAM) is None
        self._averaged: str | None = None  # the map whose mean the classifier takes, once a pass was asked for it
        self._catcher = Catcher()
        self._handles: list[RemovableHandle] = []
        self._holds = False  # whether they stay on the network; compiled code cannot look at the handles themselves
        # Found once: compiled code should not look for it.
        self._stage_places = {tap: resolved(module, tap) for tap in self.taps}
        named = {tap: output_name(module, tap) for tap in self.taps}
        self._outputs = {tap: output for tap, output in named.items() if output is not None}
        self._are_channels_last = {
            tap: tap not in self._outputs and gives_channels_last(module, self._resolved(tap)) for tap in self.taps
        }

    def forward(self, images: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """The model's output on (B,3,H,W) images, and its tapped features by name."""
        finds = "embedding" in self.taps and not self._has_shown_classifier and not torch.compiler.is_compiling()
        return self._passed(self.prepare(images), finds_classifier=finds)

    def hold(self) -> None:
        """Leave the hooks on the network from now on, as compiled code wants it: it heeds none that come later."""
        if not self._handles:
            self._handles = place(self.module, self._places(), self._catcher)
            self._holds = True

    def untapped(self) -> nn.Module:
        """The plain network, without hooks of this model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._holds = [], False
        return self.module

    def retapped(self, taps: Iterable[str], module: nn.Module | None = None) -> TappedModel:
        """The same network, or another with its parts, under other taps."""
        other = TappedModel(module or self.untapped(), taps, prepare=self.prepare, name=self.model_name)
        other.classifier, other._has_shown_classifier = self.classifier, self._has_shown_classifier
        other._take_maps_at(self._averaged)
        return other

    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """Frozen copies of the batch norms behind the tapped pre-activations, where it is known which these are."""
        of_places = {stage.preact: stage.norm for stage in stages_of(self.module) if stage.preact and stage.norm}
        found = {}
        for tap in self.taps:
            path = of_places.get(self._resolved(tap)) if tap.startswith("preact_stages.") else None
            norm = submodule(self.module, path) if path else None
            if isinstance(norm, nn.BatchNorm2d):
                found[tap] = plain_norm(norm)
        return found

    def dry_forward(self, sample: Tensor) -> tuple[Any, dict[str, TapShape]]:
        """Output and tap shapes on `sample` (B,3,H,W), without gradient; nothing of the model changes.

        But for two things: the classifier is known from here on, and a network whose pass fails in channels_last while
        it works in the contiguous format is contiguous afterwards (`is_contiguous_only`).

        Raises:
            UserError: the network fails on such images, or a tap is not there.
        """
        try:
            output, features = self._dry(sample)
        except UserError:
            raise
        except Exception as error:  # a network may fail in any way
            found = self._dry_when_contiguous(sample)
            if found is None:
                raise UserError(
                    f"{self.model_name} cannot take images of shape {tuple(sample.shape)}: "
                    f"{in_one_line(error)}{other_dtype_note(self.module, sample)}{squares_note(sample.shape[2:])}"
                ) from error
            output, features = found
        return output, {tap: TapShape(*feature.shape[1:]) for tap, feature in features.items()}

    def _dry(self, sample: Tensor) -> tuple[Any, dict[str, Tensor]]:
        with left_as_it_was(self):
            return self._passed(self.prepare(sample), finds_classifier=True)

    def _dry_when_contiguous(self, sample: Tensor) -> tuple[Any, dict[str, Tensor]] | None:
        """As `_dry`, after a change of format; None where that is of no help."""
        if not is_channels_last(self.module):
            return None
        self.module.to(memory_format=torch.contiguous_format)
        try:
            found = self._dry(sample)
        except Exception:
            self.module.to(memory_format=torch.channels_last)
            return None
        self.is_contiguous_only = True
        return found

    def _passed(self, prepared: Tensor, *, finds_classifier: bool) -> tuple[Any, dict[str, Tensor]]:
        """Output and features of a pass; what is written into at a tap is found out, and the pass taken once more."""
        if not self.taps and not finds_classifier:
            return self.module(prepared), {}
        if torch.compiler.is_compiling():
            output, caught, _ = self._watched(prepared, {})
            return output, self._features({**caught, **self._given(output)}, prepared)
        if self._has_cam and self._averaged is None:
            self._find_cam(prepared)
        repeat = Repeat(self.module) if self.training else None
        output, caught, moved = self._watched(prepared, self._layers() if finds_classifier else {})
        if finds_classifier:
            self._settle_classifier(caught, output)
            caught["embedding"] = caught.get(f"{self.classifier}:input")
            if f"{self.classifier}:input" in moved:
                moved.add("embedding")
        if moved := moved.intersection(self.taps):
            self._catcher.overwritten |= moved
            with repeat or nullcontext():
                output, caught, _ = self._watched(prepared, {})
        return output, self._features({**caught, **self._given(output)}, prepared)

    def _watched(self, prepared: Tensor, also: Mapping[str, str]) -> tuple[Any, dict[str, Any], set[str]]:
        """Output of one pass, what was caught at the taps and at `also`, and where that was written into later."""
        handles = [] if self._holds and not also else place(self.module, {**self._places(), **also}, self._catcher)
        try:
            output = self.module(prepared)
        finally:
            caught, moved = self._catcher.released()
            for handle in handles:
                handle.remove()
        return output, caught, moved

    def _places(self) -> dict[str, str]:
        """Where each tap is."""
        places = {tap: self._resolved(tap) for tap in self.taps if tap not in self._outputs}
        return {tap: place for tap, place in places.items() if place != "embedding"}

    def _layers(self) -> dict[str, str]:
        """Output and input of everything that may be the classifier."""
        paths = [path for path, layer in self.module.named_modules() if is_candidate(layer) or path == self.classifier]
        return {place: place for path in paths for place in (path, f"{path}:input")}

    def _settle_classifier(self, caught: Mapping[str, Any], output: Any) -> None:
        layers = [place for place in caught if not place.endswith(":input") and f"{place}:input" in caught]
        self.classifier = classifier_name(self.module, seen={path: caught[path] for path in layers}, logits=output)
        self._has_shown_classifier = True
        if self._handles:  # at the place that was believed before
            self.untapped()
            self.hold()

    def _find_cam(self, prepared: Tensor) -> None:
        path, self.classifier = averaged_map(self.module, prepared, name=self.model_name)
        self._take_maps_at(path)
        if self._handles:
            self.untapped()
            self.hold()

    def _take_maps_at(self, path: str | None) -> None:
        self._averaged = path
        if path is not None and self._has_cam:
            self._stage_places[CAM] = path
            self._are_channels_last[CAM] = gives_channels_last(self.module, path)

    def _resolved(self, tap: str) -> str:
        """The module path (with ':input' where that side is meant) behind a short name."""
        if tap == "embedding":
            return f"{self.classifier}:input" if self.classifier else tap
        return self._stage_places.get(tap, tap)

    def _given(self, output: Any) -> dict[str, Tensor]:
        """What is tapped of the output itself, by tap."""
        if not self._outputs:
            return {}
        named = named_outputs(output)
        for tap, name in self._outputs.items():
            if name not in named:
                gives = ", ".join(named) or described(output)
                raise UserError(f"nothing was tapped at {tap!r}: {self.model_name} gives {gives}")
        return {tap: named[name] for tap, name in self._outputs.items()}

    def _features(self, caught: Mapping[str, Any], images: Tensor) -> dict[str, Tensor]:
        for tap in self.taps:
            if caught.get(tap) is None:
                raise self._nothing_at(tap)
        return {tap: self._as_feature(tap, caught[tap], images) for tap in self.taps}

    def _nothing_at(self, tap: str) -> UserError:
        if tap == "embedding" and self.classifier is None:
            return UserError(
                f"{self.model_name} has no 'embedding', the classifier's input: its logits are not what any linear "
                "layer or 1x1 convolution gives; name the place instead, such as 'PATH:input'; "
                f"it offers: {shown_names(tap_names(self.module)[1:])}"
            )
        path = self._resolved(tap)
        at = f"{tap!r}" if path == tap else f"{tap!r} ({path})"
        return UserError(
            f"nothing was tapped at {at}: {self.model_name} has that module, but its forward pass "
            f"does not call it; it offers: {shown_names(tap_names(self.module))}"
        )

    def _as_feature(self, tap: str, caught: Any, images: Tensor) -> Tensor:
        """(B,D,H,W) or (B,D) from whatever layout the model has."""
        feature = only_map(caught)
        if feature is None:
            raise UserError(
                f"what {self.model_name} holds at {tap!r} is {described(caught)}, not a tensor; tap a module inside it"
            )
        if tap.endswith(":tokens"):
            if feature.ndim != 3:
                raise UserError(
                    f"what {self.model_name} holds at {tap!r} is {tuple(feature.shape)}, which are no tokens (B,N,D); "
                    "leave out :tokens"
                )
            return feature.mean(dim=1)
        is_channels_first = not self._are_channels_last[tap]
        sides = (images.shape[2], images.shape[3]) if images.ndim == 4 else (1, 1)
        mapped = as_map(feature, self.module, is_channels_first=is_channels_first, image_sides=sides)
        if mapped is None:
            raise UserError(
                f"what {self.model_name} holds at {tap!r} are {feature.shape[1]} tokens {tuple(feature.shape)}, which "
                f"make no {'square map' if sides[0] == sides[1] else f'map of images {sides[0]}x{sides[1]}'}; tap "
                "another module"
            )
        if tap == CAM and self._has_cam and self.classifier is not None:
            return class_activations(mapped, self.module.get_submodule(self.classifier))
        return mapped
