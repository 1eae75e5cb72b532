"""DeepKD's optimizer: three streams on what DOT is made of, and who may be trained by it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.captured_steps import captured, data, plain, trainer_of
from helpers.engine import small_net
from helpers.states import tensors_of
from understudy import UserError, methods
from understudy.core.batch import Losses
from understudy.methods.deepkd import DeepKD as DeepKDLosses
from understudy.optim import DOT, DeepKD
from understudy.optim.base import UpdateConfig
from understudy.probes.momenta import Momenta
from understudy.recipes.comparison import row_named, rows_of
from understudy.recipes.schema import Recipe
from understudy.training.spec import StudentSpec

STREAMS = ("task", "target", "non_target")
CONFIG = {"split": "dkd", "mask": "none"}


class Student(nn.Module):
    """A body under all losses, and a layer under each alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 5)
        self.heads = nn.ModuleDict({stream: nn.Linear(5, 3) for stream in STREAMS})
        self.double()

    def losses(self, step: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        images = torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[rows]
        hidden = self.body(images).tanh()
        return {
            stream: (number + 1) * self.heads[stream](hidden).square().sum() for number, stream in enumerate(STREAMS)
        }


def trained(student: Student, optimizer: DeepKD, steps: range) -> list[Tensor]:
    for step in steps:
        optimizer.backward(**student.losses(step))
        optimizer.step()
    return [parameter.detach().clone() for parameter in student.parameters()]


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.1)),
        ({"nesterov": True}, lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.1, nesterov=True)),
        ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, 0.01, betas=(0.9, 0.999), weight_decay=0.1)),
    ],
)
def test_without_deltas_it_is_the_optimizer_on_the_sum(settings: dict[str, Any], other: Any) -> None:
    ours, theirs = Student(), Student()
    deltas = {f"delta_{stream}": 0.0 for stream in STREAMS}
    found = trained(ours, DeepKD(ours.parameters(), lr=0.01, weight_decay=0.1, **deltas, **settings), range(5))
    joint = other(theirs.parameters())
    for step in range(5):
        joint.zero_grad()
        torch.stack(list(theirs.losses(step).values())).sum().backward()
        joint.step()
    for mine, expected in zip(found, theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, expected.detach(), rtol=1e-10, atol=1e-12)


def test_two_steps_by_hand() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = DeepKD([weight], lr=0.1, weight_decay=0.5)
    momenta, value = dict.fromkeys(STREAMS, 0.0), 1.0
    for gradients in ((1.0, 2.0, 3.0), (-1.0, 0.5, 2.0)):
        optimizer.backward(**{s: g * weight.sum() for s, g in zip(STREAMS, gradients, strict=True)})
        optimizer.step()
        for stream, m, gradient in zip(STREAMS, (0.975, 0.825, 0.975), gradients, strict=True):
            momenta[stream] = m * momenta[stream] + gradient + (0.5 * value if stream == "target" else 0.0)
        value -= 0.1 * sum(momenta.values())
        assert weight.item() == pytest.approx(value, rel=1e-12)
    for stream in STREAMS:
        assert optimizer.state[weight][f"momentum_{stream}"].item() == pytest.approx(momenta[stream], rel=1e-12)


def test_what_one_loss_reaches_keeps_the_momentum_and_what_two_reach_has_theirs() -> None:
    alone, both = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    optimizer = DeepKD([alone, both], lr=1.0)
    for _ in range(2):
        optimizer.backward(task=both.sum(), non_target=alone.sum() + both.sum())
        optimizer.step()
    assert alone.item() == pytest.approx(-(1 + 1.9))
    assert both.item() == pytest.approx(-2 * (1 + 1.975))


