"""Checkpoints: whole or not at all, and never a silent fresh start."""

import hashlib
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from understudy.runs import checkpoint
from understudy.utils.errors import UserError

STATE = {"weights": torch.arange(4.0), "epoch": 3, "names": ["a", "b"], "nested": {"sum": None}}


def saved(folder: Path, *steps: int, keep: int = 2) -> list[Path]:
    return [checkpoint.save(folder, "seed0", step, {"step": step}, keep=keep) for step in steps]


def load(folder: Path, said: list[str] | None = None) -> dict[str, object] | None:
    return checkpoint.load_latest(folder, "seed0", say=(said if said is not None else []).append)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "seed0", 1, STATE)
    found = load(tmp_path)
    assert found is not None
    assert torch.equal(found.pop("weights"), STATE["weights"])  # type: ignore[arg-type]
    assert found == {key: value for key, value in STATE.items() if key != "weights"}


def test_a_folder_without_checkpoints_gives_none(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    assert load(tmp_path / "never made") is None


def test_the_newest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    saved(tmp_path, 9, 10, 100)
    assert load(tmp_path) == {"step": 100}


def test_the_same_step_again_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    first, again = (checkpoint.save(tmp_path, "seed0", 7, {"step": step}) for step in (1, 2))
    assert first == again == tmp_path / "seed0-000000007.pt"
    assert load(tmp_path) == {"step": 2}


def test_what_is_saved_last_is_the_newest_though_its_step_be_lower(tmp_path: Path) -> None:
    """A run begun on two processes and resumed on one takes fewer steps to the same moment."""
    saved(tmp_path, 18, 27, 25, 28, 27)
    assert load(tmp_path) == {"step": 27}
    saved(tmp_path, 40)
    assert (tmp_path / "seed0-000000040.pt").is_file()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_few_stay(tmp_path: Path, keep: int) -> None:
    saved(tmp_path, 1, 2, 3, 4, keep=keep)
    kept = [f"seed0-{step:09d}.pt" for step in (1, 2, 3, 4)][-keep:]
    assert sorted(file.name for file in tmp_path.iterdir()) == kept


def test_tags_do_not_meet(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    checkpoint.save(tmp_path, "seed01", 7, {"step": 7})
    checkpoint.remove(tmp_path, "seed01")
    assert load(tmp_path) == {"step": 5}
    assert len(list(tmp_path.iterdir())) == 1


def test_removing_leaves_nothing_behind_of_writes_that_were_killed(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / ".seed0-000000003.pt.partial").write_bytes(b"half")
    checkpoint.remove(tmp_path, "seed0")
    assert list(tmp_path.iterdir()) == []


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x80
    file.write_bytes(bytes(content))


def lose_the_digest(file: Path) -> None:
    os.truncate(file, file.stat().st_size - hashlib.sha256().digest_size)


def flip_a_bit_of_the_digest(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80
    file.write_bytes(bytes(content))


DAMAGES = [truncate, empty, flip_a_bit, lose_the_digest, flip_a_bit_of_the_digest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_one_gives_way_to_the_one_before_and_that_is_said(tmp_path: Path, damage) -> None:
    _, newest = saved(tmp_path, 1, 2)
    damage(newest)
    said: list[str] = []
    assert load(tmp_path, said) == {"step": 1}
    assert said == ["checkpoint seed0-000000002.pt is damaged; falling back to the one before"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_none_whole_is_an_error_and_never_a_fresh_start(tmp_path: Path, damage) -> None:
    for file in saved(tmp_path, 1, 2):
        damage(file)
    with pytest.raises(UserError, match=r"none of the 2 checkpoints seed0-\*\.pt in .* is whole; .*--overwrite"):
        load(tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_saving_over_a_damaged_one(tmp_path: Path, damage) -> None:
    _, newest = saved(tmp_path, 1, 2)
    damage(newest)
    saved(tmp_path, 2)
    said: list[str] = []
    assert load(tmp_path, said) == {"step": 2}
    assert said == []


class RunsCode:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def pickled(state: object) -> bytes:
    return pickle.dumps(state, protocol=2)


def saved_by_torch(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


@pytest.mark.parametrize("dump", [pickled, saved_by_torch])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, dump) -> None:
    witness = tmp_path / "it ran"
    content = dump({"weights": RunsCode(witness)})
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "seed0-000000001.pt").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        load(folder)
    assert not witness.exists()


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("step", [2, 1], ids=["of a later step", "of the same step"])
def test_a_disk_that_is_full_leaves_the_older_checkpoint_whole(tmp_path: Path, step: int) -> None:
    saved(tmp_path, 1)
    with full_disk(2**16), pytest.raises(OSError, match="File too large"):
        checkpoint.save(tmp_path, "seed0", step, {"weights": torch.zeros(2**16)})
    said: list[str] = []
    assert load(tmp_path, said) == {"step": 1}
    assert said == []


WRITER = """
import sys
from pathlib import Path
from understudy.utils.files import write_atomically
file = Path(sys.argv[1])
print("writing", flush=True)
while True:
    for letter in b"ab":
        write_atomically(file, bytes([letter]) * 4_000_000)
"""


@pytest.mark.slow
def test_a_file_holds_one_whole_content_after_a_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    file = tmp_path / "state"
    for kill in range(8):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05 + 0.013 * kill)
        process.kill()
        process.wait()
        process.stdout.close()
        if file.exists():
            content = file.read_bytes()
            assert content in (b"a" * 4_000_000, b"b" * 4_000_000)
    assert file.exists()
