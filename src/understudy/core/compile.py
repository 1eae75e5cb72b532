"""torch.compile of the networks that a run goes through at every step, and the settings of what makes steps faster."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from understudy.core.taps import TappedModel

__all__ = ["Capture", "Compile", "begin_compiled_step", "compiled", "graphs_retained"]

# Whether, and in which of torch.compile's modes: True is its default, "reduce-overhead" records CUDA graphs, too.
Compile = Literal[True, False, "reduce-overhead"]
# Whether the whole step is replayed as one CUDA graph; auto: where it can be, True: refused where it cannot.
Capture = Literal["auto", True, False]


def compiled(model: TappedModel, how: Compile) -> TappedModel:
    """The same network, compiled by torch at its next call; its hooks are compiled along, and stay on it."""
    model.hold()
    # dynamic=False: after an epoch's shorter last batch, torch would run slower code for any batch size ever after.
    return torch.compile(model, mode=how if isinstance(how, str) else None, dynamic=False)  # type: ignore[return-value]


@contextmanager
def graphs_retained(when: bool) -> Iterator[None]:
    """Within it, compiled code may be gone through backward more than once, as DOT does; forward passes included.

    Else torch gives away the buffers of a graph in its first backward pass, and refuses to retain it. What it is not
    told to keep from doing then is to write into them: with torch 2.14.1 on a CPU, the second backward pass of resnet8
    behind its normalisation gave gradients that were wrong by twenty times their size, and nothing said so.
    """
    if not when:
        yield
        return
    import torch._inductor.config

    settings = ((torch._functorch.config, "donated_buffer"), (torch._inductor.config, "inplace_buffers"))
    before = [getattr(config, name) for config, name in settings]
    for config, name in settings:
        setattr(config, name, False)
    try:
        yield
    finally:
        for (config, name), value in zip(settings, before, strict=True):
            setattr(config, name, value)


def begin_compiled_step(modes: Collection[Compile]) -> None:
    """To be called before each step of networks in these modes.

    From here on, CUDA graphs may overwrite what they returned in the step before; within a step they may not, though
    one compiled network runs after another.
    """
    if "reduce-overhead" in modes:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
