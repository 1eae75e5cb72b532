"""Rows with settings of their own, and sweeps: what they train, how they are called, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.engine import run_recipe, tiny_recipe
from understudy.cli.options import RecipeOptions
from understudy.cli.overrides import with_options
from understudy.recipes.comparison import Variant, rows_of, written_out
from understudy.recipes.loading import recipe_names
from understudy.recipes.schema import Recipe, load_recipe, recipe_from
from understudy.recipes.sweeps import sweep_rows
from understudy.utils.errors import UserError

KD, DOT = "cifar100/kd/resnet32x4-resnet8x4", "cifar100/kd-dot/resnet32x4-resnet8x4"


def written(name: str, *rows: Any, overrides: tuple[str, ...] = ()) -> list[Variant]:
    return rows_of(load_recipe(name, [f"rows={json.dumps(list(rows))}", *overrides]))


def swept(name: str, *sweeps: str, rows: str | None = None) -> list[Variant]:
    return rows_of(recipe_from(with_options(load_recipe(name).as_dict(), RecipeOptions(rows=rows, sweep=list(sweeps)))))


def alone(name: str, override: str) -> Variant:
    return rows_of(load_recipe(name, [override]))[0]


def test_a_row_may_have_settings_of_its_own_laid_on_the_recipes() -> None:
    quarter = {"name": "kd a=.25", "method": {"name": "kd", "weight": 0.75}, "task_weight": 0.25}
    slow = {"name": "slow dot", "update": {"name": "dot", "lr": 0.01}}
    kd, first, second = written(KD, "kd", quarter, slow, overrides=("method.temperature=2",))
    assert (first.name, first.task_weight, first.method[0].weight) == ("kd a=.25", 0.25, 0.75)
    assert (first.method[0].model_dump()["temperature"], first.update) == (2, kd.update)
    assert (second.update.name, second.update.lr, second.update.momentum) == ("dot", 0.01, 0.9)
    assert second.method == kd.method


def test_a_row_of_another_method_starts_from_that_methods_own_weights() -> None:
    (row,) = written(KD, {"name": "d", "method": {"name": "dist", "tau": 2}}, overrides=("task_weight=0.3",))
    assert (row.method[0].method.name, row.method[0].model_dump()["tau"], row.task_weight) == ("dist", 2, 1)
    (row,) = written(KD, {"name": "labels", "method": "none"})
    assert (row.method, row.task_weight) == ((), 1)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"method": "kd"}, r"rows.name +is missing"),
        ({"name": "a/b"}, "names a folder, too"),
        ({"name": ".hidden"}, "names a folder, too"),
        ({"name": ""}, "names a folder, too"),
        ({"name": "x" * 200}, "names a folder, too"),
        ({"name": "x", "epochs": 3}, "epochs +unknown"),
        ({"name": "x", "updat": {}}, "updat +unknown; did you mean update"),
        ({"name": "x", "update": {"lrr": 1}}, r"row 'x', 1 problem\n +update.lrr +unknown; did you mean lr"),
        ({"name": "x", "method": "kdd"}, r"row 'x', 1 problem\n +method +'kdd' is unknown; did you mean kd"),
        ({"name": "x", "task_weight": -1}, "task_weight"),
        ({"name": "x", "varied": {"epochs": 3}}, "'epochs' cannot differ between rows, which share batches and epo"),
        ({"name": "alone", "method": "kd"}, "row 'alone': that is the student without a method"),
        (5, "a row is a name such as kd.dot, or a mapping"),
    ],
)
def test_a_row_that_cannot_be_is_refused_in_words(row: Any, text: str) -> None:
    with pytest.raises(UserError, match=text):
        written(KD, row)


def test_rows_whose_names_are_one_folder_on_some_disks_are_refused() -> None:
    with pytest.raises(UserError, match="rows names 'A' twice"):
        written(KD, {"name": "A"}, {"name": "a"})


def test_a_sweep_makes_a_row_for_each_value_and_says_what_it_varies() -> None:
    found = swept(DOT, "update.delta=-0.09,-5e-2,0,0.05", rows="alone,kd")
    assert [row.name for row in found] == ["alone", "kd", "delta=-0.09", "delta=-5e-2", "delta=0", "delta=0.05"]
    assert [row.varied for row in found[2:]] == [{"update.delta": value} for value in (-0.09, -0.05, 0, 0.05)]


def test_several_sweeps_are_combined() -> None:
    found = swept(KD, "method.temperature=1,4", "task_weight=0.1,0.5")
    assert [row.name for row in found] == [
        "temperature=1 task_weight=0.1", "temperature=1 task_weight=0.5",
        "temperature=4 task_weight=0.1", "temperature=4 task_weight=0.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(DOT, "update.delta", "0.02"), (KD, "method.temperature", "2"), (KD, "task_weight", "0.5"),
     (KD, "update.momentum", "0.95"), (KD, "method.name", "dist"), (KD, "update.name", "dot"),
     ("cifar100/projector/vgg13-mobilenetv2", "method.normalisation", "group")],
)  # fmt: skip
def test_a_row_of_a_sweep_has_the_settings_of_train_with_that_setting(name: str, key: str, value: str) -> None:
    (row,), same = swept(name, f"{key}={value}"), alone(name, f"{key}={value}")
    assert (row.method, row.task_weight, row.update) == (same.method, same.task_weight, same.update)


@pytest.mark.parametrize(
    ("sweeps", "text"),
    [
        (["update.delta"], "--sweep 'update.delta': write KEY=V1,V2"),
        (["update.delta="], "write KEY=V1,V2"),
        (["=1,2"], "write KEY=V1,V2"),
        (["epochs=1,2"], "--sweep 'epochs' cannot differ between rows, which share batches and epochs; vary method"),
        (["data.batch_size=1,2"], "cannot differ between rows"),
        (["update=joint,dot"], "cannot differ between rows"),
        (["update.lr=0.1,0.10"], r"--sweep update.lr: 0\.1 is there twice"),
        (["update.lr=0.1,,0.2"], "no YAML"),
        (["update.lr=0.1", "update.lr=0.2"], "--sweep update.lr: is there twice; write all values of a setting in on"),
        (["update.lr=" + ",".join(map(str, range(1, 102)))], "these make 101 rows, at most 100"),
        (["update.lr=[1"], "no YAML"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_words(sweeps: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        sweep_rows(sweeps)


def test_a_setting_of_another_update_is_refused_with_the_update_that_reads_it() -> None:
    with pytest.raises(
        UserError, match=r"update\.delta is a setting of update dot and dot_weights, and this recipe's is joint"
    ):
        swept(KD, "update.delta=0.05")


def test_values_that_cannot_be_in_a_folders_name_are_written_otherwise() -> None:
    (row,) = sweep_rows(["method.init_from=runs/a"])
    assert (row["name"], row["varied"]) == ("init_from=runs_a", {"method.init_from": "runs/a"})


def test_a_sweep_written_out_is_the_same_sweep() -> None:
    recipe = load_recipe(DOT, ["rows=[alone, {varied: {update.delta: 0.02, method.temperature: 3}}]"])
    assert rows_of(Recipe.read(written_out(recipe).as_dict(), what="a copy")) == rows_of(recipe)


def test_rows_of_a_sweep_equal_train_with_that_setting_bit_for_bit_and_the_results_say_what_varies(
    tmp_path: Path,
) -> None:
    base = {"method": {"name": "kd", "temperature": 4}, "update": "dot", "seeds": [0], "epochs": 1}
    rows = [{"varied": {"update.delta": delta}} for delta in (-0.05, 0.05)]
    run = run_recipe(tiny_recipe({**base, "rows": rows}), tmp_path / "sweep")
    results = json.loads(run.results_file.read_text())
    assert [row["varied"] for row in results["rows"]] == [{"update.delta": -0.05}, {"update.delta": 0.05}]
    assert 'id="setting"' in run.report_file.read_text()
    for row, delta in zip(results["rows"], (-0.05, 0.05), strict=True):
        single = run_recipe(
            tiny_recipe({**base, "rows": [], "update": {"name": "dot", "delta": delta}}), tmp_path / row["name"]
        )
        weights = single.students / "kd+dot" / "seed0" / "model.safetensors"
        assert (run.students / row["name"] / "seed0" / "model.safetensors").read_bytes() == weights.read_bytes()
        assert json.loads(single.results_file.read_text())["rows"][0]["seeds"] == row["seeds"]


# --- The papers' ablations, transcribed --------------------------------------------------------------------------

ABLATIONS = {
    "sweeps/dot-delta": (
        "update.delta",
        "-0.09 61.58 -0.075 68.88 -0.05 72.77 -0.025 72.86 0 73.33 0.025 74.08 0.05 74.22 0.075 75.12 0.09 74.43",
    ),
    "sweeps/dot-momentum": (
        "update.momentum",
        "0.81 73.53 0.825 73.66 0.85 73.45 0.875 73.21 0.9 73.33 0.925 73.16 0.95 73.14 0.975 68.75 0.99 37.19",
    ),
    "sweeps/dot-alpha-cifar100": ("task_weight", "0.1 73.33 0.25 73.56 0.5 73.49 0.75 73.23 0.9 73.19"),
    "sweeps/dot-alpha-tiny-imagenet": ("task_weight", "0.1 58.35 0.25 58.86 0.5 59.23 0.75 58.36 0.9 57.45"),
    "sweeps/projector-alpha-resnet18": (
        "method.alpha",
        "1 61.74 1.5 62.18 2 62.23 2.5 62.84 3 63.10 4 63.32 5 63.40",
    ),
    "sweeps/projector-alpha-efficientnet_b0": (
        "method.alpha",
        "1 65.52 1.5 66.69 2 66.61 2.5 67.10 3 67.72 4 68.51 5 67.69",
    ),
    "sweeps/projector-normalisation-mobilenetv2": (
        "method.normalisation", "l2 52.91 group 55.63 batch 56.09",
    ),
    "sweeps/projector-normalisation-mobilenetv3": (
        "method.normalisation", "l2 54.65 group 59.08 batch 59.28",
    ),
    "sweeps/projector-normalisation-efficientnet_b0": (
        "method.normalisation", "l2 64.23 group 65.52 batch 67.95",
    ),
    "sweeps/projector-logsum-mobilenetv3": ("method.distance", "mse 59.28 logsum 59.80"),
    "sweeps/projector-logsum-efficientnet_b0": ("method.distance", "mse 67.95 logsum 68.51"),
    "sweeps/projector-logsum-resnet18": ("method.distance", "mse 70.03 logsum 71.29"),
}  # fmt: skip
OTHERS = {
    "sweeps/dot-alpha-cifar100": {"kd+dot": 75.12},
    "sweeps/dot-alpha-tiny-imagenet": {"kd+dot": 64.01},
    "sweeps/projector-normalisation-mobilenetv2": {"alone": 50.89},
    "sweeps/projector-normalisation-mobilenetv3": {"alone": 54.13},
    "sweeps/projector-normalisation-efficientnet_b0": {"alone": 64.48},
    "sweeps/dist-relations": {
        "kd": 71.21, "dist_kl intra": 70.61, "dist_kl both": 71.62, "dist inter": 71.63, "dist intra": 71.55,
        "dist both": 72.07,
    },
    "sweeps/dist-no-task": {
        "alone": 69.76, "kd": 71.21, "kd without task": 68.12, "dist": 72.07, "dist without task": 70.65,
    },
    "sweeps/dot-longer-240": {"alone": 72.50, "kd": 73.33},
}  # fmt: skip


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_papers_ablation_is_there_with_every_cell(name: str) -> None:
    key, cells = ABLATIONS[name]
    words = cells.split()
    found = [row for row in rows_of(load_recipe(name)) if row.varied]
    assert [(row.varied[key], row.published[0].scores["top1"]) for row in found] == [
        (float(value) if value[-1].isdigit() and value != "l2" else value, float(top1))
        for value, top1 in zip(words[::2], words[1::2], strict=True)
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_the_rows_beside_an_ablation_have_their_cells_too(name: str) -> None:
    found = {row.name: row.published[0].scores["top1"] for row in rows_of(load_recipe(name)) if not row.varied}
    assert found == OTHERS[name]


def test_both_weights_of_kd_change_with_alpha_and_dot_has_the_recipes() -> None:
    found = {row.name: row for row in rows_of(load_recipe("sweeps/dot-alpha-cifar100"))}
    assert [(row.task_weight, row.method[0].weight) for row in list(found.values())[:-1]] == [
        (0.1, 0.9), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.9, 0.1),
    ]  # fmt: skip
    (dot,) = rows_of(load_recipe(DOT))
    assert (found["kd+dot"].method, found["kd+dot"].task_weight, found["kd+dot"].update) == (
        dot.method, dot.task_weight, dot.update,
    )  # fmt: skip


def test_dists_ablations_are_what_its_recipes_say_but_for_what_is_left_out() -> None:
    relations = {row.name: row for row in rows_of(load_recipe("sweeps/dist-relations"))}
    (dist,), (kd,) = (rows_of(load_recipe(f"imagenet/{name}/resnet34-resnet18")) for name in ("dist", "kd-b1"))
    assert relations["dist both"].method == dist.method
    assert (relations["kd"].method, relations["kd"].task_weight) == (kd.method, kd.task_weight)
    weights = {name: row.method[0].model_dump() for name, row in relations.items() if name != "kd"}
    assert {name: (one["beta"], one["gamma"]) for name, one in weights.items()} == {
        "dist_kl intra": (0, 1), "dist_kl both": (1, 1), "dist inter": (1, 0), "dist intra": (0, 1),
        "dist both": (1, 1),
    }  # fmt: skip
    without = {row.name: row.task_weight for row in rows_of(load_recipe("sweeps/dist-no-task"))}
    assert without == {"alone": 1, "kd": 0.9, "kd without task": 0, "dist": 1, "dist without task": 0}


def test_longer_training_has_its_losses() -> None:
    rows = rows_of(load_recipe("sweeps/dot-longer-240"))
    assert [row.published[0].task_loss for row in rows] == [0.2379, 0.3844]
    for epochs, top1, loss in ((270, 73.51, 0.3801), (300, 73.63, 0.3818)):
        recipe = load_recipe(f"sweeps/dot-longer-{epochs}")
        assert (recipe.published[0].scores["top1"], recipe.published[0].task_loss, recipe.epochs) == (
            top1,
            loss,
            epochs,
        )


@pytest.mark.parametrize(("folder", "size"), [("dist", 32), ("dist-b2", 96), ("dist-b3", 128)])
def test_dist_relates_as_many_rows_as_a_gpu_of_its_authors_had(folder: str, size: int) -> None:
    names = [name for name in recipe_names() if name.startswith(f"classification/imagenet/{folder}/")]
    assert names
    for name in names:
        method = load_recipe(name).method[0]
        assert (method.rows, method.group_size) == ("local", size), name


def test_a_changed_sweep_carries_no_published_points() -> None:
    assert not [row for row in rows_of(load_recipe("sweeps/dot-delta", ["epochs=3"])) if row.published]


def test_a_row_by_name_beside_a_sweep_is_that_of_its_data_and_pair() -> None:
    (row,) = rows_of(load_recipe("sweeps/dot-delta", ["rows=[crd+dot]"]))
    assert row.settings_from == "recipe cifar100/crd-dot/resnet32x4-resnet8x4"
