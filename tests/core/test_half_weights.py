"""Half-precision copies of all weights at once: the bits of autocast, in fewer kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.engine import SmallNet, batches, small_teacher, spec_of, student_of
from helpers.states import differing, flat
from understudy import Trainer
from understudy.core.half_weights import HalfWeights
from understudy.utils.seeding import seeded

BF16 = torch.bfloat16


class Casts(TorchDispatchMode):
    """Counts casts of one tensor, and of many at once."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.many = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.one += func is torch.ops.aten._to_copy.default
        self.many += func is torch.ops.aten._foreach_copy_.default
        return func(*args, **(kwargs or {}))


class ReadingNet(SmallNet):
    """Reads its classifier's weights by itself, which autocast leaves as they are."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / (1 + self.fc.weight.norm())


def network(kind: str) -> nn.Module:
    with seeded(1):
        if kind == "vit":
            made = timm.create_model(
                "vit_tiny_patch16_224", num_classes=10, img_size=8, patch_size=4, embed_dim=24, depth=2, num_heads=2
            )
        else:
            made = ReadingNet() if kind == "reads" else SmallNet()
    if kind == "frozen":
        made.conv.requires_grad_(False)
    return made


def gradients(model: nn.Module, halves: HalfWeights | None) -> list[Tensor | None]:
    """Of two losses through one graph, as DOT takes them."""
    images = batches()[0].images
    with torch.autocast("cpu", BF16), nullcontext() if halves is None else halves.in_place(images):
        out = model(images)
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = torch.autograd.grad(out.float().logsumexp(1).sum(), wanted, retain_graph=True)
    return [*first, *torch.autograd.grad(out.float()[:, 0].square().sum(), wanted)]


@pytest.mark.parametrize("kind", ["small", "frozen", "vit", "reads"])
def test_gradients_are_those_of_autocast_bit_for_bit(kind: str) -> None:
    ours, theirs = network(kind), network(kind)
    before = dict(ours.named_parameters())
    halves = HalfWeights(ours)
    for mine, plain in zip(gradients(ours, halves), gradients(theirs, None), strict=True):
        assert torch.equal(mine, plain)
        assert mine.dtype == torch.float32
    assert halves.agree == (kind != "reads")
    after = dict(ours.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is parameter for name, parameter in before.items())


def test_two_kernels_cast_in_place_of_two_a_weight() -> None:
    counted = []
    for halves in (None, HalfWeights(network("small"))):
        model = network("small") if halves is None else halves._network
        gradients(model, halves)  # asks once whether the network agrees
        with Casts() as casts:
            gradients(model, halves)
        counted.append((casts.one, casts.many))
    # Four weights and biases: cast once, their gradients twice.
    assert counted[0][0] - counted[1][0] == 4 * 3
    assert (counted[0][1], counted[1][1]) == (0, 3)


def test_a_pass_that_fails_leaves_the_weights() -> None:
    model = network("small")
    halves, images = HalfWeights(model), batches()[0].images
    model.forward = lambda images: model.conv(images).view(7)
    halves.agree = True

    def one_pass() -> None:
        with torch.autocast("cpu", BF16), halves.in_place(images):
            assert model.conv.weight.dtype == BF16
            model(images)

    with pytest.raises(RuntimeError, match="invalid for input"):
        one_pass()
    assert isinstance(model.conv.weight, nn.Parameter)


def test_a_loss_can_be_differentiated_twice() -> None:
    """As penalties on gradients are."""
    found = []
    for halves in (None, HalfWeights(network("small"))):
        model = network("small") if halves is None else halves._network
        images = batches()[0].images
        with (
            torch.autocast("cpu", BF16),
            HalfWeights(nn.Identity()).in_place(images) if halves is None else halves.in_place(images),
        ):
            out = model(images)
        (gradient,) = torch.autograd.grad(out.float().square().sum(), model.fc.weight, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), model.conv.weight)[0])
    assert torch.equal(*found)


@contextmanager
def nothing(halves: HalfWeights, images: Tensor) -> Iterator[None]:
    yield


@pytest.mark.parametrize("row", ["kd", "kd+dot", "projector"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_takes_the_steps_of_autocast(row: str, precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for is_plain in (False, True):
        teacher = small_teacher()
        teacher.fold_batch_norm = True
        if is_plain:
            monkeypatch.setattr(HalfWeights, "in_place", nothing)
        student = student_of(replace(spec_of(row), precision=precision), teacher)
        trainer = Trainer([student], teacher=teacher, device=torch.device("cpu"))
        trainer.fit([(batch.images, batch.targets) for batch in batches(6)], epochs=1)
        if not is_plain:
            assert student._halves.agree
            assert [halves.agree for halves in teacher._halves.values()] == [True] * len(teacher._halves)
            assert teacher._halves
        ends.append(flat(student.state_dict()))
    assert differing(*ends) == []


def test_a_folded_teachers_copies_are_made_once() -> None:
    teacher = small_teacher()
    teacher.fold_batch_norm = True
    teacher.tap([])
    with torch.autocast("cpu", BF16):
        teacher.observe(batches()[0])
        with Casts() as casts:
            seen = teacher.observe(batches()[1])
    assert casts.many == 0
    with Casts() as ours, torch.autocast("cpu", BF16):
        teacher.observe(batches()[1])
    teacher._halves[teacher._run].agree = False
    with Casts() as plain, torch.autocast("cpu", BF16):
        again = teacher.observe(batches()[1])
    assert plain.one - ours.one == 4
    assert torch.equal(seen.output, again.output)
    assert F.softmax(seen.output.float(), 1).isfinite().all()
