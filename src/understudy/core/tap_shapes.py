"""TapShapes: what is known of a model before any step: sizes of its tapped features, its classifier and norms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from understudy.core.networks import copied
from understudy.core.outputs import LOGITS, named_outputs
from understudy.core.taps import TappedModel, TapShape
from understudy.utils.errors import UserError

__all__ = ["TapShapes", "num_outputs", "shapes_of"]


class TapShapes(Mapping[str, TapShape]):
    """Shapes of one side's tapped features by name, and what else of that model a method may read.

    Args:
        shapes: of the tapped features, without the batch.
        num_classes: how many logits the model gives.
        classifier: a frozen copy of the last layer; None where the model has none.
        norms: by tap, a frozen copy of the batch norm whose output is (a summand of) what the tap holds.
        outputs: shapes of what the model gives, by name; nothing where that is not known.
    """

    def __init__(
        self,
        shapes: Mapping[str, TapShape],
        *,
        num_classes: int,
        classifier: nn.Module | None = None,
        norms: Mapping[str, nn.BatchNorm2d] | None = None,
        outputs: Mapping[str, TapShape] | None = None,
    ) -> None:
        self._shapes = dict(shapes)
        self.norms = dict(norms or {})
        self.num_classes = num_classes
        self.classifier = classifier
        self.outputs = dict(outputs or {})

    def norm_before(self, tap: str) -> nn.BatchNorm2d | None:
        """A frozen copy of the batch norm whose output is (a summand of) what `tap` holds; None where there is none."""
        return self.norms.get(tap)

    def __getitem__(self, name: str) -> TapShape:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def shapes_of(model: TappedModel, sample: Tensor) -> TapShapes:
    """What a dry pass on two images shows of a tapped model.

    Args:
        model: with the taps that are asked for.
        sample: (B,3,H,W) images; only their shape and device matter.

    Raises:
        UserError: the network cannot take such images, or gives neither (B,C) nor (B,C,h,w) logits.
    """
    output, shapes = model.dry_forward(sample[:2])
    outputs = _shapes_of(output)
    is_asked = _is_asked(model)
    if LOGITS not in outputs and not is_asked:
        raise UserError(f"{model.model_name} must return (B,C) logits, got {_described(output)}")
    path = model.classifier
    classifier = _frozen_copy(model.module.get_submodule(path)) if path else None
    num_classes = int(model.module.num_classes) if is_asked else outputs[LOGITS].channels  # type: ignore[arg-type]
    return TapShapes(shapes, num_classes=num_classes, classifier=classifier, norms=model.norms(), outputs=outputs)


def num_outputs(model: TappedModel, sample: Tensor) -> int | None:
    """How many logits a tapped model gives for an image, or for each place; None where it gives something else.

    Raises:
        UserError: the network cannot take such images.
    """
    output, _ = model.dry_forward(sample[:2])
    if _is_asked(model):
        return int(model.module.num_classes)  # type: ignore[arg-type]
    logits = _shapes_of(output).get(LOGITS)
    return None if logits is None else logits.channels


def _is_asked(model: TappedModel) -> bool:
    """Whether its logits are answers to questions, as a detector's are about proposals."""
    return hasattr(model.module, "answer")


def _shapes_of(output: object) -> dict[str, TapShape]:
    """Of each output by name, without the batch: vectors and maps."""
    return {name: TapShape(*one.shape[1:]) for name, one in named_outputs(output).items() if one.ndim in (2, 4)}


def _frozen_copy(layer: nn.Module) -> nn.Module:
    """A copy without gradient and without hooks, which would write into what the layer is a part of."""
    frozen = copied(layer, role="classifier").eval().requires_grad_(False)
    for part in frozen.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return frozen


def _described(output: object) -> str:
    return f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
