"""Runs the command line in processes that can be killed: forks of one that has imported everything.

One line of JSON on stdin asks for a run, one line on stdout says how it ended. A fork costs milliseconds where a fresh
interpreter needs seconds for its imports, and whatever a run does to signals, limits and hooks dies with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2  # noqa: F401 - as torchmetrics and the figures, imported where used: once in every fork otherwise
import torch
import torchmetrics.classification  # noqa: F401

import understudy.api.public
import understudy.api.trainer
import understudy.cli
import understudy.models.cost
import understudy.report.figures
from helpers.own_time import own_clock

FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "shutil.copytree")
NOBODY = 65534
MOST_SECONDS = 600  # of a run, before it is ended as one that hangs


class Arm:
    """Counts what a run does to its files, and kills it at one of these moments.

    Args:
        out: the run folder.
        event: die just before the so-many-th change of a file (opening to write, renaming, deleting, new folders).
        at: die just before the first change of a file whose path this pattern is found in.
        write: die while the so-many-th file is written whole, with half of its bytes on the disk.
        image: let a process that loads images die just before it opens its so-many-th one; each counts its own.
        from_the_start: count from before the folder knows that it is a run.
        as_nobody: from its first write on, the run has no rights but anybody's; before, it has its imports to read.
    """

    def __init__(
        self,
        out: Path,
        *,
        event: int | None,
        at: str | None,
        write: int | None,
        image: int | None,
        from_the_start: bool,
        as_nobody: bool,
    ) -> None:
        self.out, self.at_event, self.at_path, self.at_write = str(out), event, at, write
        self.at_image, self.num_images, self.run_pid = image, 0, os.getpid()
        self.as_nobody = as_nobody and os.getuid() == 0  # to whom nothing is forbidden
        self.begun = out / "recipe.yaml" if from_the_start else out / "environment.json"
        self.counts = from_the_start
        self.num_events = self.num_writes = 0
        self._fsync = os.fsync
        os.fsync = self._on_fsync
        sys.addaudithook(self._on_audit)

    def _on_audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if os.getpid() != self.run_pid:
            self._on_audit_of_worker(event, str(arguments[0]) if arguments else "")
            return
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(path, str) and path.startswith(self.out) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            changes = event in FILE_EVENTS
        if changes and self.as_nobody:
            self.as_nobody = False
            os.seteuid(NOBODY)
        if not changes or not self._counts_now():
            return
        self.num_events += 1
        is_there = self.at_path is not None and re.search(self.at_path, str(arguments[0])) is not None
        if self.num_events == self.at_event or is_there:
            os.kill(os.getpid(), signal.SIGKILL)

    def _on_audit_of_worker(self, event: str, path: str) -> None:
        if event == "open" and path.endswith(".jpg"):
            self.num_images += 1
            if self.num_images == self.at_image:
                os.kill(os.getpid(), signal.SIGKILL)

    def _on_fsync(self, file: int) -> None:
        is_whole_file = os.readlink(f"/proc/self/fd/{file}").endswith(".partial")
        if is_whole_file and self._counts_now():
            self.num_writes += 1
            if self.num_writes == self.at_write:
                os.ftruncate(file, os.fstat(file).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        self._fsync(file)

    def _counts_now(self) -> bool:
        self.counts = self.counts or os.access(self.begun, os.F_OK)
        return self.counts


def run(job: Mapping[str, Any], said: Path) -> None:
    """The forked process: never returns."""
    stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.setpgid(0, 0)  # so that its own workers can be found and ended with it
    out = Path(job["out"])
    kill = job.get("kill") or {}
    understudy.models.cost._MEASURE_SECONDS = 0.0
    understudy.models.cost.latency_ms.__kwdefaults__["seconds"] = 0.0
    understudy.models.cost._WARMUP_CALLS = 0
    arm = Arm(
        out,
        event=kill.get("event"),
        at=kill.get("at"),
        write=kill.get("write"),
        image=kill.get("image"),
        from_the_start=bool(kill.get("from_the_start")),
        as_nobody=bool(job.get("as_nobody")),
    )
    if job.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], job["file_bytes"]))
    code = 0
    try:
        understudy.cli.main(job["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        said.with_suffix(".counts").write_text(json.dumps({"events": arm.num_events, "writes": arm.num_writes}))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended(job: Mapping[str, Any], said: Path) -> dict[str, Any]:
    """How the run ended, after whatever the job wants done to it."""
    said.with_suffix(".counts").unlink(missing_ok=True)
    said.write_text("")
    pid = os.fork()
    if pid == 0:
        run(job, said)
    end_seconds = _waited_for(pid, job, said)
    _, status, used = os.wait4(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # workers that outlived it
    counts = said.with_suffix(".counts")
    return {
        "code": os.waitstatus_to_exitcode(status),
        "said": said.read_text(encoding="utf-8", errors="replace"),
        "end_seconds": end_seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "counts": json.loads(counts.read_text()) if counts.exists() else {},
    }


def _waited_for(pid: int, job: Mapping[str, Any], said: Path) -> float | None:
    """Seconds from the signal that was sent, if any, to the end, but for those of waiting for a processor.

    `after` is in processor seconds of the run's, so that it is as far as that on a busy machine, too.
    """
    kill = job.get("kill") or {}
    began, clock = time.monotonic(), (~pid << 3) | 2  # clock_getcpuclockid(3), which Python lacks
    send_at: float | None = None
    signalled: float | None = None
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if send_at is None and "after" in kill and _is_time(kill, Path(job["out"]), said):
            send_at = time.clock_gettime(clock) + kill["after"]
        if send_at is not None and signalled is None and time.clock_gettime(clock) >= send_at:
            os.kill(pid, kill.get("signal", signal.SIGKILL))
            signalled = own_clock(pid)
        if time.monotonic() > began + MOST_SECONDS:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    return None if signalled is None else own_clock(pid) - signalled


def _is_time(kill: Mapping[str, Any], out: Path, said: Path) -> bool:
    """Whether the clock of the kill may start: the folder is known as a run, and what was waited for was said."""
    return (out / "environment.json").exists() and kill.get("once_said", "") in said.read_text(errors="replace")


def main() -> None:
    """Serve until stdin ends."""
    torch.set_num_threads(1)
    said = Path(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(ended(json.loads(line), said)), flush=True)


if __name__ == "__main__":
    main()
