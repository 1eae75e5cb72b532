"""A live teacher: looks once, changes nothing, and is not changed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from helpers.engine import (
    CLASSES,
    CPU,
    SmallNet,
    batches,
    plain_batches,
    small_net,
    small_teacher,
    spec_of,
    student_of,
    trained,
)
from helpers.states import differing, tensors_of
from understudy import Batch, LiveTeacher, Observation, StudentSpec, Trainer, UserError, create_model, methods
from understudy.core.tap_shapes import TapShapes
from understudy.teachers import Teacher

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
    teacher, batch = LiveTeacher(network, fold_batch_norm=folds), batches()[0]
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
    trainer = trained(["kd", "dist", "kd+dot"], teacher, epochs=1)
    looks.clear()  # those of the dry passes, too
    trainer.fit([(batch.images, batch.targets) for batch in batches()], epochs=2)
    assert looks == [8, 8, 5]
    assert len({tensors_of(student)["/model/conv.weight"].sum().item() for student in trainer.students}) == 3


class Panel(Teacher):
    """Several networks whose logits are averaged: a kind of teacher that nothing else knows of."""

    name = "the panel"

    def __init__(self, members: Sequence[LiveTeacher]) -> None:
        self.members = members

    def facts(self) -> Mapping[str, Any]:
        return {"model": "panel", "starts_from": "its members"}

    def num_outputs(self, sample: Tensor) -> int | None:
        return self.members[0].num_outputs(sample)

    def tap(self, taps: Iterable[str]) -> None:
        wanted = tuple(taps)
        for member in self.members:
            member.tap(wanted)

    def check_taps(self, taps: Iterable[str]) -> None:
        self.members[0].check_taps(taps)

    def shapes(self, sample: Tensor) -> TapShapes:
        return self.members[0].shapes(sample)

    def observe(self, batch: Batch) -> Observation:
        seen = [member.observe(batch) for member in self.members]
        return Observation(
            output=torch.stack([one.output for one in seen]).mean(dim=0),
            features={tap: torch.stack([one.features[tap] for one in seen]).mean(dim=0) for tap in seen[0].features},
        )


class TestAnotherKindOfTeacher:
    @pytest.mark.parametrize("row", ["kd", "projector"])
    def test_one_class_is_enough_for_logits_and_features(self, row: str) -> None:
        panel = Panel([small_teacher(), small_teacher()])
        one, other = (student_of(spec_of(row), teacher) for teacher in (small_teacher(), panel))
        for student, teacher in ((one, small_teacher()), (other, panel)):
            teacher.tap(one.methods[0].method.taps_for(one.methods[0].method.config).teacher)
            Trainer([student], teacher=teacher, device=CPU).fit(batches(), epochs=1)
        assert not differing(tensors_of(one), tensors_of(other))

    def test_it_is_handed_to_the_trainer_as_a_network_is(self) -> None:
        panel = Panel([small_teacher(), small_teacher()])
        trainer = us.trainer(
            task=us.Classification(CLASSES), students=[spec_of("projector")], sample=batches()[0], teacher=panel
        )
        trainer.fit(batches(), epochs=1)
        assert trainer.teacher is panel


class TestTheNetworkItself:
    def test_it_keeps_its_modes_and_gets_no_hooks(self) -> None:
        network = small_net(1, dropout=0.5).train()
        network.norm.eval()
        modes = [module.training for module in network.modules()]
        before = {name: value.clone() for name, value in network.state_dict().items()}
        teacher = LiveTeacher(network, fold_batch_norm=True)
        trained(["kd", "projector"], teacher)
        assert [module.training for module in network.modules()] == modes
        assert differing(before, network.state_dict()) == []
        assert network.act.inplace
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())

    def test_one_that_cannot_be_copied_is_put_into_evaluation_mode_for_each_look(self) -> None:
        class Unique(SmallNet):
            def __deepcopy__(self, memo: object) -> None:
                raise ValueError("there is but one")

        network = Unique(dropout=0.5).train()
        teacher = LiveTeacher(network, fold_batch_norm=True)
        seen = teacher.observe(batches()[0]).output
        assert all(module.training for module in network.modules())
        assert torch.equal(seen, network.eval()(batches()[0].images))

    def test_one_that_runs_itself_through_a_closure_is_in_evaluation_mode_too(self) -> None:
        network = nn.Sequential(small_net(1, dropout=0.5)).train()
        network.head = lambda images: network[0](images)
        network.forward = lambda images: network.head(images)
        seen = LiveTeacher(network).observe(batches()[0]).output
        assert torch.equal(seen, network.eval()(batches()[0].images))


class TestOddTeachers:
    def test_an_ensemble_in_a_plain_list_is_in_evaluation_mode_and_its_members_are_left_alone(self) -> None:
        class Ensemble(nn.Module):
            def __init__(self, members: list[nn.Module]) -> None:
                super().__init__()
                self.members = members

            def forward(self, images: Tensor) -> Tensor:
                return torch.stack([member(images) for member in self.members]).mean(0)

        members = [small_net(seed, dropout=0.5).train() for seed in (1, 2)]
        seen = LiveTeacher(Ensemble(members), fold_batch_norm=True).observe(batches()[0]).output
        assert all(member.training for member in members)
        expected = torch.stack([member.eval()(batches()[0].images) for member in members]).mean(0)
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*")
    def test_a_frozen_script_is_a_teacher(self) -> None:
        network = small_net(1).eval()
        frozen = torch.jit.freeze(torch.jit.script(network))
        seen = LiveTeacher(frozen, fold_batch_norm=True).observe(batches()[0]).output
        torch.testing.assert_close(seen, network(batches()[0].images))

    @pytest.mark.parametrize("given", [[small_net(1)], small_net, "resnet18", {"fc": torch.ones(1)}, nn.ModuleList()])
    def test_what_is_no_network_is_refused_in_words(self, given: object) -> None:
        with pytest.raises(UserError, match=r"teacher.*(wrap|build|load|hand over)"):
            LiveTeacher(given)


class Softmaxed(SmallNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)


class TestProbabilities:
    def test_the_logarithm_is_taken_and_said_once(self) -> None:
        network, said = Softmaxed().eval(), []
        teacher = LiveTeacher(network, name="teacher soft", say=said.append)
        for batch in batches():
            logits = SmallNet.forward(network, batch.images)
            torch.testing.assert_close(teacher.observe(batch).output, logits.log_softmax(1))
        assert said == [
            "teacher soft gives probabilities (it ends in a softmax): their logarithm is taken for its logits"
        ]

    def test_a_probability_of_zero_is_a_finite_logit(self) -> None:
        certain = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        certain.forward = lambda images: torch.eye(3)[torch.arange(len(images)) % 3]
        seen = LiveTeacher(certain, say=lambda note: None).observe(batches()[0]).output
        assert seen.isfinite().all()
        assert torch.equal(seen.argmax(1), torch.arange(8) % 3)

    def test_logits_are_left_as_they_are(self) -> None:
        network = small_net(1).eval()
        assert torch.equal(LiveTeacher(network).observe(batches()[0]).output, network(batches()[0].images))

    def test_a_student_that_ends_in_a_softmax_is_refused(self) -> None:
        student = student_of(StudentSpec(Softmaxed(), method=methods.KD.Config()), small_teacher())
        trainer = Trainer([student], teacher=small_teacher(), device=CPU)
        with pytest.raises(UserError, match=r"student ends in a softmax.*leave the softmax out"):
            trainer.fit(plain_batches(), epochs=1)
