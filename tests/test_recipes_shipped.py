"""The shipped recipes against the papers' own tables, which are transcribed here and not read from the recipes."""

from functools import cache

import pytest

from strategy_helpers import augmentation, under
from understudy.models.names import known_names
from understudy.recipe import Recipe, load_recipe
from understudy.recipe_files import recipe_names, strategy_names
from understudy.rows import rows_of


@cache
def shipped(name: str) -> Recipe:
    return load_recipe(name)


def test_every_shipped_recipe_resolves_into_rows_of_models_that_there_are() -> None:
    known = {source: set(known_names(source)) for source in ("timm", "torchvision", "cifar")}
    unknown = set()
    for name in recipe_names():
        found = shipped(name)
        assert len(rows_of(found)) == (len(found.rows) or 1), name
        for model in [found.student.model, *([found.teacher.model] if found.teacher else [])]:
            source, _, rest = model.partition(":")
            if rest.partition(".")[0] not in known[source]:
                unknown.add(model)
    assert not unknown


def test_what_is_only_extended_is_no_recipe_and_a_strategy_is_none_either() -> None:
    names = recipe_names()
    assert not [name for name in names if name.endswith("/base") or "/pairs/" in name or "strategies" in name]
    assert "strategies/dist-b2" in strategy_names()


def test_tiny_imagenet_images_are_turned_and_mirrored_and_neither_cropped_nor_resized() -> None:
    data = shipped("tiny-imagenet/kd/resnet18-mobilenetv2").data
    assert augmentation(data) == {"name": "rotate_flip", "degrees": 20, "flip": True}
    assert data.image_size is None


# --- DOT: tables 3, 6 and 7 -------------------------------------------------------------------------------------------

# Teacher, student, KD, DOT: tables 6 and 7, with mdistiller's names.
DOT_TABLES_6_AND_7 = """
    wrn_40_2 wrn_16_2 74.92 75.85
    wrn_40_2 wrn_40_1 73.54 74.06
    resnet56 resnet20 70.66 71.07
    resnet110 resnet20 70.67 71.22
    resnet110 resnet32 73.08 73.72
    resnet32x4 resnet8x4 73.33 75.12
    vgg13 vgg8 72.98 73.77
    vgg13 mobilenetv2 67.37 68.21
    resnet50 mobilenetv2 67.35 68.36
    resnet50 vgg8 73.81 74.38
    resnet32x4 shufflenetv1 74.07 74.58
    resnet32x4 shufflenetv2 74.45 75.55
    wrn_40_2 shufflenetv1 74.83 75.92
"""
SLOW_STARTERS = ("mobilenetv2", "shufflenetv1", "shufflenetv2")  # Tian et al. 2020: a rate of 0.01


@pytest.mark.parametrize("row", [line.split() for line in DOT_TABLES_6_AND_7.split("\n") if line.strip()])
def test_dots_pairs_on_cifar100(row: list[str]) -> None:
    teacher, student, kd, dot = row
    joint, apart = (shipped(f"cifar100/{method}/{teacher}-{student}") for method in ("kd", "kd-dot"))
    for found in (joint, apart):
        assert found.teacher is not None
        assert (found.teacher.model, found.student.model) == (f"cifar:{teacher}", f"cifar:{student}")
        assert found.update.lr == (0.01 if student in SLOW_STARTERS else 0.05)
        assert (found.data.batch_size, found.update.weight_decay, found.update.momentum, found.epochs) == (
            64, 5e-4, 0.9, 240,
        )  # fmt: skip
        assert found.data.val == "test"
        assert (found.method[0].method.name, found.method[0].model_dump()["temperature"]) == ("kd", 4)
        assert rows_of(found)[0].task_weight == 0.1
    assert (joint.update.name, apart.update.name, apart.update.model_dump()["delta"]) == ("joint", "dot", 0.075)
    assert (top1(joint), top1(apart)) == (float(kd), float(dot))


def top1(recipe: Recipe) -> float:
    assert recipe.published
    return recipe.published[0].top1


