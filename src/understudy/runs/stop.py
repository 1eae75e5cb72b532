"""A stop that was asked for: Ctrl-C, SIGTERM or a file."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from understudy.core.batch import Batch
from understudy.data import EvalLoader
from understudy.distributed.world import World
from understudy.utils.interrupted import Interrupted

__all__ = ["StopRequest"]


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

    def stoppable(self, batches: EvalLoader, world: World, *, before: Callable[[], int]) -> Iterable[Batch]:
        """The same batches, which end with Interrupted where somebody wants the run to stop.

        Args:
            batches: of an evaluation, which may take long.
            world: several processes would have to agree at every batch; they go on to the next step instead.
            before: is called before the stop, to save what there is; gives the number of steps that are done.
        """
        return _Stoppable(self, batches, before) if world.size == 1 else batches

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class _Stoppable:
    """Batches that stop coming when somebody wants the run to stop. Can be gone through again."""

    def __init__(self, stop: StopRequest, batches: EvalLoader, before: Callable[[], int]) -> None:
        self._stop, self._batches, self._before = stop, batches, before

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if self._stop.signal is not None:
                raise Interrupted(self._before(), self._stop.signal)
            yield batch
