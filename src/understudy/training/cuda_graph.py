"""A step as a CUDA graph by torch, and what torch says where it cannot be one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from understudy.core.meters import StepRecord
from understudy.utils.seeding import RandomState, renew_default_generator

__all__ = ["Recorder", "Step", "cuda_graph", "in_words"]

Step = Callable[[], list[StepRecord]]
# Takes a step while recording it, told from which states it may draw on the device; the records, whose tensors every
# replay writes anew, and what replays it.
Recorder = Callable[[Step, Sequence[RandomState]], tuple[list[StepRecord], Callable[[], None]]]


def cuda_graph(step: Step, drawn_from: Sequence[RandomState]) -> tuple[list[StepRecord], Callable[[], None]]:
    """Record a step as a CUDA graph, and take it."""
    graph = torch.cuda.CUDAGraph()
    for state in drawn_from:
        if state.cuda_generator is not None:
            graph.register_generator_state(state.cuda_generator)
    stream = torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            records = step()
    except BaseException:  # of which torch leaves behind the stream that it captured on, and a generator that refuses
        torch.cuda.set_stream(stream)
        renew_default_generator()
        raise
    graph.replay()  # to be recorded is not to be run
    return records, graph.replay


def in_words(error: BaseException, num_images: int) -> str:
    """What stood against a recording: the first error, since torch raises another when it ends what has failed."""
    causes = list(_causes(error))
    if any(isinstance(cause, torch.OutOfMemoryError) for cause in causes):
        return f"memory ran out with batches of {num_images}"
    return str(causes[-1]).splitlines()[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
