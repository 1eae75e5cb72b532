"""Projector: the spectrum of what carries student features into the teacher's space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.analysis.projection import decorrelation, spectrum
from understudy.probes.base import Probe, Probed, Sight, Value

__all__ = ["ProjectorSpectrum", "linear_layers"]


class ProjectorSpectrum(Probe, name="projector"):
    """Singular values of every linear layer of a student's connectors, and how its inputs and outputs correlate.

    Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024, figures 2 and 3.
    Convolutions of 1x1 count as linear layers, over the positions of a map.
    """

    def __init__(self, student: Probed) -> None:
        super().__init__(student)
        self._layers = linear_layers(student.methods)
        self._hooks: list[RemovableHandle] = []
        self._correlations: dict[str, float] = {}

    def problem(self) -> str | None:
        """Most methods have no connectors."""
        return None if self._layers else "its methods have no linear connector; method: projector has one"

    def begin(self) -> None:
        """Have each layer tell what goes in and comes out."""
        self._correlations = {}
        self._hooks = [layer.register_forward_hook(self._heard(name)) for name, layer in self._layers.items()]

    def look(self, sight: Sight) -> Mapping[str, Value]:
        """'NAME/singular_values' (min(out, in),) and 'NAME/correlation' of each layer."""
        for hook in self._hooks:
            hook.remove()
        found: dict[str, Value] = {}
        for name, layer in self._layers.items():
            found[f"{name}/singular_values"] = spectrum(layer.weight)
            found[f"{name}/correlation"] = self._correlations.get(name, float("nan"))
        return found

    def _heard(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hear(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rows, out = _as_rows(inputs[0]), _as_rows(output)
            if len(rows) > 1:
                self._correlations[name] = decorrelation(rows, out)

        return hear


def linear_layers(methods: Any) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and 1x1 convolutions of the methods' connectors, as 'projector.projector'."""
    return {
        f"{method.name}.{path}" if number == 0 else f"{method.name}#{number + 1}.{path}": module
        for number, method in enumerate(methods)
        for path, module in method.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)
    }


def _as_rows(features: Tensor) -> Tensor:
    """(M, D) of rows, tokens (M, N, D) or maps (M, D, H, W); one row a position."""
    if features.ndim == 4:
        features = features.movedim(1, 3)
    return features.flatten(0, -2)
