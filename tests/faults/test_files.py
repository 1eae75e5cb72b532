"""Files that are damaged, cannot be written, or cannot be read: the run says so, and loses nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.faulty_runs import KILLED, Killing, Server, Tally, image_settings, image_tree, lost_bytes, recipe_file

STOPPED = {"rows": ["kd+dot"], "seeds": [0], "checkpoint_steps": 1, "log_every": 1}
IN_THE_SECOND_EPOCH = {"write": 12}


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def cut_the_end(image: Path) -> None:
    """So that it looks like an image until it is decoded."""
    os.truncate(image, image.stat().st_size - 100)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def in_peace(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Killing:
    folder = tmp_path_factory.mktemp("peace")
    return Killing.of(server, recipe_file(folder, STOPPED), folder / "run")


@pytest.fixture
def half_way(in_peace: Killing, tmp_path: Path) -> Path:
    """The folder of a run that was killed with two checkpoints in it."""
    assert in_peace.server.run(in_peace.recipe, tmp_path / "run", kill={"write": 8}).code == KILLED
    assert len(checkpoints(tmp_path / "run")) == 2
    return tmp_path / "run"


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoints/seed0-*.pt"))


class TestCheckpoints:
    @pytest.mark.parametrize("damage", [truncate, flip_a_bit])
    def test_a_damaged_newest_one_gives_way_to_the_one_before(
        self, damage: Callable[[Path], None], in_peace: Killing, half_way: Path, tally: Tally
    ) -> None:
        newest = checkpoints(half_way)[-1]
        damage(newest)
        ending = in_peace.server.run(in_peace.recipe, half_way)
        assert ending.code == 0, ending.said
        assert f"checkpoint {newest.name} is damaged; falling back to the one before" in ending.said
        what = {truncate: "truncated", flip_a_bit: "with a flipped bit"}[damage]
        lost = lost_bytes(half_way, in_peace.expected)
        tally(f"newest checkpoint {what}", injected=1, recovered=1, lost_bytes=lost)

    @pytest.mark.parametrize("damage", [truncate, flip_a_bit])
    def test_where_none_is_whole_the_run_refuses_to_begin_afresh(
        self, damage: Callable[[Path], None], in_peace: Killing, half_way: Path
    ) -> None:
        for file in checkpoints(half_way):
            damage(file)
        metrics = (half_way / "metrics.jsonl").read_bytes()
        ending = in_peace.server.run(in_peace.recipe, half_way)
        assert ending.code == 2
        assert "none of the 2 checkpoints seed0-*.pt" in ending.said
        assert "--overwrite" in ending.said
        assert (half_way / "metrics.jsonl").read_bytes() == metrics

    def test_metrics_that_have_lost_lines_are_not_filled_up_with_nothing(
        self, in_peace: Killing, half_way: Path
    ) -> None:
        metrics = half_way / "metrics.jsonl"
        content = metrics.read_bytes()
        metrics.write_bytes(content[:100])
        ending = in_peace.server.run(in_peace.recipe, half_way)
        assert ending.code == 2
        assert "metrics.jsonl lacks" in ending.said
        assert metrics.read_bytes() == content[:100]
        metrics.write_bytes(content)
        assert in_peace.server.run(in_peace.recipe, half_way).code == 0
        assert lost_bytes(half_way, in_peace.expected) == 0


class TestFullDisk:
    def test_the_run_stops_with_the_reason_and_the_older_checkpoints_stay_as_they_were(
        self, in_peace: Killing, half_way: Path, tally: Tally
    ) -> None:
        before = {file.name: file.read_bytes() for file in checkpoints(half_way)}
        most = min(map(len, before.values())) - 1
        ending = in_peace.server.run(in_peace.recipe, half_way, file_bytes=most)
        assert ending.code == 2, ending.said
        assert f"cannot write to the run folder {half_way}: File too large" in ending.said
        assert "the same command goes on from the last checkpoint" in ending.said
        assert "Traceback" not in ending.said
        assert {file.name: file.read_bytes() for file in checkpoints(half_way)} == before
        assert not list(half_way.rglob("*.partial"))  # which would keep the disk full
        ending = in_peace.server.run(in_peace.recipe, half_way)
        assert ending.code == 0, ending.said
        lost = lost_bytes(half_way, in_peace.expected)
        tally("disk full while a checkpoint is written", injected=1, recovered=1, lost_bytes=lost)

    @pytest.mark.slow
    def test_the_same_holds_for_every_other_file_whichever_is_the_first_that_has_no_room(
        self, in_peace: Killing, tmp_path: Path, tally: Tally
    ) -> None:
        sizes = sorted({size + 1 for size in map(len, in_peace.expected.values())})
        refused = 0
        for most in [3000, *sizes]:
            ending = in_peace.server.run(in_peace.recipe, tmp_path / "run", file_bytes=most)
            assert "Traceback" not in ending.said
            if ending.code == 0:
                break
            assert ending.code == 2, ending.said
            assert "cannot write to the run folder" in ending.said
            refused += 1
        assert refused > 2
        ending = in_peace.server.run(in_peace.recipe, tmp_path / "run")
        assert ending.code == 0 or "holds a finished run" in ending.said
        assert (tmp_path / "run/report.html").exists()
        lost = lost_bytes(tmp_path / "run", in_peace.expected)
        tally("disk full while any other file is written", injected=refused, recovered=refused, lost_bytes=lost)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that people without rights can look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


class TestReadOnlyFolder:
    def test_a_run_that_cannot_begin_says_why(self, in_peace: Killing, open_folder: Path) -> None:
        recipe = shutil.copy(in_peace.recipe, open_folder)
        (open_folder / "run").mkdir(mode=0o555)
        ending = in_peace.server.run(Path(recipe), open_folder / "run", as_nobody=True)
        assert ending.code == 2, ending.said
        assert f"cannot write to the run folder {open_folder / 'run'}: Permission denied" in ending.said

    def test_a_folder_that_becomes_read_only_stops_the_run_which_goes_on_once_that_is_mended(
        self, in_peace: Killing, half_way: Path, open_folder: Path, tally: Tally
    ) -> None:
        recipe, run = Path(shutil.copy(in_peace.recipe, open_folder)), open_folder / "run"
        shutil.copytree(half_way, run)
        for path in (run, *run.rglob("*")):
            path.chmod(0o777)
        (run / "checkpoints").chmod(0o555)
        ending = in_peace.server.run(recipe, run, as_nobody=True)
        assert ending.code == 2, ending.said
        assert f"cannot write to the run folder {run}: Permission denied" in ending.said
        (run / "checkpoints").chmod(0o777)
        ending = in_peace.server.run(recipe, run)
        assert ending.code == 0, ending.said
        tally("run folder read-only", injected=1, recovered=1, lost_bytes=lost_bytes(run, in_peace.expected))


class TestUnreadableImage:
    def test_stop_names_it_and_once_it_is_back_the_run_goes_on(
        self, server: Server, tmp_path: Path, tally: Tally
    ) -> None:
        tree = image_tree(tmp_path / "images")
        settings = image_settings(tree, on_bad_image="stop")
        peace = Killing.of(server, recipe_file(tmp_path, settings), tmp_path / "in peace/run")
        image = tree / "train/dark/05.jpg"
        content = image.read_bytes()
        cut_the_end(image)
        ending = server.run(peace.recipe, tmp_path / "run")
        assert ending.code == 2, ending.said
        assert "05.jpg" in ending.said
        assert checkpoints(tmp_path / "run"), ending.said
        image.write_bytes(content)
        ending = server.run(peace.recipe, tmp_path / "run")
        assert ending.code == 0, ending.said
        lost = lost_bytes(tmp_path / "run", peace.expected)
        tally("unreadable image, on_bad_image: stop", injected=1, recovered=1, lost_bytes=lost)

    def test_skip_goes_on_without_it_also_after_a_kill(self, server: Server, tmp_path: Path, tally: Tally) -> None:
        tree = image_tree(tmp_path / "images")
        cut_the_end(tree / "train/dark/05.jpg")
        peace = Killing.of(server, recipe_file(tmp_path, image_settings(tree)), tmp_path / "in peace/run")
        kills, lost = peace.survives(tmp_path, kills=2, seed="skip")
        assert (kills, lost) == (2, 0)
        tally("unreadable image, on_bad_image: skip", injected=1, recovered=1, lost_bytes=lost)
