"""A teacher that is run on every batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from understudy.compiling import Compile, compiled
from understudy.step import Batch, Observation
from understudy.taps import TappedModel
from understudy.teachers.folding import fold_batch_norms_

__all__ = ["LiveTeacher", "Teacher"]


class Teacher(Protocol):
    """Looks at a batch once and leaves an Observation; nothing in it carries gradient."""

    def observe(self, batch: Batch) -> Observation:
        """What the teacher says about the batch."""


class LiveTeacher:
    """A network in evaluation mode, without gradient, with its own normalisation and input size.

    Args:
        model: any classifier.
        prepare: its first operation on images in [0,1]; None: it takes the images as they are.
        name: what messages call it.
        folds: whether a copy is run whose batch norms are folded into its convolutions: faster, and equal up to
            rounding (see `fold_batch_norms_`). Made at the first look after `tap`, of the weights as they are then;
            `model` itself, with the norms that methods read, is not changed. Costs the memory of the folded
            convolutions' weights.
        compiles: whether and how torch.compile makes what is run faster.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        prepare: nn.Module | None = None,
        name: str = "the teacher",
        folds: bool = False,
        compiles: Compile = False,
    ) -> None:
        self.name = name
        self.model = TappedModel(model, prepare=prepare, name=name).eval()
        self.folds = folds
        self.compiles = compiles
        self.folded: tuple[str, ...] = ()  # norms of what is run, by name
        self._run: TappedModel | None = None  # what looks at images: `model`, or what was made of it
        self._modules: tuple[nn.Module, ...] = ()  # of `_run`
        self._wanted: tuple[str, ...] = ()  # taps as they were asked for
        self._made_of: tuple[Any, ...] | None = None  # taps and weights behind `_run`

    def tap(self, taps: Iterable[str]) -> None:
        """Return these features, and no others, beside the output from now on."""
        wanted = tuple(taps)
        if self._run is not None and (wanted, self._versions()) == self._made_of:
            return  # what was folded and compiled still fits: as for the next seed
        self.model = _retapped(self.model, self.model.untapped(), wanted)
        self._run, self._wanted = None, wanted

    def observe(self, batch: Batch) -> Observation:
        """Logits and tapped features of the batch."""
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        network = self._ready(images)
        # no_grad rather than inference_mode: tensors from the latter cannot be saved for backward.
        with torch.no_grad():
            output, features = network(images)
        return Observation(output=output, features=features)

    def _ready(self, images: Tensor) -> TappedModel:
        """What is run, in evaluation mode."""
        if self._run is None:
            self.folded = ()
            made = self._folded_copy(images) if self.folds else self.model
            self._modules = tuple({*self.model.modules(), *made.modules()})
            self._made_of = self._wanted, self._versions()
            self._run = compiled(made, self.compiles) if self.compiles else made
        # eval() would set an attribute of every module at every step.
        if True in map(attrgetter("training"), self._modules):
            for module in self._modules:
                module.training = False
        assert self._run is not None
        return self._run

    def _versions(self) -> tuple[tuple[int, int], ...]:
        """What changes when a weight or a statistic of the network does, or when it is moved."""
        tensors: Iterable[Tensor] = chain(self.model.parameters(), self.model.buffers())
        return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)

    def _folded_copy(self, images: Tensor) -> TappedModel:
        """A copy that shares all tensors but those of the folded convolutions; `model` where nothing can be folded."""
        taps, plain = self.model.taps, self.model.untapped()
        shared: Iterable[Tensor] = chain(plain.parameters(), plain.buffers())
        try:
            copied = copy.deepcopy(plain, {id(tensor): tensor for tensor in shared})
        except (RuntimeError, TypeError):  # such as the weights that torch's old weight_norm works out
            copied = None
        self.model = _retapped(self.model, plain, taps)
        if copied is None:
            return self.model
        twin = _retapped(self.model, copied, taps)
        # Noise of a fixed seed: which norms are folded must not depend on the batch that a run goes on from.
        noise = torch.rand(2, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)

        def answer() -> list[Tensor]:
            output, features = twin(noise)
            return [found for found in (output, *features.values()) if isinstance(found, Tensor)]

        self.folded = fold_batch_norms_(twin.module, answer)
        return twin if self.folded else self.model


def _retapped(like: TappedModel, module: nn.Module, taps: Iterable[str]) -> TappedModel:
    """A plain network, tapped, that prepares images as `like` does."""
    return TappedModel(module, taps, prepare=like.prepare, name=like.model_name).eval()
