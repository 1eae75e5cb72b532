"""Runs that something happens to, beside the same runs left in peace."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from torchvision.io import write_jpeg

from helpers.engine import reproducible_files, tiny_recipe
from understudy.runs.folder import RunFolder
from understudy.utils.lock import LOCK_FILE

KILLED = -9


class Tally(Protocol):
    def __call__(self, fault: str, *, injected: int, recovered: int, lost_bytes: int | None = None) -> None: ...


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        code: exit code, or minus the signal.
        said: all that it printed.
        end_seconds: from the signal that it was sent to its end, less what it waited for a processor; None: none sent.
        processor_seconds: that it took in all.
        counts: of its changes of files, where it came to its own end.
    """

    code: int
    said: str
    end_seconds: float | None
    processor_seconds: float
    counts: Mapping[str, int]


class Server:
    """The command line in a process of its own, forked from one that has imported everything."""

    def __init__(self, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._ask = ask

    def run(self, recipe: Path, out: Path, **job: Any) -> Ending:
        """`understudy compare RECIPE --out OUT`; see fork_server.py for what a job can ask for besides."""
        arguments = ["compare", str(recipe), "--out", str(out)]
        return Ending(**self._ask({"arguments": arguments, "out": str(out), **job}))


def recipe_file(folder: Path, over: Mapping[str, Any]) -> Path:
    """A small recipe with these settings laid on it."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny_recipe(over).as_dict()))
    return file


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of a run folder that must come out the same; what a killed run leaves of its lock locks nothing."""
    return {name: content for name, content in reproducible_files(RunFolder(out)).items() if name != LOCK_FILE}


def lost_bytes(out: Path, expected: Mapping[str, bytes]) -> int:
    """Bytes of all files that are missing, too many, or other than expected; said by name where there are any."""
    found = files_of(out)
    unequal = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    if unequal:
        print("not as in the run left in peace:", *unequal)
    return sum(max(len(found.get(name, b"")), len(expected.get(name, b""))) for name in unequal)


def image_tree(folder: Path) -> Path:
    """Two classes of 24 images for training and 8 for validation."""
    drawn = torch.Generator().manual_seed(0)
    for split, count in (("train", 24), ("val", 8)):
        for number, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(100 * number, 100 * number + 150, (3, 16, 16), generator=drawn)
                write_jpeg(pixels.to(torch.uint8), str(folder / split / name / f"{i:02}.jpg"), quality=95)
    return folder


def image_settings(tree: Path, **data: Any) -> dict[str, Any]:
    """A run whose images are decoded in every epoch anew."""
    rows = {"train_rows": None, "val_rows": None}
    own = {"root": str(tree), "cache": False, "workers": 1, "batch_size": 12, "image_size": 16, **rows}
    return {"data": {**own, **data}, "rows": ["kd"], "seeds": [0], "epochs": 2, "checkpoint_steps": 1}


@dataclass(frozen=True)
class Killing:
    """A run left in peace, and what it takes to kill the same one at random moments."""

    server: Server
    recipe: Path
    expected: Mapping[str, bytes]
    processor_seconds: float
    events: int
    writes: int

    @classmethod
    def of(cls, server: Server, recipe: Path, out: Path) -> Killing:
        """Let the recipe run in peace once."""
        ending = server.run(recipe, out)
        assert ending.code == 0, ending.said
        counts = ending.counts
        return cls(server, recipe, files_of(out), ending.processor_seconds, counts["events"], counts["writes"])

    def moment(self, drawn: random.Random) -> dict[str, Any]:
        """Any time at all, just before some change of a file, or half-way through writing one."""
        kind = drawn.choice(["after", "after", "event", "write"])
        if kind == "after":
            return {"after": drawn.uniform(0, self.processor_seconds)}
        return {kind: drawn.randint(1, self.events if kind == "event" else self.writes)}

    def survives(self, folder: Path, *, kills: int, seed: str) -> tuple[int, int]:
        """Kill so many times, going on after each, and start anew wherever the run is done; (kills, lost bytes)."""
        drawn, done, lost, number = random.Random(seed), 0, 0, 0
        while True:
            out = folder / str(number) / "run"  # results.json holds the last name
            ending = self.server.run(self.recipe, out, kill=self.moment(drawn) if done < kills else None)
            if ending.code == KILLED:
                done += 1
                if not (out / "report.html").is_file():  # else it was killed when all was done
                    continue
            else:
                assert ending.code == 0, f"after {done} kills: {ending.said}"
            lost += lost_bytes(out, self.expected)
            if done == kills:
                return done, lost
            number += 1
