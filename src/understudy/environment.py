"""Where a run took place: hardware, versions, commit. Kept apart from results, which are the same everywhere."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["describe_environment", "peak_memory_gib"]

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
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    command = " ".join(["understudy", *sys.argv[1:]])
    return {"hardware": hardware, "versions": versions, "commit": _commit(), "command": command}


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far: of the device where it counts that, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # ru_maxrss is in KiB on Linux


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