# The paper's table 3, one line for a pair: student alone, then the columns in order.
DOT_TABLE_3 = {
    "cifar100": (
        "kd at crd dkd kd-dot crd-dot dkd-dot",
        {
            "resnet32x4-resnet8x4": "72.50 73.33 73.44 75.51 76.32 75.12 75.99 76.64",
            "vgg13-vgg8": "70.36 72.98 71.43 73.94 74.68 73.77 74.21 74.86",
            "resnet32x4-shufflenetv2": "71.82 74.45 72.73 75.65 77.07 75.55 76.64 77.41",
        },
        {"kd-dot": 0.075, "crd-dot": 0.05, "dkd-dot": 0.05},
    ),
    "tiny-imagenet": (
        "kd at crd dkd kd-dot crd-dot dkd-dot",
        {
            "resnet18-mobilenetv2": "56.28 58.35 57.18 61.18 62.04 64.01 64.12 64.60",
            "resnet18-shufflenetv2": "60.78 62.26 62.45 63.97 65.06 65.75 65.21 66.21",
        },
        {"kd-dot": 0.075, "crd-dot": 0.075, "dkd-dot": 0.075},
    ),
    "imagenet": (
        "kd at ofd crd dkd kd-dot dkd-dot",
        {
            "resnet34-resnet18": "69.75 71.03 70.69 70.81 71.17 71.70 71.72 72.03",
            "resnet50-mobilenetv1": "68.87 70.50 69.56 71.25 71.37 72.05 73.09 73.33",
        },
        {"kd-dot": 0.09, "dkd-dot": 0.09},
    ),
}


@pytest.mark.parametrize("data", DOT_TABLE_3)
def test_dots_main_table_row_by_row(data: str) -> None:
    columns, pairs, deltas = DOT_TABLE_3[data]
    for pair, line in pairs.items():
        alone, *values = map(float, line.split())
        assert top1(shipped(f"{data}/alone/{pair.partition('-')[2]}")) == alone
        for column, value in zip(columns.split(), values, strict=True):
            found = shipped(f"{data}/{column}/{pair}")
            assert top1(found) == value, (column, pair)
            assert found.update.model_dump().get("delta") == deltas.get(column), (column, pair)
            assert found.method[0].method.name == column.partition("-")[0]


def test_dot_on_imagenet_weighs_kd_and_takes_its_steps_as_mdistiller() -> None:
    for pair in ("resnet34-resnet18", "resnet50-mobilenetv1"):
        found = shipped(f"imagenet/kd-dot/{pair}")
        kd = found.method[0]
        assert (kd.model_dump()["temperature"], kd.weight, found.task_weight) == (1, 0.5, 0.5)
        assert (found.update.lr, found.data.batch_size, found.update.weight_decay) == (0.2, 512, 1e-4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cifar100/dkd/resnet32x4-resnet8x4", {"beta": 8, "temperature": 4, "alpha": 1}),
        ("cifar100/dkd/resnet32x4-shufflenetv2", {"beta": 8}),
        ("cifar100/dkd/resnet50-mobilenetv2", {"beta": 8}),
        ("cifar100/dkd/vgg13-vgg8", {"beta": 6}),
        ("cifar100/dkd/vgg13-mobilenetv2", {"beta": 6}),
        ("cifar100/dkd/wrn_40_2-wrn_16_2", {"beta": 6}),
        ("cifar100/dkd/resnet56-resnet20", {"beta": 2}),
        ("cifar100/dkd/resnet110-resnet32", {"beta": 2}),
        ("imagenet/dkd/resnet34-resnet18", {"beta": 0.5, "temperature": 1, "warmup_epochs": 1}),
        ("imagenet/dkd-dot/resnet50-mobilenetv1", {"beta": 2, "temperature": 1, "warmup_epochs": 1}),
        ("imagenet/ofd/resnet50-mobilenetv1", {"weight": 1e-4}),
        ("cifar100/reviewkd/resnet32x4-resnet8x4", {"weight": 5}),
        ("imagenet/reviewkd/resnet50-mobilenetv1", {"weight": 8, "warmup_epochs": 1}),
        ("imagenet/reviewkd/resnet34-resnet18", {"weight": 1, "warmup_epochs": 1}),
        ("cifar100/dist/resnet56-resnet20", {"tau": 4}),
        ("imagenet/dist/resnet34-resnet18", {"tau": 1}),
        ("cifar100/projector/vgg13-mobilenetv2", {"projector": "mlp", "hidden_channels": 1024, "kl_weight": 0}),
        ("imagenet/projector/resnet34-resnet18", {"projector": "linear", "distance_weight": 2, "kl_weight": 1}),
        ("imagenet/projector-deit/regnety_160-deit_tiny", {"distance": "correlation", "distance_weight": 1}),
    ],
)
def test_a_method_has_the_pairs_own_weights(name: str, settings: dict[str, object]) -> None:
    found = shipped(name).method[0].model_dump()
    assert {key: found[key] for key in settings} == settings


