"""Inject every fault of tests/faults, count what came back, write docs/reliability.{json,md}: `make reliability`."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reliability.md"
NUMBERS = ROOT / "docs/reliability.json"
BEGIN, END = "<!-- written by docs/reliability.py -->", "<!-- up to here -->"


def counted(report: Path) -> dict[str, dict[str, int]]:
    """What the tests have noted, added up by fault."""
    faults: dict[str, dict[str, int]] = {}
    for noted in ET.parse(report).getroot().iter("property"):
        kind, _, fault = noted.attrib["name"].partition(": ")
        if kind == "fault":
            found = faults.setdefault(fault, {"tests": 0, "injected": 0, "recovered": 0})
            for key, number in {"tests": 1, **json.loads(noted.attrib["value"])}.items():
                found[key] = found.get(key, 0) + number
    return dict(sorted(faults.items()))


def table(numbers: Mapping[str, Any]) -> str:
    """The numbers as they stand on the page."""
    faults = {**numbers["faults"], "**all**": total(numbers)}
    lines = ["| fault | injected | runs recovered | bytes lost |", "| --- | ---: | ---: | ---: |"]
    for name, n in faults.items():
        lines.append(f"| {name} | {n['injected']} | {n['recovered']} | {n.get('lost_bytes', 'not compared')} |")
    where = f"{numbers['tests']} tests, {numbers['cpu_seconds']} s of processor time on {numbers['where']}."
    return "\n".join([*lines, "", where])


def total(numbers: Mapping[str, Any]) -> dict[str, int]:
    """The sums over all faults."""
    return {
        key: sum(n.get(key, 0) for n in numbers["faults"].values()) for key in ("injected", "recovered", "lost_bytes")
    }


def written_into(page: str, numbers: Mapping[str, Any]) -> str:
    """The page with this table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(numbers)}\n{END}{after}"


def main() -> None:
    """Run the tests, the slow ones too, and write both files where all of them pass."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/faults", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        code = subprocess.run(
            [*command, "--deselect", "tests/faults/test_reliability_page.py"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).returncode
        if code != 0:
            sys.exit(code)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        suite = next(ET.parse(report).getroot().iter("testsuite"))
        numbers = {
            "tests": int(suite.attrib["tests"]) - int(suite.attrib["skipped"]),
            "cpu_seconds": round(used.ru_utime + used.ru_stime),
            "where": f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}, "
            f"{platform.system()}",
            "faults": counted(report),
        }
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(written_into(PAGE.read_text(encoding="utf-8"), numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
