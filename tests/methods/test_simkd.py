from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_embeddings import (
    STUDENT,
    TEACHER,
    built,
    check_gradients,
    check_half_autocast,
    check_order,
    deep_context,
    deep_pairing,
    side,
)
from understudy.core.taps import TappedModel, TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.simkd import SimKD, SimKDStudent, simkd_loss, simkd_projector
from understudy.models import create_model, load_student, network_of, save_student
from understudy.utils.errors import UserError


@few
@given(seeds, row_counts)
def test_simkd_equals_the_mean_squared_distance(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 3, 2, 2, seed=seed), normal(num_rows, 3, 2, 2, seed=seed + 1)
    expected = ((student.numpy() - teacher.numpy()) ** 2).mean()
    assert simkd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert simkd_loss(teacher, teacher) == 0


def test_maps_of_unlike_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(2, 3, 4, 4\).*\(2, 3, 2, 2\)"):
        simkd_loss(normal(2, 3, 4, 4), normal(2, 3, 2, 2))


def test_the_projector_is_a_bottleneck_of_three_normalised_convolutions() -> None:
    projector = simkd_projector(6, 8, factor=4)
    kernels = [tuple(layer.weight.shape) for layer in projector if isinstance(layer, nn.Conv2d)]
    assert kernels == [(2, 6, 1, 1), (2, 2, 3, 3), (8, 2, 1, 1)]
    assert [type(layer) for layer in projector] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    assert (projector(normal(4, 6, 3, 3).float()) >= 0).all()


@pytest.mark.parametrize("match", ["map", "embedding"])
def test_gradients_reach_the_projector_but_neither_teacher_nor_reused_classifier(match: str) -> None:
    context = deep_context()
    check_gradients(built(SimKD, context, match=match), deep_pairing(context), "stages.3")