# --- DIST -------------------------------------------------------------------------------------------------------------

DIST_ON_CIFAR = {
    "wrn_40_2-wrn_40_1": 74.43, "resnet56-resnet20": 71.75, "resnet32x4-resnet8x4": 76.31,
    "resnet50-mobilenetv2": 68.66, "resnet32x4-shufflenetv1": 76.34, "resnet32x4-shufflenetv2": 77.35,
}  # fmt: skip
# KD at T = 4, DIST: tables 2 and 3.
DIST_LARGER_TEACHERS = {
    "resnet34-resnet18": (71.21, 72.07), "resnet50-resnet18": (71.35, 72.12), "resnet101-resnet18": (71.09, 72.08),
    "resnet152-resnet18": (71.12, 72.24), "resnet50-resnet34": (74.73, 75.06), "resnet101-resnet34": (74.89, 75.36),
    "resnet152-resnet34": (74.87, 75.42),
}  # fmt: skip
# Student alone, KD, RKD, SRRL, DIST: table 4.
DIST_TABLE_4 = {
    "resnet50_a1-resnet18": ("b2", "73.4 72.6 72.9 71.2 74.5"),
    "resnet50_a1-resnet34": ("b2", "76.8 77.2 76.6 76.7 77.8"),
    "resnet50_a1-mobilenetv2": ("b2", "73.6 71.7 73.1 69.2 74.4"),
    "resnet50_a1-efficientnet_b0": ("b2", "78.0 77.4 77.5 77.3 78.6"),
    "swin_large-resnet50": ("b2", "78.5 80.0 78.9 78.6 80.2"),
    "swin_large-swin_tiny": ("b3", "81.3 81.5 81.2 81.5 82.3"),
}


def test_dist_on_cifar100_is_its_released_configuration() -> None:
    for pair, value in DIST_ON_CIFAR.items():
        found = shipped(f"cifar100/dist/{pair}")
        assert (top1(found), found.data.drop_last) == (value, True)
        assert found.update.lr == (0.01 if pair.partition("-")[2] in SLOW_STARTERS else 0.05)
        assert rows_of(found)[0].task_weight == 1


def test_dist_with_larger_teachers_and_its_kd() -> None:
    assert top1(shipped("imagenet/dist/resnet50-mobilenetv1")) == 73.24
    for pair, (kd, dist) in DIST_LARGER_TEACHERS.items():
        rival, own = shipped(f"imagenet/kd-b1/{pair}"), shipped(f"imagenet/dist/{pair}")
        assert (top1(rival), top1(own)) == (kd, dist)
        assert (rival.method[0].model_dump()["temperature"], rival.method[0].weight, rival.task_weight) == (4, 1, 0.9)
        for found in (rival, own):
            assert (found.update.lr, found.data.batch_size, found.update.decay_norm_and_bias) == (0.1, 256, False)


@pytest.mark.parametrize("pair", DIST_TABLE_4)
def test_dists_strong_strategies_row_by_row(pair: str) -> None:
    strategy, line = DIST_TABLE_4[pair]
    names = [f"alone-{strategy}/{pair.partition('-')[2]}"]
    names += [f"{method}-{strategy}/{pair}" for method in ("kd", "rkd", "srrl", "dist")]
    for name, value in zip(names, map(float, line.split()), strict=True):
        found = shipped(f"imagenet/{name}")
        assert top1(found) == value
        own = under(f"dist-{strategy}")
        assert (found.update, found.schedule, found.ema, found.epochs) == (
            own.update,
            own.schedule,
            own.ema,
            own.epochs,
        )


