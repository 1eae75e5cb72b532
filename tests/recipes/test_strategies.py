"""The shipped strategies against the papers: rates at given epochs, DIST's table 1, and what only the code says."""

import pytest

from helpers.strategies import augmentation, under
from understudy.optim import lr_factor
from understudy.recipes.layers import merged
from understudy.recipes.loading import read_recipe, read_recipes, recipe_names, strategy_names
from understudy.recipes.schema import Recipe, recipe_from
from understudy.utils.errors import UserError


def rates(recipe: Recipe, *epochs: float) -> list[float]:
    lr = recipe.update.lr
    return [lr * lr_factor(recipe.schedule, epoch, recipe.epochs, lr=lr) for epoch in epochs]


def test_every_strategy_can_be_laid_on_any_recipe() -> None:
    for name in strategy_names():
        found = under(name.removeprefix("strategies/"))
        assert found.lr_is_for_images == found.data.batch_size, name


@pytest.mark.parametrize(
    ("strategy", "by_epoch"),
    [
        ("crd-cifar100", {0: 0.05, 149.99: 0.05, 150: 0.005, 180: 0.0005, 210: 0.00005, 239.9: 0.00005}),
        ("dist-a1", {0: 0.05, 149.99: 0.05, 150: 0.005, 180: 0.0005, 210: 0.00005}),
        ("dot-cifar100", {0: 0.05, 150: 0.005, 180: 0.0005, 210: 0.00005}),
        ("dot-tiny-imagenet", {0: 0.2, 59.99: 0.2, 60: 0.02, 120: 0.002, 160: 0.0002, 199: 0.0002}),
        ("dot-imagenet", {0: 0.2, 29.99: 0.2, 30: 0.02, 60: 0.002, 90: 0.0002}),
        ("crd-imagenet", {0: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001}),
        ("dist-b1", {0: 0.1, 29.99: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001}),
        # 0.97^1, ^2, ^4 and, at the end, ^186 (446.9 epochs after the warm-up).
        ("dist-b2", {0: 1e-6, 1.5: 0.0240005, 3: 0.048, 5.41: 0.04656, 7.81: 0.0451632, 12.61: 0.04249405488,
                     449.9: 1.662585e-4}),
        ("dist-b3", {0: 5e-7, 10: 2.5025e-4, 20: 4.945915e-4, 150: 2.525e-4, 300: 5e-6}),
        ("deit-original", {0: 1e-6, 5: 9.993219e-4, 150: 5.05e-4, 300: 1e-5}),
        ("deit", {0: 5e-7, 10: 1.2525e-4, 20: 2.473231e-4, 150: 1.275e-4, 300: 5e-6}),
        ("projector-cifar100-rotations", {0: 0.05, 150: 0.005, 180: 0.0005, 210: 0.00005}),
        ("projector-cifar100-randaugment", {0: 0.05, 150: 0.005, 180: 0.0005, 210: 0.00005}),
    ],
)  # fmt: skip
def test_the_learning_rate_of_a_strategy_at_given_epochs(strategy: str, by_epoch: dict[float, float]) -> None:
    assert rates(under(strategy), *by_epoch) == pytest.approx(list(by_epoch.values()), rel=1e-5)


# Epochs, images a step, rate, optimizer, weight decay, label smoothing, decay of the average: DIST, table 1.
DIST_TABLE_1 = {
    "dist-a1": (240, 64, 0.05, "sgd", 5e-4, 0.0, None),
    "dist-b1": (100, 256, 0.1, "sgd", 1e-4, 0.0, None),
    "dist-b2": (450, 768, 0.048, "rmsprop_tf", 1e-5, 0.1, 0.9999),
    "dist-b3": (300, 1024, 5e-4, "adamw", 5e-2, 0.1, None),
}


@pytest.mark.parametrize("strategy", DIST_TABLE_1)
def test_dists_strategies_are_those_of_its_table(strategy: str) -> None:
    found = under(strategy)
    decay = None if found.ema is None else found.ema.decay
    update = found.update
    row = (found.epochs, found.data.batch_size, update.lr, update.optimizer, update.weight_decay)
    assert (*row, found.label_smoothing, decay) == DIST_TABLE_1[strategy]


def test_what_dists_table_leaves_silent_is_as_in_its_code() -> None:
    b1, b2, b3 = (under(f"dist-b{number}") for number in (1, 2, 3))
    assert (b1.update.model_dump()["nesterov"], b1.update.decay_norm_and_bias) == (True, False)
    assert (b2.update.eps, b2.update.momentum, b2.update.alpha, b2.update.decay_norm_and_bias) == (
        1e-3,
        0.9,
        0.9,
        False,
    )
    assert (b3.update.clip_norm, b3.update.decay_norm_and_bias) == (5, False)


def test_augmentations_grow_from_b1_to_b3_as_in_dists_table() -> None:
    b1, b2, b3 = (under(f"dist-b{number}").data for number in (1, 2, 3))
    assert augmentation(b1) == {"name": "resized_crop", "scale": (0.08, 1.0), "ratio": (0.75, 4 / 3), "flip": True}
    assert augmentation(b2) == augmentation(b1) | {"rand_augment": "rand-m9-mstd0.5", "erasing": 0.2}
    assert {"rand_augment", "erasing", "color_jitter"} <= set(augmentation(b3))
    assert (b1.mix, b2.mix) == (None, None)
    assert b3.mix is not None
    assert (b3.mix.mixup, b3.mix.cutmix, b3.mix.switch_prob) == (0.8, 1.0, 0.5)


