"""The shipped recipes' settings against the papers and their code; their numbers are held in tests/recipes/."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import yolo_package
from helpers.strategies import augmentation, under
from understudy.core.taps import check_taps
from understudy.methods.combination import taps_of, weighted
from understudy.models import create_model
from understudy.models.detectors.blueprints import FAMILIES
from understudy.models.names import known_names
from understudy.models.segmentation.segmenter import HEADS
from understudy.recipes.comparison import rows_of
from understudy.recipes.loading import recipe_names, strategy_names
from understudy.recipes.schema import Recipe, load_recipe
from understudy.utils.errors import UserError


@cache
def shipped(name: str) -> Recipe:
    return load_recipe(name)


def test_every_shipped_recipe_resolves_into_rows_of_models_that_there_are() -> None:
    sources = ("timm", "torchvision", "cifar", "understudy", *HEADS, *FAMILIES)
    known = {source: set(known_names(source)) for source in sources}
    unknown = set()
    for name in recipe_names():
        found = shipped(name)
        assert len(rows_of(found)) == (len(found.rows) or 1), name
        for model in [found.student.model, *([found.teacher.model] if found.teacher else [])]:
            source, _, rest = model.partition(":")
            if source not in ("hf", "ultralytics") and rest.partition(".")[0] not in known[source]:
                unknown.add(model)
    assert not unknown


@cache
def unbuilt(model: str, kwargs: str) -> nn.Module:
    """A network without memory for its weights; of the hub's, its kind as nothing but a configuration has it."""
    settings = json.loads(kwargs) | ({"model_type": "segformer"} if model.startswith("hf:nvidia/mit-") else {})
    if model.startswith("hf:PekingU/rtdetr"):
        settings |= {"model_type": "rt_detr", "architectures": ["RTDetrForObjectDetection"]}
    if model.startswith("ultralytics:"):
        return create_model(model, num_classes=10, weights="none", kwargs=settings).module
    with torch.device("meta"):
        return create_model(model, num_classes=10, weights="none", kwargs=settings).module


def test_every_shipped_recipe_finds_what_its_methods_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    yolo_package.installed(monkeypatch)
    refused = {}
    for name in recipe_names():
        found = shipped(name)
        for method in (method for row in rows_of(found) for method in row.method):
            taps = taps_of(method)
            for side, wanted in ((found.student, taps.student), (found.teacher, taps.teacher)):
                if side is not None and wanted:
                    try:
                        check_taps(unbuilt(side.model, json.dumps(side.kwargs)), wanted, name=side.model)
                    except UserError as error:
                        refused[name] = str(error)
    assert not refused


def test_what_is_only_extended_is_no_recipe_and_a_strategy_is_none_either() -> None:
    names = recipe_names()
    assert not [name for name in names if name.endswith("/base") or "/pairs/" in name or "strategies" in name]
    assert "strategies/dist-b2" in strategy_names()


def test_tiny_imagenet_images_are_turned_and_mirrored_and_neither_cropped_nor_resized() -> None:
    data = shipped("tiny-imagenet/kd/resnet18-mobilenetv2").data
    assert augmentation(data) == {"name": "rotate_flip", "degrees": 20, "flip": True}
    assert data.image_size is None


# --- Protocols: DOT, section 5.1 and A.6, with mdistiller's files -----------------------------------------------------

SLOW_STARTERS = ("mobilenetv2", "shufflenetv1", "shufflenetv2")  # on CIFAR-100 from a rate of 0.01
DELTAS = {"kd": 0.075, "crd": 0.05, "dkd": 0.05}
# Runs of their own length or rate: the first of two, PAD's second, and those of MLLD, OFA and Streamlined KD.
OWN_PROTOCOL = ("ab-start", "fsp-start", "ft-paraphraser", "sskd-head", "pad", "mlld", "ofa", "skd_streamlined")


def names_of(data: str, *, without: Sequence[str] = ()) -> list[str]:
    names = [name.removeprefix("classification/") for name in recipe_names()]
    of_data = [name for name in names if name.startswith(f"{data}/") and name.split("/")[1] not in without]
    return [name for name in of_data if not name.split("/")[1].startswith("deit-")]  # small-vit's, of no paper's table


def protocol(found: Recipe) -> tuple[object, ...]:
    update, schedule = found.update, found.schedule
    assert (update.optimizer, update.momentum, schedule.gamma) == ("sgd", 0.9, 0.1)
    return (found.data.batch_size, found.epochs, schedule.milestones, update.weight_decay)


def delta_of(found: Recipe) -> object:
    return found.update.model_dump().get("delta")


