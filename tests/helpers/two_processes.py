"""Two processes that train as one, started once: a test that needs them costs a function call.

As in lightly's and torchmetrics' tests, one pool serves the whole test run.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

SIZE = 2
MOST_SECONDS = 600.0  # of a call, before the pair is ended as one that hangs


@dataclass(frozen=True)
class Raised:
    """What a call ended with instead of a value."""

    text: str
    traceback: str


class TwoProcesses:
    """Call a function in two processes at once, each rank 0 or 1 of a gloo group; they start at the first call.

    Args:
        share_gpu: whether they see the first GPU, both of them; else none.
    """

    def __init__(self, *, share_gpu: bool = False) -> None:
        self._share_gpu = share_gpu
        self._processes: list[Any] = []
        self._store: Any = None
        self._lines: list[Connection] = []

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let both begin with a call; `finish` waits for it."""
        if not self._processes:
            self._open()
        for line in self._lines:
            line.send((function, arguments))

    def finish(self, timeout: float = MOST_SECONDS) -> list[Any]:
        """What the call gave, by rank. After an exception the pair is started anew: the other may be left waiting."""
        until = time.monotonic() + timeout
        answers: list[Any] = [None] * SIZE
        for rank, line in enumerate(self._lines):
            wait = until - time.monotonic() if not any(isinstance(answer, Raised) for answer in answers) else 5.0
            has_answer = line.poll(max(wait, 0))
            answers[rank] = line.recv() if has_answer else Raised(f"no answer after {timeout:g} s", "")
        upcast = [answer for answer in answers if isinstance(answer, Raised)]
        if upcast:
            self.close()
            raise RuntimeError("\n".join(answer.traceback or answer.text for answer in upcast))
        return answers

    def call(self, function: Callable[..., Any], *arguments: Any, timeout: float = MOST_SECONDS) -> list[Any]:
        """What `function(*arguments)` gives in each process, by rank; both are pickled."""
        self.start(function, *arguments)
        return self.finish(timeout)

    def close(self) -> None:
        """End both."""
        for process in self._processes:
            process.terminate()
            process.join()
        self._processes, self._lines, self._store = [], [], None

    def _open(self) -> None:
        from torch.distributed import TCPStore  # the processes, too, import this file, before they know their GPUs

        context = multiprocessing.get_context("spawn")
        # Served from here, as torchrun does it, on a port that is free because it is taken at once.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, self._store.port, theirs, self._share_gpu), daemon=True
            )
            process.start()
            self._processes.append(process)
            self._lines.append(ours)


def _serve(rank: int, port: int, line: Connection, share_gpu: bool) -> None:
    """Answer calls until the end."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0" if share_gpu else str(rank), "WORLD_SIZE": str(SIZE)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    if not share_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from understudy.distributed.launch import joined

    torch.set_num_threads(1)
    if share_gpu:  # NCCL wants a GPU for each
        torch.distributed.init_process_group("gloo")
    with joined():
        while True:
            function, arguments = line.recv()
            try:
                line.send(function(*arguments))
            except BaseException as error:
                line.send(Raised(f"{type(error).__name__}: {error}", traceback.format_exc()))
