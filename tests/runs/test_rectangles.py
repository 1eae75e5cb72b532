"""Images that are no squares, from the recipe to the file that is deployed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import understudy as us
from helpers.command_line import done, refused
from helpers.images import write_tree
from understudy.api.trainer import trainer
from understudy.core.taps import TappedModel
from understudy.models import create_model, load_student
from understudy.tasks import Classification

COUNTS = {"train/cat": 8, "train/dog": 8, "val/cat": 4, "val/dog": 4}
SMALL = "{width: 0.25}"
KD = ("--teacher", "cifar:resnet8", "--teacher-weights", "none", f"teacher.kwargs={SMALL}", "--allow-weak-teacher")
STUDENT = ("--student", "cifar:resnet8", f"student.kwargs={SMALL}")
ALONE = (*STUDENT, "--method", "alone")
TWO_STEPS = ("--epochs", 1, "data.batch_size=8", "data.workers=0")
RUN = (*KD, *STUDENT, *TWO_STEPS)
VIT = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}


def results_of(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


def scores_of(run: Path) -> Any:
    return results_of(run)["rows"][0]["seeds"][0]["last"]["scores"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 60 x 100 pixels."""
    return write_tree(tmp_path_factory.mktemp("wide") / "pets", COUNTS, size=(60, 100))