def test_all_of_cifar100_is_trained_by_one_protocol_and_slow_starters_at_a_fifth_of_the_rate() -> None:
    for name in names_of("cifar100", without=OWN_PROTOCOL):
        found = shipped(name)
        assert protocol(found) == (64, 240, (150, 180, 210), 5e-4), name
        student = found.student.model.removeprefix("cifar:")
        assert found.update.lr == (0.01 if student in SLOW_STARTERS else 0.05), name
        assert found.data.val == "test", name


def test_streamlined_kd_is_trained_at_its_papers_rate() -> None:
    found = shipped("cifar100/skd_streamlined/resnet32x4-resnet8x4")
    assert protocol(found) == (64, 240, (150, 180, 210), 4e-5)
    assert found.update.lr == 0.1


def test_all_of_tiny_imagenet_is_trained_by_one_protocol() -> None:
    for name in names_of("tiny-imagenet"):
        found = shipped(name)
        assert protocol(found) == (256, 200, (60, 120, 160), 5e-4), name
        assert found.update.lr == 0.2, name  # 0.05 for 64 images


def test_all_of_dots_imagenet_is_trained_by_one_protocol() -> None:
    for name in names_of("imagenet"):
        found = shipped(name)
        if found.published and found.published[0].source.startswith("DOT, ") and "/teachers/" not in name:
            assert protocol(found) == (512, 100, (30, 60, 90), 1e-4), name
            assert found.update.lr == 0.2, name


def test_delta_is_that_of_the_method_and_the_data() -> None:
    for data in ("cifar100", "tiny-imagenet", "imagenet"):
        for name in names_of(data):
            folder = name.split("/")[1]
            expected = {"tiny-imagenet": 0.075, "imagenet": 0.09}.get(data, DELTAS.get(folder.removesuffix("-dot")))
            assert delta_of(shipped(name)) == (expected if folder.endswith("-dot") else None), name


def test_a_pair_is_of_the_networks_that_its_name_says_and_a_row_of_the_method_that_its_folder_says() -> None:
    for name in names_of("cifar100", without=("ofa",)):  # whose networks are of ImageNet
        found = shipped(name)
        _, folder, pair = name.split("/")
        teacher, _, student = pair.rpartition("-")
        assert found.student.model == f"cifar:{student}", name
        assert (found.teacher.model if found.teacher else "cifar:") == f"cifar:{teacher}", name
        methods = [config.method.name for config in found.method]
        assert methods == ([] if folder in ("alone", "teachers", "ab", "fsp") else [folder.split("-")[0]]), name


def test_deepkd_moves_the_task_as_its_code_does_and_masks_nothing() -> None:
    for name in names_of("cifar100"):
        if name.split("/")[1].endswith("-deepkd"):
            update, settings = shipped(name).update.model_dump(), shipped(name).method[0].model_dump()
            assert update["delta_task"] == update["delta_target"] < 0, name
            assert settings.get("mask", "none") == "none", name


def test_kd_on_cifar100_is_a_tenth_of_the_task_and_nine_of_the_teacher_at_temperature_4() -> None:
    for name in names_of("cifar100"):
        if name.split("/")[1] in ("kd", "kd-dot", "kd-randaugment"):
            found = shipped(name)
            assert found.method[0].model_dump()["temperature"] == 4
            (row,) = rows_of(found)
            assert (row.task_weight, weighted(found.method[0])[0]) == (0.1, 0.9)


def test_dot_on_imagenet_weighs_kd_and_takes_its_steps_as_mdistiller() -> None:
    for pair in ("resnet34-resnet18", "resnet50-mobilenetv1"):
        found = shipped(f"imagenet/kd-dot/{pair}")
        kd = found.method[0]
        assert (kd.model_dump()["temperature"], kd.weight, found.task_weight) == (1, 0.5, 0.5)
        assert (found.update.lr, found.data.batch_size, found.update.weight_decay) == (0.2, 512, 1e-4)


# mdistiller's beta of every pair that it has a file for; its default is 8.
DKD_BETAS = {
    8: "resnet32x4-resnet8x4 resnet32x4-shufflenetv1 resnet32x4-shufflenetv2 wrn_40_2-shufflenetv1 "
    "resnet50-mobilenetv2",
    6: "vgg13-vgg8 vgg13-mobilenetv2 wrn_40_2-wrn_16_2 wrn_40_2-wrn_40_1",
    2: "resnet56-resnet20 resnet110-resnet32",
}


