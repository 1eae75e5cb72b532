"""What every family of networks for small images does: tapped, trained, saved, exported, made smaller."""

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from understudy import Classification, Joint, LiveTeacher, StudentSpec, Trainer, methods
from understudy.core.taps import TappedModel, check_taps
from understudy.models import create_model, load_student, save_student
from understudy.models.export import Subject, write
from understudy.models.export.onnx import Onnx
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.utils.errors import UserError

FAMILIES = ["resnet8", "resnet18", "resnet50", "wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2"]
RECTIFIED = ["resnet18", "resnet50", "vgg8", "shufflenetv1", "shufflenetv2"]
CLASSIFIERS = {"vgg8": "classifier", "mobilenetv2": "classifier", "shufflenetv1": "linear", "shufflenetv2": "linear"}
CLASSES = 5
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(name: str, width: float = 0.25, num_classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    return create_model(f"cifar:{name}", num_classes=num_classes, weights="none", kwargs={"width": width}).module


def logits_of(module: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return module.eval()(images)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_with_kd_fitnet_and_at_moves_every_weight(name: str) -> None:
    teacher = LiveTeacher(network("resnet8", width=0.5))
    module = network(name)
    before = {key: value.clone() for key, value in module.named_parameters()}
    spec = StudentSpec(
        module,
        method=[methods.KD.Config(), methods.FitNet.Config(), methods.AT.Config()],
        update=Joint.Config(lr=0.1),
    )
    tap_teacher(teacher, spec.methods)
    around = BuildContext(task=Classification(CLASSES), num_classes=CLASSES, sample=IMAGES, teacher=teacher)
    trainer = Trainer([build_student(spec, around)], teacher=teacher, device=torch.device("cpu"))
    trainer.fit([(IMAGES, torch.tensor([0, 3]))], epochs=1)
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert [key for key, value in module.named_parameters() if torch.equal(value, before[key])] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_student_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    made = create_model(f"cifar:{name}", num_classes=CLASSES, weights="none", kwargs={"width": 0.25})
    save_student(tmp_path, made)
    assert torch.equal(logits_of(load_student(tmp_path)), logits_of(made.prepared))
    timms = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(logits_of(timms), logits_of(made.module))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs pip install 'understudy[export]'")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_onnx_file_agrees_with_torch(name: str, tmp_path: Path) -> None:
    report = write(Subject(network(name), 32), tmp_path / "student.onnx", Onnx())
    assert report.largest_difference < 1e-4


@pytest.mark.parametrize("name", ["vgg8", "shufflenetv1", "shufflenetv2", "mobilenetv2"])
def test_the_exported_graph_takes_any_number_of_images(name: str) -> None:
    module = network(name).eval()
    program = torch.export.export(module, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))
    more = torch.rand(5, 3, 32, 32)
    assert torch.allclose(logits_of(module, more), program.module()(more), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [16, 64])
def test_other_image_sizes_work(name: str, size: int) -> None:
    assert logits_of(network(name), torch.rand(1, 3, size, size)).shape == (1, CLASSES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fresh_classifier_has_the_number_of_classes_asked_for(name: str) -> None:
    module = network(name)
    module.reset_classifier(3)
    assert module.get_classifier().out_features == 3
    assert module.get_classifier() is getattr(module, CLASSIFIERS.get(name, "fc"))
    assert logits_of(module).shape == (2, 3)
    assert module.forward_head(module.forward_features(IMAGES), pre_logits=True).shape == (2, module.num_features)
    module.reset_classifier(0)
    assert logits_of(module).shape == (2, module.num_features)
    assert logits_of(network(name, num_classes=CLASSES)).shape == (2, CLASSES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_without_a_classifier_gives_its_features(name: str) -> None:
    module = timm.create_model(f"cifar_{name}", num_classes=0, width=0.25)
    assert logits_of(module).shape == (2, module.num_features)


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [
        ("resnet18", 0.25, [16, 16, 32, 64, 128]),
        ("resnet50", 0.25, [16, 64, 128, 256, 512]),
        ("wrn_16_2", 0.25, [4, 8, 16, 32]),
        ("vgg8", 0.25, [16, 32, 64, 128, 128]),
        ("mobilenetv2", 2.0, [32, 24, 32, 96, 320]),
        ("shufflenetv1", 0.5, [12, 120, 240, 480]),
        ("shufflenetv2", 0.5, [12, 58, 116, 232]),
    ],
)
def test_width_scales_the_channels(name: str, width: float, channels: list[int]) -> None:
    module = network(name, width=width)
    tapped = TappedModel(module, ["stages"])
    _, features = tapped(IMAGES)
    assert [feature.shape[1] for feature in features.values()] == channels
    assert [row["num_chs"] for row in module.feature_info] == channels


@pytest.mark.parametrize("name", ["resnet18", "wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv2"])
def test_the_narrowest_networks_work(name: str) -> None:
    assert logits_of(network(name, width=0.001)).shape == (2, CLASSES)


@pytest.mark.parametrize("name", RECTIFIED)
def test_a_stage_is_the_rectified_preactivation_of_that_stage(name: str) -> None:
    _, features = TappedModel(network(name), ["stages", "preact_stages"])(IMAGES)
    stages = [tap for tap in features if tap.startswith("stages.")]
    for stage in stages:
        before = features[f"preact_{stage}"]
        assert (before < 0).any()
        assert torch.equal(features[stage], before.relu())


@pytest.mark.parametrize("name", [*RECTIFIED, "wrn_16_1"])
def test_the_norm_of_a_preactivation_has_its_channels(name: str) -> None:
    tapped = TappedModel(network(name), ["preact_stages"])
    _, features = tapped(IMAGES)
    found = {tap: norm.num_features for tap, norm in tapped.norms().items()}
    wanted = {} if name == "shufflenetv2" else {tap: feature.shape[1] for tap, feature in features.items()}
    assert found == wanted


def test_a_preactivation_of_a_wrn_is_the_stage_under_the_next_norm_which_runs_once() -> None:
    module = network("wrn_16_1").train()
    norms = [module.block1[0].bn1, module.block2[0].bn1, module.block3[0].bn1, module.bn1]
    _, features = TappedModel(module, ["stages", "preact_stages"])(IMAGES)
    assert [norm.num_batches_tracked.item() for norm in norms] == [1, 1, 1, 1]
    for number, norm in enumerate(norms):
        again = nn.functional.batch_norm(
            features[f"stages.{number}"], None, None, norm.weight, norm.bias, training=True, eps=norm.eps
        )
        assert torch.allclose(features[f"preact_stages.{number}"], again, atol=1e-5)


def test_linear_bottlenecks_have_no_preactivation_to_tap() -> None:
    with pytest.raises(UserError, match="does not say where its preact_stages are"):
        check_taps(network("mobilenetv2"), ["preact_stages"], name="the student")


def test_a_shufflenetv2_block_leaves_half_of_the_channels_alone_and_shuffles_it_in() -> None:
    block = network("shufflenetv2").layer1[1]
    maps = torch.rand(2, 28, 4, 4).relu_().requires_grad_()
    out = block(maps)
    assert torch.equal(out[:, 0::2], maps[:, :14])
    (gradient,) = torch.autograd.grad(out[:, 0::2].sum(), maps)
    assert torch.equal(gradient[:, :14], torch.ones(2, 14, 4, 4))


def test_a_shufflenetv1_block_at_stride_2_puts_its_averaged_input_behind_its_output() -> None:
    block = network("shufflenetv1").layer1[0].eval()
    maps = torch.rand(2, 12, 8, 8)
    averaged = nn.functional.avg_pool2d(maps, 3, stride=2, padding=1)
    assert torch.equal(block(maps)[:, -12:], averaged)


def test_timms_own_resnet18_is_still_there() -> None:
    assert timm.create_model("resnet18").conv1.kernel_size == (7, 7)
    assert timm.create_model("cifar_resnet18").conv1.kernel_size == (3, 3)