@pytest.fixture(scope="module")
def run(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps at 24 x 40 pixels, of a method that compares maps."""
    folder = tmp_path_factory.mktemp("run") / "run"
    said = done("train", *RUN, "--data", wide, "--method", "at", "data.image_size=[24, 40]", "--out", folder)
    assert "24 x 40 px" in said
    return folder


class TestARun:
    def test_says_its_size_in_results_student_and_report(self, run: Path) -> None:
        found = results_of(run)
        assert (found["rows"][0]["student"]["image_size"], found["teacher"]["image_size"]) == ([24, 40], [24, 40])
        config = json.loads((run / "student/config.json").read_text())
        assert (config["understudy"]["resize_to"], config["pretrained_cfg"]["input_size"]) == ([24, 40], [3, 24, 40])
        assert "MACs an image of 24 x 40 px" in (run / "report.html").read_text()

    def test_costs_as_many_macs_as_its_pixels(self, run: Path) -> None:
        square = create_model("cifar:resnet8", num_classes=2, weights="none", kwargs={"width": 0.25}).prepared
        of_square, macs = (
            us.models.cost.count_macs(square, image_size=32),
            results_of(run)["rows"][0]["student"]["macs"],
        )
        assert macs == pytest.approx(of_square * 24 * 40 / 32**2, rel=0.01)

    def test_is_evaluated_again_with_the_same_scores(self, run: Path) -> None:
        assert f"loss {scores_of(run)['loss']:.4f}" in done("evaluate", run)

    def test_deploys_a_student_that_cuts_other_images_as_its_evaluation_did(self, run: Path, wide: Path) -> None:
        student = load_student(run)
        data = us.data.open_data(us.data.DataConfig(root=str(wide), image_size=(24, 40), workers=0))
        large = torch.stack([data.val.image(i) for i in range(8)]) / 255
        (batch,) = us.data.eval_loader(data.val, us.data.DataConfig(root=str(wide), workers=0), image_size=(24, 40))
        assert batch.images.shape == (8, 3, 24, 40)
        # Rendered from 8 bits there, from floating-point numbers here.
        assert (student[0](large) - student[0](batch.images)).abs().max() < 0.02
        with torch.no_grad():
            assert torch.allclose(student(large), student(batch.images), atol=0.02)

    def test_is_exported_at_its_size(self, run: Path, tmp_path: Path) -> None:
        onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")
        assert "(B,3,24,40)" in done("export", run, "--onnx", tmp_path / "student.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"images": torch.rand(3, 3, 24, 40).numpy()})
        assert logits.shape == (3, 2)

    def test_is_the_teacher_of_another_one(self, run: Path, wide: Path, tmp_path: Path) -> None:
        words = ("--teacher", "cifar:resnet8", "--teacher-weights", run / "student", f"teacher.kwargs={SMALL}")
        settings = ("data.image_size=16", "teacher.image_size=[24, 40]", "--allow-weak-teacher")
        said = done("train", *words, *STUDENT, *TWO_STEPS, *settings, "--data", wide, "--out", tmp_path / "x")
        assert "16 px (teacher 24 x 40 px)" in said
        assert results_of(tmp_path / "x")["teacher"]["val"]["scores"]["top1"] == scores_of(run)["top1"]


def test_a_pair_of_equal_sides_is_the_same_run_as_the_number(wide: Path, tmp_path: Path) -> None:
    for name, size in (("one", "24"), ("two", "[24, 24]")):
        done("train", *ALONE, *TWO_STEPS, "--data", wide, f"data.image_size={size}", "--out", tmp_path / name)
    assert scores_of(tmp_path / "one") == scores_of(tmp_path / "two")
    assert results_of(tmp_path / "two")["rows"][0]["student"]["image_size"] == 24


def test_a_run_from_a_bank_of_rectangles_is_the_run_with_the_teacher_itself(
    wide: Path, run: Path, tmp_path: Path
) -> None:
    settings = ("epochs=1", *TWO_STEPS[2:], "data.image_size=[24, 40]", "method=at")
    words = (*KD[:4], *KD[4:5], "teacher.allow_weak=true", *STUDENT, "--data", wide, *settings)
    done("bank", *words, "--views", 1, "--dtype", "float32", "--feature-maps", "--out", tmp_path / "bank")
    done("train", *words, f"bank.path={tmp_path / 'bank'}", "--out", tmp_path / "banked")
    assert scores_of(tmp_path / "banked")["loss"] == pytest.approx(scores_of(run)["loss"], rel=1e-4)
    said = refused("train", *words, "data.image_size=[40, 24]", f"bank.path={tmp_path / 'bank'}")
    assert "images.size" in said


def test_check_takes_rectangles_and_refuses_to_turn_them(wide: Path) -> None:
    words = (*KD, *STUDENT, *TWO_STEPS, "--data", wide, "data.image_size=[24, 40]")
    assert "24 x 40 px" in done("check", *words)
    assert "takes squares, and these are 24 x 40 pixels; set data.image_size to one number" in refused(
        "check", *words, "data.copies=rotations"
    )


def test_small_rectangles_of_one_size_give_the_size_themselves(tmp_path: Path) -> None:
    small = write_tree(tmp_path / "pets", COUNTS, size=(24, 40))
    assert "24 x 40 px" in done("train", *RUN, "--data", small, "--out", tmp_path / "x")
    assert "crop_flip" in results_of(tmp_path / "x")["data"]["augmentation"]
    data = us.data.open_data(us.data.DataConfig(root=str(small)))
    assert (data.native_size, data.train.image(0).shape) == ((24, 40), (3, 24, 40))
    squares = us.data.open_data(us.data.DataConfig(root=str(small), image_size=24))
    assert squares.native_size is None  # cut out of them, as ever


def test_a_network_of_a_fixed_square_says_that_it_sees_the_centre_of_small_rectangles(tmp_path: Path) -> None:
    small = write_tree(tmp_path / "pets", COUNTS, size=(24, 40))
    kwargs = json.dumps({**VIT, "patch_size": 56})
    student = ("--student", "timm:vit_tiny_patch16_224", "--student-weights", "none", f"student.kwargs={kwargs}")
    said = done("train", *student, "--method", "alone", *TWO_STEPS, "--data", small, "--out", tmp_path / "x")
    assert "works at 224 px and sees the centre alone of images of 24 x 40 px: set data.image_size=[" in said


class TestVisionTransformers:
    @pytest.mark.parametrize("prefixes", [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}])
    def test_tokens_become_maps_of_the_images_shape(self, prefixes: dict[str, Any]) -> None:
        kwargs = {**VIT, **prefixes}
        network = create_model(
            "timm:vit_tiny_patch16_224", num_classes=2, weights="none", image_size=(16, 64), kwargs=kwargs
        )
        model = TappedModel(network.module.eval(), ["stages"], prepare=network.prepare)
        maps = model(torch.rand(2, 3, 16, 64))[1]["stages.1"]  # 16 tokens, which would make a square of 4 x 4
        tokens = network.module.forward_features(network.prepare(torch.rand(2, 3, 16, 64)))
        assert maps.shape == (2, 12, 2, 8)
        assert tokens.shape[1] - 16 == network.module.num_prefix_tokens

    def test_learn_from_each_other_by_maps(self, wide: Path, tmp_path: Path) -> None:
        name, kwargs = "timm:vit_tiny_patch16_224", json.dumps(VIT)
        words = ("--teacher", name, "--teacher-weights", "none", f"teacher.kwargs={kwargs}", "--allow-weak-teacher")
        student = ("--student", name, "--student-weights", "none", f"student.kwargs={kwargs}")
        settings = ("data.image_size=[16, 64]", "--method", "at", "--out", tmp_path / "x")
        done("train", *words, *student, *TWO_STEPS, "--data", wide, *settings)
        assert f"loss {scores_of(tmp_path / 'x')['loss']:.4f}" in done("evaluate", tmp_path / "x")
        module = timm.create_model(f"local-dir:{tmp_path / 'x/student'}", pretrained=True)
        assert module.patch_embed.grid_size == (2, 8)

    def test_tokens_that_make_no_map_of_that_shape_are_refused(self) -> None:
        network = nn.Sequential(nn.Flatten(2))  # as many tokens as channels
        network.num_prefix_tokens = 0
        with pytest.raises(us.UserError, match=r"11 tokens \(2, 11, 160\), which make no map of images 8x20"):
            TappedModel(network, ["0"])(torch.rand(2, 11, 8, 20))
        assert TappedModel(network, ["0"])(torch.rand(2, 10, 8, 20))[1]["0"].shape == (2, 160, 2, 5)


class TestInPython:
    def test_a_trainer_takes_rectangular_batches(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        batch = (torch.rand(4, 3, 12, 20), torch.tensor([0, 1, 0, 1]))
        students = us.StudentSpec(network, method=us.methods.KD.Config())
        made = trainer(task=Classification(2), students=students, sample=batch, teacher=copy.deepcopy(network))
        assert made.students[0].name == "kd"

    def test_a_network_that_flattens_its_maps_is_distilled_at_the_shape_it_was_built_for(self, tmp_path: Path) -> None:
        def network() -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 5 * 9, 2))

        data = torch.utils.data.TensorDataset(torch.rand(16, 3, 12, 20), torch.arange(16) % 2)
        result = us.distill(
            network(), network(), train=data, epochs=1, batch_size=8, allow_weak_teacher=True, quiet=True,
            out=tmp_path / "x", augment="crop_flip",
        )  # fmt: skip
        assert result.results.rows[0].student.image_size == (12, 20)
        again = load_student(tmp_path / "x", module=network())
        images = torch.rand(2, 3, 12, 20)
        assert torch.equal(again(images), result.student(images))
        assert again(torch.rand(2, 3, 24, 40)).shape == (2, 2)

    def test_copies_by_quarter_turns_are_refused(self, tmp_path: Path) -> None:
        data = torch.utils.data.TensorDataset(torch.rand(16, 3, 12, 20), torch.arange(16) % 2)
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        with pytest.raises(us.UserError, match="these are 12 x 20 pixels"):
            us.distill(None, network, train=data, method="none", copies="rotations", quiet=True, out=tmp_path / "x")
