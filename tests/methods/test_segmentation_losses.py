from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.examples import Array, normal
from understudy.methods.losses.imitation import fgfi_pyramid_loss
from understudy.methods.losses.segmentation import cirkd_minibatch_loss, dsd_loss, ifvd_loss
from understudy.utils.errors import UserError


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_ifvd_compares_cosines_with_the_centre_of_the_class_in_the_image() -> None:
    student, teacher = normal(2, 3, 2, 3), normal(2, 5, 2, 3, seed=1)
    labels = torch.tensor([[[0, 0, 1], [1, 1, 255]], [[1, 1, 1], [0, 1, 0]]])

    def cosines(maps: Tensor) -> list[float]:
        found = []
        for features, of_image in zip(maps.flatten(2).numpy(), labels.flatten(1).numpy(), strict=True):
            centres = {label: features[:, of_image == label].mean(axis=1) for label in (0, 1)}
            found += [
                cosine(features[:, p], centres[label]) if label in centres else 1.0 for p, label in enumerate(of_image)
            ]
        return found

    expected = np.mean((np.array(cosines(student)) - np.array(cosines(teacher))) ** 2)
    assert ifvd_loss(student, teacher, labels, num_classes=2).item() == pytest.approx(expected, rel=1e-5)


def test_ifvd_takes_the_nearest_labels_of_a_larger_map() -> None:
    student, teacher, labels = normal(2, 3, 2, 3), normal(2, 5, 2, 3, seed=1), torch.randint(0, 3, (2, 2, 3))
    larger = labels.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    found = ifvd_loss(student, teacher, larger, num_classes=3)
    assert torch.equal(found, ifvd_loss(student, teacher, labels, num_classes=3))


def test_positions_without_a_class_teach_nothing() -> None:
    student = normal(1, 3, 2, 2).requires_grad_()
    loss = ifvd_loss(student, normal(1, 3, 2, 2, seed=1), torch.full((1, 2, 2), 255), num_classes=19)
    loss.backward()
    assert loss.item() < 1e-30
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-15


def test_dsd_sees_where_attention_moves_between_maps_and_not_how_strong_it_is() -> None:
    maps = [normal(2, 3, 4, 4, seed=seed) for seed in range(3)]
    stronger = [maps[0] * 3, maps[1] * 5, maps[2]]  # the last has logits, whose strength is compared
    assert dsd_loss(stronger, maps).item() == pytest.approx(0, abs=1e-12)
    moved = [maps[0], maps[1].flip(-1), maps[2]]
    assert dsd_loss(moved, maps, class_weight=0).item() > 0.1
    assert dsd_loss(moved, maps, residual_weight=0).item() == 0


def test_cirkd_equals_its_formula() -> None:
    student, teacher = normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1)

    def probabilities(maps: Tensor, i: int, j: int) -> Array:
        unit = maps.flatten(2).numpy() / np.linalg.norm(maps.flatten(2).numpy(), axis=1, keepdims=True)
        powers: Array = np.exp(unit[i].T @ unit[j] / 0.5)
        return powers / powers.sum(axis=1, keepdims=True)

    pairs = [(i, j) for i in range(2) for j in range(2)]
    terms = [
        (probabilities(teacher, *p) * np.log(probabilities(teacher, *p) / probabilities(student, *p))).sum() / 4
        for p in pairs
    ]
    found = cirkd_minibatch_loss(student, teacher, temperature=0.5)
    assert found.item() == pytest.approx(float(np.mean(terms)), rel=1e-9)


def test_imitation_on_levels_divides_by_all_masked_positions_or_level_by_level() -> None:
    ours, theirs = [torch.ones(1, 2, 2, 2), torch.ones(1, 2, 1, 1)], [torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1)]
    masks = [torch.tensor([[[True, True], [True, False]]]), torch.tensor([[[True]]])]
    assert fgfi_pyramid_loss(ours, theirs, masks) == 8 / (2 * 4)
    assert fgfi_pyramid_loss(ours, theirs, masks, norm="level") == 6 / (2 * 3) + 2 / 2
    assert fgfi_pyramid_loss(ours, theirs, [mask & False for mask in masks]) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_maps_under_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (300 * normal(2, 4, 4, 4, seed=seed).to(dtype) for seed in (0, 1))
    labels = torch.randint(0, 3, (2, 4, 4))
    with torch.autocast("cpu", dtype=dtype):
        found = [
            ifvd_loss(student, teacher, labels, num_classes=3),
            dsd_loss([student, student.flip(-1)], [teacher, teacher.flip(-1)]),
            cirkd_minibatch_loss(student, teacher),
            fgfi_pyramid_loss([student], [teacher], [labels]),
        ]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in found), found


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3, 4, 4, seed=1).requires_grad_()
    labels = torch.randint(0, 3, (2, 4, 4))
    losses = [
        ifvd_loss(student, teacher, labels, num_classes=3),
        dsd_loss([student, student.exp()], [teacher, teacher.exp()]),
        cirkd_minibatch_loss(student, teacher),
        fgfi_pyramid_loss([student], [teacher], [labels]),
    ]
    assert all(torch.autograd.grad(loss, student, retain_graph=True)[0].any() for loss in losses)
    torch.stack(losses).sum().backward()
    assert teacher.grad is None


def test_what_cannot_be_compared_is_refused_with_the_way_out() -> None:
    maps, small = normal(2, 3, 4, 4), normal(2, 3, 2, 2)
    with pytest.raises(UserError, match="a map of labels"):
        ifvd_loss(maps, maps, torch.zeros(2, dtype=torch.long), num_classes=3)
    with pytest.raises(UserError, match="the same shape"):
        ifvd_loss(maps, small, torch.zeros(2, 4, 4), num_classes=3)
    with pytest.raises(UserError, match="two or more maps of one size"):
        dsd_loss([maps], [maps])
    with pytest.raises(UserError, match="interpolate them to one size"):
        dsd_loss([maps, small], [maps, small])
    with pytest.raises(UserError, match="the same shape"):
        cirkd_minibatch_loss(maps, small)
    with pytest.raises(UserError, match="pair levels of one stride"):
        fgfi_pyramid_loss([maps], [small], [torch.ones(2, 4, 4)])
    with pytest.raises(UserError, match="there are: all, level"):
        fgfi_pyramid_loss([maps], [maps], [torch.ones(2, 4, 4)], norm="each")  # type: ignore[arg-type]
