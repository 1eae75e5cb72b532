"""Options of the command line, laid on a recipe."""

from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from helpers.command_line import RECIPE
from helpers.masks import masks_folder
from understudy.cli.command import takes_recipe
from understudy.cli.options import RecipeOptions
from understudy.cli.overrides import has_typed_all_code, resolve_recipe, with_options
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import Recipe, recipe_from
from understudy.utils.errors import UserError

BASE = yaml.safe_load(RECIPE)


def resolved(typed: RecipeOptions) -> Recipe:
    return recipe_from(with_options(BASE, typed))


def test_nothing_typed_leaves_the_recipe_as_it_is() -> None:
    assert resolved(RecipeOptions()) == recipe_from(BASE)


def test_every_option_finds_its_place() -> None:
    typed = RecipeOptions(
        teacher="timm:resnet34", teacher_weights="t.pt", train_teacher=3, allow_weak_teacher=True,
        student="timm:resnet18", student_weights="none", data="pets", method="dist", update="dot",
        rows="alone, dist", epochs=7, seeds="2",
    )  # fmt: skip
    found = resolved(typed)
    assert found.teacher is not None
    assert found.teacher.model_dump(include={"model", "weights", "train_epochs", "allow_weak"}) == {
        "model": "timm:resnet34",
        "weights": "t.pt",
        "train_epochs": 3,
        "allow_weak": True,
    }
    assert (found.student.model, found.student.weights, found.data.root) == ("timm:resnet18", "none", "pets")
    assert ([config.method.name for config in found.method], found.update.name) == (["dist"], "dot")
    assert (found.rows, found.epochs, found.seeds) == (("alone", "dist"), 7, (0, 1))


def test_settings_of_the_machine_and_of_the_step_are_options() -> None:
    typed = RecipeOptions(
        lr=0.1, weight_decay=0.001, batch_size=32, image_size="96x160", workers=2, device="cuda:1", threads=3
    )
    found = resolved(typed)
    assert (found.update.lr, found.update.weight_decay, found.device, found.threads) == (0.1, 0.001, "cuda:1", 3)
    assert (found.data.batch_size, found.data.image_size, found.data.workers) == (32, (96, 160), 2)
    assert resolved(RecipeOptions(image_size="64")).data.image_size == 64


@pytest.mark.parametrize("text", ["x", "96x", "96,160", "-8", "96x160x3", "", "9.5"])
def test_an_image_size_that_is_none_is_refused_with_the_two_forms(text: str) -> None:
    with pytest.raises(UserError, match=r"--image-size .*write pixels a side, such as 224, or HEIGHTxWIDTH"):
        resolved(RecipeOptions(image_size=text))


def test_a_bank_that_was_typed_is_the_recipes() -> None:
    found = with_options(BASE, RecipeOptions(bank=Path("stored")))
    assert found["bank"] == {"path": "stored"}


def test_several_methods_are_joined_by_a_plus() -> None:
    assert [config.method.name for config in resolved(RecipeOptions(method="dkd+kd")).method] == ["dkd", "kd"]


@pytest.mark.parametrize("method", ["none", "alone"])
def test_method_none_distils_nothing(method: str) -> None:
    assert resolved(RecipeOptions(method=method)).method == ()


def test_a_method_that_was_typed_can_be_set_up_by_an_override() -> None:
    found = recipe_from(with_options(BASE, RecipeOptions(method="kd")), ["method.temperature=2"])
    assert [(config.method.name, config.temperature) for config in found.method] == [("kd", 2)]


def test_a_setting_of_another_method_is_not_answered_with_itself() -> None:
    with pytest.raises(UserError, match=r"method.student_stages +unknown") as refused:
        recipe_from(with_options(BASE, RecipeOptions(method="kd")), ["method.student_stages=[1]"])
    assert "did you mean method.student_stages" not in str(refused.value)


def test_settings_without_a_method_are_refused_with_both_ways_to_name_one() -> None:
    with pytest.raises(UserError, match=r"no method's name.*student_stages; give --method NAME too, or .*rows=\["):
        recipe_from({**BASE, "method": {"student_stages": [1]}})


def test_the_recipes_method_keeps_its_settings_where_the_same_one_is_typed() -> None:
    settings = with_options(BASE | {"method": {"name": "kd", "temperature": 9}}, RecipeOptions(method="kd"))
    assert [config.temperature for config in recipe_from(settings).method] == [9]


def test_a_teacher_that_was_typed_without_a_method_is_distilled() -> None:
    typed = RecipeOptions(teacher="cifar:resnet20", student="cifar:resnet8", data="digits")
    assert recipe_from(with_options({}, typed)).method


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", (0,)), ("3", (0, 1, 2)), ("3,", (3,)), ("0,5", (0, 5)), ("7, 2", (7, 2))]
)
def test_seeds_are_how_many_or_which(text: str, seeds: tuple[int, ...]) -> None:
    assert resolved(RecipeOptions(seeds=text)).seeds == seeds


