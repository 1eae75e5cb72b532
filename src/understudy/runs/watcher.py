"""What is written while a run trains: metrics, checkpoints, progress."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from understudy.data import EvalLoader, TrainLoader
from understudy.distributed.world import SINGLE, World
from understudy.recipes.schema import Recipe
from understudy.runs import checkpoint
from understudy.runs.console import Display
from understudy.runs.epoch_lines import EpochLines
from understudy.runs.failures import says_what_no_longer_fits
from understudy.runs.folder import RunFolder
from understudy.runs.probed import probe_lines, save_probes
from understudy.runs.stop import StopRequest
from understudy.tasks import Evaluation
from understudy.tasks.base import headline_metric
from understudy.trackers.base import ALWAYS, Trackers
from understudy.training.metrics import NotFinite
from understudy.training.trainer import Trainer
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted
from understudy.utils.machine import peak_memory_gib
from understudy.utils.text import clock

__all__ = ["RunWatcher"]

COMMON_MEASURES = ("task", "distill", "task_loss", "kl_to_teacher")  # of every row, as what its task measures is
MOST_LEFT_OUT = 3  # steps of a stretch, with on_nan: rollback; what is NaN or infinite four times is no accident
STEPS_BEFORE_ESTIMATE = 10
WORTH_SAYING_SECONDS = 60.0  # a shorter stretch is over before anyone has read how long it takes


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
        world: the processes that train together; the first one writes.
        trackers: who keeps the metrics; None in the other processes.
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
        world: World = SINGLE,
        trackers: Trackers | None = None,
    ) -> None:
        self.run, self.recipe, self.tag, self.seed, self.label = run, recipe, tag, seed, label
        self.display, self.stop, self.teacher, self.world = display, stop, teacher, world
        self.trackers = trackers
        self._last_save = time.monotonic()
        self._first_step: tuple[int, float] | None = None
        self._looks_until = 0  # after a rollback, weights are looked at after every step up to this one
        self._left_out: dict[int, dict[str, str]] = {}  # of whom and why, by step
        self._loader: TrainLoader | None = None
        self._skipped: set[str] = set()  # unreadable images met before the run was resumed
        self._lines: EpochLines | None = None  # for people
        self._epoch_began = time.monotonic()

    @property
    def skipped(self) -> list[str]:
        """Training images that this process could not read, each with the reason."""
        return sorted(self._skipped.union(self._loader.skipped if self._loader else ()))

    def fit(self, trainer: Trainer, loader: TrainLoader, *, epochs: int, val: EvalLoader | None = None) -> None:
        """Train from the newest good checkpoint to the end, past NaN and infinite losses where the recipe says so.

        Raises:
            UserError: a loss or a weight was NaN or infinite, and stayed so.
            Interrupted: somebody wants the run to stop; it was saved.
        """
        self._loader = loader
        self.resume(trainer, epochs=epochs)
        stoppable = None if val is None else self.stop.stoppable(val, self.world, before=lambda: self._saved(trainer))
        while True:
            try:
                trainer.fit(loader, epochs=epochs, val=stoppable, watcher=self)
                return
            except NotFinite as bad:
                # Counted by what the checkpoint holds, so that a run that was killed has no more chances than another.
                is_hopeless = len(trainer.left_out) == MOST_LEFT_OUT or bad.step in trainer.left_out
                if self.recipe.on_nan != "rollback" or is_hopeless:
                    raise UserError(_way_out(bad, len(trainer.left_out))) from None
                self._roll_back(trainer, bad)

    def resume(self, trainer: Trainer, *, epochs: int) -> None:
        """Put the trainer where the newest good checkpoint of this stretch left it, if there is one.

        A stretch that was over after fewer epochs goes on from its end; the metrics of what came after it stay.
        """
        state = self._latest() or self._end_of_shorter(epochs)
        if state is None:
            self.save(trainer)  # so that a run that dies in its first epoch knows where its metrics began
            return
        is_longer = state["trainer"]["lengths"][-1:] not in ([], [epochs])
        self._restore(trainer, state, keeps_metrics=is_longer)
        if is_longer:
            trainer.lengths.append(epochs)
            self.save(trainer)
        if trainer.step_in_epoch or trainer.epoch > 1:
            self.display.say(f"{self.label} goes on in epoch {trainer.epoch}, after step {trainer.step_in_epoch} of it")

    def _end_of_shorter(self, epochs: int) -> dict[str, Any] | None:
        """Where this stretch ended when it was to have fewer epochs; None where it was not."""
        state = self.world.from_first(lambda: checkpoint.load_end(self.run.checkpoints, self.tag))
        return state if state is not None and state["trainer"]["lengths"][-1] < epochs else None

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint, after a look at what it would keep: there is always one from before a bad step.

        Raises:
            NotFinite: a loss of the running interval, or a weight, is NaN or infinite.
        """
        trainer.check_finite()
        state = {
            "trainer": trainer.state_dict(),
            "trackers": self.trackers.state() if self.trackers else {},
            "skipped": sorted(set().union(*self.world.gather_objects(self.skipped))),
            "left_out": self._left_out,
        }
        if self.world.is_first:
            checkpoint.save(self.run.checkpoints, self.tag, trainer.step, state)
        self._last_save = time.monotonic()

    def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
        """Write the metrics of an interval that is full; save and stop where that is wanted or due."""
        if trainer.step <= self._looks_until:
            trainer.check_finite()
        if trainer.step in self._left_out:
            self._write({"kind": "rollback", "seed": self.seed, "step": trainer.step, **self._left_out[trainer.step]})
        if trainer.is_at_interval_end:
            self._write_interval(trainer)
        self._write_probes(trainer)
        self._show(trainer, trainer.step)
        stop, is_due = self._agreed(trainer)
        if stop or is_due:
            self.save(trainer)
        if stop:
            raise Interrupted(trainer.step, stop)

    def finished_epoch(self, trainer: Trainer) -> None:
        """Write the epoch's line of every row and a checkpoint."""
        lines = [self._epoch_line(trainer, student.name, student.update.lr) for student in trainer.students]
        for line in lines:
            self._write(line)
        self._write_probes(trainer)
        if self.world.is_first:
            save_probes(self.run, trainer.probing, seed=self.seed)
        self._show_epoch(trainer, lines)
        self.save(trainer)
        stop, _ = self._agreed(trainer)
        if stop:  # it came during the evaluation
            raise Interrupted(trainer.step, stop)

    def _epoch_line(self, trainer: Trainer, row: str, lr: float) -> dict[str, Any]:
        record = trainer.history[row][-1]
        line = {"kind": "epoch", "seed": self.seed, "row": row, "step": trainer.step, "lr": lr, **record}
        if self.teacher is not None and "val" in record:
            agreement = trainer.evaluations[row].agreement_with(self.teacher)
            line["val"] = {**record["val"], "agreement": agreement}
        return line

    def _show_epoch(self, trainer: Trainer, lines: Sequence[Mapping[str, Any]]) -> None:
        if self._lines is None:
            label = self.label if self.label.startswith("seed") else "row"
            self._lines = EpochLines(self.display, headline_metric(trainer.students[0].task), label=label)
        self._lines.show(lines, trainer.history, epochs=trainer.epochs, left=self.display.left_after(trainer.step))
        if self.world.is_first:
            seconds = time.monotonic() - self._epoch_began
            with suppress(OSError):  # a full disk is met by what matters more
                self.run.append_timing(
                    {"kind": "epoch", "stretch": self.tag, "epoch": lines[0]["epoch"], "seconds": seconds}
                )
        self._epoch_began = time.monotonic()

    def _saved(self, trainer: Trainer) -> int:
        self.save(trainer)
        return trainer.step

    def _agreed(self, trainer: Trainer) -> tuple[int, bool]:
        """Which signal any process has heard (0: none), and whether a checkpoint is due; all processes say the same."""
        every = self.recipe.checkpoint_steps
        is_due = time.monotonic() - self._last_save > 60 * self.recipe.checkpoint_minutes
        is_due |= every is not None and trainer.step % every == 0
        wishes = self.world.exchange(self.stop.signal or 0, int(is_due))
        return max(signal for signal, _ in wishes), bool(wishes[0][1])  # the first one's clock counts

    def _latest(self) -> dict[str, Any] | None:
        return self.world.from_first(
            lambda: checkpoint.load_latest(self.run.checkpoints, self.tag, say=self.display.say)
        )

    def _restore(self, trainer: Trainer, state: Mapping[str, Any], *, keeps_metrics: bool = False) -> None:
        if self.trackers and not keeps_metrics:
            self.trackers.resume(_of_trackers(state))
        with says_what_no_longer_fits(self.run.path):
            trainer.load_state_dict(state["trainer"])
        self._skipped |= set(state["skipped"])
        self._left_out |= state["left_out"]

    def _roll_back(self, trainer: Trainer, bad: NotFinite) -> None:
        """Back to the newest checkpoint: first to find the step that did it, then to go on without that one.

        A NaN or infinite loss may come of the weights that the step before has left. The way is gone a second time
        with a look at the weights after each step, so that the step left out is the same whenever it was noticed.
        """
        state = self._latest()
        assert state is not None, "resume() writes one before the first step"
        self._restore(trainer, state)
        if bad.step > self._looks_until:
            self._looks_until = bad.step
            self.display.say(f"warning  {bad}; back to step {trainer.step}, to find the step that it comes from")
            return
        trainer.left_out.add(bad.step)
        self._left_out[bad.step] = {"row": bad.student, "why": bad.what}
        self.display.say(f"warning  {bad}; back to step {trainer.step}, and on without step {bad.step}")

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.trackers:
            self.trackers.log(line)

    def _write_interval(self, trainer: Trainer) -> None:
        if trainer.measures.interval_steps == 0:  # all of them were left out
            return
        for student in trainer.students:
            means = dict(trainer.measures.interval.get(student.name, {}))
            common_to_rows = (*COMMON_MEASURES, *student.task.batch_metrics)  # the rest are its own terms
            common = {key: means.pop(key) for key in common_to_rows if key in means}
            line = {"kind": "train", "seed": self.seed, "row": student.name, "epoch": trainer.epoch}
            steps = {"step": trainer.step, "steps": trainer.measures.interval_steps}
            self._write({**line, **steps, **common, "terms": means, "lr": student.update.lr})

    def _write_probes(self, trainer: Trainer) -> None:
        for line in probe_lines(trainer.probing, seed=self.seed):
            self._write(line)

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
            to_come = [] if self.tag == "teacher" else self.recipe.seeds[self.recipe.seeds.index(self.seed) + 1 :]
            whole = left + len(to_come) * epoch_seconds * trainer.epochs
            of_all = f" for this seed, {clock(whole)} with those to come" if to_come else " in all"
            memory = peak_memory_gib(trainer.device)
            self.display.say(
                f"{self.label}: about {epoch_seconds:.0f} s an epoch without evaluation, {clock(left)}{of_all}, "
                f"{memory:.1f} GiB"
            )


def _of_trackers(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint keeps of the trackers; the file alone in one of before there were others."""
    found: Mapping[str, Any] = state.get("trackers") or {ALWAYS: {"bytes": state["metrics_bytes"]}}
    return found


def _way_out(bad: NotFinite, num_left_out: int) -> str:
    tried = f" after {num_left_out} steps were left out" if num_left_out else ""
    return (
        f"{bad.student}: {bad.what} in step {bad.step}{tried}; training stopped, and the checkpoint from before it is "
        "kept. Lower update.lr or the method's weight, set update.clip_norm, or on_nan=rollback to go on without that "
        "step (on_nan=continue keeps the row in the table as one that diverged)"
    )