def test_dkd_on_cifar100_has_the_pairs_own_beta() -> None:
    betas = {pair: beta for beta, pairs in DKD_BETAS.items() for pair in pairs.split()}
    for name in names_of("cifar100"):
        _, folder, pair = name.split("/")
        if folder in ("dkd", "dkd-dot"):
            settings = shipped(name).method[0].model_dump()
            assert (settings["alpha"], settings["beta"], settings["temperature"]) == (1, betas[pair], 4), name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("imagenet/dkd/resnet34-resnet18", {"beta": 0.5, "temperature": 1, "warmup_epochs": 1}),
        ("imagenet/dkd-dot/resnet50-mobilenetv1", {"beta": 2, "temperature": 1, "warmup_epochs": 1}),
        ("imagenet/ofd/resnet50-mobilenetv1", {"weight": 1e-4}),
        ("cifar100/reviewkd/resnet32x4-resnet8x4", {"weight": 5}),
        ("imagenet/reviewkd/resnet50-mobilenetv1", {"weight": 8, "warmup_epochs": 1}),
        ("imagenet/reviewkd/resnet34-resnet18", {"weight": 1, "warmup_epochs": 1}),
        ("cifar100/cat_kd/resnet32x4-resnet8x4", {"weight": 15, "normalise": False, "resolution": 2}),
        ("cifar100/cat_kd/resnet32x4-shufflenetv1", {"weight": 600, "normalise": True, "resolution": 4}),
        ("cifar100/dist/resnet56-resnet20", {"tau": 4}),
        ("cifar100/ttm/vgg13-vgg8", {"gamma": 0.1, "weight": 45}),
        ("cifar100/wttm/vgg13-vgg8", {"gamma": 0.2, "weight": 4}),
        ("cifar100/rld/vgg13-vgg8", {"alpha": 1, "beta": 8, "temperature": 4, "alpha_temperature": 4}),
        ("cifar100/sdd/resnet32x4-shufflenetv1", {"base": "dkd", "beta": 8, "scales": (1, 2, 4)}),
        ("cifar100/sdd/vgg13-vgg8", {"base": "dkd", "beta": 6, "scales": (1, 2)}),
        ("cifar100/sdd-kd/resnet32x4-resnet8x4", {"base": "kd", "temperature": 4, "scales": (1, 2)}),
        ("cifar100/skd_streamlined/resnet32x4-resnet8x4", {"form": "released", "temperature": 4, "tikhonov": 0.1}),
        ("imagenet/dist/resnet34-resnet18", {"tau": 1}),
        ("cifar100/projector/vgg13-mobilenetv2", {"projector": "mlp", "hidden_channels": 1024, "kl_weight": 0}),
        ("imagenet/projector/resnet34-resnet18", {"projector": "linear", "distance_weight": 2, "kl_weight": 1}),
        ("imagenet/projector-deit/regnety_160-deit_tiny", {"distance": "logsum", "distance_weight": 1}),
    ],
)
def test_a_method_has_the_pairs_own_weights(name: str, settings: dict[str, object]) -> None:
    found = shipped(name).method[0].model_dump()
    assert {key: found[key] for key in settings} == settings


def test_mlld_is_under_the_rate_and_length_of_its_files() -> None:
    rates = {"shufflenetv1": {0.01, 0.0025}, "shufflenetv2": {0.01}, "mobilenetv2": {0.0025}}
    for name in names_of("cifar100"):
        if "/mlld/" in name:
            found, student = shipped(name), name.rpartition("-")[2]
            assert found.update.lr in rates.get(student, {0.025}), name
            assert found.epochs == (480 if student in rates else 240), name
            assert (found.data.copies, rows_of(found)[0].task_weight) == ("pairs", 0.1), name


def test_ofa_is_the_authors_configurations() -> None:
    imagenet, cifar = (shipped(name) for name in ("imagenet/ofa/deit_tiny-resnet18", "cifar100/ofa/swin_tiny-resnet18"))
    assert [found.method[0].model_dump()["epsilon"] for found in (imagenet, cifar)] == [1.5, 1]
    assert protocol(imagenet) == (512, 100, (30, 60, 90), 1e-4)
    assert (imagenet.update.lr, imagenet.label_smoothing, imagenet.data.image_size) == (0.1, 0.1, 224)
    assert (cifar.update.lr, cifar.update.weight_decay, cifar.epochs, cifar.data.batch_size) == (0.05, 2e-3, 300, 128)
    assert (cifar.schedule.min_lr, cifar.schedule.warmup_epochs, cifar.label_smoothing) == (1e-3, 3, 0.1)


# --- DIST -------------------------------------------------------------------------------------------------------------


def test_dist_on_cifar100_is_its_released_configuration() -> None:
    for name in names_of("cifar100"):
        if "/dist/" in name:
            found = shipped(name)
            assert (found.data.drop_last, rows_of(found)[0].task_weight) == (True, 1)
            assert (found.method[0].model_dump()["tau"], found.method[0].rows) == (4, "all")  # one GPU


