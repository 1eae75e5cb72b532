"""Two teachers of unlike kind, each for a head of its own, as Co-advise has them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import understudy as us
from helpers.command_line import done
from helpers.engine import run_recipe, tiny_recipe
from helpers.two_teachers import TWO, VIT
from understudy import UserError
from understudy.methods.losses.token import co_advise_objective
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import merged, recipe_from
from understudy.report import read_results
from understudy.report.table import comparison_table
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows
from understudy.runs.components import open_components
from understudy.runs.folder import RunFolder
from understudy.runs.further_teachers import check_further_teachers, evaluate_further_teachers
from understudy.runs.reopen import recipe_of

torch.set_num_threads(1)


def test_each_head_learns_from_its_own_teacher_as_in_co_advise() -> None:
    recipe = tiny_recipe(TWO)
    components, rows = open_components(recipe, allow_code=False, say=lambda text: None), rows_of(recipe)
    check_rows(components, rows)
    (student,) = build_trainer(components, rows, 0).students
    teacher = components.teacher_of(0)
    assert teacher is not None
    batch = next(iter(components.train_loader(0).epoch(1)))
    seen = teacher.observe(batch)
    assert seen.output.keys() == {"logits", "distilled2"}
    assert not torch.equal(seen.output["logits"], seen.output["distilled2"])

    student.train()
    student.random_state.load_state_dict(state := student.random_state.state_dict())
    _, pairings = student.task.pair(student.model, seen, batch)
    wanted = co_advise_objective(
        pairings["main"].student_logits,
        [pairings[head].student_logits for head in ("distilled", "distilled2")],
        [seen.output["logits"], seen.output["distilled2"]],
        batch.targets,
    )
    student.random_state.load_state_dict(state)
    record = student.step(batch, seen, epoch=1)
    assert record.mean("task").item() + record.mean("distill").item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"method": {"on": None}}, "no method teaches the head 'distilled2'; name it in method.on.*distilled2=null"),
        ({"teacher": {"train_epochs": 1}}, "several teachers know the data's classes already"),
        ({"teacher": {"also": {"distilled2": {"weights": "nowhere.pt"}}}}, "nowhere.pt"),
        (
            {"teacher": {"also": {"distilled": VIT}}},
            r"nobody learns from cifar:resnet8, since .* \(distilled2, distilled\)",
        ),
        ({"teacher": {"also": {"logits": VIT}}}, "'logits' is no head that has a teacher of its own: teacher.model is"),
        ({"teacher": {"also": {"../x": VIT}}}, "'../x' is no name of a head, such as distilled2"),
    ],
    ids=["nobody listens", "trained here", "no such file", "nobody hears the first", "the class token", "no name"],
)
def test_further_teachers_that_cannot_teach_are_refused_in_words(over: dict[str, Any], said: str) -> None:
    def opened() -> None:
        recipe = tiny_recipe(merged(TWO, over))
        check_rows(open_components(recipe, allow_code=False, say=lambda text: None), rows_of(recipe))

    with pytest.raises(UserError, match=said):
        opened()


@pytest.mark.parametrize("override", ["teacher.also=null", "teacher.also.distilled2=null"])
def test_a_further_teacher_is_left_out_by_null(override: str) -> None:
    teacher = recipe_from(tiny_recipe(TWO).as_dict(), [override]).teacher
    assert teacher is not None
    assert teacher.also == {}


def test_a_further_teacher_that_knows_nothing_is_refused_before_training() -> None:
    recipe = tiny_recipe(merged(TWO, {"teacher": {"allow_weak": False}}))
    components = open_components(recipe, allow_code=False, say=lambda text: None)
    said: list[str] = []
    found = evaluate_further_teachers(components)
    with pytest.raises(UserError, match=r"which the head 'distilled2' learns from, scores .* no better than chance"):
        check_further_teachers(components, found, say=said.append)
    assert said[0].startswith("teacher  timm:vit_tiny_patch16_224   of distilled2   val top-1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Under two teachers, to its end."""
    return run_recipe(tiny_recipe({**TWO, "epochs": 1}), tmp_path_factory.mktemp("two") / "run")


def test_predict_shows_every_teacher_below_the_student(run: RunFolder, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in "abc"]
    files[0].write_bytes(b"broken")
    for file in files[1:]:
        Image.effect_noise((8, 8), 90).convert("RGB").save(file)
    _, two, three = us.predict(run.path, files, teacher=True, topk=2)
    network = open_components(recipe_of(run), allow_code=False, say=lambda text: None).teacher_network
    assert network is not None
    pixels = torch.stack([torch.tensor([*Image.open(one.image).get_flattened_data()]) for one in (two, three)])
    images = pixels.view(2, 8, 8, 3).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        wanted = {head: logits.softmax(1).topk(2) for head, logits in network.prepared.eval()(images).items()}
    for place, one in enumerate((two, three)):
        said = {"logits": one.teacher, **one.further_teachers}
        assert said.keys() == wanted.keys() == {"logits", "distilled2"}
        for head, answers in said.items():
            assert answers is not None
            assert [int(answer.name) for answer in answers] == wanted[head].indices[place].tolist()
            assert [answer.probability for answer in answers] == pytest.approx(wanted[head].values[place].tolist())
    assert two.teacher != two.further_teachers["distilled2"]

    lines = done("predict", run.path, *files, "--teacher").splitlines()
    assert [line[len(two.image) :].strip().split("   ")[0] for line in lines] == [
        "student",  # of the picture that cannot be read
        *["student", "teacher", "teacher of distilled2"] * 2,
    ]
    broken, *rows = csv.DictReader(done("predict", run.path, *files, "--teacher", "--format", "csv").splitlines())
    assert broken["problem"] != ""
    assert rows[0]["teacher_of_distilled2_class"] == two.further_teachers["distilled2"][0].name
    told = [
        json.loads(line) for line in done("predict", run.path, *files, "--teacher", "--format", "jsonl").splitlines()
    ]
    assert [list(one) for one in told] == [
        ["image", "problem"],
        *[["image", "student", "teacher", "teacher_of_distilled2"]] * 2,
    ]


@pytest.mark.slow
def test_a_run_under_two_teachers_ends_with_a_page_that_knows_both(run: RunFolder) -> None:
    results = read_results(run.path)
    assert results.teacher is not None
    assert results.teacher.model == "cifar:resnet8 and timm:vit_tiny_patch16_224"
    (other,) = results.teacher.also
    assert (other.head, other.model) == ("distilled2", "timm:vit_tiny_patch16_224")
    assert [line.cells[0].text for line in comparison_table(results).lines] == [
        "teacher",
        "teacher of distilled2",
        "kd",
    ]

    found = us.analyze(run.path, images=16, points=3, what=["fidelity", "similarity", "calibration", "equivariance"])
    pairs = ["kd", "kd beside the teacher of distilled2"]
    assert list(found["fidelity"]["pieces"]) == list(found["similarity"]["pieces"]) == pairs
    assert found["fidelity"]["pieces"][pairs[0]] != found["fidelity"]["pieces"][pairs[1]]
    assert list(found["calibration"]["pieces"]) == ["kd", "teacher", "teacher of distilled2"]
    assert (
        "kd beside the teacher of distilled2: says what the teacher says on" in (run.path / "report.html").read_text()
    )