@pytest.mark.parametrize(("ours", "theirs"), [(2, 3), (4, 2), (3, 3)])
def test_the_larger_map_is_averaged_down_to_the_smaller(ours: int, theirs: int) -> None:
    context = deep_context((TapShape(6, ours, ours),), (TapShape(8, theirs, theirs),))
    method, pairing = built(SimKD, context), deep_pairing(context)
    smaller = min(ours, theirs)

    def shrunk(maps: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(maps, smaller)

    student, teacher = (features["stages.0"] for features in (pairing.student_features, pairing.teacher_features))
    torch.testing.assert_close(method(pairing)["simkd"], simkd_loss(method.projector(shrunk(student)), shrunk(teacher)))


def test_matching_the_embedding_compares_means() -> None:
    context = deep_context()
    method, pairing = built(SimKD, context, match="embedding"), deep_pairing(context)
    projected = method.projector(pairing.student_features["stages.3"]).mean(dim=(2, 3))
    assert (projected < 0).any()
    torch.testing.assert_close(method(pairing)["simkd"], simkd_loss(projected, pairing.teacher_features["embedding"]))


@few
@given(seeds)
def test_order_of_the_batch_leaves_simkd_unchanged(seed: int) -> None:
    context = deep_context()
    check_order(built(SimKD, context), deep_pairing(context, seed=seed), seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("match", ["map", "embedding"])
def test_large_features_in_half_types_stay_finite(dtype: torch.dtype, match: str) -> None:
    context = deep_context()
    check_half_autocast(built(SimKD, context, match=match), deep_pairing(context), dtype)


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"'simkd'.*7 classes for 5 of the data"):
        SimKD(SimKD.Config(), deep_context(teacher_classes=7))


def test_a_teacher_without_classifier_is_refused() -> None:
    teacher = TapShapes({"stages.0": TapShape(8, 3, 3), "embedding": TapShape(8)}, num_classes=5)
    with pytest.raises(UserError, match=r"'simkd'.*it has none.*'projector'"):
        SimKD(SimKD.Config(), Context(student=side(STUDENT), teacher=teacher, num_classes=5))


def test_a_teacher_whose_classifier_is_wider_than_its_last_map_is_refused() -> None:
    teacher = TapShapes(side(TEACHER), num_classes=5, classifier=nn.Linear(9, 5))
    context = Context(student=side(STUDENT), teacher=teacher, num_classes=5)
    with pytest.raises(UserError, match=r"'stages.3'.*method.match=embedding"):
        SimKD(SimKD.Config(), context)
    assert built(SimKD, context, match="embedding").classifier.in_features == 9


def test_a_teacher_that_classifies_something_else_than_its_mean_map_is_refused() -> None:
    context = deep_context()
    method, pairing = built(SimKD, context), deep_pairing(context)
    class_token = {**pairing.teacher_features, "embedding": normal(5, 8, seed=9)}
    with pytest.raises(UserError, match=r"class token.*method.match=embedding"):
        method(replace(pairing, teacher_features=class_token))


def test_the_reused_classifier_may_be_a_convolution() -> None:
    given = nn.Conv2d(8, 5, 1, dtype=torch.float64)
    teacher = TapShapes(side(TEACHER), num_classes=5, classifier=given)
    method = built(SimKD, Context(student=side(STUDENT), teacher=teacher, num_classes=5))
    vectors = normal(4, 8)
    torch.testing.assert_close(method.classifier(vectors), given(vectors[:, :, None, None]).flatten(1))


def tapped_student() -> tuple[SimKD, TappedModel]:
    network = create_model("cifar:resnet8", num_classes=5, weights="none", kwargs={"width": 0.25}).module
    model = TappedModel(network, ["stages"])
    _, shapes = model.dry_forward(torch.rand(2, 3, 8, 8))
    context = Context(student=TapShapes(shapes, num_classes=5), teacher=side(TEACHER), num_classes=5)
    torch.manual_seed(0)
    return SimKD(SimKD.Config(), context).float(), model


def test_what_is_deployed_answers_with_the_teachers_classifier_on_the_projected_map() -> None:
    method, model = tapped_student()
    images = torch.rand(3, 3, 8, 8)
    deployed = method.deployed(model.module).eval()
    _, features = model.eval()(images)
    expected = method.classifier(method.projector(features["stages.3"]).mean(dim=(2, 3)))
    torch.testing.assert_close(deployed(images), expected)


def test_what_is_deployed_follows_training_and_is_built_once() -> None:
    method, model = tapped_student()
    deployed = method.deployed(model.module)
    assert method.deployed(model.module) is deployed
    student_names = {id(parameter) for parameter in model.module.parameters()}
    assert not student_names & {id(parameter) for parameter in method.parameters()}
    assert student_names < {id(parameter) for parameter in deployed.parameters()}
    assert not any(name.startswith("_deployed") for name in method.state_dict())


def test_the_students_own_classifier_gets_no_gradient() -> None:
    method, model = tapped_student()
    logits, features = model(torch.rand(4, 3, 8, 8))
    teacher_maps = torch.rand(4, 8, 3, 3)
    teacher = {"stages.3": teacher_maps, "embedding": teacher_maps.mean(dim=(2, 3))}
    batch = replace(deep_pairing(deep_context(), 4), student_logits=logits)
    method(replace(batch, student_features=features, teacher_features=teacher))["simkd"].backward()
    assert SimKD.default_loss.task == 0
    assert model.module.fc.weight.grad is None
    assert model.module.conv1.weight.grad.any()


def test_a_deployed_student_on_disk_is_read_into_one_that_is_built_alike(tmp_path: Path) -> None:
    method, model = tapped_student()
    deployed = method.deployed(model.module).eval()
    save_student(tmp_path, network_of(deployed, num_classes=5))
    network = create_model("cifar:resnet8", num_classes=5, weights="none", kwargs={"width": 0.25}).module
    alike = SimKDStudent(
        network, tap="stages.3", projector=simkd_projector(16, 8), classifier=nn.Linear(8, 5), size=(2, 2)
    )
    images = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(load_student(tmp_path, module=alike)(images), deployed(images), rtol=0, atol=0)
