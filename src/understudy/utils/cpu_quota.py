"""CPU time that a container may use: the quota of Linux's control groups, version 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["cpu_quota"]


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that this process's control group and those above it leave it; None: no limit.

    Args:
        root: under which /proc and /sys lie.
    """
    return min(_quotas(root), default=None)


def _quotas(root: Path) -> Iterator[float]:
    mounted = root / "sys/fs/cgroup"
    for controllers, group in _groups(root / "proc/self/cgroup"):
        if controllers and "cpu" not in controllers:
            continue
        tops = [mounted] if not controllers else [mounted / ",".join(controllers), mounted / "cpu"]
        # Within a container its own group is mounted at the top, and the path says where it lies outside.
        for place in (PurePosixPath(group), *PurePosixPath(group).parents):
            for top in tops:
                folder = top / str(place).lstrip("/")
                quota = _of_version_1(folder) if controllers else _of_version_2(folder)
                if quota is not None:
                    yield quota


def _groups(file: Path) -> Iterator[tuple[list[str], str]]:
    """(controllers, path) of each line of /proc/self/cgroup; version 2 names no controllers."""
    for line in (_text(file) or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and ".." not in parts[2].split("/"):
            yield [name for name in parts[1].split(",") if name], parts[2]


def _of_version_2(folder: Path) -> float | None:
    """cpu.max holds '150000 100000', or 'max 100000'."""
    words = (_text(folder / "cpu.max") or "").split()
    return _share(words[0], words[1]) if len(words) == 2 else None


def _of_version_1(folder: Path) -> float | None:
    """cpu.cfs_quota_us is -1 where there is no limit."""
    quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return None if quota is None or period is None else _share(quota, period)


def _share(quota: str, period: str) -> float | None:
    try:
        used, whole = int(quota), int(period)
    except ValueError:
        return None
    return used / whole if used > 0 and whole > 0 else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return None
