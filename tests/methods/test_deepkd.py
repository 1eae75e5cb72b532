"""DeepKD's losses: KD in two parts, the mask on the classes, and how it grows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.examples import built
from helpers.whole_networks import whole_context
from understudy import UserError
from understudy.core.batch import Pairing
from understudy.methods.deepkd import DeepKD, deepkd_loss, deepkd_terms
from understudy.methods.dkd import dkd_loss
from understudy.methods.kd import kd_loss
from understudy.methods.logit_std import logit_std_loss
from understudy.methods.shared.decoupled import top_classes


def case(rows: int = 6, classes: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher, torch.arange(rows) % classes


def method(**settings: object) -> DeepKD:
    found = built("deepkd", whole_context(), **settings)
    assert isinstance(found, DeepKD)
    return found


def test_without_a_mask_both_parts_add_up_to_kd() -> None:
    student, teacher, labels = case()
    for standardise, whole in ((False, kd_loss), (True, logit_std_loss)):
        ours = deepkd_loss(student, teacher, labels, temperature=3, standardise=standardise)
        theirs = whole(student, teacher, temperature=3)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


def test_the_split_of_dkd_is_dkd_bit_for_bit() -> None:
    student, teacher, labels = case()
    terms = method(split="dkd", beta=2.0)(Pairing(student, teacher, labels))
    assert torch.equal(sum(terms.values()), dkd_loss(student, teacher, labels, beta=2.0))


def test_the_mask_keeps_the_likeliest_classes_beside_the_label() -> None:
    teacher = torch.tensor([[5.0, 4.0, 3.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
    kept = top_classes(teacher, torch.tensor([0, 1]), 2)
    assert kept.tolist() == [[False, True, True, False], [False, False, True, True]]
    assert torch.equal(top_classes(teacher, torch.tensor([0, 1]), 9), F.one_hot(torch.tensor([0, 1]), 4) == 0)


def test_the_masked_part_compares_the_kept_classes_alone() -> None:
    student, teacher, labels = case(rows=1, classes=5)
    kept = torch.tensor([[True, False, True, False, True]])  # that of the label, 0, is none of them in any case
    _, nckd = deepkd_terms(student, teacher, labels, temperature=2, kept=kept, by_rest=False)
    ours, theirs = (logits[:, [2, 4]] / 2 for logits in (student, teacher))
    expected = 4 * (theirs.softmax(1) * (theirs.log_softmax(1) - ours.log_softmax(1))).sum()
    torch.testing.assert_close(nckd, expected)
    (gradient,) = torch.autograd.grad(nckd, student)
    assert gradient[0, [0, 1, 3]].tolist() == [0, 0, 0]
    assert gradient[0, [2, 4]].abs().min() > 0


@pytest.mark.parametrize("top_k", [1, 0])
def test_a_row_that_keeps_one_class_or_none_adds_nothing_and_stays_finite(top_k: int) -> None:
    student, teacher, labels = case()
    kept = top_classes(teacher, labels, 1) if top_k else torch.zeros_like(teacher, dtype=torch.bool)
    tckd, nckd = deepkd_terms(1e4 * student, 1e4 * teacher, labels, kept=kept)
    assert nckd == 0
    (gradient,) = torch.autograd.grad(tckd + nckd, student)
    assert gradient.isfinite().all()


def test_unlabelled_rows_are_left_out() -> None:
    student, teacher, labels = case()
    labels[2:] = -1
    assert torch.equal(
        deepkd_loss(student, teacher, labels, top_k=3), deepkd_loss(student[:2], teacher[:2], labels[:2], top_k=3)
    )


def test_the_mask_grows_from_a_twentieth_of_the_classes_to_all_in_the_last_epoch() -> None:
    growing = method()
    assert growing.num_compared(101) == 100  # in a loop that says nothing of epochs
    found = []
    for epoch in range(1, 6):
        growing.set_epoch(epoch, 5)
        found.append(growing.num_compared(101))
    assert found == [5, 29, 53, 76, 100]
    assert growing.follows_epochs()


def test_a_mask_may_stay_or_be_done_sooner_or_not_be() -> None:
    sooner, constant, none = method(top_k=10, mask_epochs=3), method(mask="constant", top_k=3), method(mask="none")
    for epoch, expected in ((1, (10, 3, 100)), (2, (55, 3, 100)), (3, (100, 3, 100)), (4, (100, 3, 100))):
        for each in (sooner, constant, none):
            each.set_epoch(epoch, 240)
        assert tuple(each.num_compared(101) for each in (sooner, constant, none)) == expected
    assert not constant.follows_epochs()
    assert not none.follows_epochs()
    short = method()
    short.set_epoch(1, 1)
    assert short.num_compared(3) == 2


def test_terms_follow_the_epoch() -> None:
    student, teacher, labels = case()
    growing, pairing = method(), Pairing(student, teacher, labels)
    growing.set_epoch(1, 10)
    masked = growing(pairing)
    growing.set_epoch(10, 10)
    whole = growing(pairing)
    assert torch.equal(masked["tckd"], whole["tckd"])
    assert not torch.isclose(masked["nckd"], whole["nckd"])
    assert torch.equal(masked["nckd"], deepkd_terms(student, teacher, labels, kept=top_classes(teacher, labels, 2))[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 2.0}, "belongs to split dkd, not to kd"),
        ({"mask": "none", "top_k": 5}, "belongs to mask growing or constant, not to none"),
        ({"mask": "constant", "mask_epochs": 5}, "belongs to mask growing, not to constant"),
        ({"top_k": 1}, "2"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DeepKD.Config.read(settings, what="deepkd")


def test_weights_are_those_of_the_split() -> None:
    found = [DeepKD.default_loss_for(DeepKD.Config(split=split)) for split in ("kd", "dkd")]
    assert [(one.task, one.distill, one.warmup_epochs) for one in found] == [(0.5, 1, 0), (1, 1, 20)]
