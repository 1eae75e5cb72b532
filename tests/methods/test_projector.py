from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from helpers.examples import Array, context, few, normal, pairing, row_counts, seeds
from understudy.core.taps import Taps, TapShape
from understudy.methods.base import TapShapes
from understudy.methods.kd import kd_loss
from understudy.methods.projector import Distance, Normalisation, Projector, projector_loss
from understudy.utils.errors import UserError

DISTANCES: tuple[Distance, ...] = ("logsum", "logsumexp", "correlation", "mse")
NORMALISATIONS: tuple[Normalisation, ...] = ("none", "l2", "group", "batch", "whiten")


def normalised_by_the_formula(x: Array, normalisation: Normalisation) -> Array:
    if normalisation == "batch":
        return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-4)
    if normalisation == "whiten":
        centred, eps, unit = x - x.mean(axis=0), 1e-4, np.eye(x.shape[1])
        sigma = centred.T @ centred / len(x)
        values, vectors = np.linalg.eigh((1 - eps) * sigma + eps * np.trace(sigma) / x.shape[1] * unit)
        return centred @ (vectors / np.sqrt(values)) @ vectors.T
    if normalisation == "group":
        groups = x.reshape(len(x), 4, -1)
        scaled = (groups - groups.mean(axis=2, keepdims=True)) / np.sqrt(groups.var(axis=2, keepdims=True) + 1e-4)
        return scaled.reshape(x.shape)
    return x / np.linalg.norm(x, axis=1, keepdims=True) if normalisation == "l2" else x


def distance_by_the_formula(s: Array, t: Array, distance: Distance, alpha: float) -> float:
    gap = np.abs(s - t)
    return float(
        {
            "logsum": np.log((gap**alpha).sum()),
            "logsumexp": 0.5 * np.log(np.exp(gap / 0.5).sum()),
            "correlation": np.log((np.abs((s * t).mean(axis=0) - 1) ** alpha).sum() + 1e-5),
            "mse": (gap**2).mean(),
        }[distance]
    )


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@few
@given(seed=seeds, num_rows=row_counts)
def test_every_distance_equals_its_formula(
    distance: Distance, normalisation: Normalisation, seed: int, num_rows: int
) -> None:
    student, teacher = normal(num_rows, 8, seed=seed), normal(num_rows, 8, seed=seed + 1)
    expected = distance_by_the_formula(
        normalised_by_the_formula(student.numpy(), normalisation),
        normalised_by_the_formula(teacher.numpy(), normalisation),
        distance,
        alpha=3.0,
    )
    found = projector_loss(
        student,
        teacher,
        normalisation=normalisation,
        distance=distance,
        alpha=3.0,
        logsumexp_temperature=0.5,
        num_groups=4,
    )
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_batch_normalisation_is_that_of_a_training_batch_norm_layer() -> None:
    student, teacher = normal(6, 8), normal(6, 8, seed=1)
    layer = nn.BatchNorm1d(8, eps=1e-4, affine=False, dtype=torch.float64)
    torch.testing.assert_close(
        projector_loss(student, teacher), projector_loss(layer(student), layer(teacher), normalisation="none")
    )


@pytest.mark.parametrize("alpha", [1.0, 1.5, 4.0])
def test_logsum_is_finite_with_zero_gradient_where_both_sides_are_equal(alpha: float) -> None:
    student = normal(6, 8).float().requires_grad_()
    loss = projector_loss(student, student.detach().clone(), alpha=alpha)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(1e-30))
    assert student.grad is not None
    assert not student.grad.any()


def test_logsumexp_nears_the_largest_difference_as_its_temperature_falls() -> None:
    student, teacher = normal(6, 8), normal(6, 8, seed=1)
    found = projector_loss(student, teacher, normalisation="none", distance="logsumexp", logsumexp_temperature=1e-3)
    torch.testing.assert_close(found, (student - teacher).abs().max(), rtol=0, atol=1e-3 * np.log(48))


