"""A teacher of other classes: its classes named, taken from its last layer, and what a run and a bank know of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from helpers.engine import CLASSES, run_recipe, small_net, tiny_recipe
from understudy import UserError, distill
from understudy.core.classifier import classifier_names
from understudy.models import create_model, save_student
from understudy.recipes.schema import Recipe, TeacherConfig
from understudy.runs.bank.layout import BankOptions
from understudy.runs.bank.make import make_banks
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.runs.teacher import evaluate_teacher
from understudy.runs.teacher_classes import keep_classes_, resolved_classes

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PETS = ["cat", "dog", "Äffchen"]
TEACHER = {"model": "cifar:resnet8", "kwargs": {"width": 0.5}}
PLACES = [11, 3, 0, 1, 2, 9, 8, 7, 5, 4]  # of the ten digits among a teacher's twelve classes


def resolved(classes: Any, names: Sequence[str] = PETS, **teacher: Any) -> tuple[int, ...]:
    return resolved_classes(TeacherConfig(model="cifar:resnet8", classes=classes, **teacher), names)


class TestNaming:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("map.json", '{"dog": 7, "cat": 3, "Äffchen": 0, "not in the data": 3}'),
            ("map.json", "[3, 7, 0]"),
            ("map.txt", "# in order\n3\n7\n\n0\n"),
            ("map.csv", "class,teacher\ndog,7\ncat,3\nÄffchen,0\n"),
            ("map.csv", "\ufeffcat,3\ndog,7\nÄffchen,0\n"),
            ("map.tsv", "cat\t3\ndog\t7\nÄffchen\t0\n"),
            ("map", "cat, 3\ndog, 7\nÄffchen, 0\n"),
        ],
    )
    def test_files_of_every_form_say_the_same(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert resolved(str(tmp_path / name)) == (3, 7, 0)

    def test_a_recipe_may_hold_them_itself(self) -> None:
        assert resolved([3, 7, 0]) == resolved({"dog": 7, "cat": 3, "Äffchen": 0}) == (3, 7, 0)

    def test_imagenets_classes_are_known_by_wordnets_names_and_numbers(self) -> None:
        named = {"cat": "tabby, tabby cat", "dog": "n02099712", "Äffchen": "Squirrel_monkey"}
        assert resolve_for("timm:resnet18", named) == (281, 208, 382)
        assert resolve_for("torchvision:resnet18", {**named, "cat": "tabby", "dog": "Labrador retriever"}) == (
            281,
            208,
            382,
        )

    def test_a_students_folder_knows_its_label_names(self, tmp_path: Path) -> None:
        save_student(tmp_path, create_model("cifar:resnet8", num_classes=3), ["dog", "Äffchen", "cat"])
        assert resolved("names", weights=str(tmp_path)) == (2, 0, 1)

    @pytest.mark.parametrize(
        ("classes", "text"),
        [
            ([3, 7], "2 entries for the data's 3 classes"),
            (
                {"cat": 3, "dogs": 7, "Äffchen": 0},
                r"no counterpart for 1 of the data's 3 classes \(dog\); it names dogs",
            ),
            ([3, 7, 3], "'cat' and 'Äffchen' are both the teacher's class 3"),
            (["tabby", 7, 0], "'tabby' is a name, and the names of cifar:resnet8's classes are not known"),
            ("nowhere.json", "there is nothing at nowhere.json; give a file, or names"),
        ],
    )
    def test_what_does_not_name_one_class_for_each_is_refused(self, classes: Any, text: str) -> None:
        with pytest.raises(UserError, match=text):
            resolved(classes)

    def test_names_that_the_teacher_lacks_or_has_twice_are_refused(self) -> None:
        with pytest.raises(UserError, match="no class 'tabby kat'; did you mean tabby cat"):
            resolve_for("timm:resnet18", ["tabby kat", 7, 0])
        with pytest.raises(
            UserError, match=r"'crane' is what the teacher calls its classes \[134, 517\]; give the number"
        ):
            resolve_for("timm:resnet18", ["crane", 7, 0])

    @pytest.mark.parametrize("text", ["{", "3", '{"cat": [1, 2]}', '{"cat": true}'])
    def test_json_of_another_form_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "map.json").write_text(text)
        with pytest.raises(UserError, match=r"not readable as JSON|must be a list or a mapping of class numbers"):
            resolved(str(tmp_path / "map.json"))

    @pytest.mark.parametrize("other", [{"train_epochs": 2}, {"weights": "none"}])
    def test_a_teacher_without_classes_of_its_own_is_refused(self, other: dict[str, Any]) -> None:
        with pytest.raises(UserError, match=r"teacher.*classes: "):
            tiny_recipe({"teacher": {"classes": [0] * 10, "weights": "x.pth", **other}})


def resolve_for(model: str, classes: Any) -> tuple[int, ...]:
    return resolved_classes(TeacherConfig(model=model, classes=classes), PETS)


class Turned(nn.Module):
    """Its last layer's rows are not its outputs'."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.mean((2, 3))).flip(1)


