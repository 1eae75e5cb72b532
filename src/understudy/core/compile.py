"""torch.compile of the networks that a run goes through at every step, and the settings of what makes steps faster."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from understudy.core.taps import TappedModel

__all__ = ["Capture", "Compile", "begin_compiled_step", "compile_cache", "compiled", "graphs_retained"]

# Whether, and in which of torch.compile's modes: True is its default, "reduce-overhead" records CUDA graphs, too.
Compile = Literal[True, False, "reduce-overhead"]
# Whether the whole step is replayed as one CUDA graph; auto: where it can be, True: refused where it cannot.
Capture = Literal["auto", True, False]


def compile_cache() -> Path:
    """The folder in which torch keeps compiled code from one process to the next; made where it is not there.

    TORCHINDUCTOR_CACHE_DIR, or understudy/torch-compiled in the user's cache (XDG_CACHE_HOME, else ~/.cache): torch's
    own choice is the folder for temporary files, which does not outlive a restart, and where others may write.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if named in (None, default_cache_dir()):  # where torch was asked before, it has written its own choice there
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(caches) / "understudy" / "torch-compiled"
    else:
        folder = Path(str(named)).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(default_cache_dir())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    return folder


def compiled(model: TappedModel, how: Compile) -> TappedModel:
    """The same network, compiled by torch at its next call; its hooks are compiled along, and stay on it."""
    compile_cache()
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