@pytest.mark.parametrize("distance", DISTANCES)
def test_order_of_the_batch_leaves_the_distance_unchanged(distance: Distance) -> None:
    student, teacher, order = normal(7, 8), normal(7, 8, seed=1), torch.randperm(7)
    torch.testing.assert_close(
        projector_loss(student[order], teacher[order], distance=distance),
        projector_loss(student, teacher, distance=distance),
    )


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("value", [0.0, 1.0, 1000.0])
def test_constant_features_give_finite_gradients(
    distance: Distance, normalisation: Normalisation, value: float
) -> None:
    student = torch.full((4, 16), value, requires_grad=True)
    loss = projector_loss(student, normal(4, 16).float(), normalisation=normalisation, distance=distance)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_large_batch_under_half_autocast_does_not_overflow(dtype: torch.dtype) -> None:
    method = Projector(Projector.Config(), context(512, 512))
    batch = dataclasses.replace(
        pairing(num_rows=64),
        student_features={"embedding": normal(64, 512).float()},
        teacher_features={"embedding": normal(64, 512, seed=1).to(dtype)},
    )
    expected = method(batch)

    with torch.autocast("cpu", dtype=dtype):
        terms = method(batch)

    assert terms["logsum"].dtype == torch.float32
    torch.testing.assert_close(terms["logsum"], expected["logsum"], rtol=1e-2, atol=0)
    weight = method.projector.weight
    assert isinstance(weight, Tensor)
    assert torch.autograd.grad(terms["logsum"], weight)[0].isfinite().all()


def test_eval_mode_changes_nothing_because_statistics_are_the_batchs() -> None:
    method, batch = Projector(Projector.Config(), context()), pairing()
    assert not list(method.buffers())
    assert method.train()(batch)["logsum"] == method.eval()(batch)["logsum"]


def test_terms_are_two_logsum_and_one_kl_by_default() -> None:
    method, batch = Projector(Projector.Config(), context()), pairing()
    assert batch.teacher_logits is not None
    terms = method(batch)
    projected = method.projector(batch.student_features["embedding"])
    torch.testing.assert_close(terms["logsum"], 2 * projector_loss(projected, batch.teacher_features["embedding"]))
    torch.testing.assert_close(terms["kl"], kd_loss(batch.student_logits, batch.teacher_logits, temperature=1))


def test_without_kl_the_teachers_logits_are_not_needed() -> None:
    config = Projector.Config(kl_weight=0)
    batch = dataclasses.replace(pairing(), teacher_logits=None)
    assert Projector.needs_for(config) == frozenset()
    assert Projector(config, context())(batch).keys() == {"logsum"}
    assert Projector.needs_for(Projector.Config()) == {"teacher_logits"}


@pytest.mark.parametrize(("kind", "num_weights"), [("linear", 6 * 8 + 8), ("mlp", 6 * 1024 + 1024 + 1024 * 8 + 8)])
def test_projector_is_one_layer_or_an_mlp_of_1024_channels(kind: str, num_weights: int) -> None:
    method = Projector(Projector.Config.model_validate({"projector": kind}), context())
    assert sum(weight.numel() for weight in method.parameters()) == num_weights


def test_bias_can_be_left_out() -> None:
    method = Projector(Projector.Config(bias=False), context())
    assert [name for name, _ in method.named_parameters()] == ["projector.weight"]


def test_maps_count_as_their_spatial_mean() -> None:
    method, batch = Projector(Projector.Config(), context()), pairing()
    student, teacher = normal(7, 6, 3, 3).float(), normal(7, 8, 2, 2, seed=1).float()

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        features = {"student_features": {"embedding": student}, "teacher_features": {"embedding": teacher}}
        found: Tensor = method(dataclasses.replace(batch, **features))["logsum"]
        return found

    torch.testing.assert_close(distance(student, teacher), distance(student.mean((2, 3)), teacher.mean((2, 3))))