@pytest.mark.parametrize(
    ("text", "problem"),
    [("x", "write how many, such as 3, or which"), ("0", "at least one is needed"), ("-2", "at least one is needed"),
     (",", "at least one is needed"), ("1.5", "write how many")],
)  # fmt: skip
def test_seeds_that_are_none_are_refused(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"--seeds '{text}': {problem}"):
        resolved(RecipeOptions(seeds=text))


@pytest.mark.parametrize(
    ("typed", "needed"),
    [
        (RecipeOptions(), "still needed: --data FOLDER, --student timm:NAME"),
        (RecipeOptions(student="cifar:resnet8"), r"still needed: --data FOLDER \(or a recipe"),
        (RecipeOptions(data="digits"), r"still needed: --student timm:NAME \(or a recipe"),
        (RecipeOptions(data="digits", student_weights="none"), r"student\.model +is missing"),
    ],
)
def test_what_is_still_needed_is_asked_for(typed: RecipeOptions, needed: str) -> None:
    with pytest.raises(UserError, match=needed):
        recipe_from(with_options({}, typed))


def test_rows_of_the_recipe_are_taken_by_their_names() -> None:
    own = {"name": "dist on token", "method": {"name": "dist", "on": "distilled"}}
    named = {"rows": ["kd", own, {"name": "projector", "method": "kd"}]}
    recipe = recipe_from(with_options(BASE | named, RecipeOptions(rows="alone,dist on token,projector")), [])
    assert [row if isinstance(row, str) else row.name for row in recipe.rows] == ["alone", "dist on token", "projector"]
    assert recipe.as_dict()["rows"][1:] == [own, named["rows"][2]]


@pytest.mark.parametrize(
    ("typed", "overrides", "base", "is_all"),
    [
        (RecipeOptions(student="own:net", teacher="own:net"), [], {}, True),
        (RecipeOptions(), ["student.model=own:net", "teacher.model=own:big"], {}, True),
        (RecipeOptions(), [], {"student": {"model": "own:net"}}, False),
        (RecipeOptions(teacher="own:net"), [], {"student": {"model": "other:net"}}, False),
        (RecipeOptions(teacher="own:net"), [], {}, True),
        (RecipeOptions(student="own:net"), [], {}, True),
        (RecipeOptions(teacher="cifar:resnet8"), [], {"teacher": {"also": {"other": {"model": "own:net"}}}}, False),
        (RecipeOptions(), ["teacher.also.other.model=own:net"], {"teacher": {"model": "cifar:resnet8"}}, True),
    ],
    ids=[
        "both typed",
        "overrides",
        "recipe's student",
        "one of two",
        "typed teacher, known student",
        "typed student",
        "one head's teacher",
        "one head's teacher, typed",
    ],
)
def test_code_is_trusted_where_the_person_who_runs_it_typed_it(
    typed: RecipeOptions, overrides: list[str], base: dict[str, object], is_all: bool
) -> None:
    recipe = recipe_from(with_options(BASE | base, typed), overrides)
    assert has_typed_all_code(recipe, typed, overrides) == is_all


def test_a_command_is_handed_the_options_it_takes_as_one_object_between_its_own() -> None:
    got: list[object] = []
    app = typer.Typer()

    @app.command()
    @takes_recipe(only=("student", "sweep", "allow_code", "data", "words"), without=("data",))
    def look(*, first: int = 1, typed: RecipeOptions, last: str = "z") -> None:
        got.extend([first, typed, last])

    def run(*words: str) -> str:
        return CliRunner().invoke(app, words, env={"COLUMNS": "200"}).output

    run(
        "kd",
        "epochs=2",
        "--student",
        "timm:resnet18",
        "--sweep",
        "a=1",
        "--sweep",
        "b=2",
        "--allow-code",
        "--last",
        "y",
    )
    words = {"words": ["kd", "epochs=2"], "sweep": ["a=1", "b=2"]}
    assert got == [1, RecipeOptions(student="timm:resnet18", allow_code=True, **words), "y"]
    assert "No such option: --data" in run("--data", "digits")
    shown = run("--help")
    assert (
        shown.index("--first") < shown.index("--sweep") < shown.index("--student") < shown.index("--allow-code")
        < shown.index("--last")
    )  # fmt: skip


def test_a_command_that_takes_an_option_nobody_declared_is_refused() -> None:
    with pytest.raises(AssertionError, match="does not have"):
        takes_recipe(without=("studnet",))


@pytest.mark.parametrize(
    ("data", "row", "said"),
    [("masks", "reviewkd", "segmentation"), ("boxes-of-shapes", "projector", "detection"), ("digits", "kd", None)],
)
def test_rows_take_the_defaults_of_the_task_that_the_data_are_of(
    tmp_path: Path, data: str, row: str, said: str | None
) -> None:
    root = str(masks_folder(tmp_path, train=1, val=1)) if data == "masks" else data
    recipe, _ = resolve_recipe(RecipeOptions(data=root, teacher="timm:resnet34", student="timm:resnet18", rows=row))
    whose = "the method's own defaults" if said is None else f"defaults of {said}"
    assert [found.settings_from for found in rows_of(recipe)] == [whose]
