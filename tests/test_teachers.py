"""A live teacher: looks once, changes nothing, and is not changed."""

import pytest
import torch
from torch import Tensor, nn

from engine_helpers import CLASSES, batches, differing, small_net, small_teacher, tensors_of, trained
from understudy import Batch, LiveTeacher, UserError, create_model

ROWS = ["alone", "kd", "kd+dot", "dist", "projector"]


@pytest.mark.parametrize("row", ROWS)
def test_a_teacher_is_the_same_bit_for_bit_after_training(row: str) -> None:
    teacher = small_teacher(dropout=0.5)
    teacher.model.train()  # somebody left it like this
    before = {name: value.clone() for name, value in teacher.model.module.state_dict().items()}
    trained([row], teacher)
    assert differing(before, teacher.model.module.state_dict()) == []
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert not any(module.training for module in teacher.model.modules())


def test_it_observes_in_evaluation_mode_even_where_somebody_set_training_mode() -> None:
    teacher = small_teacher(dropout=0.5)
    expected = teacher.model.module.eval()(batches()[0].images)
    teacher.model.train()
    assert torch.equal(teacher.observe(batches()[0]).output, expected)


def test_what_it_observes_carries_no_gradient_but_may_be_saved_for_backward() -> None:
    teacher = small_teacher()
    teacher.tap(["embedding"])
    seen = teacher.observe(batches()[0])
    weight = torch.ones(12, requires_grad=True)
    (seen.features["embedding"] * weight).sum().backward()  # inference tensors would refuse
    assert not seen.output.requires_grad
    assert torch.equal(weight.grad, seen.features["embedding"].sum(0))


def test_it_looks_at_its_own_view_of_the_images_where_there_is_one() -> None:
    teacher = small_teacher()
    larger = torch.rand(8, 3, 16, 16)
    seen = teacher.observe(Batch(batches()[0].images, batches()[0].targets, teacher_images=larger))
    assert torch.equal(seen.output, teacher.model.module(larger))


def test_it_normalises_by_itself() -> None:
    class Darker(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images - 0.5

    network = small_net(1).eval()
    seen = LiveTeacher(network, prepare=Darker()).observe(batches()[0])
    assert torch.equal(seen.output, network(batches()[0].images - 0.5))


def test_new_taps_take_the_place_of_the_old_ones_and_keep_the_normalisation() -> None:
    class Darker(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images - 0.5

    teacher = LiveTeacher(small_net(1), prepare=Darker(), name="teacher small")
    before = teacher.observe(batches()[0]).output
    for taps in (["embedding"], ["conv", "norm"]):
        teacher.tap(taps)
        seen = teacher.observe(batches()[0])
        assert list(seen.features) == taps
        assert torch.equal(seen.output, before)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("folds", [True, False])
def test_the_same_taps_again_make_nothing_anew_unless_a_weight_has_changed(folds: bool, in_place: bool) -> None:
    network = create_model("cifar:resnet8", num_classes=CLASSES, weights="none").module
    teacher, batch = LiveTeacher(network, folds=folds), batches()[0]
    runs = []
    for taps in (["embedding"], ["embedding"], ["layer1"]):
        teacher.tap(taps)
        assert set(teacher.observe(batch).features) == set(taps)
        assert bool(teacher.folded) is folds
        runs.append(teacher._run)
    assert runs[0] is runs[1] is not runs[2]
    if in_place:
        with torch.no_grad():
            network.bn1.weight.mul_(3)
    else:  # as moving a network does with its buffers
        network.bn1.running_mean = network.bn1.running_mean.clone().add_(3)
    teacher.tap(["layer1"])
    assert set(teacher.observe(batch).features) == {"layer1"}
    torch.testing.assert_close(teacher.observe(batch).output, network.eval()(batch.images), rtol=1e-5, atol=1e-5)


def test_a_tap_that_it_does_not_have_is_answered_in_its_name() -> None:
    teacher = LiveTeacher(small_net(1), name="teacher small")
    with pytest.raises(UserError, match="teacher small has nothing to tap at 'layer3'; it offers: embedding, conv"):
        teacher.tap(["layer3"])


def test_several_students_cost_one_look_of_the_teacher_a_batch() -> None:
    teacher = small_teacher()
    looks: list[int] = []
    teacher.model.module.conv.register_forward_hook(lambda module, images, output: looks.append(len(output)))
    trainer = trained(["kd", "dist", "kd+dot"], teacher, epochs=0)
    looks.clear()
    trainer.fit([(batch.images, batch.targets) for batch in batches()], epochs=1)
    assert looks == [8, 8, 5]
    assert len({tensors_of(student)["model.fc.weight"].sum().item() for student in trainer.students}) == 3