def test_other_taps_can_be_named_on_either_side() -> None:
    config = Projector.Config(student_tap="stages.2", teacher_tap="layer4:input")
    assert Projector.taps_for(config) == Taps(student=("stages.2",), teacher=("layer4:input",))


def test_a_group_of_stages_is_refused_with_the_stages_there_are() -> None:
    shapes = {f"stages.{i}": TapShape(6, 4, 4) for i in range(2)}
    several = dataclasses.replace(context(), student=TapShapes(shapes, num_classes=5, classifier=None))
    with pytest.raises(UserError, match=r"method.student_tap 'stages'.*stages\.0, stages\.1.*name one"):
        Projector(Projector.Config(student_tap="stages"), several)


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"method.num_groups 3 does not divide the teacher's 8 channels"):
        Projector(Projector.Config(normalisation="group", num_groups=3), context())


def test_features_of_unlike_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(4, 6\).*\(4, 8\)"):
        projector_loss(normal(4, 6), normal(4, 8))


def test_unknown_choices_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean logsum"):
        projector_loss(normal(4, 6), normal(4, 6), distance="logsums")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="did you mean batch"):
        projector_loss(normal(4, 6), normal(4, 6), normalisation="batchs")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "min_rows"),
    [
        (Projector.Config(), 2),
        (Projector.Config(normalisation="l2"), 1),
        (Projector.Config(normalisation="l2", distance="correlation"), 2),
    ],
)
def test_two_rows_are_needed_where_something_is_taken_over_the_batch(config: Projector.Config, min_rows: int) -> None:
    assert Projector.rows == "related"
    assert Projector.min_rows(config) == min_rows


def test_every_setting_of_the_distance_reaches_it() -> None:
    batch = pairing()
    teacher = batch.teacher_features["embedding"]
    for settings in (
        {"normalisation": "group", "num_groups": 2, "eps": 0.5, "distance": "logsum", "alpha": 2.0},
        {"normalisation": "l2", "distance": "logsumexp", "logsumexp_temperature": 0.1},
    ):
        method = Projector(Projector.Config.model_validate(settings | {"distance_weight": 3.0}), context())
        projected = method.projector(batch.student_features["embedding"])
        expected = 3 * projector_loss(projected, teacher, **settings)
        torch.testing.assert_close(method(batch)[str(settings["distance"])], expected)


def test_correlation_in_float32_is_that_of_float64_to_the_last_digits() -> None:
    worst = 0.0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        apart, teacher = (torch.randn(32, 64, generator=generator) for _ in range(2))
        student = 30 + teacher + apart / 2
        exact = projector_loss(student.double(), teacher.double(), distance="correlation")
        found = projector_loss(student, teacher, distance="correlation")
        assert found.dtype == torch.float32
        worst = max(worst, abs(found.double() - exact).item())
    assert worst < 5e-7


def test_places_of_maps_are_rows_where_they_are_asked_for() -> None:
    student, teacher = normal(3, 6, 4, 4, seed=0).float(), normal(3, 8, 2, 2, seed=1).float()
    around = dataclasses.replace(
        context(),
        student=TapShapes({"stages.1": TapShape(6, 4, 4)}, num_classes=5),
        teacher=TapShapes({"embedding": TapShape(8, 2, 2)}, num_classes=5),
    )
    settings = Projector.Config(spatial=True, kl_weight=0, student_tap="stages.1")
    method = Projector(settings, around)
    batch = dataclasses.replace(
        pairing(3), student_features={"stages.1": student}, teacher_features={"embedding": teacher}
    )
    ours = nn.functional.avg_pool2d(student, 2).movedim(1, -1).reshape(12, 6)
    wanted = 2 * projector_loss(method.projector(ours), teacher.movedim(1, -1).reshape(12, 8))
    assert method(batch)["logsum"].item() == pytest.approx(wanted.item(), rel=1e-6)