def test_deit_is_trained_as_the_projector_paper_trains_it() -> None:
    found = under("deit")
    update, parts = found.update, augmentation(found.data)
    assert (found.epochs, found.data.batch_size, update.optimizer, update.weight_decay) == (300, 256, "adamw", 0.05)
    assert (update.momentum, update.beta2, update.eps, update.clip_norm) == (0.9, 0.999, 1e-8, 15)
    assert update.lr == pytest.approx(5e-4 * 256 / 512)
    assert (parts["rand_augment"], parts["erasing"], parts["interpolation"]) == (
        "rand-m9-mstd0.5-inc1", 0.25, "bicubic",
    )  # fmt: skip
    assert found.data.mix is not None
    assert (found.data.mix.mixup, found.data.mix.cutmix, found.label_smoothing) == (0.8, 1.0, 0.1)


def test_deit_original_is_trained_as_deits_own_code_trains_it() -> None:
    found = under("deit-original")
    update, parts, mix = found.update, augmentation(found.data), found.data.mix
    assert (found.epochs, found.data.batch_size, found.data.repeats) == (300, 1024, 3)
    assert (update.optimizer, update.weight_decay, update.clip_norm) == ("adamw", 0.05, None)
    assert update.lr == pytest.approx(5e-4 * 1024 / 512)
    assert (parts["rand_augment"], parts["erasing"], parts.get("erase_mode", "pixel"), parts["interpolation"]) == (
        "rand-m9-mstd0.5-inc1", 0.25, "pixel", "bicubic",
    )  # fmt: skip
    assert mix is not None
    assert (mix.mixup, mix.cutmix, mix.switch_prob, mix.prob, mix.mode) == (0.8, 1.0, 0.5, 1.0, "batch")
    assert (found.label_smoothing, found.ema and found.ema.decay) == (0.1, 0.99996)


# --- Laid on a recipe: what belongs to its pair or method stays ---------------------------------------------------


def apply_to(name: str, strategy: str) -> Recipe:
    return recipe_from(read_recipes([name, f"strategies/{strategy}"]))


def without_published(recipe: Recipe) -> dict[str, object]:
    return recipe.as_dict() | {"published": None}


@pytest.mark.parametrize("method", ["kd", "crd", "dkd"])
def test_dots_strategy_on_a_recipe_is_the_recipe_under_dot(method: str) -> None:
    pairs = [name.rpartition("/")[2] for name in recipe_names() if f"/cifar100/{method}-dot/" in name]
    assert len(pairs) == (13 if method == "kd" else 3)
    for pair in pairs:
        found, wanted = apply_to(f"cifar100/{method}/{pair}", "dot-cifar100"), f"cifar100/{method}-dot/{pair}"
        assert without_published(found) == without_published(recipe_from(read_recipes([wanted]))), pair
        assert found.published == ()


@pytest.mark.parametrize(
    "strategy",
    ["crd-cifar100", "dot-cifar100", "dist-a1", "projector-cifar100-rotations", "projector-cifar100-randaugment"],
)
@pytest.mark.parametrize("student", ["resnet50-mobilenetv2", "wrn_40_2-shufflenetv1", "resnet32x4-shufflenetv2"])
def test_slow_starters_keep_their_rate_under_every_strategy_of_their_data(strategy: str, student: str) -> None:
    assert apply_to(f"cifar100/kd/{student}", strategy).update.lr == 0.01
    assert apply_to("cifar100/kd/vgg13-vgg8", strategy).update.lr == 0.05
    typed = recipe_from(read_recipes([f"cifar100/kd/{student}", f"strategies/{strategy}"]), ["update.lr=0.3"])
    assert typed.update.lr == 0.3


def test_a_strategy_of_another_optimizer_brings_its_own_rate_for_every_student() -> None:
    assert apply_to("cifar100/kd/resnet50-mobilenetv2", "dist-b2").update.lr == 0.048


def test_a_rule_waits_until_student_and_method_are_known() -> None:
    strategy = read_recipe("strategies/dot-cifar100")
    for first in ("student", "method"):
        layers = {"student": {"student": {"model": "cifar:mobilenetv2"}}, "method": {"method": {"name": "crd"}}}
        below = merged(merged(strategy, {"data": {"root": "x"}}), layers.pop(first))
        found = recipe_from(merged(below, {**layers.popitem()[1], "teacher": {"model": "cifar:vgg13"}}))
        assert (found.update.lr, found.update.model_dump()["delta"]) == (0.01, 0.05)


@pytest.mark.parametrize("rules", [5, {"student": "x"}, [5], [{"update": {"lr": 1}}]])
def test_a_rule_for_nobody_is_refused_in_words(rules: object) -> None:
    with pytest.raises(UserError, match="where: is a list of rules such as"):
        merged({"where": rules}, {})
