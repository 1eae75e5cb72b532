from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_features import batch_of, method_of, stages
from understudy.methods.ft import FT, FactorForm, ft_loss, paraphraser_loss
from understudy.training.connector_weights import load_connectors, save_connectors
from understudy.utils.errors import UserError

FORMS: tuple[FactorForm, ...] = ("attention", "factors")


def ft_by_the_formula(student: Tensor, teacher: Tensor, norm: int, form: FactorForm) -> float:
    def unit(values: np.ndarray) -> np.ndarray:
        return values.ravel() / np.linalg.norm(values)

    def of_one_row(s: np.ndarray, t: np.ndarray) -> float:
        if form == "factors":
            return float(np.linalg.norm(unit(s) - unit(t), ord=norm))
        return float((np.abs(unit((s**2).mean(axis=0)) - unit((t**2).mean(axis=0))) ** norm).mean())

    return float(np.mean([of_one_row(*row) for row in zip(student.numpy(), teacher.numpy(), strict=True)]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", [1, 2])
@few
@given(seed=seeds, num_rows=row_counts)
def test_ft_equals_its_formula(form: FactorForm, norm: int, seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 3, 4, 4, seed=seed), normal(num_rows, 3, 4, 4, seed=seed + 1)
    expected = ft_by_the_formula(student, teacher, norm, form)
    assert ft_loss(student, teacher, norm=norm, form=form).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", FORMS)
@few
@given(seed=seeds, num_rows=row_counts)
def test_ft_is_zero_for_the_same_factor_at_another_scale(form: FactorForm, seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 3, 4, 4, seed=seed)
    assert ft_loss(5 * teacher, teacher, form=form).item() == pytest.approx(0, abs=1e-14)
    assert ft_loss(teacher.flip(2), teacher, form=form) > 1e-4


@few
@given(seeds, row_counts)
def test_paraphraser_loss_is_a_mean_squared_error(seed: int, num_rows: int) -> None:
    again, teacher = normal(num_rows, 3, 4, 4, seed=seed), normal(num_rows, 3, 4, 4, seed=seed + 1)
    expected = np.mean((again.numpy() - teacher.numpy()) ** 2)
    assert paraphraser_loss(again, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_the_first_stage_trains_the_paraphraser_and_leaves_the_student_alone() -> None:
    method, batch = method_of("ft", stage="paraphraser"), batch_of(stages())
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = method(batch)["paraphraser"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(weight.grad is not None for weight in method.parameters())
    assert all(feature.grad is None for feature in batch.student_features.values())
    assert all(feature.grad is None for feature in batch.teacher_features.values())


def test_the_second_stage_starts_from_the_first_and_keeps_its_paraphraser(tmp_path: Path) -> None:
    first, batch = method_of("ft", stage="paraphraser"), batch_of(stages())
    torch.nn.init.normal_(first.paraphrasers[0].encoder[0].weight)
    save_connectors(tmp_path, [first])

    second = method_of("ft", init_from=str(tmp_path))
    load_connectors(second, tmp_path)

    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=0)
    trained = {name.partition(".")[0] for name, weight in second.named_parameters() if weight.requires_grad}
    assert trained == {"translators"}
    factor = first.paraphrasers[0].encoder(batch.teacher_features["stages.3"])
    expected = ft_loss(second.translators[0](batch.student_features["stages.3"]), factor)
    torch.testing.assert_close(second(batch)["ft"], expected)


def test_the_second_stage_alone_is_refused_with_the_way_to_it() -> None:
    with pytest.raises(UserError, match=r"run with method\.stage=paraphraser first, then set method\.init_from"):
        method_of("ft")


def test_the_first_stage_has_weights_of_its_own() -> None:
    def weights(stage: Literal["paraphraser", "distill"]) -> tuple[float, float]:
        default = FT.default_loss_for(FT.Config(stage=stage))
        return default.task, default.distill

    assert weights("paraphraser") == (0, 1)
    assert weights("distill") == (1, 200)


def test_rate_says_how_many_factors_there_are() -> None:
    assert method_of("ft", stage="paraphraser", rate=0.25).paraphrasers[0].encoder[6].out_channels == 3
    assert method_of("ft", stage="paraphraser", rate=0.01).paraphrasers[0].encoder[6].out_channels == 1


def test_an_unknown_form_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean factors"):
        ft_loss(normal(2, 3, 4, 4), normal(2, 3, 4, 4), form="factor")  # type: ignore[arg-type]