def test_parts_of_a_batch_add_up_and_a_state_goes_on_bit_for_bit() -> None:
    whole, parts = Student(), Student()
    ours, accumulated = (DeepKD(student.parameters(), lr=0.001, weight_decay=0.1) for student in (whole, parts))
    for step in range(3):
        ours.backward(**whole.losses(step))
        ours.step()
        for rows in (slice(0, 3), slice(3, 8)):
            accumulated.backward(**parts.losses(step, rows))
        accumulated.step()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    resumed = copy.deepcopy(whole)
    fresh = DeepKD(resumed.parameters(), lr=0.5)
    fresh.load_state_dict(copy.deepcopy(ours.state_dict()))
    for one, other in zip(trained(whole, ours, range(3, 6)), trained(resumed, fresh, range(3, 6)), strict=True):
        assert torch.equal(one, other)


def test_an_overflow_in_one_loss_skips_all() -> None:
    weight, scaler = nn.Parameter(torch.ones(2)), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = DeepKD([weight], lr=0.01)
    for factor in (1.0, 1e38):
        before = weight.detach().clone()
        optimizer.backward(task=weight.sum(), target=weight.sum(), non_target=(factor * weight).sum(), scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
    assert torch.equal(weight, before)
    assert scaler.get_scale() == 512


def test_numbers_and_states_that_cannot_be_are_refused_in_its_own_name() -> None:
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match=r"0.2 with momentum 0.9 gives 1.1; momentum \+ delta_task must stay below 1"):
        DeepKD([weight], delta_task=0.2)
    with pytest.raises(UserError, match=r"momentum \+ delta_target must not fall below 0, unless allow_negative_mom"):
        DeepKD([weight], delta_target=-0.95)
    DeepKD([weight], delta_target=-0.5)  # 0.4, where DOT would be at 1.4 on its other side
    with pytest.raises(UserError, match="delta_non_target must be above -1 and below 1, got nan"):
        DeepKD([weight], delta_non_target=float("nan"))
    with pytest.raises(UserError, match="this is no state of DeepKD: its parameter groups have no delta_target, delta"):
        DeepKD([weight]).load_state_dict(DOT([weight]).state_dict())
    with pytest.raises(UserError, match=r"DeepKD has no gradients to step on; .*\(target=..., task=..., non_target=.."):
        DeepKD([weight]).step()
    with pytest.raises(UserError, match=r"delta_task .* gives 1.2; momentum \+ delta_task must stay below 1"):
        DeepKD.Config.read({"delta_task": 0.3}, what="update")


def test_settings_are_told_in_words() -> None:
    config = DeepKD.Config(delta_non_target=0.05)
    assert config.in_words() == "deepkd (sgd, lr 0.05, momentum 0.9 (task +0.075, target -0.075, non-target +0.05))"
    note = config.length_note(100)
    assert note is not None
    assert note.startswith("DeepKD's longer memory is 40 steps, and 100 steps are 2.5 of them")
    assert config.length_note(2000) is None


def spec(update: UpdateConfig, **settings: Any) -> StudentSpec:
    return StudentSpec(small_net(3), method=DeepKDLosses.Config(**CONFIG, **settings), update=update)


def test_rows_of_it_train_and_captured_steps_are_the_steps_themselves() -> None:
    ends = []
    for take in (plain, captured):
        trainer = trainer_of([spec(DeepKD.Config(lr=0.01)), spec(DOT.Config(lr=0.01))])
        take(trainer)
        trainer.fit(data(), epochs=2)
        ends.append(trainer)
    assert [student.name for student in ends[0].students] == ["deepkd+deepkd", "deepkd+dot"]
    assert ends[1]._captured.num_replays > 0
    for ours, theirs in zip(ends[0].students, ends[1].students, strict=True):
        for name, value in tensors_of(ours).items():
            assert torch.equal(tensors_of(theirs)[name], value), name
    state = ends[0].students[0].update.optimizer.state
    momenta = [set(known) for known in state.values()]
    assert {f"momentum_{stream}" for stream in STREAMS} in momenta


