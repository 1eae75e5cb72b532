"""What holds for every method that compares features stage by stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, seeds
from helpers.examples_features import CNN, VIT, WIDER_CNN, batch_of, method_of, stages
from understudy.core.batch import Pairing
from understudy.methods import METHODS
from understudy.methods.base import Method

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "fitnet": ("fitnet", {}),
    "at": ("at", {}),
    "at_paper": ("at", {"form": "paper"}),
    "nst": ("nst", {}),
    "vid": ("vid", {}),
    "kdsvd": ("kdsvd", {}),
    "kdsvd_two_vectors": ("kdsvd", {"num_vectors": 2}),
    "ickd": ("ickd", {}),
    "fsp": ("fsp", {}),
    "fsp_torchdistill": ("fsp", {"pooling": "max", "distance": "column_norm"}),
    "ab": ("ab", {}),
    "ft": ("ft", {"init_from": "a run"}),
    "ft_factors": ("ft", {"init_from": "a run", "form": "factors"}),
}
NAMES = sorted({name for name, _ in SETTINGS.values()})

every_setting = pytest.mark.parametrize(("name", "settings"), SETTINGS.values(), ids=SETTINGS.keys())
every_method = pytest.mark.parametrize("name", NAMES)


def loss_of(method: Method, batch: Pairing) -> Tensor:
    return torch.stack(list(method(batch).values())).sum()


def looked_at(method: Method) -> list[str]:
    return [pair.student for pair in method.pairs]  # type: ignore[attr-defined]


def permuted(batch: Pairing, order: Tensor) -> Pairing:
    def side(features: Any) -> dict[str, Tensor]:
        return {name: feature[order] for name, feature in features.items()}

    return dataclasses.replace(
        batch, student_features=side(batch.student_features), teacher_features=side(batch.teacher_features)
    )


def filled(batch: Pairing, student: float | Tensor, teacher: float | Tensor) -> Pairing:
    """The batch with its features multiplied by these; 0 gives dead ones."""

    def side(features: Any, factor: float | Tensor) -> dict[str, Tensor]:
        return {name: (feature.detach() * factor).requires_grad_() for name, feature in features.items()}

    return dataclasses.replace(
        batch,
        student_features=side(batch.student_features, student),
        teacher_features=side(batch.teacher_features, teacher),
    )


@every_setting
def test_gradients_reach_student_and_connectors_and_never_the_teacher(name: str, settings: dict[str, Any]) -> None:
    method, batch = method_of(name, **settings), batch_of(stages())

    loss_of(method, batch).backward()

    for tap in looked_at(method):
        gradient = batch.student_features[tap].grad
        assert gradient is not None
        assert gradient.any()
    trained = [weight for weight in method.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in trained)
    assert all(weight.grad.any() for weight in trained if weight.ndim > 1 and weight.grad is not None)
    assert all(feature.grad is None for feature in batch.teacher_features.values())


@every_setting
@few
@given(seed=seeds)
def test_order_of_the_batch_leaves_the_loss_unchanged(name: str, settings: dict[str, Any], seed: int) -> None:
    method, batch = method_of(name, **settings), batch_of(stages(), seed=seed % 50)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss_of(method, permuted(batch, order)), loss_of(method, batch), rtol=1e-4, atol=1e-5)


@every_setting
@pytest.mark.parametrize(("student", "teacher"), [(VIT, WIDER_CNN), (CNN, VIT), (VIT, [*VIT, *VIT])])
def test_a_vit_can_be_student_and_teacher(name: str, settings: dict[str, Any], student: Any, teacher: Any) -> None:
    context = stages(student, teacher)
    method, batch = method_of(name, context, **settings), batch_of(context)
    loss = loss_of(method, batch)
    loss.backward()
    assert loss.isfinite()
    for tap in looked_at(method):
        gradient = batch.student_features[tap].grad
        assert gradient is not None
        assert gradient.any()


@every_setting
@pytest.mark.parametrize(
    ("student", "teacher"),
    [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1000.0, 1.0), (1.0, 1000.0), (1000.0, -1000.0), (1e-7, 1.0)],
)
def test_dead_and_huge_features_give_a_finite_loss_and_gradient(
    name: str, settings: dict[str, Any], student: float, teacher: float
) -> None:
    method, batch = method_of(name, **settings), filled(batch_of(stages()), student, teacher)
    loss = loss_of(method, batch)
    loss.backward()
    assert loss.isfinite()
    for tap in looked_at(method):
        gradient = batch.student_features[tap].grad
        assert gradient is not None
        assert gradient.isfinite().all()


@every_setting
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_half_autocast_the_loss_is_float32_and_near_the_full_one(
    name: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    method, batch = method_of(name, **settings), batch_of(stages())
    halved = dataclasses.replace(
        batch,
        student_features={tap: feature.to(dtype) for tap, feature in batch.student_features.items()},
        teacher_features={tap: feature.to(dtype) for tap, feature in batch.teacher_features.items()},
    )
    with torch.autocast("cpu", dtype=dtype):
        found = loss_of(method, halved)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss_of(method, batch), rtol=0.1, atol=0.02)


@every_method
def test_a_float64_model_gets_a_float64_loss(name: str) -> None:
    settings = {"init_from": "a run"} if name == "ft" else {}
    method, batch = method_of(name, **settings).double(), batch_of(stages())
    doubled = dataclasses.replace(
        batch,
        student_features={tap: feature.double() for tap, feature in batch.student_features.items()},
        teacher_features={tap: feature.double() for tap, feature in batch.teacher_features.items()},
    )
    assert loss_of(method, doubled).dtype == torch.float64


@every_method
def test_defaults_and_paper_are_stated(name: str) -> None:
    method = METHODS[name]
    assert method.default_loss.source
    assert method.paper is not None
    assert method.needs == frozenset()  # so that the teacher may have other classes


@every_method
def test_rows_are_related_where_a_connector_normalises_over_the_batch(name: str) -> None:
    built = method_of(name, **({"init_from": "a run"} if name == "ft" else {}))
    normalises = any("BatchNorm" in type(module).__name__ for module in built.modules())
    assert (METHODS[name].rows == "related") == normalises