def test_dist_under_b1_and_its_rivals() -> None:
    for name in names_of("imagenet"):
        if name.split("/")[1] in ("dist", "srrl", "kd-b1", "ofd-b1", "alone-b1"):
            update, own = shipped(name).update, under("dist-b1").update
            assert update == own, name
            assert protocol(shipped(name)) == (256, 100, (30, 60, 90), 1e-4), name
        if "/kd-b" in name:
            rival = shipped(name)
            kd = rival.method[0]
            assert (kd.model_dump()["temperature"], kd.weight, rival.task_weight) == (4, 1, 0.9), name


@pytest.mark.parametrize("strategy", ["b2", "b3"])
def test_dists_strong_strategies_are_under_every_row_of_theirs(strategy: str) -> None:
    names = [name for name in names_of("imagenet") if name.split("/")[1].endswith(f"-{strategy}")]
    assert len(names) == {"b2": 25, "b3": 5}[strategy]
    own = under(f"dist-{strategy}")
    for name in names:
        found = shipped(name)
        assert (found.update, found.schedule, found.ema, found.epochs) == (
            own.update, own.schedule, own.ema, own.epochs,
        ), name  # fmt: skip


def test_relations_on_imagenet_are_those_of_the_rows_of_one_of_8_gpus_as_dists_code_has_them() -> None:
    for name in names_of("imagenet"):
        if name.split("/")[1].split("-")[0] in ("dist", "rkd"):
            found = shipped(name)
            (method,) = found.method
            assert (method.rows, method.group_size) == ("local", found.data.batch_size // 8), name


# --- The projector paper ----------------------------------------------------------------------------------------------


def test_the_projector_papers_two_settings_differ_in_what_stands_beside_an_image() -> None:
    rotations, pairs = (shipped(f"cifar100/{row}/vgg13-mobilenetv2") for row in ("projector", "projector-randaugment"))
    assert (rotations.data.copies, pairs.data.copies) == ("rotations", "pairs")
    assert augmentation(pairs.data) == augmentation(rotations.data) | {"rand_augment": "rand-m9-mstd0.5"}
    assert rotations.update == pairs.update
    assert rotations.update.lr == 0.01


def test_the_projector_papers_rows_are_under_sskds_teachers() -> None:
    folders = ("fitnet", "sskd", "projector", "at-sskd-teacher", "crd-sskd-teacher")
    for name in names_of("cifar100"):
        folder = name.split("/")[1]
        if folder in folders or folder.endswith("-randaugment"):
            teacher = shipped(name).teacher
            assert teacher is not None
            assert (teacher.weights or "").startswith("weights/sskd/"), name


@pytest.mark.parametrize("student", ["deit_tiny", "deit_small"])
def test_deit_has_a_recipe_with_the_papers_loss_and_one_with_that_of_the_code(student: str) -> None:
    paper, code = (
        shipped(f"imagenet/{folder}/regnety_160-{student}")
        for folder in ("projector-deit", "projector-deit-correlation")
    )
    settings = paper.method[0].model_dump()
    assert (settings["distance"], settings["alpha"], settings["eps"]) == ("logsum", 4, 1e-4)
    assert (settings["normalisation"], settings["projector"]) == ("batch", "linear")
    assert code.method[0].model_dump() == settings | {"distance": "correlation"}
    assert (code.update, code.published) == (paper.update, ())


@pytest.mark.parametrize("data", ["cifar10", "tiny-imagenet"])
def test_small_data_have_the_same_rows_apart_and_together(data: str) -> None:
    rows = {row.name: row for row in rows_of(shipped(f"{data}/deit-rows"))}
    assert list(rows) == ["alone", "deit", "deit soft", "projector", "dist on token", "deit+dot"]
    alone = {"alone": "alone", "deit": "hard", "deit soft": "soft", "projector": "projector", "dist on token": "dist"}
    for row, name in {**alone, "deit+dot": "hard-dot"}.items():
        (found,) = rows_of(shipped(f"{data}/deit-{name}"))
        assert (found.method, found.task_weight) == (rows[row].method, rows[row].task_weight), row
        assert found.update == rows[row].update, row


@pytest.mark.parametrize(("student", "width"), [("tiny", 192), ("small", 384)])
def test_the_projectors_own_student_has_its_released_objective(student: str, width: int) -> None:
    found = shipped(f"imagenet/projector-deit-correlation/regnety_160-deit_conv_{student}")
    projector, kd = (config.model_dump() for config in found.method)
    assert (projector["distance"], projector["alpha"], projector["kl_weight"]) == ("correlation", 4, 0)
    assert (kd["on"], kd["temperature"]) == ({"distilled": 1.0}, 1)
    assert [weighted(config)[0] for config in found.method] == [1, 1]
    assert (found.task_weight, projector["distance_weight"]) == (1, 1)
    assert unbuilt(found.student.model, "{}").embed_dim == width


@pytest.mark.parametrize(("student", "width"), [("tiny", 192), ("small", 384)])
def test_co_advise_has_a_teacher_of_either_kind_for_a_token_each(student: str, width: int) -> None:
    found = shipped(f"imagenet/co_advise/regnety_040-co_advise_{student}")
    assert found.teacher is not None
    assert (found.teacher.model, found.teacher.also["distilled2"].model) == ("timm:regnety_040", "understudy:rednet101")
    (method,) = found.method
    assert method.method.reads(method) == {"distilled": 1, "distilled2": 1}
    assert (found.task_weight, weighted(method)[0], method.model_dump()["temperature"]) == (None, 1, 1)
    assert (found.update.lr, found.data.batch_size) == (5e-4 * 1024 / 512, 1024)
    assert unbuilt(found.student.model, "{}").embed_dim == width


# --- Where the authors' code differs from a default -------------------------------------------------------------------


def test_reviewkd_looks_before_the_activations_where_its_code_does() -> None:
    on_cifar = shipped("cifar100/reviewkd/resnet32x4-resnet8x4").method[0].model_dump()
    preact = tuple(f"preact_stages.{number}" for number in range(1, 5))
    assert (on_cifar["student_stages"], on_cifar["teacher_stages"]) == ((1, 2, 3), preact[:3])
    for pair in ("resnet34-resnet18", "resnet50-mobilenetv1"):
        settings = shipped(f"imagenet/reviewkd/{pair}").method[0].model_dump()
        assert (settings["student_stages"], settings["teacher_stages"]) == (preact, preact)


def test_torchdistill_weighs_kd_and_places_at_in_its_own_way() -> None:
    kd, at, crd = (shipped(f"imagenet/{method}-torchdistill/resnet34-resnet18") for method in ("kd", "at", "crd"))
    assert (kd.method[0].model_dump()["temperature"], kd.method[0].weight, kd.task_weight) == (1, 0.5, 0.5)
    assert at.method[0].model_dump()["student_stages"] == (-2, -1)
    for found in (kd, at, crd):
        assert (found.update, found.epochs) == (under("crd-imagenet").update, 100)


# --- Teachers ---------------------------------------------------------------------------------------------------------


def test_every_teacher_of_the_tables_that_is_a_file_has_a_recipe_that_trains_it() -> None:
    for name in recipe_names():
        teacher = shipped(name).teacher
        if teacher is None or not (teacher.weights or "").startswith("weights/") or "/deit-" in name or "/ofa/" in name:
            continue  # deit-: of no table; ofa: its teacher was trained on ImageNet first
        data = (shipped(name).origin.data or "").removeprefix("classification/")  # of a sweep: what it sweeps
        is_dense = shipped(name).task != "classification"
        file = Path(str(teacher.weights)).stem if is_dense else teacher.model.removeprefix("cifar:")
        trained = shipped(f"{data}/teachers/{file}")
        assert (trained.student.model, trained.teacher, trained.method) == (teacher.model, None, ())
        own = {"batch_size": trained.data.batch_size} if is_dense else {"drop_last": False}
        own |= {"copies": "none", "second_augment": None, "augment": trained.data.augment}
        assert trained.data == shipped(name).data.model_copy(update=own)
        expected = teacher.expected if is_dense else teacher.expected_top1
        headline = "ap" if "/coco/" in name else "miou" if is_dense else "top1"
        reached = {published.scores[headline] for published in trained.published}
        assert expected in reached or (is_dense and not reached and expected is None), name


def test_the_page_on_teachers_names_every_file_that_a_recipe_names() -> None:
    page = (Path(__file__).parents[2] / "docs/teachers.md").read_text(encoding="utf-8")
    teachers = [found.teacher for found in map(shipped, recipe_names()) if found.teacher is not None]
    for teacher in teachers:
        if (teacher.weights or "").startswith("weights/"):
            assert f"`{teacher.weights}`" in page
        elif teacher.weights == "pretrained":
            assert f"`{teacher.model}`" in page
    named = set(re.findall(r"`((?:\w+/)?[a-z0-9-]+/teachers/\w+)`", page))
    assert named == {name.removeprefix("classification/") for name in recipe_names() if "/teachers/" in name}
