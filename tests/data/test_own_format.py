"""A data format of one's own, in one file of an installed package."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.command_line import documented, done, install, refused
from understudy import UserError
from understudy.data import DataConfig, open_data, sources
from understudy.data.sources import detect
from understudy.data.sources.base import EncodedSource, rows_of
from understudy.data.sources.readers import READERS, Reader
from understudy.runs.bank.key import split_identity


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader of the document, in a package that is installed beside understudy, and forgotten afterwards."""
    install(tmp_path / "site", "own_listed", documented("Listed"), group="understudy.data")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    READERS.pop("listed", None)
    sys.modules.pop("own_listed", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten dark and ten bright images in one folder, and the list that says which is which."""
    root = tmp_path / "pictures"
    root.mkdir()
    class_of = {f"{i}.png": ("bright" if i % 2 else "dark") for i in range(20)}
    for i, name in enumerate(class_of):
        Image.new("RGB", (16, 16), (200 + i if i % 2 else i,) * 3).save(root / name)
    (root / "labels.json").write_text(json.dumps(class_of))
    return root


def test_the_command_line_trains_on_what_lies_there(listed: None, folder: Path, tmp_path: Path) -> None:
    words = ("--data", folder, "--student", "cifar:resnet8", "--epochs", "1", "student.kwargs={width: 0.25}")
    done("train", *words, "--method", "alone", "data.image_size=16", "--out", tmp_path / "x")
    found = json.loads((tmp_path / "x" / "results.json").read_text())["data"]
    assert (found["name"], found["classes"]) == ("pictures", ["bright", "dark"])


@pytest.mark.parametrize("form", ["auto", "listed"])
def test_it_is_found_by_what_lies_there_and_by_name(listed: None, folder: Path, form: str) -> None:
    importlib.import_module("own_listed")
    data = open_data(DataConfig(root=str(folder), format=form))
    assert (data.classes, len(data.train), len(data.val)) == (("bright", "dark"), 16, 4)


def test_a_folder_called_as_a_data_set_is_read_where_its_path_says_so(
    listed: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("own_listed")
    monkeypatch.chdir(folder.rename(folder.with_name("digits")).parent)
    assert [len(open_data(DataConfig(root=root)).classes) for root in ("./digits", "digits")] == [2, 10]


def test_a_misspelt_format_is_refused_with_the_nearest_name(listed: None) -> None:
    message = refused("check", "--data", "digits", "--student", "cifar:resnet8", "data.format=lsted")
    assert "data.format 'lsted' is unknown; did you mean listed?" in message


def test_a_root_that_is_not_there_is_refused_whoever_is_to_read_it(listed: None) -> None:
    importlib.import_module("own_listed")
    with pytest.raises(UserError, match="there is nothing at nowhere"):
        open_data(DataConfig(root="nowhere", format="listed"))


def test_another_format_of_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match="there is a data format 'folder' already: understudy"):

        class Other(Reader, name="folder"):
            """Another one."""


class Remote(EncodedSource):
    """Images that lie elsewhere."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.labels = torch.zeros(len(files), dtype=torch.int64)

    def encoded(self, i: int) -> bytes:
        return list(self.files.values())[i]

    def name(self, i: int) -> str:
        return list(self.files)[i]


class Keyed(Remote):
    """The same, known by keys that somebody else counts up."""

    def identity(self, i: int) -> bytes:
        return b"key 7"


def identity(source: EncodedSource) -> str | None:
    found: str | None = split_identity(rows_of(source, torch.arange(2))).get("all_files")
    return found


def test_a_source_says_itself_what_tells_its_images(folder: Path) -> None:
    one, other = ({"a": (folder / name).read_bytes(), "b": b"no image"} for name in ("0.png", "1.png"))
    assert identity(Remote(one)) != identity(Remote({**one, "b": b"another"}))
    assert identity(Keyed(one)) == identity(Keyed(other))


def test_a_file_in_the_folder_of_sources_is_all_that_a_shipped_reader_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "doodles.py").write_text(
        "from understudy.data.sources.readers import Reader\n\n\nclass Doodles(Reader, name='doodles'):\n    pass\n"
    )
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    try:
        importlib.reload(detect)
        assert READERS["doodles"].__module__ == "understudy.data.sources.doodles"
    finally:
        READERS.pop("doodles", None)
        sys.modules.pop("understudy.data.sources.doodles", None)
        vars(sources).pop("doodles", None)