# --- The projector paper ----------------------------------------------------------------------------------------------

PROJECTOR_PAIRS = (
    "wrn_40_2-wrn_16_2 wrn_40_2-wrn_40_1 resnet56-resnet20 resnet32x4-resnet8x4 vgg13-mobilenetv2 "
    "resnet50-mobilenetv2 resnet50-vgg8 resnet32x4-shufflenetv1 resnet32x4-shufflenetv2 wrn_40_2-shufflenetv1"
)
PROJECTOR_TABLE_4 = {
    "kd": "74.92 73.54 70.66 73.33 67.37 67.35 73.81 74.07 74.45 74.83",
    "fitnet": "75.75 74.12 71.60 74.31 68.58 68.54 73.84 74.82 75.11 75.55",
    "at": "75.28 74.45 71.78 74.26 69.34 69.28 73.45 74.76 75.30 75.61",
    "crd": "76.04 75.52 71.68 75.90 68.49 70.32 74.42 75.46 75.72 75.96",
    "sskd": "76.04 76.13 71.49 76.20 71.53 72.57 75.76 78.44 78.61 77.40",
    "projector": "76.14 75.42 71.75 76.44 71.47 72.81 76.20 77.32 79.06 79.22",
    "kd-randaugment": "75.94 75.32 71.10 75.84 70.79 71.29 75.75 77.80 78.43 78.00",
    "crd-randaugment": "77.27 76.15 72.21 77.69 71.65 72.03 75.73 78.57 79.01 78.54",
    "dkd-randaugment": "74.96 75.89 70.95 77.52 72.01 73.30 76.88 79.71 80.08 77.86",
    "projector-randaugment": "77.61 76.04 72.25 78.37 72.82 73.51 77.08 78.99 79.86 78.79",
}
SSKD_TEACHERS = {"wrn_40_2": 76.46, "resnet56": 73.44, "resnet32x4": 79.63, "vgg13": 75.38, "resnet50": 79.10}


@pytest.mark.parametrize("row", PROJECTOR_TABLE_4)
def test_the_projector_papers_main_table_row_by_row(row: str) -> None:
    for pair, value in zip(PROJECTOR_PAIRS.split(), map(float, PROJECTOR_TABLE_4[row].split()), strict=True):
        found = shipped(f"cifar100/{row}/{pair}")
        if row in ("kd", "at", "crd") and found.published and found.published[0].source.startswith("DOT"):
            continue  # DOT's tables have the same KD, and numbers of their own for two pairs
        assert top1(found) == value, pair
        assert found.teacher is not None
        assert found.teacher.expected_top1 == SSKD_TEACHERS[pair.partition("-")[0]]
        assert (found.method[0].method.name, found.epochs) == (row.partition("-")[0], 240)


def test_the_projector_papers_two_settings_differ_in_what_stands_beside_an_image() -> None:
    rotations, pairs = (shipped(f"cifar100/{row}/vgg13-mobilenetv2") for row in ("projector", "projector-randaugment"))
    assert (rotations.data.copies, pairs.data.copies) == ("rotations", "pairs")
    assert augmentation(pairs.data) == augmentation(rotations.data) | {"rand_augment": "rand-m9-mstd0.5"}
    assert rotations.update == pairs.update
    assert rotations.update.lr == 0.01


def test_the_projector_paper_on_imagenet() -> None:
    assert top1(shipped("imagenet/projector/resnet34-resnet18")) == pytest.approx(100 - 28.37)
    assert top1(shipped("imagenet/cc/resnet34-resnet18")) == pytest.approx(100 - 30.04)
    assert top1(shipped("imagenet/projector-deit/regnety_160-deit_tiny")) == 77.2
    assert top1(shipped("imagenet/projector-deit/regnety_160-deit_small")) == 82.1
