"""Whole runs, and what is asked of them later, on a GPU that is not there (pretended_cuda): nothing mixes devices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from timm.utils.model_ema import ModelEmaV3

import understudy.runs.analyses.run as analyses
from helpers.dense_recipes import dense_recipe
from helpers.engine import run_recipe, tiny_recipe
from helpers.pretended_cuda import CUDA, chosen_cuda
from helpers.pretended_runs import tensors_in
from understudy import Recipe
from understudy.models.network import Prepare
from understudy.runs import export
from understudy.runs.bank.layout import BankOptions
from understudy.runs.bank.make import make_banks
from understudy.runs.checkpoint import load_end
from understudy.runs.console import Display
from understudy.runs.evaluate import evaluate
from understudy.runs.folder import RunFolder
from understudy.runs.predict import predictions
from understudy.runs.reopen import image_sizes, recipe_of, results_of, student_network_of

pytestmark = pytest.mark.slow

QUIET = Display(quiet=True)
FEW = {"train_rows": "0:24", "val_rows": "1000:1020", "batch_size": 16}
# Nothing is captured: there is no graph to record.
AVERAGE = {"decay": 0.9, "warmup": True}
SHARED: dict[str, Any] = {"epochs": 1, "seeds": [0], "threads": 1, "capture": False, "select_on": "val", "ema": 0.9}


def of_classes(**over: Any) -> Recipe:
    return tiny_recipe({**SHARED, "data": FEW, "rows": ["kd+dot"], **over})


def of_masks() -> Recipe:
    narrow = {"width": 8, "channels": [8, 8, 8, 8], "stem_width": 8}
    network = {"model": "deeplabv3:resnet10t", "kwargs": narrow, "weights": "none"}
    networks = {"student": network, "teacher": {**network, "allow_weak": True}}
    return dense_recipe(
        "segmentation", {**SHARED, **networks, "rows": ["cwd"], "ema": AVERAGE, "data": {"train_rows": "0:6"}}
    )


def of_boxes() -> Recipe:
    return dense_recipe("detection", {**SHARED, "rows": ["dist"], "data": {"train_rows": "0:4"}})


RECIPES: dict[str, Callable[[], Recipe]] = {"classes": of_classes, "masks": of_masks, "boxes": of_boxes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretended")


@pytest.fixture(scope="module", params=list(RECIPES))
def run(request: pytest.FixtureRequest, folder: Path) -> RunFolder:
    """A run that was made there."""
    with chosen_cuda():
        return run_recipe(RECIPES[request.param](), folder / request.param, allow_code=True)


@pytest.fixture
def there() -> Iterator[None]:
    with chosen_cuda():
        yield


@pytest.mark.usefixtures("there")
def test_a_run_ends_with_results(tmp_path: Path) -> None:
    run = run_recipe(of_classes(rows=["kd"]), tmp_path / "run")
    assert [row.name for row in results_of(run).rows] == ["kd"]
    assert any(True for _ in tensors_in(load_end(run.checkpoints, "seed0")))


def leave_prepare(patch: pytest.MonkeyPatch) -> None:
    """The bug of the first run on a GPU: what prepares images stays where it was."""
    patch.setattr(Prepare, "copied_to", lambda prepare, device: copy.deepcopy(prepare))
    patch.setattr(Prepare, "_apply", lambda prepare, fn, recurse=True: prepare)


def leave_average(patch: pytest.MonkeyPatch) -> None:
    made = ModelEmaV3.__init__
    patch.setattr(
        ModelEmaV3, "__init__", lambda average, model, **settings: made(average, copy.deepcopy(model).cpu(), **settings)
    )


@pytest.mark.parametrize("leave", [leave_prepare, leave_average])
def test_the_guard_sees_what_a_run_leaves_on_the_cpu(
    leave: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch)
    with chosen_cuda(), pytest.raises(Exception, match=r"same device|different devices|two devices"):
        run_recipe(of_classes(rows=["kd"]), tmp_path / "run")


def scored(run: RunFolder) -> None:
    evaluate(run, split="val", data=None, allow_code=True)


def predicted(run: RunFolder) -> None:
    has_boxes = recipe_of(run).task == "detection"
    picture = Image.new("RGB", (20, 30), (200, 30, 30))
    (found,) = predictions(run.path, picture, teacher=not has_boxes, allow_code=True, say=print)
    assert found.problem is None


def analysed(run: RunFolder) -> None:
    options = analyses.AnalyzeOptions(num_images=8, points=3)
    analyses.analyze([run], options, allow_code=True, display=QUIET)
    (run.path / "analysis").rename(run.path / "analysis of before")


@pytest.mark.usefixtures("there")
def test_what_is_exported_is_scored_on_the_cpu(run: RunFolder) -> None:
    network = student_network_of(run, allow_code=True, module=None)
    network.module.to(CUDA)  # as after a training
    images, problem = export._images(run, None)
    assert images is not None, problem
    size, _ = image_sizes(run)
    subject = export._subject(network, size, recipe_of(run), images, export.BoxForm(), calibrates=True)
    assert {one.device.type for one in subject.calibration} == {"cpu"}
    scores, _ = export._scores(subject, [], images, 3)
    assert set(scores) == {"torch"}
    assert {one.device for one in network.module.parameters()} == {CUDA}


@pytest.mark.parametrize("ask", [scored, predicted, analysed])
def test_a_run_is_asked_later(
    ask: Callable[[RunFolder], None], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chosen_cuda():
        ask(run)
    leave_prepare(monkeypatch)
    with chosen_cuda(), pytest.raises(Exception, match=r"same device|different devices|two devices"):
        ask(run)


@pytest.mark.usefixtures("there")
def test_a_bank_is_made_and_learnt_from(tmp_path: Path) -> None:
    recipe = of_classes(rows=["kd", "projector"])
    make_banks(recipe, out=tmp_path / "bank", options=BankOptions(views=1, feature_maps=True), display=QUIET)
    again = of_classes(rows=["kd", "projector"], bank={"path": str(tmp_path / "bank")})
    run = run_recipe(again, tmp_path / "run")
    assert [row.name for row in results_of(run).rows] == ["kd", "projector"]
