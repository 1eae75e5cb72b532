"""predictions.parquet and disagreements.parquet: what a run leaves of every image, and of those to look at first."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import understudy as us
from helpers.command_line import done
from helpers.images import write_tree
from understudy.data.sources.base import TensorSource
from understudy.report import read_results
from understudy.runs.sample_table import MOST_THUMBNAILS, most_apart
from understudy.runs.thumbnails import SIDE, thumbnail

pandas = pytest.importorskip("pandas")

CLASSES = ("b", "Äffchen", "Öl & tanker")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows and two seeds of small photographs, one of which cannot be read."""
    root = tmp_path_factory.mktemp("tables")
    for split, count in (("train", 6), ("val", 4)):
        write_tree(root / "photos" / split, dict.fromkeys(CLASSES, count))
    (root / "photos" / "val" / "b" / "1.jpg").write_bytes(b"\xff\xd8 no more")
    taught = ("--teacher", "cifar:resnet8", "--train-teacher", "1", "--allow-weak-teacher", "data.batch_size=6")
    tiny = ("--student", "cifar:resnet8", "student.kwargs={width: 0.25}", "threads=1", "data.workers=0", "--epochs", 1)
    done(
        "compare", *tiny, *taught, "--rows", "alone,kd", "--seeds", 2, "--data", root / "photos", "--out", root / "run"
    )
    return root / "run"


def table_of(run: Path) -> Any:
    return pandas.read_parquet(run / "predictions.parquet")


def test_every_image_that_was_evaluated_has_a_line_with_its_file_name(run: Path) -> None:
    table = table_of(run)

    assert len(table) == 11
    assert set(table["split"]) == {"val"}
    assert all(Path(file).parent.name == label for file, label in zip(table["file"], table["label"], strict=True))
    assert list(table["index"]) == list(range(11))  # of what could be read
    assert not any(file.endswith("b/1.jpg") for file in table["file"])


def test_the_answers_and_who_is_right_are_those_of_the_run(run: Path) -> None:
    table, kept, results = table_of(run), load_file(run / "predictions.safetensors"), read_results(run)

    for model in ("teacher", "alone/0", "alone/1", "kd/0", "kd/1"):
        assert list(table[f"{model}/top1"]) == [results.data.class_name(i) for i in kept[f"val/{model}"].tolist()]
        assert ((table[f"{model}/top1"] == table["label"]) == table[f"{model}/right"]).all()
        sure, likely = table[f"{model}/confidence"], table[f"{model}/label_probability"]
        assert np.isclose(sure, likely)[table[f"{model}/right"]].all()
        assert (sure >= likely - 1e-6).all()
    for row in results.rows:
        for seed in row.seeds:
            right = table[f"{row.name}/{seed.seed}/right"]
            assert 100 * right.mean() == pytest.approx(seed.selected.scores["top1"], abs=1e-3)
            loss = -np.log(table[f"{row.name}/{seed.seed}/label_probability"]).mean()
            assert loss == pytest.approx(seed.selected.scores["loss"], abs=1e-3)
    assert "teacher/kl" not in table.columns


def test_the_divergence_is_that_of_the_saved_student_to_the_saved_teacher(run: Path) -> None:
    table = table_of(run).set_index("file")
    shown = [run.parent / "photos" / "val" / Path(file).parent.name / Path(file).name for file in table.index]
    student, teacher = us.load_student(run / "students/kd/seed1"), us.load_student(run / "teacher")

    for file, path in zip(table.index, shown, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            log_s, log_t = student(pixels).log_softmax(1), teacher(pixels).log_softmax(1)
        expected = (log_t.exp() * (log_t - log_s)).sum().item()
        assert table.loc[file, "kd/1/kl"] == pytest.approx(expected, abs=1e-4)


def test_the_images_furthest_apart_are_kept_with_their_names(run: Path) -> None:
    kept, results = load_file(run / "predictions.safetensors"), read_results(run)
    places = most_apart(kept, results.best_row, "val")
    if not len(places):
        assert not (run / "disagreements.parquet").exists()
        return
    table = pandas.read_parquet(run / "disagreements.parquet")
    assert list(table["index"]) == kept["index/val"][places].tolist()
    for content in table["image"]:
        assert max(Image.open(io.BytesIO(content)).size) <= SIDE


def apart(says: list[list[int]], kl: list[list[float]] | None) -> list[int]:
    tensors = {"val/teacher": torch.tensor([0, 0, 0, 0]), "val/labels": torch.zeros(4).long()}
    for seed, said in enumerate(says):
        tensors[f"val/kd/{seed}"] = torch.tensor(said)
        tensors[f"confidence/val/kd/{seed}"] = torch.tensor([0.1, 0.2, 0.3, 0.4])
        if kl is not None:
            tensors[f"kl/val/kd/{seed}"] = torch.tensor(kl[seed])
    row = SimpleNamespace(name="kd", seeds=[SimpleNamespace(seed=seed) for seed in range(len(says))])
    return most_apart(tensors, row, "val").tolist()  # type: ignore[arg-type]


def test_disagreement_needs_most_seeds_and_is_ordered_by_divergence() -> None:
    says = [[0, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 1]]
    kl = [[9.0, 2.0, 1.0, 5.0]] * 3

    assert apart(says, kl) == [3, 1, 2]
    assert apart(says, None) == [3, 2, 1]
    assert apart([[0, 0, 0, 0]], None) == []
    assert apart([[1, 1, 1, 1]], [[float("nan"), 1.0, 2.0, 3.0]]) == [3, 2, 1, 0]
    assert MOST_THUMBNAILS >= 4


@pytest.mark.parametrize("size", [(8, 8), (300, 90)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_thumbnail_is_small_and_looks_like_its_image(size: tuple[int, int], kind: torch.dtype) -> None:
    image = torch.zeros(3, *size)
    image[0] = 1.0
    stored = (image * 255).to(torch.uint8) if kind == torch.uint8 else image
    found = thumbnail(TensorSource(stored[None], torch.zeros(1).long()), 0)

    assert found is not None
    shown = Image.open(io.BytesIO(found)).convert("RGB")
    assert max(shown.size) == min(SIDE, max(size))
    assert np.abs(np.asarray(shown)[0, 0].astype(int) - [255, 0, 0]).max() < 4


def test_an_image_that_cannot_be_shown_has_no_thumbnail() -> None:
    assert thumbnail(TensorSource(torch.zeros(1, 5, 4, 4), torch.zeros(1).long()), 0) is None