class TestKeeping:
    @pytest.mark.parametrize(
        ("name", "kwargs"),
        [
            ("cifar:resnet8", {}),
            ("timm:mobilenetv3_small_050", {}),
            ("timm:deit_tiny_distilled_patch16_224", {"depth": 1, "img_size": 32}),
            ("timm:test_convnext", {}),
        ],
    )
    def test_logits_are_those_of_the_classes_kept_and_the_last_layer_has_no_others(
        self, name: str, kwargs: dict[str, Any]
    ) -> None:
        module = create_model(name, num_classes=6, weights="none", kwargs=kwargs).module
        before = module.eval()(IMAGES)
        assert keep_classes_(module, [4, 0, 5], IMAGES) == 6
        torch.testing.assert_close(module(IMAGES), before[:, [4, 0, 5]], rtol=1e-4, atol=1e-5)
        assert {len(module.get_submodule(path).weight) for path in classifier_names(module)} == {3}

    def test_an_output_that_is_made_otherwise_is_taken_by_its_columns(self) -> None:
        module = Turned()
        before = module(IMAGES)
        keep_classes_(module, [4, 0, 5], IMAGES)
        assert torch.equal(module(IMAGES), before[:, [4, 0, 5]])
        assert len(module.fc.weight) == module.fc.out_features == 6

    @pytest.mark.parametrize("wrong", [6, -1])
    def test_a_class_that_the_network_does_not_have_is_refused(self, wrong: int) -> None:
        with pytest.raises(UserError, match=f"there is no class {wrong}; the teacher has 6, counted from 0"):
            keep_classes_(Turned(), [0, wrong], IMAGES)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Of a teacher of twelve classes."""
    torch.manual_seed(5)
    made = create_model("cifar:resnet8", num_classes=12, weights="none", kwargs=TEACHER["kwargs"])
    torch.save({"model": made.module.state_dict()}, tmp_path / "twelve.pth")
    return str(tmp_path / "twelve.pth")


def written(folder: Path, places: Sequence[int]) -> str:
    (folder / "map.json").write_text(json.dumps(list(places)))
    return str(folder / "map.json")


def mapped(weights: str, classes: Any, **over: Any) -> Recipe:
    return tiny_recipe({"teacher": {"weights": weights, "classes": classes}, **over})


def opened(recipe: Recipe) -> Components:
    return open_components(recipe, allow_code=False, say=lambda _: None)


class TestRuns:
    def test_the_teacher_is_scored_on_the_datas_classes(self, tmp_path: Path, weights: str) -> None:
        components = opened(mapped(weights, written(tmp_path, PLACES)))
        whole = create_model("cifar:resnet8", num_classes=12, weights=weights, kwargs=TEACHER["kwargs"]).prepared.eval()
        with torch.no_grad():
            logits = whole(components.data.val.images / 255)[:, PLACES]
        found = evaluate_teacher(components)["val"]
        right = (logits.argmax(1) == components.data.val.labels).double().mean().item()
        assert found.top1 == pytest.approx(100 * right)
        assert components.teacher_network.starts_from == "twelve.pth (model), 10 of its 12 classes"

    def test_it_teaches_with_its_logits_and_the_run_knows_its_classes(self, tmp_path: Path, weights: str) -> None:
        small = {"rows": ["kd"], "epochs": 1, "seeds": [0]}
        run = run_recipe(mapped(weights, written(tmp_path, PLACES), **small), tmp_path / "run")
        assert run.is_finished
        assert run.recipe()["teacher"]["classes"] == PLACES
        (tmp_path / "map.json").unlink()  # the recipe of the run holds what was in it
        assert opened(Recipe.read(run.recipe(), what="it")).recipe.teacher.classes == tuple(PLACES)

    def test_another_content_of_the_file_is_another_run(self, tmp_path: Path, weights: str) -> None:
        first = opened(mapped(weights, written(tmp_path, PLACES))).recipe
        second = opened(mapped(weights, written(tmp_path, PLACES[::-1]))).recipe
        assert first.as_dict() != second.as_dict()

    def test_a_bank_holds_the_logits_of_the_datas_classes_and_is_of_them(self, tmp_path: Path, weights: str) -> None:
        small = {"rows": ["kd"], "epochs": 1, "seeds": [0]}
        recipe = mapped(weights, written(tmp_path, PLACES), **small)
        options = BankOptions(views=1, dtype="float32")
        [folder] = make_banks(recipe, out=tmp_path / "bank", options=options, display=Display(quiet=True))
        assert folder.manifest().layout.num_classes == CLASSES
        banked = {**recipe.as_dict(), "bank": {"path": str(tmp_path / "bank")}}
        components = opened(Recipe.read(banked, what="it"))
        assert components.teacher is not None
        assert components.teacher.num_outputs(components.teacher_sample) == CLASSES
        written(tmp_path, PLACES[::-1])
        with pytest.raises(UserError, match=r"something else than this run; bank it anew:\n  teacher.classes"):
            opened(Recipe.read(banked, what="it"))

    def test_a_network_of_python_teaches_with_the_classes_that_are_named(self, tmp_path: Path) -> None:
        drawn = torch.Generator().manual_seed(0)
        images = TensorDataset(torch.rand(20, 3, 8, 8, generator=drawn), torch.arange(20) % CLASSES)
        result = distill(
            small_net(2, num_classes=12),
            small_net(1),
            train=images,
            val=images,
            epochs=1,
            out=tmp_path / "run",
            quiet=True,
            allow_weak_teacher=True,
            settings={"teacher": {"classes": PLACES}},
        )
        with torch.no_grad():
            right = small_net(2, num_classes=12).eval()(images.tensors[0])[:, PLACES].argmax(1) == images.tensors[1]
        assert result.results.teacher.val.scores["top1"] == pytest.approx(100 * right.double().mean().item())


class TestSize:
    def test_a_teacher_has_images_of_its_own_size(self) -> None:
        components = opened(tiny_recipe({"teacher": {"image_size": 16}}))
        assert (components.image_size, components.teacher_size) == (8, 16)
        batch = next(iter(components.eval_loader("val")))
        assert batch.images.shape[-1] == 8
        assert batch.teacher_images.shape[-1] == 16
        assert components.teacher.observe(batch).output.shape == (len(batch.images), 10)
        assert opened(tiny_recipe()).teacher_size is None

    def test_a_run_a_bank_and_a_run_of_that_bank_take_it(self, tmp_path: Path) -> None:
        small = {"rows": ["kd"], "epochs": 1, "seeds": [0], "teacher": {"image_size": 16}}
        recipe = tiny_recipe(small)
        live = run_recipe(recipe, tmp_path / "live")
        assert live.results()["teacher"]["image_size"] == 16
        assert live.results()["rows"][0]["student"]["image_size"] == 8
        assert json.loads((live.student / "config.json").read_text())["understudy"]["resize_to"] == 8
        options = BankOptions(views=1, dtype="float32")
        make_banks(recipe, out=tmp_path / "bank", options=options, display=Display(quiet=True))
        banked = {**recipe.as_dict(), "bank": {"path": str(tmp_path / "bank")}}
        found = run_recipe(Recipe.read(banked, what="it"), tmp_path / "banked")
        assert found.results()["teacher"]["image_size"] == 16
        with pytest.raises(UserError, match=r"teacher.image_size   here None, there 16"):
            opened(Recipe.read({**banked, "teacher": {**banked["teacher"], "image_size": None}}, what="it"))
