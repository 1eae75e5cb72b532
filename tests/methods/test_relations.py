"""What holds for every method on relations and contrast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, seeds, total
from helpers.examples_relations import SETTINGS, built, changed, relation_context, rotated_pairing
from understudy.core.taps import Taps
from understudy.methods.base import method_named
from understudy.methods.cc import cc_kernel_loss, cc_loss
from understudy.methods.crd import crd_log_normaliser, crd_loss, crd_scores
from understudy.methods.itrd import itrd_correlation_loss, itrd_mutual_loss
from understudy.methods.pkt import pkt_loss
from understudy.methods.rkd import rkd_loss
from understudy.methods.shared.relations import rows_by_copy
from understudy.methods.sp import sp_loss
from understudy.methods.sskd import similarities
from understudy.utils.errors import UserError

every_setting = pytest.mark.parametrize("setting", SETTINGS)
in_any_order = pytest.mark.parametrize("setting", [name for name in SETTINGS if name not in ("cc", "crd")])


def contrast_of_all(student: Tensor, teacher: Tensor) -> Tensor:
    contrast = torch.stack([torch.arange(len(student)).roll(-i) for i in range(len(student))])
    scores = crd_scores(student, teacher, contrast, temperature=1.0)
    return crd_loss(scores, crd_log_normaliser(scores, len(teacher)), num_samples=len(teacher))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rkd": rkd_loss,
    "sp": sp_loss,
    "pkt": pkt_loss,
    "pkt_paper": lambda student, teacher: pkt_loss(student, teacher, excludes_self=True),
    "cc": cc_loss,
    "cc_gaussian": cc_kernel_loss,
    "crd": contrast_of_all,
    "itrd_correlation": itrd_correlation_loss,
    "itrd_mutual": itrd_mutual_loss,
    "sskd": lambda student, teacher: (
        similarities(student.view(2, -1, 6)) - similarities(teacher.view(2, -1, 6))
    ).norm(),
}

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@every_setting
def test_gradients_reach_student_and_connectors_and_never_the_teacher(setting: str) -> None:
    name, settings = SETTINGS[setting]
    method, batch = built(name, **settings), rotated_pairing()

    total(method(batch)).backward()

    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()
    looked_at = method.taps_for(method.config).student
    for tap in [name for name in batch.student_features if name.startswith(looked_at)]:
        gradient = batch.student_features[tap].grad
        assert gradient is not None
        assert gradient.any()
    assert all(feature.grad is None for feature in batch.teacher_features.values())
    assert batch.teacher_logits is not None
    assert batch.teacher_logits.grad is None


@in_any_order
@few
@given(seed=seeds)
def test_order_of_the_batch_leaves_every_term_unchanged(setting: str, seed: int) -> None:
    name, settings = SETTINGS[setting]
    method, batch = built(name, **settings).double(), changed(rotated_pairing(3, seed=seed), _as_double)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(method(changed(batch, lambda value: value[order])), method(batch))


def _as_double(value: Tensor) -> Tensor:
    return value.detach().double() if value.is_floating_point() else value


def hard_features() -> dict[str, Callable[[Tensor], Tensor]]:
    def with_zero_rows(value: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(value[:2]), value[2:]])

    return {
        "large": lambda value: 1000 * value,
        "tiny": lambda value: 1e-4 * value,
        "zero": torch.zeros_like,
        "one_row_many_times": lambda value: value[:1].expand_as(value),
        "two_dead_rows": with_zero_rows,
    }


@every_setting
@pytest.mark.parametrize("change", hard_features().values(), ids=hard_features().keys())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_hard_batches_have_finite_loss_and_gradient(
    setting: str, change: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    name, settings = SETTINGS[setting]
    method = built(name, **settings)
    batch = changed(
        rotated_pairing(), lambda value: change(value.detach()).to(dtype) if value.is_floating_point() else value
    )
    student = [*batch.student_features.values(), batch.student_logits]
    for leaf in student:
        leaf.requires_grad_()

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = total(method(batch))
    loss.backward()

    assert loss.isfinite()
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in [*student, *method.parameters()])


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_under_autocast_are_computed_in_float32(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    student, teacher = normal(8, 6, scale=300.0).to(dtype), normal(8, 6, seed=1, scale=300.0).to(dtype)
    if loss is contrast_of_all:
        student, teacher = student / 300, teacher / 300
    with torch.autocast("cpu", dtype=dtype):
        found = loss(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(student.float(), teacher.float()))


@every_loss
def test_float64_features_stay_float64(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert loss(normal(8, 6), normal(8, 6, seed=1)).dtype == torch.float64


@pytest.mark.parametrize("name", ["rkd", "sp", "pkt", "cc", "crd", "itrd", "sskd", "hsakd"])
def test_defaults_say_where_they_come_from(name: str) -> None:
    method = method_named(name)
    assert method.default_loss.source
    assert method.paper is not None
    assert method.paper.arxiv
    assert method.rows == "related"
    assert method.min_rows(method.Config()) == 2


@pytest.mark.parametrize("name", ["rkd", "sp", "pkt", "cc", "crd", "itrd"])
def test_feature_methods_take_teachers_of_other_classes(name: str) -> None:
    method = method_named(name)
    assert "teacher_logits" not in method.needs_for(method.Config())


@pytest.mark.parametrize("name", ["rkd", "pkt", "cc", "crd", "itrd"])
def test_a_map_counts_as_its_mean_over_positions(name: str) -> None:
    batch = rotated_pairing()
    method = built(name, student_tap="stages.1", teacher_tap="stages.0").eval()
    pooled = changed(batch, lambda value: value.mean((2, 3)) if value.ndim == 4 else value)

    def terms(features: object) -> dict[str, Tensor]:
        torch.manual_seed(1)
        return dict(method(features))

    torch.testing.assert_close(terms(batch), terms(pooled))


@pytest.mark.parametrize("name", ["cc", "crd", "itrd"])
def test_a_tap_of_several_features_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"method.teacher_tap 'stages' stands for several.*stages.0.*name one"):
        built(name, teacher_tap="stages")


def test_embedding_methods_look_where_they_are_told() -> None:
    config = method_named("rkd").Config.model_validate({"student_tap": "layer3"})
    assert method_named("rkd").taps_for(config) == Taps(student=("layer3",), teacher=("embedding",))


def test_rows_of_a_sample_stand_at_the_same_place_of_every_copy() -> None:
    indices, copies = torch.tensor([7, 3, 3, 7, 7, 3, 3, 7]), torch.tensor([2, 0, 3, 1, 0, 2, 1, 3])
    rows = rows_by_copy(copies, indices)
    assert copies[rows].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert indices[rows].tolist() == [[3, 7]] * 4


def test_a_batch_that_is_no_four_copies_is_refused() -> None:
    with pytest.raises(UserError, match=r"6 rows cannot be 4 copies.*data.copies=rotations"):
        rows_by_copy(torch.zeros(6), torch.zeros(6))


def test_the_same_seed_builds_the_same_state() -> None:
    assert relation_context().num_train > 0
    for name, settings in SETTINGS.values():
        torch.testing.assert_close(
            built(name, **settings).state_dict(), built(name, **settings).state_dict(), rtol=0, atol=0
        )
