"""`understudy recipes`: what is listed, found, and refused."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

from helpers.command_line import done, refused
from understudy.cli.app import main
from understudy.recipes.catalog import grouped, names_with
from understudy.recipes.loading import read_recipe, recipe_names, strategy_names
from understudy.utils.errors import UserError

NAMES = (
    "classification/cifar100/kd/resnet56-resnet20",
    "classification/cifar100/kd-dot/resnet56-resnet20",
    "classification/cifar100/kd-dot/vgg13-vgg8",
    "classification/digits/demo",
    "classification/tiny-imagenet/kd/resnet18-mobilenetv2",
    "strategies/deit",
)


def names_in(text: str) -> list[str]:
    """The names that a grouped listing stands for, whether it is wrapped or not."""
    lines = re.sub(r",\n +|/\n +", lambda mark: mark.group()[0] + " ", text).splitlines()
    heads = [line.split(maxsplit=1) for line in lines if line]
    return [head + pair for head, pairs in heads for pair in pairs.split(", ")]


def short(names: list[str]) -> list[str]:
    return [name.removeprefix("classification/") for name in names]


def on_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a command prints where stdout is a terminal of that width."""
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("COLUMNS", str(columns))
    with redirect_stdout(screen), pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert not stopped.value.code
    return screen.getvalue()


def test_a_line_is_a_method_and_a_paragraph_a_data_set_with_strategies_last() -> None:
    assert grouped(NAMES).splitlines() == [
        "cifar100/kd/       resnet56-resnet20",
        "cifar100/kd-dot/   resnet56-resnet20, vgg13-vgg8",
        "",
        "digits/   demo",
        "",
        "tiny-imagenet/kd/   resnet18-mobilenetv2",
        "",
        "strategies/   deit",
    ]


def test_a_wrapped_line_goes_on_below_its_first_pair() -> None:
    pairs = [f"classification/cifar100/kd/{pair}" for pair in ("resnet56-resnet20", "vgg13-vgg8", "wrn_40_2-wrn_16_2")]
    assert grouped(pairs, width=45).splitlines() == [
        "cifar100/kd/   resnet56-resnet20, vgg13-vgg8,",
        "               wrn_40_2-wrn_16_2",
    ]


def test_the_whole_list_names_everything_once_and_counts_it() -> None:
    *paragraphs, closing = done("recipes").rstrip().split("\n\n")
    listed = names_in("\n\n".join(paragraphs))
    assert sorted(listed) == sorted([*short(recipe_names()), *strategy_names()])
    data_sets = {tuple(name.split("/")[:2]) for name in recipe_names()}
    assert closing.startswith(
        f"{len(recipe_names())} recipes on {len(data_sets)} data sets, {len(strategy_names())} strategies"
    )


@pytest.mark.parametrize("columns", [1, 40, 80, 133])
def test_the_list_keeps_every_name_whole_on_a_terminal_of_any_width(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = on_a_terminal(columns, monkeypatch, "recipes")
    names = names_in(said[: said.index("strategies/")])
    assert sorted(names) == sorted(short(recipe_names()))
    if columns >= 80:
        assert max(map(len, said.splitlines())) <= columns


def test_a_pipe_gets_a_line_for_each_method_and_no_colours() -> None:
    said = done("recipes")
    assert "\x1b" not in said
    (line,) = re.findall("^cifar100/dist/ .*", said, re.MULTILINE)
    assert line.count(", ") == sum("/cifar100/dist/" in name for name in recipe_names()) - 1


def test_short_names_of_the_list_are_those_of_recipes() -> None:
    name = names_in(done("recipes").split("\n\n")[1])[-1]
    assert read_recipe(name) == read_recipe(f"classification/{name}")


def test_few_found_names_are_printed_in_full_and_nothing_else() -> None:
    assert done("recipes", "CIFAR100", "dist", "resnet20") == "classification/cifar100/dist/resnet56-resnet20\n"


def test_many_found_names_are_grouped_and_counted() -> None:
    *paragraphs, closing = done("recipes", "cifar100", "dkd").rstrip().split("\n\n")
    found = [name for name in recipe_names() if "cifar100" in name and "dkd" in name]
    assert sorted(names_in("\n\n".join(paragraphs))) == sorted(short(found))
    assert closing.startswith(f"{len(found)} recipes on 1 data set\n")


def test_names_are_for_pipes_all_of_them_or_those_found() -> None:
    everything = done("recipes", "--names").splitlines()
    assert everything == [*recipe_names(), *strategy_names()]
    imagenet = done("recipes", "imagenet", "--names").splitlines()
    assert imagenet == [name for name in everything if "imagenet" in name]


def test_list_may_be_said_or_left_out() -> None:
    assert done("recipes", "list", "crd", "wrn_16_2") == done("recipes", "crd", "wrn_16_2")


def test_show_is_a_subcommand_only_in_front() -> None:
    assert yaml.safe_load(done("recipes", "show", "digits/demo"))["data"]["root"] == "digits"
    assert "'show': unknown" in refused("recipes", "digits", "show")


def test_show_ends_with_what_is_missing_and_the_commands_and_is_still_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = done("recipes", "show", "cifar100/dist/resnet32x4-resnet8x4")
    assert yaml.safe_load(said)["teacher"]["model"] == "cifar:resnet32x4"
    assert "# missing here: data.root: there is nothing at data/cifar100" in said
    assert "# missing here: teacher weights 'weights/resnet32x4.safetensors'" in said
    assert "#   understudy train cifar100/teachers/resnet32x4 data.root=FOLDER" in said
    assert "teacher.weights=none teacher.train_epochs=240" in said


def test_show_of_a_second_run_says_what_the_first_one_is() -> None:
    assert "# The second run; set method.init_from to the folder of the first" in done(
        "recipes", "show", "cifar100/sskd/vgg13-mobilenetv2"
    )


def test_show_names_the_command_that_runs_a_recipe_of_rows() -> None:
    assert "#   understudy compare digits/demo\n" in done("recipes", "show", "digits/demo")


def test_help_tells_both_ways_of_asking() -> None:
    said = done("recipes", "--help")
    assert "[WORD]..." in said
    assert "show NAME" in said


def test_unknown_words_get_their_nearest_names_in_one_message() -> None:
    message = refused("recipes", "cifar10O", "dsit", "resnet20")
    assert "recipes 'cifar10o': unknown; did you mean cifar10" in message
    assert "recipes 'dsit': unknown; did you mean dist?" in message
    assert "resnet20'" not in message


def test_a_word_like_no_name_gets_the_words_that_there_are() -> None:
    with pytest.raises(UserError, match=r"'zzz': unknown; there are: .*cifar100, .*kd, .*vgg13, vgg8"):
        names_with(["zzz"], NAMES)


def test_words_that_never_occur_together_are_counted_apart() -> None:
    with pytest.raises(UserError, match="apart they are in: digits 1, resnet20 2; leave one out"):
        names_with(["digits", "resnet20"], NAMES)


def test_the_readme_counts_the_recipes_that_there_are() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"# more than (\d+) of them", readme)
    assert int(said) < len(recipe_names()) <= int(said) + 60


def test_the_papers_ablations_are_listed_by_one_word() -> None:
    found = names_with(["sweeps"], recipe_names())
    assert {"classification/sweeps/dot-delta", "classification/sweeps/dist-relations"} <= set(found)
