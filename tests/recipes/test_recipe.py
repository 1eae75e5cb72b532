"""Recipes: how they are put together, overridden, refused, and divided into rows."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helpers.command_line import ALL_METHODS, RECIPE
from understudy.optim.ema import Averaging
from understudy.recipes.comparison import row_named, rows_of
from understudy.recipes.loading import read_recipes
from understudy.recipes.schema import Recipe, load_recipe, lr_note, merged, recipe_from
from understudy.utils.errors import UserError

BASE = yaml.safe_load(RECIPE)


def written(folder: Path, name: str, content: dict[str, Any] | str) -> str:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(file)


def recipe(*overrides: str, **settings: Any) -> Recipe:
    return recipe_from({**BASE, **settings}, overrides)


def problems(*overrides: str, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        recipe(*overrides, **settings)
    return str(caught.value)


def test_a_recipe_lays_itself_on_the_chain_that_it_extends(tmp_path: Path) -> None:
    written(tmp_path, "grandmother.yaml", RECIPE)
    written(tmp_path, "sub/mother.yaml", {"extends": "../grandmother.yaml", "epochs": 5, "method": {"temperature": 2}})
    file = written(tmp_path, "child.yaml", {"extends": "sub/mother.yaml", "student": {"weights": "none"}})
    found = load_recipe(file)
    assert (found.epochs, found.method[0].temperature) == (5, 2)
    assert (found.student.model, found.student.weights) == ("cifar:resnet8", "none")


def test_a_recipe_extends_a_shipped_one_by_name(tmp_path: Path) -> None:
    file = written(tmp_path, "mine.yaml", {"extends": "digits/demo", "epochs": 3})
    mine, shipped = load_recipe(file), load_recipe("digits/demo")
    assert mine == shipped.model_copy(update={"epochs": 3})


def test_a_recipe_lays_itself_on_all_that_it_names_the_last_on_top(tmp_path: Path) -> None:
    written(tmp_path, "one.yaml", {**BASE, "epochs": 5, "update": {"lr": 0.3, "momentum": 0.8}})
    written(tmp_path, "two.yaml", {"epochs": 6, "update": {"lr": 0.2}})
    file = written(tmp_path, "child.yaml", {"extends": ["one.yaml", "two.yaml"], "epochs": 7})
    found = load_recipe(file)
    assert (found.epochs, found.update.lr, found.update.momentum) == (7, 0.2, 0.8)


def test_two_parents_may_share_a_parent(tmp_path: Path) -> None:
    written(tmp_path, "top.yaml", RECIPE)
    for name in ("left", "right"):
        written(tmp_path, f"{name}.yaml", {"extends": "top.yaml", "update": {"lr": 0.2}} if name == "left" else {
            "extends": "top.yaml", "label_smoothing": 0.2})  # fmt: skip
    found = load_recipe(written(tmp_path, "child.yaml", {"extends": ["left.yaml", "right.yaml"]}))
    assert (found.update.lr, found.label_smoothing) == (0.2, 0.2)


def test_a_lattice_of_recipes_is_read_in_no_time(tmp_path: Path) -> None:
    written(tmp_path, "0.yaml", RECIPE)
    for level in range(1, 19):
        written(tmp_path, f"{level}.yaml", {"extends": [f"{level - 1}.yaml", f"./{level - 1}.yaml"]})  # 2^18 paths
    assert load_recipe(tmp_path / "18.yaml").epochs == 1


def test_a_tower_of_recipes_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "0.yaml", RECIPE)
    for level in range(1, 30):
        written(tmp_path, f"{level}.yaml", f"extends: {level - 1}.yaml")
    with pytest.raises(UserError, match=r"29\.yaml stands on more than 20 others; name them in one list"):
        load_recipe(tmp_path / "29.yaml")


@pytest.mark.parametrize("parent", ["5", "[digits/demo, 5]", "{a: b}", "[[digits/demo]]"])
def test_what_names_no_recipe_cannot_be_extended(tmp_path: Path, parent: str) -> None:
    with pytest.raises(UserError, match=r"a\.yaml: extends names a recipe or file, or a list of these, got "):
        load_recipe(written(tmp_path, "a.yaml", f"extends: {parent}"))


def test_a_strategy_is_laid_on_a_recipe_of_any_update() -> None:
    settings = read_recipes(["cifar100/kd-dot/resnet32x4-resnet8x4", "strategies/mdistiller-imagenet"])
    found = recipe_from(settings)
    assert (found.update.name, found.update.delta, found.update.lr, found.epochs) == ("dot", 0.075, 0.2, 100)
    assert (found.student.model, found.method[0].method.name) == ("cifar:resnet8x4", "kd")
    assert found.published == ()  # it was published for another strategy


def test_one_published_source_is_a_list_of_one_and_null_is_none() -> None:
    first, second = {"top1": 73.33, "top5": 93.0, "source": "DOT"}, {"top1": 74.0, "source": "another"}
    assert recipe(published=None).published == ()
    for one in (first, [first]):
        found = recipe(published=one)
        assert [(source.scores["top1"], source.scores["top5"], source.source) for source in found.published] == [
            (73.33, 93.0, "DOT")
        ]
    both = recipe(published=[first, second])
    assert both.as_dict()["published"] == [first, second]
    assert recipe_from(both.as_dict()) == both


@pytest.mark.parametrize(
    ("published", "problem"),
    [
        ({"topp1": 73.33, "top1": 73.0}, r"published\.0\.topp1 +unknown; did you mean top1\?"),
        ({"top1": 7333}, r"published\.0\.top1 +is a percentage from 0 to 100, got 7333"),
        ({"top5": 93.0}, r"published\.0\.top1 +is missing"),
        ({"top1": "high"}, r"published\.0\.top1 +input should be a number"),
    ],
)
def test_what_was_published_is_by_metrics_of_the_task(published: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        recipe(published={**published, "source": "a table"})
    with pytest.raises(UserError, match=rf"rows\.(0\.)?{problem}"):
        recipe(rows=[{"name": "mine", "method": "kd", "published": {**published, "source": "a table"}}])


def test_a_recipe_takes_nothing_over_of_what_was_published_for_the_one_it_extends(tmp_path: Path) -> None:
    written(tmp_path, "kd.yaml", BASE | {"published": {"top1": 73.33, "top5": 93.0, "source": "DOT"}})
    child = {"extends": "kd.yaml", "published": {"top1": 75.12, "source": "DOT"}}
    (found,) = load_recipe(written(tmp_path, "dot.yaml", child)).published
    assert found.scores == {"top1": 75.12}


def test_a_second_recipe_is_refused_and_a_strategy_is_not() -> None:
    with pytest.raises(UserError, match="one recipe at a time, got digits/demo, digits/base"):
        read_recipes(["digits/demo", "digits/base"])
    with pytest.raises(UserError, match="there is no recipe 'strategies/dist-b4'; did you mean strategies/dist-b"):
        read_recipes(["digits/demo", "strategies/dist-b4"])
    assert read_recipes([]) == {}


def test_another_optimizer_drops_what_it_does_not_read() -> None:
    sgd = {"name": "joint", "lr": 0.1, "momentum": 0.8, "nesterov": True}
    found = recipe("update.optimizer=rmsprop_tf", "update.eps=1e-3", update=sgd).update
    assert (found.optimizer, found.lr, found.momentum, found.nesterov) == ("rmsprop_tf", 0.1, 0.8, False)
    back = recipe("update={optimizer: sgd}", update={"optimizer": "rmsprop_tf", "eps": 1e-3, "alpha": 0.8}).update
    assert (back.eps, back.alpha) == (1e-8, 0.9)


def test_arguments_of_whatever_student_there_is_stay_until_there_is_another() -> None:
    strategy = {"student": {"kwargs": {"drop_rate": 0.2}}}
    with_model = merged(strategy, {"student": {"model": "timm:resnet18"}})
    assert with_model["student"] == {"kwargs": {"drop_rate": 0.2}, "model": "timm:resnet18"}


def test_overrides_are_parsed_as_yaml_and_merged() -> None:
    found = recipe(
        "update.lr=1e-2", "seeds=[4, 7]", "teacher.weights=null", "data.drop_last=true", "epochs=3", "epochs=4"
    )
    assert (found.update.lr, found.seeds, found.teacher.weights) == (0.01, (4, 7), None)
    assert (found.data.drop_last, found.epochs, found.data.root) == (True, 4, "digits")


def test_overrides_are_merged_before_the_one_validation() -> None:
    broken = {"method": {"name": "kd", "temprature": 2}, "update": {"name": "dot", "delta": 0.2}}
    mended = recipe("update.momentum=0.7", "method={name: dist, tau: 2}", **broken)
    assert (mended.update.momentum, mended.method[0].tau) == (0.7, 2)


def test_all_problems_of_a_recipe_come_in_one_message(tmp_path: Path) -> None:
    wrong = {"method": {"name": "kd", "temprature": 2}, "update": {"name": "dot", "delta": 0.2, "momentum": 0.9}}
    file = written(tmp_path, "my.yaml", BASE | wrong)
    with pytest.raises(UserError) as caught:
        load_recipe(file)
    assert str(caught.value) == (
        f"recipe {file}, 2 problems\n"
        "  method.temprature   unknown; did you mean temperature?\n"
        "  update.delta        0.2 with momentum 0.9 gives 1.1; momentum + |delta| must stay below 1"
    )


def test_another_update_keeps_what_all_updates_have() -> None:
    sgd = {"name": "joint", "lr": 0.1, "momentum": 0.8, "weight_decay": 1e-3, "nesterov": True}
    for override in ("update=dot", "update.name=dot", "update={name: dot, delta: 0.05}"):
        found = recipe(override, update=sgd).update
        assert (found.name, found.lr, found.momentum, found.weight_decay) == ("dot", 0.1, 0.8, 1e-3)


def test_another_method_drops_the_settings_of_the_one_before() -> None:
    found = recipe("method.name=dist", method={"name": "kd", "temperature": 9, "weight": 5})
    assert (found.method[0].method.name, found.method[0].weight) == ("dist", None)


def test_a_setting_of_the_same_method_keeps_the_others() -> None:
    found = recipe("method.weight=0.5", method={"name": "kd", "temperature": 9})
    assert (found.method[0].temperature, found.method[0].weight) == (9, 0.5)


def test_a_method_given_by_name_can_be_set_up_by_an_override() -> None:
    found = recipe("method.temperature=2", method="kd")
    assert [(config.method.name, config.temperature) for config in found.method] == [("kd", 2)]


def test_a_misspelt_setting_of_a_method_given_by_name_is_refused() -> None:
    assert "method.temprature   unknown; did you mean temperature?" in problems("method.temprature=2", method="kd")


def test_a_method_without_a_name_is_refused_and_not_taken_for_none() -> None:
    assert "method" in problems(method={"temperature": 4})


def test_an_update_given_by_name_can_be_set_up_by_an_override() -> None:
    assert recipe("update.delta=0.05", update="dot").update.delta == 0.05


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_another_model_drops_the_arguments_of_the_one_before(role: str) -> None:
    found = recipe(f"{role}.model=timm:resnet18", **{role: {"model": "cifar:resnet8", "kwargs": {"width": 0.25}}})
    assert getattr(found, role).kwargs == {}


@pytest.mark.parametrize("name", ["digits/demo", "imagenet/dist-b3/swin_large-swin_tiny", "cifar100/kd-dot/vgg13-vgg8"])
def test_a_resolved_recipe_is_read_back_to_an_equal_one(name: str) -> None:
    changes = ["method=[dist, {name: projector, alpha: 5}]", "update.lr=0.3", "epochs=70", "seeds=[0, 7]"]
    found = load_recipe(name, changes)
    as_yaml = yaml.safe_dump(found.as_dict())
    assert recipe_from(yaml.safe_load(as_yaml)) == found


@given(
    st.integers(1, 999), st.floats(1e-6, 10), st.floats(0.1, 0.9), st.sampled_from(["kd", "dkd", "dist", "projector"])
)
def test_round_trip_holds_for_any_numbers(epochs: int, lr: float, momentum: float, method: str) -> None:
    found = recipe(epochs=epochs, update={"name": "joint", "lr": lr, "momentum": momentum}, method=[method])
    assert recipe_from(yaml.safe_load(yaml.safe_dump(found.as_dict()))) == found


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a: [", "is no YAML: while parsing"),
        (b"- a\n- b", "must be a mapping of settings, got list"),
        (b"", "must be a mapping of settings, got NoneType"),
        (b"\xff\xfe\x00", "is no UTF-8 text"),
        (b"#" * 1_000_001, r"has 1,000,001 bytes; a recipe has at most 1,000,000"),
        (b"a: !!python/object/apply:os.getcwd []", r"is no YAML: tags \(!name\) are not read"),
        (b"[" * 20_000, "is no YAML"),
        (b"1: 2\n" + RECIPE.encode(), r"1 +keys should be strings"),
    ],
    ids=["broken", "list", "empty", "binary", "big", "code", "deep", "number as key"],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=text):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize("parent", ["a.yaml", "./a.yaml", "../here/a.yaml"])
def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path, parent: str) -> None:
    file = written(tmp_path, "here/a.yaml", f"extends: {parent}")
    with pytest.raises(UserError, match="extends itself"):
        load_recipe(file)


def test_recipes_that_extend_each_other_are_named_in_a_circle(tmp_path: Path) -> None:
    file = written(tmp_path, "a.yaml", "extends: b.yaml")
    written(tmp_path, "b.yaml", "extends: a.yaml")
    with pytest.raises(UserError, match=r"a\.yaml extends itself: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("digits/dmo", r"there is no recipe 'digits/dmo'; did you mean digits/demo\? `understudy recipes` lists"),
        ("zzz", "there is no recipe 'zzz'; `understudy recipes` lists them, a file ends in .yaml"),
        ("gone.yaml", "there is no recipe file gone.yaml"),
        ("../digits/demo", "there is no recipe"),
    ],
)
def test_a_recipe_that_is_not_there_gets_the_way_out(name: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_recipe(name)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("epochs", "'epochs' is no override; write key=value, such as update.lr=0.01"),
        ("=3", "'=3' is no override"),
        (
            "student.kwargs={width:0.25}",
            "the value of student.kwargs: {width:0.25} has no space after its colon; write {width: 0.25}",
        ),
        ("student.kwargs={a: [{width:0.25}]}", "has no space after its colon"),
        ("epochs=[", "the value of epochs is no YAML"),
        ("epochs=0", "epochs   input should be greater than or equal to 1, got 0"),
        ("dta.root=x", "dta   unknown; did you mean data?"),
        ("method=kdd", "method   'kdd' is unknown; did you mean kd?"),
        ("method=zzz", f"method   'zzz' is unknown; there are: {ALL_METHODS}"),
        ("update=dott", "update   'dott' is unknown; did you mean dot?"),
        ("data.augment=flip", "data.augment   'flip' is unknown; did you mean crop_flip?"),
        (
            "data.augment.pad=2",
            "data.augment   has pad but no name; set name, too: none, crop_flip, resized_crop, rotate_flip, scale_crop",
        ),
        ("method.on=[[1]]", "method.on   input should be a mapping, as in {KEY: VALUE}, got [[1]]"),
        ("seeds=[0, 0]", "seeds   [0, 0] names a seed twice"),
        ("seeds=[]", "seeds   "),
        ("teacher=null", "distilling needs a teacher; set teacher.model, or method: none to train alone"),
        ("update.momentum=1", "update.momentum   input should be less than 1, got 1"),
        ("update.name=dot", None),
        ("ema=1.5", "ema.decay   input should be less than 1, got 1.5"),
        ("ema={decy: 0.5}", "ema.decy   unknown; did you mean decay?"),
        ("select_on=best", "select_on   input should be 'last', 'val' or 'test', got 'best'"),
        ("select_on=test", "select_on: test needs the test images after every epoch; set data.val: test"),
        ("schedule.warmup_epochs=5", "schedule.warmup_epochs: a warm-up of 5 epochs leaves nothing of a run of 1"),
        (
            "update.optimizer=rmsprp",
            "update.optimizer   input should be 'sgd', 'adamw', 'rmsprop', 'rmsprop_tf', 'nadam' or 'lion', "
            "got 'rmsprp'",
        ),
        ("method=5", "method   "),
        ("update=5", "update   "),
        ("update=null", "update   "),
        ("update=[dot]", "update   "),
    ],
)
def test_an_override_that_cannot_be_is_refused_at_its_key(override: str, text: str | None) -> None:
    if text is None:
        assert recipe(override).update.name == "dot"
    else:
        assert text in problems(override)


def test_an_update_that_is_no_mapping_is_refused_in_words() -> None:
    assert "dictionary update sequence" not in problems("update=[dot]")


def test_merging_leaves_what_it_was_given_alone() -> None:
    base = {"update": {"name": "joint", "lr": 0.1}, "data": {"root": "a"}}
    merged(base, {"update": "dot", "data": {"root": "b"}})
    assert base == {"update": {"name": "joint", "lr": 0.1}, "data": {"root": "a"}}


@pytest.mark.parametrize(
    ("name", "methods", "task_weight", "update"),
    [
        ("alone", [], 1.0, "joint"),
        ("none", [], 1.0, "joint"),
        ("kd", ["kd"], 0.3, "joint"),
        ("kd+dot", ["kd"], 0.3, "dot"),
        ("dist", ["dist"], 1.0, "joint"),
        ("dkd+kd", ["dkd", "kd"], 1.0, "joint"),
        ("dist + dot", ["dist"], 1.0, "dot"),
    ],
)
def test_a_row_is_known_by_its_name(name: str, methods: list[str], task_weight: float, update: str) -> None:
    row = row_named(recipe(task_weight=0.3), name)
    assert [config.method.name for config in row.method] == methods
    assert (row.task_weight, row.update.name) == (task_weight, update)


def test_a_row_keeps_the_recipes_settings_of_its_own_method_and_the_defaults_of_any_other() -> None:
    found = recipe(method={"name": "kd", "temperature": 9, "weight": 7})
    assert [(config.temperature, config.weight) for config in row_named(found, "kd+dot").method] == [(9, 7)]
    assert [config.weight for config in row_named(found, "dist").method] == [None]


@pytest.mark.parametrize("update", ["joint", "dot"])
def test_rows_share_learning_rate_and_decay_whatever_update_they_use(update: str) -> None:
    found = recipe(update={"name": update, "lr": 0.2, "weight_decay": 0.01})
    assert {
        (row_named(found, name).update.lr, row_named(found, name).update.weight_decay) for name in ("kd", "kd+dot")
    } == {(0.2, 0.01)}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["dot"], r"row 'dot': dot needs something to distil, such as kd\+dot"),
        (["alone+dot"], r"row 'alone\+dot': dot needs something to distil"),
        (["kdd"], "row 'kdd': method 'kdd' is unknown; did you mean kd?"),
        (["kd", "alone", "kd"], "rows names 'kd' twice"),
        ([""], "row ''"),
    ],
)
def test_a_row_that_cannot_be_is_refused_by_name(rows: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        rows_of(recipe(rows=rows))


def test_a_dot_row_beside_a_momentum_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"0\.075 with momentum 0\.95 gives 1\.025; momentum \+ \|delta\| must stay below 1"
    ):
        rows_of(recipe("update.momentum=0.95", rows=["kd", "kd+dot"]))


def test_without_rows_the_recipes_own_method_and_update_are_the_one_row() -> None:
    assert [row.name for row in rows_of(recipe(update="dot", method=["dist", "kd"]))] == ["dist+kd+dot"]
    assert [row.name for row in rows_of(recipe(update="dot", method="none"))] == ["alone"]


def test_methods_may_be_joined_in_a_recipe_as_in_a_row() -> None:
    assert [config.method.name for config in recipe("method=dkd+dist").method] == ["dkd", "dist"]


def test_a_number_is_the_decay_of_the_average() -> None:
    assert recipe("ema=0.99").ema == Averaging(decay=0.99)
    assert recipe("ema={decay: 0.99, warmup: true}").ema == Averaging(decay=0.99, warmup=True)
    assert recipe().ema is None


def test_an_epoch_cannot_be_selected_on_test_images_that_are_called_val() -> None:
    as_the_papers_do = {"root": "digits", "val": "test"}
    assert recipe("select_on=test", data=as_the_papers_do).select_on == "test"
    assert "data.val is test; write select_on: test" in problems("select_on=val", data=as_the_papers_do)


def test_a_dot_row_keeps_the_optimizer_of_the_joint_row_beside_it() -> None:
    for settings in ({"optimizer": "rmsprop_tf", "eps": 1e-3}, {"optimizer": "nesterov"}):
        joint, dot = (row.update for row in rows_of(recipe(update=settings, rows=["kd", "kd+dot"])))
        assert (dot.name, dot.optimizer, dot.nesterov, dot.eps) == ("dot", joint.optimizer, joint.nesterov, joint.eps)


def test_another_number_of_images_a_step_than_the_rate_was_chosen_for_is_told() -> None:
    found = recipe("lr_is_for_images=256", "update.lr=0.1", "data.batch_size=64")
    note = lr_note(found)
    assert note is not None
    assert "update.lr 0.1 was chosen for 256 images a step, this run takes 64; in proportion it would be 0.025" in note
    assert lr_note(found, images_per_step=256) is None
    assert lr_note(recipe("data.batch_size=64")) is None
