"""The watcher of a run: metrics, checkpoints, progress, and a stop at somebody's wish."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from understudy import checkpoint
from understudy.environment import peak_memory_gib
from understudy.logs import Display, MetricsFile, duration
from understudy.recipe import Recipe
from understudy.runfolder import RunFolder
from understudy.tasks import Evaluation
from understudy.training import Interrupted, Trainer

__all__ = ["RunWatcher", "StopRequest"]

COMMON_MEASURES = ("task", "distill", "task_loss", "kl_to_teacher", "top1")  # of every row; the rest are its own terms


STEPS_BEFORE_ESTIMATE = 10
WORTH_SAYING_SECONDS = 60.0  # a shorter stretch is over before anyone has read how long it takes


class StopRequest:
    """Set by the first SIGINT or SIGTERM, so that the step that runs is finished; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Listen for the two signals until the block ends. Only the main thread can."""
        try:
            before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class RunWatcher:
    """Watches one stretch of training: the rows of a seed, or the teacher's own fine-tuning.

    Args:
        run: where to write.
        recipe: how often.
        tag: of this stretch's checkpoints.
        seed: for the metrics.
        label: for the progress display.
        display: for people.
        stop: whoever wants the run to stop.
        teacher: its scores on the images that are evaluated after each epoch, for the agreement.
    """

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        *,
        tag: str,
        seed: int,
        label: str,
        display: Display,
        stop: StopRequest,
        teacher: Evaluation | None = None,
    ) -> None:
        self.run, self.recipe, self.tag, self.seed, self.label = run, recipe, tag, seed, label
        self.display, self.stop, self.teacher = display, stop, teacher
        self.metrics = MetricsFile(run.metrics_file)
        self._last_save = time.monotonic()
        self._first_step: tuple[int, float] | None = None

    def resume(self, trainer: Trainer) -> None:
        """Put the trainer where the newest good checkpoint of this stretch left it, if there is one."""
        state = checkpoint.load_latest(self.run.checkpoints, self.tag, say=self.display.say)
        if state is None:
            self.save(trainer)  # so that a run that dies in its first epoch knows where its metrics began
            return
        trainer.load_state_dict(state["trainer"])
        self.metrics.cut_back(state["metrics_bytes"])
        if trainer.step_in_epoch or trainer.epoch > 1:
            self.display.say(f"{self.label} goes on in epoch {trainer.epoch}, after step {trainer.step_in_epoch} of it")

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint."""
        state = {"trainer": trainer.state_dict(), "metrics_bytes": self.metrics.size}
        checkpoint.save(self.run.checkpoints, self.tag, trainer.step, state)
        self._last_save = time.monotonic()

    def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
        """Write the metrics of an interval that is full; save and stop where that is wanted or due."""
        step = trainer.step
        if step == 1 or is_last or step % self.recipe.log_every == 0:
            self._write_interval(trainer, step)
        self._show(trainer, step)
        if self.stop.signal is not None:
            self.save(trainer)
            raise Interrupted(step, self.stop.signal)
        if time.monotonic() - self._last_save > 60 * self.recipe.checkpoint_minutes:
            self.save(trainer)

    def finished_epoch(self, trainer: Trainer) -> None:
        """Write the epoch's line of every row and a checkpoint."""
        for student in trainer.students:
            record = trainer.history[student.name][-1]
            line = {"kind": "epoch", "seed": self.seed, "row": student.name, **record}
            if self.teacher is not None and "val" in record:
                agreement = trainer.evaluations[student.name].agreement_with(self.teacher)
                line["val"] = {**record["val"], "agreement": agreement}
            self.metrics.write(line)
        self.save(trainer)
        if self.stop.signal is not None:  # it came during the evaluation
            raise Interrupted(trainer.step, self.stop.signal)

    def _write_interval(self, trainer: Trainer, step: int) -> None:
        for student in trainer.students:
            meter = trainer.interval_meters[student.name]
            num_steps = meter.num_adds
            means = meter.read()
            common = {key: means.pop(key) for key in COMMON_MEASURES if key in means}
            line = {"kind": "train", "seed": self.seed, "row": student.name, "epoch": trainer.epoch, "step": step}
            self.metrics.write({**line, "steps": num_steps, **common, "terms": means, "lr": student.update.lr})

    def _show(self, trainer: Trainer, step: int) -> None:
        self.display.update(step, f"{self.label} · epoch {trainer.epoch}/{trainer.epochs}")
        if self._first_step is None:
            self._first_step = (step, time.monotonic())
        elif step == self._first_step[0] + STEPS_BEFORE_ESTIMATE:
            self._say_how_long(trainer, (time.monotonic() - self._first_step[1]) / STEPS_BEFORE_ESTIMATE)

    def _say_how_long(self, trainer: Trainer, step_seconds: float) -> None:
        epoch_seconds = step_seconds * trainer.steps_per_epoch
        left = step_seconds * (trainer.epochs * trainer.steps_per_epoch - trainer.step)
        if left > WORTH_SAYING_SECONDS:
            memory = peak_memory_gib(trainer.device)
            self.display.say(
                f"{self.label}: about {epoch_seconds:.0f} s an epoch without evaluation, {duration(left)} in all, "
                f"{memory:.1f} GiB"
            )
