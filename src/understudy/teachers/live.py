"""A teacher that is run on every batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.batch import Batch, Observation, PlannedBatch
from understudy.core.compile import Compile, compiled
from understudy.core.half_weights import HalfWeights
from understudy.core.networks import all_modules, checked_network, shell_of
from understudy.core.precision import exact_products
from understudy.core.probabilities import are_probabilities, as_logits
from understudy.core.tap_shapes import TapShapes, num_outputs, shapes_of
from understudy.core.taps import TappedModel, check_taps
from understudy.teachers.base import Teacher
from understudy.teachers.fold_batch_norm import fold_batch_norms_, largest_difference
from understudy.utils.errors import UserError
from understudy.utils.hashing import fingerprint

__all__ = ["LiveTeacher"]

# Of folded against plain logits on the first batch: rounding stays far below, an unseen reader of a convolution above.
TOLERANCE = 1e-3


class LiveTeacher(Teacher):
    """A network in evaluation mode, without gradient, with its own normalisation and input size.

    What is run is a shell of the network's: on the same tensors, with modes and hooks of its own. The network itself
    keeps its modes and gets no hooks. One of which no shell can be made is run itself, put into evaluation mode for
    each look.

    A network whose first look gives rows that are not negative and sum to 1 ends in a softmax; the logarithm of what it
    gives is taken for its logits then (they differ by a constant a row), and `notes` says so.

    Args:
        model: any classifier.
        prepare: its first operation on images in [0,1]; None: it takes the images as they are.
        name: what messages call it.
        fold_batch_norm: whether a copy is run whose batch norms are folded into its convolutions: faster, equal up to
            rounding (see `fold_batch_norms_`). Made at the first look after `tap`, of the weights as they are then;
            `model` itself, with the norms that methods read, is not changed. Which norms are folded depends on the
            network alone, so that what one student sees does not depend on what another taps; a tap on what a folded
            convolution gives is read off a second pass, of the network as it is. Costs the memory of the folded
            convolutions' weights.
        compile: whether and how torch.compile makes what is run faster.
        say: is told what is found out about the network, once.
        facts: of the network, where somebody is going to ask for them (see `RunTeacher.facts`).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        prepare: nn.Module | None = None,
        name: str = "the teacher",
        fold_batch_norm: bool = False,
        compile: Compile = False,
        say: Callable[[str], None] = warnings.warn,
        facts: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        network = checked_network(model, role="teacher")
        shell = shell_of(network)
        self.name = name
        self.model = TappedModel(network if shell is None else shell, prepare=prepare, name=name)
        self.fold_batch_norm = fold_batch_norm
        self.compile = compile
        self.say = say
        self._facts_of = facts
        self._facts: Mapping[str, Any] | None = None
        self.folded: tuple[str, ...] = ()  # norms of what is run, by name
        self.gives_probabilities: bool | None = None  # None: not looked yet
        self._is_shell = shell is not None
        if self._is_shell:
            self.model.eval()
        self._lean: nn.Module | None = None  # the network with folded norms; None: there is none (yet)
        self._run: TappedModel | None = None  # what looks at images: `model`, or what was made of it
        self._beside: TappedModel | None = None  # looks once more, for the taps that folding would change
        self._halves: dict[TappedModel, HalfWeights] = {}  # of either
        self._modules: tuple[nn.Module, ...] = ()  # of all these
        self._wanted: tuple[str, ...] = ()  # taps as they were asked for
        self._made_of: tuple[Any, ...] | None = None  # weights behind `_run`

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out about the network by looking, for people."""
        if not self.gives_probabilities:
            return ()
        return (f"{self.name} gives probabilities (it ends in a softmax): their logarithm is taken for its logits",)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network."""
        return {self.name: self.model.module}

    def to(self, device: torch.device) -> None:
        """Move the network there."""
        self.model.to(device)

    def facts(self) -> Mapping[str, Any]:
        """What it was told of its network; counted at the first call.

        Raises:
            UserError: it was made without.
        """
        if self._facts is None:
            if self._facts_of is None:
                raise UserError(f"{self.name} was made without facts=..., which count its network")
            self._facts = self._facts_of()
        return self._facts

    def num_outputs(self, sample: Tensor) -> int | None:
        """How many logits a dry pass gives; None where it gives something else than (B,C)."""
        return num_outputs(self.model, sample)

    def check_taps(self, taps: Iterable[str]) -> None:
        """Raise the UserError that tapping would, and change nothing."""
        check_taps(self.model.module, taps, name=self.name)

    def shapes(self, sample: Tensor) -> TapShapes:
        """What a dry pass shows of the network."""
        return shapes_of(self.model, sample)

    def tap(self, taps: Iterable[str]) -> None:
        """Return these features, and no others, beside the output from now on."""
        wanted = tuple(taps)
        is_same = self._run is not None and self._weights() == self._made_of
        if is_same and wanted == self._wanted:
            return  # what was folded and compiled still fits: as for the next seed
        if not is_same:
            self._lean = self._made_of = None
        self.model = self.model.retapped(wanted)
        self._run, self._wanted, self._halves = None, wanted, {}

    def observe(self, batch: Batch) -> Observation:
        """Logits and tapped features of the batch."""
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        # no_grad rather than inference_mode: tensors from the latter cannot be saved for backward.
        with torch.no_grad(), self._in_evaluation_mode():
            run = self._ready(images)
            with self._halves_of(run, images):
                output, features = run(images)
            if self._beside is not None:
                with self._halves_of(self._beside, images):
                    features = features | self._beside(images)[1]
        return Observation(
            output=self._logits(output),
            features={tap: features[tap] for tap in self.model.taps},
            ask=self._ask if hasattr(self.model.module, "answer") else None,
        )

    def _halves_of(self, run: TappedModel, images: Tensor) -> AbstractContextManager[None]:
        """Under autocast, half-precision copies of what is run, made once where it is a copy of the network anyway."""
        if self.compile or not self.fold_batch_norm:
            return nullcontext()
        if run not in self._halves:
            self._halves[run] = HalfWeights(run, are_constant=True)
        return self._halves[run].in_place(images)

    def _ask(self, output: Any, question: Any) -> Any:
        """What the network answers, which has looked already and given `output`."""
        with torch.no_grad(), self._in_evaluation_mode():
            assert self._run is not None
            return self._run.module.answer(output, question)  # type: ignore[operator]

    def baked_in(self, batch: Batch | PlannedBatch) -> Hashable:
        """What is run: it looks at the images alone."""
        return self._run, self._beside

    def _logits(self, output: Any) -> Any:
        if self.gives_probabilities is None:
            self.gives_probabilities = are_probabilities(output)
            for note in self.notes:
                self.say(note)
        return as_logits(output) if self.gives_probabilities else output

    def _ready(self, images: Tensor) -> TappedModel:
        """What is run."""
        if self._run is None:
            if self.fold_batch_norm and self._made_of is None:
                self._lean = self._folded_copy(images)
            self._made_of = self._weights()
            run, self._beside = self._parted(images)
            self._run = self._compiled(run, images)
            if self._beside is not None:
                self._beside = self._compiled(self._beside, images)
            networks = [self.model, *([] if self._lean is None else [self._lean])]
            self._modules = tuple({module: None for network in networks for module in all_modules(network)})
            if self._is_shell:
                self._put_into_evaluation_mode()
        return self._run

    @contextmanager
    def _in_evaluation_mode(self) -> Iterator[None]:
        """For a look: a shell stays in it, the network itself gets its modes back."""
        if self._is_shell:
            self._put_into_evaluation_mode()
            yield
            return
        modes = [(module, getattr(module, "training", False)) for module in all_modules(self.model)]
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _put_into_evaluation_mode(self) -> None:
        modules = self._modules or tuple(all_modules(self.model))
        if True in map(attrgetter("training"), modules):  # eval() would set an attribute of every module at every step
            for module in modules:
                module.training = False

    def _compiled(self, model: TappedModel, images: Tensor) -> TappedModel:
        if not self.compile:
            return model
        model.dry_forward(images[:2])  # shows where the network writes into what is tapped
        return compiled(model, self.compile)

    def _weights(self) -> tuple[Any, ...]:
        """What changes when a weight or a statistic of the network does, or when it is moved."""
        named = dict(chain(self.model.named_parameters(), self.model.named_buffers()))
        versions = tuple((tensor.data_ptr(), tensor._version) for tensor in named.values())
        # A write through .data leaves no trace but the bits.
        return (versions, fingerprint(named)) if self.fold_batch_norm else (versions,)

    def _folded_copy(self, images: Tensor) -> nn.Module | None:
        """A copy that shares all tensors but those of the folded convolutions; None where nothing can be folded."""
        plain = self.model.untapped()
        lean = shell_of(plain, shares_registers=False)
        self.folded = ()
        if lean is None:
            return None
        lean.eval()
        # Of a fixed seed: which norms are folded must not depend on the batch that a run goes on from.
        noise = torch.rand(2, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
        probe = self.model.prepare(torch.cat([noise, torch.zeros_like(noise[:1]), torch.ones_like(noise[:1])]))
        self.folded = fold_batch_norms_(lean, lambda: _tensors(lean(probe)))
        if not self.folded:
            return None
        with exact_products(images.device.type):
            prepared = self.model.prepare(images)
            apart = largest_difference(_tensors(lean(prepared)), _tensors(plain(prepared)))
        if apart <= TOLERANCE:
            return lean
        self.folded = ()
        return None

    def _parted(self, images: Tensor) -> tuple[TappedModel, TappedModel | None]:
        """The folded network with the taps at which it says what the plain one says, and the plain one for others."""
        if self._lean is None:
            return self.model, None
        alike = []
        with exact_products(images.device.type):
            plain = self.model(images)[1]
            for tap in self.model.taps:  # one by one: what a tap needs may be gone from the folded network
                try:
                    lean = self.model.retapped([tap], self._lean).eval()(images)[1][tap]
                except Exception:
                    continue
                alike += [tap] if largest_difference([lean], [plain[tap]]) <= TOLERANCE else []
        others = [tap for tap in self.model.taps if tap not in alike]
        beside = self.model.retapped(others) if others else None
        return self.model.retapped(alike, self._lean).eval(), beside


def _tensors(output: Any) -> list[Tensor]:
    """All tensors in what a network returned."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [tensor for value in values for tensor in _tensors(value)]
