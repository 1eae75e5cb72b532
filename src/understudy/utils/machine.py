"""The machine a run is on: hardware, versions, memory, CPU threads and denormal numbers."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from understudy.utils.cpu_quota import cpu_quota

__all__ = [
    "cpu_threads",
    "denormals_flushed",
    "describe_environment",
    "hand_back_memory",
    "num_cpus",
    "peak_memory_gib",
    "tf32",
]

PACKAGES = (
    "understudy",
    "torch",
    "torchvision",
    "timm",
    "torchmetrics",
    "pydantic",
    "numpy",
    "datasets",
)

VARIABLES = (  # of the environment: other values, another run
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "HF_HUB_OFFLINE",
)


def describe_environment() -> dict[str, Any]:
    """Hardware, versions, commit and command of this process."""
    hardware: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
        hardware["tf32"] = torch.backends.cuda.matmul.fp32_precision == "tf32"
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    return {"hardware": hardware, "versions": versions, "commit": _commit(), "command": _command()}


def _command() -> str:
    """What runs, to be pasted into a shell: quoted, behind those variables of the environment that matter."""
    variables = [f"{name}={shlex.quote(os.environ[name])}" for name in VARIABLES if os.environ.get(name)]
    program = Path(sys.argv[0])
    is_own = program.stem == "understudy" or program.parts[-2:] == ("understudy", "__main__.py")
    words = ["understudy", *sys.argv[1:]] if is_own else ["python", *sys.argv]
    if is_own and "TORCHELASTIC_RUN_ID" in os.environ:
        processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
        words = ["torchrun", "--nproc-per-node", processes, "-m", *words]
    return " ".join([*variables, shlex.join(words)])


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far: of the device where it counts that, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def num_cpus() -> int:
    """Cores that this process may use, by its affinity and its CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree that runs, with a mark where it has uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Let the CPU take numbers below 1.2e-38 (float32) for 0 in this thread until the block ends, where it can.

    Weights that nothing but their decay moves end there, as do the momenta of gradients that have vanished. torch's own
    threads take the setting over when they are started, which the first parallel operation of a process does: of a
    command that is within the block; where somebody has used torch before, they keep what they had.
    """
    before = _are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _are_flushed() -> bool:
    """torch has a way to set this, and none to ask."""
    return (torch.full((), 1e-310, dtype=torch.float64) * 1.0).item() == 0.0


def hand_back_memory() -> None:
    """Let go of freed buffers: those in Arrow's pool, and those of threads that have ended (glibc keeps both)."""
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # musl has none
    if trim is not None:
        trim(0)


@contextmanager
def tf32(is_allowed: bool) -> Iterator[None]:
    """Let CUDA multiply float32 numbers in TF32 (10 bits of mantissa) until the block ends, or in float32 proper.

    By itself torch convolves in TF32 and multiplies matrices in float32.
    """
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "tf32" if is_allowed else "ieee"
    try:
        yield
    finally:
        for kind, was in zip(kinds, before, strict=True):
            kind.fp32_precision = was


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads until the block ends; None: as many as it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