def test_the_parts_are_weighted_as_the_whole_and_asked_for_only_where_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = trainer_of([spec(DeepKD.Config(), beta=3.0, weight=0.7, warmup_epochs=4)])
    trainer.begin(epochs=8, steps_per_epoch=9)
    asked: list[Losses] = []
    monkeypatch.setattr(DeepKD, "accumulate", lambda self, losses, scaler=None: asked.append(losses))
    monkeypatch.setattr(DeepKD, "step", lambda self: None)
    for needed in ((), ("target", "non_target")):
        monkeypatch.setattr(DeepKD, "needs_streams", needed)
        trainer.replayable_step(trainer._checked(data()[0]))
    whole, apart = asked
    assert whole.parts == {}
    assert whole.distill is not None
    assert apart.distill is not None
    assert torch.equal(whole.distill, apart.distill)
    assert sorted(apart.parts) == ["non_target", "target"]
    torch.testing.assert_close(apart.parts["target"] + apart.parts["non_target"], apart.distill)
    torch.testing.assert_close(apart.parts["target"].detach(), 0.7 / 4 * apart.terms["deepkd.tckd"])


def test_methods_that_do_not_tell_the_parts_apart_are_refused_with_those_that_do() -> None:
    words = (
        "deepkd has a momentum for the target and non-target part .* and method 'kd' does not tell them apart; take "
    )
    with pytest.raises(UserError, match=words + "deepkd or dkd"):
        trainer_of([StudentSpec(small_net(3), method=methods.KD.Config(), update=DeepKD.Config())])
    with pytest.raises(UserError, match=words):
        row_named(recipe(), "kd+deepkd")
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match="by the target and the non-target part of the distillation loss apart"):
        DeepKD([weight]).accumulate(Losses(weight.sum(), weight.sum(), {}))


def recipe(**over: Any) -> Recipe:
    settings = {
        "data": {"root": "digits"},
        "teacher": {"model": "cifar:resnet8", "weights": "none", "allow_weak": True},
        "student": {"model": "cifar:resnet8", "weights": "none"},
    }
    return Recipe.read({**settings, **over}, what="the test's recipe")


@pytest.mark.parametrize(
    ("row", "distilled", "update"),
    [
        ("deepkd", ["deepkd"], "joint"),
        ("deepkd+dot", ["deepkd"], "dot"),
        ("deepkd+deepkd", ["deepkd"], "deepkd"),
        ("dkd+deepkd", ["dkd"], "deepkd"),
        ("deepkd+kd", ["deepkd", "kd"], "joint"),
        ("deepkd+dkd+deepkd", ["deepkd", "dkd"], "deepkd"),
    ],
)
def test_the_word_in_a_row_is_the_update_at_its_end_and_the_method_elsewhere(
    row: str, distilled: list[str], update: str
) -> None:
    found = row_named(recipe(), row)
    assert (found.name, [config.method.name for config in found.method]) == (row, distilled)
    assert found.update.name == update


def test_a_recipe_of_its_own_names_its_row_so_that_it_is_read_back() -> None:
    (row,) = rows_of(recipe(method="dkd", update="deepkd"))
    assert row.name == "dkd+deepkd"
    with pytest.raises(UserError, match="deepkd needs something to distil, such as"):
        row_named(recipe(), "alone+deepkd")


def test_probes_see_both_parts_as_the_distillation_loss() -> None:
    trainer = trainer_of([spec(DeepKD.Config(lr=0.01))], probes=["momenta"], probe_every=1)
    trainer.fit(data(), epochs=1)
    seen = trainer.probing.tensors()["momenta"]["deepkd+deepkd"]
    probe = trainer.probing.of["deepkd+deepkd"].probes["momenta"]
    assert isinstance(probe, Momenta)
    state = trainer.students[0].update.optimizer.state
    found = probe._of_update()
    assert found is not None
    for (_, parameter), distill in zip(probe.student.parameters, found["distill"], strict=True):
        assert torch.equal(distill, state[parameter]["momentum_target"] + state[parameter]["momentum_non_target"])
    assert seen["norm_distill_momentum"].isfinite().all()


def test_a_term_without_a_part_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of([spec(DeepKD.Config())])
    monkeypatch.setattr(DeepKDLosses, "streams", {"tckd": "target"})
    with pytest.raises(UserError, match="gives a term 'nckd' and does not say which part of the loss it is"):
        trainer.fit(data(), epochs=1)
