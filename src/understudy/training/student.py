"""Student: one training step of one row, from a Batch and an Observation to new weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.batch import IMAGES, MAIN, Batch, Observation, Pairing
from understudy.core.compile import Compile, compiled, graphs_retained
from understudy.core.half_weights import HalfWeights
from understudy.core.heads import MEAN
from understudy.core.meters import StepRecord
from understudy.core.precision import Precision, autocast, grad_scaler, upcast_all
from understudy.core.taps import TappedModel
from understudy.distributed.world import SINGLE, RankCounts, World
from understudy.optim.base import Update
from understudy.optim.ema import WeightAverage
from understudy.optim.schedule import Schedule, lr_factor
from understudy.tasks.base import Predictor, Task, is_dense
from understudy.training.checks import FirstPairings, check_num_rows, refuse_to_tear_copies, too_few_images
from understudy.training.connector_weights import parameters_of
from understudy.training.loss import PassShare, WeightedMethod, combine_losses, labels_of, pairing_of
from understudy.training.metrics import record_of
from understudy.training.passes import passes_of
from understudy.training.student_probes import StudentProbes
from understudy.training.trial_pass import USUAL_IMAGES, training_problem
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed
from understudy.utils.seeding import RandomState

__all__ = ["Student", "WeightedMethod", "labels_of", "parameters_of"]


class Student:
    """One row of one seed: a model on its way, with everything that decides where it goes.

    Args:
        name: the row's name.
        model: the tapped network.
        task: runs it on a batch.
        methods: what is distilled; none trains the model alone.
        task_weight: weight of the task's own loss.
        update: turns losses into new weights; it was built on `parameters_of(model, methods)`.
        schedule: learning rate over the epochs.
        seed: of this student's own random state (dropout), which is swapped in around its steps; rank 0's also of what
            related rows draw (negatives), alike on all processes.
        average: running average of what is deployed, evaluated beside the raw weights; None: there is none.
        precision: of the networks' passes; losses and weights stay float32.
        accumulate: passes a step; each takes a part of the batch, and their gradients add up to the whole batch's.
        compile: whether and how the network is compiled, after a first step that shows DOT which loss reaches what.
        world: the processes that train this student together.
        image_shape: (3,H,W) of the images to come; None: not known.
    """

    def __init__(
        self,
        name: str,
        model: TappedModel,
        *,
        task: Task,
        methods: Sequence[WeightedMethod] = (),
        task_weight: float = 1.0,
        update: Update,
        schedule: Schedule,
        seed: int = 0,
        average: WeightAverage | None = None,
        precision: Precision = "float32",
        accumulate: int = 1,
        compile: Compile = False,
        world: World = SINGLE,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.task = task
        self.methods = tuple(methods)
        self.connectors = nn.ModuleList(weighted.method for weighted in self.methods)
        self.task_weight = task_weight
        self.update = update
        update.add_up = world.add_up
        self.schedule = schedule
        self.random_state = RandomState(seed)
        self.shared_random_state = RandomState(hashed(world.from_first(lambda: seed), "related rows"))
        self.average = average
        self.precision = precision
        self.device = next(model.parameters()).device
        self.scaler = grad_scaler(precision, self.device)
        self.accumulate = accumulate
        self.compile = compile
        self.world = world
        self.image_shape = image_shape
        self.num_steps = 0
        self.probes: StudentProbes | None = None  # of the step that is being taken, where it is looked at
        self.best: dict[str, Any] | None = None  # epoch, worth and weights of the best evaluated epoch
        # Their batch norms see this process's rows alone; all others' have seen the same rows as everywhere.
        self._local_methods = [w.method for w in self.methods if w.method.config.rows == "local"]
        self._checks = FirstPairings()
        self._compiled: TappedModel | None = None
        self._halves = HalfWeights(model)  # of a step in half; compiled code casts by itself

    def prepare_capture(self, device: torch.device) -> None:
        """Keep what changes from step to step as tensors of the device from now on, in whatever step."""
        self.update.prepare_capture(device)
        if self.average is not None:
            self.average.prepare_capture(device)

    def set_epoch(self, epoch: int, num_epochs: int) -> None:
        """Tell the methods which epoch begins, counted from 1, of how many."""
        for weighted in self.methods:
            weighted.method.set_epoch(epoch, num_epochs)

    def begin_step(self, *, progress: float, epochs: int) -> None:
        """Set the learning rate for `progress` epochs behind us (0-based, fractional) of `epochs`."""
        self.update.set_lr_factor(lr_factor(self.schedule, progress, epochs, lr=self.update.initial_lr))
        self.update.begin_step()
        if self.average is not None:
            self.average.begin_step(self.num_steps + 1)

    def step(self, batch: Batch, observation: Observation, *, epoch: int, rows: RankCounts | None = None) -> StepRecord:
        """A whole training step: forward, losses, new weights. `rows`: of the batch, over all processes."""
        record = self.replayable_step(batch, observation, epoch, rows or RankCounts((len(batch.images),)))
        self.finish_step()
        return record

    def replayable_step(self, batch: Batch, observation: Observation, epoch: int, rows: RankCounts) -> StepRecord:
        """A step but for `finish_step`: all that a captured graph of it does when it is replayed."""
        if batch.copies is not None:
            refuse_to_tear_copies(self.name, [w.method for w in self.methods], accumulate=self.accumulate)
        with self.random_state.swapped_in(), graphs_retained(bool(self.compile) and self.update.retains_graph):
            parts = passes_of(batch, observation, rows, accumulate=self.accumulate, task=self.task, world=self.world)
            passes = [self._descend(images, seen, epoch, share) for images, seen, share in parts]
            if self.probes is not None:
                self.probes.before_step()
            self.update.step()
            if self.probes is not None:
                self.probes.look()
            if self.scaler is not None:
                self.scaler.update()
        for module in (self.model.module, *self._local_methods):
            self.world.average_buffers_(module)
        if self.average is not None and self.average.is_replayable:
            self.average.update(self.raw_deployed(), step=self.num_steps + 1)
        return sum(passes[1:], passes[0])

    def finish_step(self) -> None:
        """Count the step; what no replay can average (weights in half) is averaged here."""
        self.num_steps += 1
        if self.average is not None and not self.average.is_replayable:
            self.average.update(self.raw_deployed(), step=self.num_steps)

    def baked_in(self, epoch: int, num_epochs: int) -> Hashable:
        """Everything of Python that a recording of `replayable_step` has in it."""
        weights = tuple(weighted.baked_in(epoch, num_epochs) for weighted in self.methods)
        decay = None if self.average is None else self.average.baked_in(self.num_steps + 1)
        return weights, self.num_steps == 0, self.model.training, decay, self.update.baked_in()

    def _descend(self, batch: Batch, observation: Observation, epoch: int, part: PassShare) -> StepRecord:
        """One forward pass and its backward pass(es)."""
        halves = nullcontext() if self.compile else self._halves.in_place(batch.images)
        with autocast(self.precision, self.device), halves:
            task_loss, found = self._paired(batch, observation)
        pairings = upcast_all(found)
        self._checks.check(pairings, self.methods, part.rows)
        shared, whole = combine_losses(
            task_loss,
            pairings,
            self.methods,
            task_weight=self.task_weight,
            epoch=epoch,
            part=part,
            random_state=self.shared_random_state,
            apart=bool(self.update.needs_streams),
        )
        deployed = pairings.get(MEAN, pairings[MAIN])
        of_task = self.task.num_labelled(batch) if is_dense(self.task) else None
        record = record_of(whole, deployed, self.task.batch_measures(deployed), of_task=of_task)
        if self.probes is not None:
            self.probes.see(shared, pairing_of(pairings, IMAGES))
        self.update.accumulate(shared, scaler=self.scaler)
        return record

    def _paired(self, batch: Batch, observation: Observation) -> tuple[Tensor, dict[str, Pairing]]:
        try:
            return self.task.pair(self._network(), observation, batch)
        except ValueError as error:
            if isinstance(error, UserError) or len(batch.images) > 1:
                raise
            raise UserError(too_few_images(self.name, 1, str(error))) from None

    def check_batches_of(self, num_images: int) -> None:
        """Refuse a smallest batch of an epoch on which the network, or a method, cannot be trained.

        Raises:
            UserError: naming who cannot, and the way out.
        """
        smallest = num_images // min(self.accumulate, num_images)
        if self.world.size > 1 or smallest >= USUAL_IMAGES:
            return
        if not is_dense(self.task):  # of which an image has many rows, counted in every batch
            for weighted in self.methods:
                check_num_rows(weighted.method, smallest)
        if self.image_shape is None:
            return
        few, usual = (torch.zeros(count, *self.image_shape, device=self.device) for count in (smallest, USUAL_IMAGES))
        problem = training_problem(self.model, few)
        if problem is not None and training_problem(self.model, usual) is None:
            raise UserError(too_few_images(self.name, smallest, problem))

    def _network(self) -> TappedModel:
        # First an eager step, which shows DOT what each loss reaches: compiled code gives zeros for what it does not.
        if not self.compile or self.num_steps == 0:
            return self.model
        if self._compiled is None:
            self._compiled = compiled(self.model, self.compile)
        return self._compiled

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """What the update moves, by name."""
        return parameters_of(self.model.module, [weighted.method for weighted in self.methods])

    def predict(self, batch: Batch) -> Any:
        """Output of what is deployed; the caller sets evaluation mode."""
        return self.deployed()(self.model.prepare(batch.images))

    def predictors(self) -> Iterator[tuple[str, Predictor]]:
        """What is evaluated: "deployed", and "raw" beside it where weights are averaged."""
        yield "deployed", self.predict
        if self.average is not None:
            yield "raw", lambda batch: self.raw_deployed()(self.model.prepare(batch.images))

    def keep_if_best(self, epoch: int, worth: float) -> None:
        """Keep a copy of what is deployed, where no earlier epoch was worth as much."""
        if self.best is None or worth > self.best["worth"]:
            weights = {name: value.clone() for name, value in self.deployed().state_dict().items()}
            self.best = {"epoch": epoch, "worth": worth, "weights": weights}

    def return_to_best(self) -> None:
        """Deploy the kept weights; training cannot go on from here."""
        if self.best is not None:
            self.deployed().load_state_dict(self.best["weights"])

    def deployed(self) -> nn.Module:
        """What is evaluated, counted, timed and exported: averaged weights where there are any."""
        return self.raw_deployed() if self.average is None else self.average.module

    def raw_deployed(self) -> nn.Module:
        """The same network with the weights that are being trained."""
        model = self.model.module
        for weighted in self.methods:
            model = weighted.method.deployed(model)
        return model

    def train(self, mode: bool = True) -> None:
        """Set training or evaluation mode of model and connectors."""
        self.model.train(mode)
        self.connectors.train(mode)

    def is_finite(self) -> bool:
        """Whether every parameter is; waits for the device."""
        norms = torch._foreach_norm([*self.model.parameters(), *self.connectors.parameters()])
        return bool(torch.stack(norms).isfinite().all())

    def state_dict(self) -> dict[str, Any]:
        """Weights, connectors, update, averages, scaler and the random states of all processes."""
        return {
            "model": self.model.module.state_dict(),
            "connectors": self.connectors.state_dict(),
            "update": self.update.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "random_states": self.world.gather_objects(self.random_state.state_dict()),
            "shared_random_state": self.shared_random_state.state_dict(),
            "num_steps": self.num_steps,
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave, also of another number of processes."""
        self.model.module.load_state_dict(state["model"])
        self.connectors.load_state_dict(state["connectors"])
        self.update.load_state_dict(state["update"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.world.rank < len(state["random_states"]):
            self.random_state.load_state_dict(state["random_states"][self.world.rank])
        self.shared_random_state.load_state_dict(state["shared_random_state"])
        self.num_steps = state["num_steps"]
        self.best = _renamed(state["best"])


def _renamed(best: dict[str, Any] | None) -> dict[str, Any] | None:
    """The best epoch as it is kept now; checkpoints of before say "top1" where it is worth something."""
    return {**best, "worth": best["top1"]} if best is not None and "top1" in best else best
