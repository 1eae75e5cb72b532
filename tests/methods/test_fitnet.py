from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_features import batch_of, method_of, stages
from understudy.methods.fitnet import FitNet, fitnet_loss


def regressed_by_the_formula(maps: Tensor, weight: Tensor, bias: Tensor) -> np.ndarray:
    """ReLU(BN(1x1 conv)) with batch statistics."""
    values = np.einsum("mdhw,ed->mehw", maps.numpy(), weight.numpy()[:, :, 0, 0]) + bias.numpy()[:, None, None]
    centred = values - values.mean(axis=(0, 2, 3), keepdims=True)
    return np.maximum(centred / np.sqrt(values.var(axis=(0, 2, 3), keepdims=True) + 1e-5), 0)


@few
@given(seeds, row_counts)
def test_fitnet_equals_the_formula_of_the_paper(seed: int, num_rows: int) -> None:
    method, batch = method_of("fitnet").double(), batch_of(stages(), num_rows, seed % 50)
    student, teacher = (f["stages.2"].detach().double() for f in (batch.student_features, batch.teacher_features))
    conv = method.regressors[0].conv
    expected = (regressed_by_the_formula(student, conv.weight.detach(), conv.bias.detach()) - teacher.numpy()) ** 2
    features = {"student_features": {"stages.2": student}, "teacher_features": {"stages.2": teacher}}
    found = method(type(batch)(batch.student_logits, None, batch.labels, **features))
    assert found["fitnet"].item() == pytest.approx(expected.mean(), rel=1e-10)


@few
@given(seeds, row_counts)
def test_fitnet_is_zero_only_where_the_regressed_map_is_the_teachers(seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 3, 4, 4, seed=seed)
    assert fitnet_loss(teacher.clone(), teacher) == 0
    assert fitnet_loss(teacher + 0.1, teacher).item() == pytest.approx(0.01)


def test_without_relu_negative_features_can_be_met() -> None:
    features = batch_of(stages()).student_features["stages.2"]
    assert (method_of("fitnet", relu=False).regressors[0](features) < 0).any()
    assert not (method_of("fitnet").regressors[0](features) < 0).any()


def test_several_hints_add_up() -> None:
    batch = batch_of(stages())
    method = method_of("fitnet", student_stages=[1, 3])
    expected = sum(
        fitnet_loss(regressor(batch.student_features[tap]), batch.teacher_features[tap]).item()
        for regressor, tap in zip(method.regressors, ("stages.1", "stages.3"), strict=True)
    )
    assert method(batch)["fitnet"].item() == pytest.approx(expected, rel=1e-6)
    assert isinstance(method, FitNet)
