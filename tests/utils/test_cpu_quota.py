"""The CPU quota of control groups, read from folders that are laid out as Linux lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.utils.cpu_quota import cpu_quota


def lay(root: Path, **files: str) -> Path:
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("cpu_max", "cpu.max")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def group(root: Path, line: str) -> Path:
    return lay(root, proc__self__cgroup=line)


def test_a_quota_of_version_2_is_read_at_the_process_own_group(tmp_path: Path) -> None:
    group(tmp_path, "0::/app/job\n")
    lay(tmp_path, sys__fs__cgroup__app__job__cpu_max="150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5


def test_the_smallest_of_the_groups_above_counts(tmp_path: Path) -> None:
    group(tmp_path, "0::/app/job\n")
    lay(tmp_path, sys__fs__cgroup__app__job__cpu_max="max 100000\n", sys__fs__cgroup__app__cpu_max="200000 100000\n")
    lay(tmp_path, sys__fs__cgroup__cpu_max="400000 100000")
    assert cpu_quota(tmp_path) == 2.0


def test_within_a_container_the_quota_lies_at_the_top(tmp_path: Path) -> None:
    group(tmp_path, "0::/\n")
    lay(tmp_path, sys__fs__cgroup__cpu_max="50000 100000")
    assert cpu_quota(tmp_path) == 0.5


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("place", ["docker/1f", "."])
def test_a_quota_of_version_1_is_read_wherever_it_is_mounted(folder: str, place: str, tmp_path: Path) -> None:
    group(tmp_path, "7:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n")
    there = tmp_path / "sys/fs/cgroup" / folder / place
    there.mkdir(parents=True)
    (there / "cpu.cfs_quota_us").write_text("300000\n")
    (there / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path) == 3.0


@pytest.mark.parametrize("text", ["max 100000", "", "x y", "-1 100000", "100000 0", "1"])
def test_no_limit_and_what_cannot_be_read_are_no_quota(text: str, tmp_path: Path) -> None:
    group(tmp_path, "0::/\n")
    lay(tmp_path, sys__fs__cgroup__cpu_max=text)
    assert cpu_quota(tmp_path) is None


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_a_group_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    group(tmp_path, "0::/../x\n")
    lay(tmp_path, sys__fs__x__cpu_max="100000 100000")
    assert cpu_quota(tmp_path) is None
