"""`understudy analyze`: what it finds is right, is kept piece by piece, and what it cannot find is said in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import understudy as us
from helpers.command_line import done, refused
from helpers.engine import run_recipe, tiny_recipe
from understudy.analysis import linear_cka
from understudy.report import read_run
from understudy.report.figures.base import FIGURES, Lacking
from understudy.report.figures.style import Plot
from understudy.runs.analyses import losses
from understudy.runs.analyses.opened import Opened, open_run
from understudy.runs.analyses.run import AnalyzeOptions, analysis_names, analyze
from understudy.runs.analyses.shifts import blocks_of
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.stop import StopRequest
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted

torch.set_num_threads(1)

IMAGES = 40
MINE = [
    "landscape",
    "plane",
    "curvature",
    "fidelity",
    "relations",
    "similarity",
    "equivariance",
    "projection",
    "embeddings",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A probed run of two rows, never analysed."""
    recipe = tiny_recipe(
        {"rows": ["alone", "projector"], "seeds": [0], "probes": ["losses", "momenta", "projector"], "probe_every": 2}
    )
    return run_recipe(recipe, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def analysed(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all analyses of a copy of it have found, by name; its folder is under "run"."""
    folder = tmp_path_factory.mktemp("runs") / "analysed"
    shutil.copytree(run.path, folder)
    return {**us.analyze(folder, images=IMAGES, points=3), "run": RunFolder(folder)}


def opened(run: RunFolder, **over: Any) -> Opened:
    options = {"seed": None, "num_images": IMAGES, "points": 3, "data": None, "allow_code": False, "module": None}
    return open_run(run, **{**options, "check": lambda: None, **over})


@pytest.mark.slow
class TestRight:
    def test_every_analysis_is_whole(self, analysed: dict[str, Any]) -> None:
        assert [name for name in analysed if name != "run"] == [name for name in analysis_names() if name != "pixels"]
        assert all(len(found["pieces"]) == found["num_pieces"] for name, found in analysed.items() if name != "run")

    def test_the_centre_of_every_landscape_is_the_loss_as_it_is_evaluated(self, analysed: dict[str, Any]) -> None:
        pieces = analysed["landscape"]["pieces"]
        around = opened(analysed["run"])
        for row in ("alone", "projector"):
            network = around.network(row)
            shown = around.shown("train")
            with torch.no_grad():
                expected = float(F.cross_entropy(network.prepared.eval()(shown.images), shown.labels))
            assert pieces[f"{row}/line"]["loss"] == pytest.approx(expected, rel=1e-5)
            assert pieces[f"{row}/plane.1"]["losses"][1] == pytest.approx(expected, rel=1e-5)

    def test_the_loss_of_the_landscape_is_the_evaluated_one_on_all_of_a_split(self, analysed: dict[str, Any]) -> None:
        around = opened(analysed["run"], num_images=1000)
        scores = around.results.row("alone").seeds[0]
        logits, shown = around.logits("alone", "val"), around.shown("val")
        assert len(shown) == 100
        top1 = 100 * float((logits.argmax(1) == shown.labels).double().mean())
        assert top1 == pytest.approx(scores.selected.scores["top1"])
        assert float(F.cross_entropy(logits, shown.labels)) == pytest.approx(scores.selected.scores["loss"], rel=1e-5)

    def test_the_network_is_left_as_it_was(self, analysed: dict[str, Any]) -> None:
        around = opened(analysed["run"])
        before = {key: value.clone() for key, value in around.network("alone").module.state_dict().items()}
        losses._plane_row(around, "alone", 0)
        after = around.network("alone").module.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_gradients_are_on_again_afterwards(self, analysed: dict[str, Any]) -> None:
        assert analysed["similarity"]["problem"] is None
        assert torch.is_grad_enabled()

    def test_a_grid_of_an_odd_number_has_its_middle_at_the_student(self) -> None:
        assert all(losses.steps_of(points)[points // 2] == 0.0 for points in range(3, 203, 2))
        assert np.allclose(losses.steps_of(99), np.linspace(-1, 1, 99))

    def test_fidelity_and_calibration_are_of_these_logits(self, analysed: dict[str, Any]) -> None:
        around = opened(analysed["run"])
        ours, theirs = around.logits("alone", "val"), around.logits("teacher", "val")
        found = analysed["fidelity"]["pieces"]["alone"]
        assert found["agreement"] == pytest.approx(100 * float((ours.argmax(1) == theirs.argmax(1)).double().mean()))
        kl = F.kl_div(
            ours.double().log_softmax(1), theirs.double().log_softmax(1), log_target=True, reduction="batchmean"
        )
        assert found["kl"] == pytest.approx(float(kl))
        nll = F.cross_entropy(ours.double(), around.shown("val").labels)
        assert analysed["calibration"]["pieces"]["alone"]["nll"] == pytest.approx(float(nll))

    def test_similarity_is_linear_cka_of_the_taps(self, analysed: dict[str, Any]) -> None:
        around = opened(analysed["run"])
        found = load_file(analysed["run"].analysis / "similarity.safetensors")["alone/cka"]
        names = analysed["similarity"]["pieces"]["alone"]
        models = [around.tapped(name, ["embedding"]) for name in ("alone", "teacher")]
        with torch.no_grad():
            features = [model(around.shown("val").images)[1]["embedding"] for model in models]
        place = names["student"].index("embedding"), names["teacher"].index("embedding")
        assert float(found[place]) == pytest.approx(linear_cka(*features), abs=1e-4)  # all 40 are one batch

    def test_the_projector_is_the_one_that_was_kept(self, analysed: dict[str, Any]) -> None:
        run = analysed["run"]
        weight = load_file(run.students / "projector" / "seed0" / "method.safetensors")["projector.projector.weight"]
        found = load_file(run.analysis / "projection.safetensors")["projector/spectrum_weights"]
        assert torch.allclose(found, torch.linalg.svdvals(weight.double()))
        assert list(analysed["projection"]["pieces"]) == ["projector"]

    def test_embeddings_lie_in_a_plane(self, analysed: dict[str, Any]) -> None:
        found = load_file(analysed["run"].analysis / "embeddings.safetensors")
        assert found["teacher/pca/places"].shape == found["alone/tsne/places"].shape == (IMAGES, 2)

    def test_blocks_that_keep_the_plane_are_found_with_what_enters_them(self) -> None:
        block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        strided = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.ReLU())
        network = nn.Sequential(nn.ModuleDict({"a": block})["a"], nn.Sequential(Wrapped(block), Wrapped(strided)))
        images = torch.rand(2, 3, 8, 8)
        found = blocks_of(network, images)
        assert list(found) == ["1.0"]
        assert torch.equal(found["1.0"], block(images))


class Wrapped(nn.Module):
    """A block as networks have them: no Sequential itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.inner(maps)


@pytest.mark.slow
class TestKept:
    def test_a_second_call_does_nothing_again(
        self, analysed: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = analysed["run"]
        before = {file.name: file.read_bytes() for file in run.analysis.iterdir()}
        us.analyze(run.path, images=IMAGES, points=3, quiet=False)
        assert "analysed already" in capsys.readouterr().out
        assert {file.name: file.read_bytes() for file in run.analysis.iterdir()} == before

    def test_other_settings_begin_anew(self, run: RunFolder, tmp_path: Path) -> None:
        shutil.copytree(run.path, tmp_path / "run")
        for images in (20, 30):
            found = us.analyze(tmp_path / "run", what=["calibration"], images=images)
            assert sum(found["calibration"]["pieces"]["alone"]["counts"]) == images

    def test_one_that_is_interrupted_goes_on_with_what_is_done(
        self, run: RunFolder, tmp_path: Path, monkeypatch: Any
    ) -> None:
        shutil.copytree(run.path, tmp_path / "run")
        folder, looked = RunFolder(tmp_path / "run"), []
        requests: list[StopRequest] = []
        made = StopRequest.__init__
        monkeypatch.setattr(StopRequest, "__init__", lambda self: (requests.append(self), made(self))[1])
        found_row = losses._plane_row

        def plane_row(opened: Opened, row: str, place: int) -> Any:
            looked.append((row, place))
            if (row, place) == ("alone", 1) and requests:
                requests[-1].signal = 2  # Ctrl-C in the middle of it
            return found_row(opened, row, place)

        monkeypatch.setattr(losses, "_plane_row", plane_row)
        options = AnalyzeOptions(("landscape",), num_images=10, points=3)
        with pytest.raises(Interrupted) as stopped:
            analyze([folder], options, allow_code=False, display=Display(quiet=True))
        assert (stopped.value.step, stopped.value.signal) == (2, 2)  # the line and the first row of the plane
        requests.clear()
        monkeypatch.setattr(StopRequest, "__init__", made)
        looked.clear()
        analyze([folder], options, allow_code=False, display=Display(quiet=True))
        assert looked == [("alone", 1), ("alone", 2), ("projector", 0), ("projector", 1), ("projector", 2)]
        whole = us.analyze(run_copy(run, tmp_path / "whole"), what=["landscape"], images=10, points=3)
        assert json.loads((folder.analysis / "landscape.json").read_text())["pieces"] == whole["landscape"]["pieces"]


def run_copy(run: RunFolder, folder: Path) -> Path:
    shutil.copytree(run.path, folder)
    return folder


@pytest.mark.slow
class TestFigures:
    def test_an_analysed_run_has_all_of_them(self, analysed: dict[str, Any]) -> None:
        data = read_run(analysed["run"].path)
        drawn = {name: FIGURES[name].draw(data) for name in [*MINE, "tradeoff", "cosines", "spectrum"]}
        assert [name for name, plot in drawn.items() if not isinstance(plot, Plot)] == []
        assert all(len(plot.svg()) < 500_000 and plot.reading.endswith(".") for plot in drawn.values())

    def test_a_run_that_was_not_has_one_sentence_instead(self, run: RunFolder) -> None:
        data = read_run(run.path)
        assert all(FIGURES[name].draw(data) is None for name in MINE)
        found = FIGURES["analysis"].draw(data)
        assert isinstance(found, Lacking)
        assert "understudy analyze RUN" in found.why

    def test_a_probe_that_the_run_lacks_is_named(self, run: RunFolder, tmp_path: Path) -> None:
        folder = run_copy(run, tmp_path / "run")
        (folder / "probes" / "momenta.safetensors").unlink()
        found = FIGURES["cosines"].draw(read_run(folder))
        assert isinstance(found, Lacking)
        assert "--probes momenta" in found.why

    def test_what_cannot_be_read_is_said_in_its_place(self, analysed: dict[str, Any], tmp_path: Path) -> None:
        folder = run_copy(analysed["run"], tmp_path / "run")
        (folder / "analysis" / "landscape.json").write_text(
            '{"pieces": {"alone/line": {"steps": "<script>"}}, "identity": 3}'
        )
        (folder / "analysis" / "relations.json").write_text("[]")
        (folder / "analysis" / "fidelity.safetensors").write_bytes(b"\x00" * 30)
        data = read_run(folder)
        for name in ("landscape", "plane", "relations", "fidelity"):
            found = FIGURES[name].draw(data)
            assert isinstance(found, Lacking), name
            assert "computes it anew" in found.why


class TestInWords:
    @pytest.mark.slow
    def test_alone_without_a_teacher_lacks_what_needs_one(self, tmp_path: Path) -> None:
        over = {"rows": ["alone"], "seeds": [0], "teacher": None, "epochs": 1, "probes": ["momenta"], "probe_every": 1}
        run = run_recipe(tiny_recipe(over), tmp_path / "run")
        found = us.analyze(run.path, what=["fidelity", "projection", "calibration"], images=10)
        assert "no teacher" in found["fidelity"]["problem"]
        assert "projector" in found["projection"]["problem"]
        assert found["calibration"]["problem"] is None
        data = read_run(run.path)
        assert "no teacher" in FIGURES["fidelity"].draw(data).why
        assert "nothing is distilled" in FIGURES["cosines"].draw(data).why

    @pytest.mark.slow
    def test_a_misspelt_analysis_an_even_grid_and_an_unknown_seed_are_refused(self, run: RunFolder) -> None:
        assert "landscape" in refused("analyze", run.path, "--what", "landscap")
        assert "odd" in refused("analyze", run.path, "--points", "4")
        assert "no seed 7" in refused("analyze", run.path, "--seed", "7")
        assert "no run folder" in refused("analyze", run.path.parent)

    @pytest.mark.slow
    def test_runs_of_other_images_together_are_refused(self, run: RunFolder, tmp_path: Path) -> None:
        other = run_copy(run, tmp_path / "other")
        results = json.loads((other / "results.json").read_text())
        results["data"]["num_val"] -= 1
        (other / "results.json").write_text(json.dumps(results))
        assert "do not compare" in refused("analyze", run.path, other)

    @pytest.mark.slow
    def test_a_run_from_python_says_what_it_needs(self, tmp_path: Path) -> None:
        images = [(torch.rand(3, 8, 8), number % 2) for number in range(16)]
        student = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        result = us.distill(
            None, student, train=images, val=images, method="none", epochs=1, out=tmp_path / "run", quiet=True
        )
        with pytest.raises(UserError, match="--data FOLDER"):
            us.analyze(result)

    def test_the_help_names_every_analysis(self) -> None:
        said = done("analyze", "--help")
        assert [name for name in analysis_names() if name not in said] == []

    def test_the_toy_needs_no_run(self, tmp_path: Path) -> None:
        said = done("analyze", "toy", "--out", tmp_path / "toy.svg")
        assert "0.738" in said
        assert (tmp_path / "toy.svg").read_text().startswith("<svg")

    def test_the_toy_refuses_what_it_would_not_read(self) -> None:
        assert "--what, --seed is of runs" in refused("analyze", "toy", "--what", "landscape", "--seed", "3")
