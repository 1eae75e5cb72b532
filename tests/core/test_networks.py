"""The door for networks that are handed over in Python: what is taken works, and what is not is refused in words."""

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm
from torch.utils.data import TensorDataset

import understudy as us
from helpers.engine import CLASSES, SmallNet, batches, plain_batches, small_net
from understudy import UserError
from understudy.core.networks import checked_network, copied, shell_of

IMAGES = batches()[0].images
SETTINGS = {"channels_last": False}


class Caching(SmallNet):
    """Keeps a feature with its graph, as many networks do for a look at it."""

    def forward(self, images: Tensor) -> Tensor:
        self.feature = self.conv(images)
        self.features = {"first": [self.feature * 2]}
        return self.fc(self.norm(self.feature).mean((2, 3)))


def pruned() -> nn.Module:
    network = small_net(1)
    prune.l1_unstructured(network.conv, "weight", amount=0.5)
    return network


def old_weight_norm() -> nn.Module:
    network = small_net(1)
    network.conv = weight_norm(network.conv)
    return network


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("make", [pruned, old_weight_norm, Caching])
def test_what_is_worked_out_in_a_pass_does_not_stand_against_a_copy(make: Callable[[], nn.Module]) -> None:
    network = make()
    network(IMAGES)  # with gradient
    for other in (copied(network, role="student"), shell_of(network)):
        assert other is not network
        assert torch.equal(other.eval()(IMAGES), copy_by_state(make, network)(IMAGES))
    with torch.no_grad():
        copied(network, role="student").fc.weight.add_(1)
    assert torch.equal(network.eval()(IMAGES), copy_by_state(make, network)(IMAGES))


def copy_by_state(make: Callable[[], nn.Module], network: nn.Module) -> nn.Module:
    other = make()
    other.load_state_dict(network.state_dict())
    return other.eval()


def test_a_shell_has_the_tensors_but_modes_and_hooks_of_its_own() -> None:
    network = small_net(1).train()
    shell = shell_of(network)
    shell.eval()
    shell.conv.register_forward_hook(lambda *call: None)
    assert network.conv.training
    assert not network.conv._forward_hooks
    network.norm.running_mean = torch.ones(6)  # as moving a network does with its buffers
    assert shell.norm.running_mean is network.norm.running_mean
    assert shell.fc.weight is network.fc.weight


def test_a_network_that_would_go_on_running_its_original_is_not_copied() -> None:
    network = small_net(1)
    network.head = lambda maps: network.fc(maps)
    assert shell_of(network) is None
    with pytest.raises(UserError, match=r"student SmallNet keeps a function that holds on to the network.*\(head\)"):
        copied(network, role="student")


def test_what_cannot_be_copied_is_said_with_the_way_out() -> None:
    network = small_net(1)
    network.lock = threading.Lock()
    with pytest.raises(UserError, match=r"teacher SmallNet cannot be copied \(TypeError: .*us\.trainer"):
        copied(network, role="teacher")


class Stateful(SmallNet):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
            r"do not know their size yet \(1.weight, 1.bias\); run it once",
        ),
        (nn.Sequential(nn.Flatten()), "no parameter that can be trained"),
        (Stateful(), r"something other than tensors in its state \(_extra_state, .*register"),
        (nn.Linear(2, 2, device="meta"), "no weights yet"),
        ([small_net(1), small_net(2)], r"got a list of 2; wrap several students in one nn\.Module"),
        (SmallNet, r"got the class SmallNet; hand over a network of it: SmallNet\(...\)"),
        (lambda images: images, r"got a function; wrap it in an nn\.Module"),
        (small_net(1).state_dict(), "of weights; load them into a network"),
        (us.create_model("cifar:resnet8", num_classes=2, weights="none"), r"got a Network; .*\.prepared"),
        (nn.ModuleList([small_net(1)]), "has no forward"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(network: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"student.*{said}"):
        checked_network(network, role="student", trains=True)


def test_a_trainer_leaves_teacher_and_student_as_they_were_and_fit_to_be_pickled() -> None:
    teacher, student = small_net(1).train(), small_net(2).train()
    trainer = us.trainer(
        task=us.Classification(num_classes=CLASSES),
        teacher=us.LiveTeacher(teacher),
        students=[us.StudentSpec(student, method=us.methods.Projector.Config())],
        sample=plain_batches()[0],
    )
    trainer.fit(plain_batches(), epochs=1)
    assert teacher.training
    for network in (teacher, student):
        assert network.act.inplace
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
        again = pickle.loads(pickle.dumps(network))
        assert torch.equal(again.eval()(IMAGES), copy.deepcopy(network).eval()(IMAGES))


def data() -> TensorDataset:
    return TensorDataset(torch.cat([batch.images for batch in batches()]), torch.arange(21) % CLASSES)


def distilled(teacher: Any, student: Any, out: Path, **options: Any) -> us.Result:
    return us.distill(
        teacher,
        student,
        train=data(),
        val=data(),
        epochs=1,
        batch_size=7,
        out=out,
        quiet=True,
        allow_weak_teacher=True,
        settings=SETTINGS,
        **options,
    )


class Growing(SmallNet):
    def forward(self, images: Tensor) -> Tensor:
        if not hasattr(self, "grid"):
            self.register_buffer("grid", torch.ones(images.shape[-2:]))
        return super().forward(images * self.grid)


@pytest.mark.parametrize("kind", ["buffer", "parameter"])
def test_what_a_student_registers_in_its_first_pass_is_trained_and_read_again(kind: str, tmp_path: Path) -> None:
    class Unsized(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            if not hasattr(self, "grid"):
                grid = torch.ones(images.shape[-2:])
                self.register_buffer("grid", grid) if kind == "buffer" else setattr(self, "grid", nn.Parameter(grid))
            return super().forward(images * self.grid)

    result = distilled(small_net(1), Unsized(), tmp_path / "run")  # was lost here, after all epochs
    again = us.load_student(tmp_path / "run", module=Unsized(), prepared=False)
    assert torch.equal(again(IMAGES), result.student(IMAGES))
    assert (again.grid == 1).all() == (kind == "buffer")


def compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network, backend="eager")


def compiled_in_place(network: nn.Module) -> nn.Module:
    network.compile(backend="eager")
    return network


@pytest.mark.parametrize("compiles", [compiled, compiled_in_place])
def test_compiled_networks_are_taken_for_the_networks_within(
    compiles: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    plain = distilled(small_net(1), small_net(2), tmp_path / "plain", method="projector").student.state_dict()
    result = distilled(compiles(small_net(1)), compiles(small_net(2)), tmp_path / "run", method="projector")
    assert type(result.student) is SmallNet
    assert all(torch.equal(value, plain[key]) for key, value in result.student.state_dict().items())


def test_a_trainer_trains_the_network_within_a_compiled_one() -> None:
    student = compiled(small_net(2))
    before = student.fc.weight.detach().clone()
    trainer = us.trainer(
        task=us.Classification(num_classes=CLASSES),
        teacher=compiled(small_net(1)),
        students=us.StudentSpec(student, method=us.methods.Projector.Config()),
        sample=plain_batches()[0],
    )
    trainer.fit(plain_batches(), epochs=1)
    assert not torch.equal(student.fc.weight, before)


def test_a_network_with_compiled_parts_is_refused_and_so_is_a_trainers_student_that_was_compiled_in_place() -> None:
    network = small_net(1)
    network.conv = compiled(network.conv)
    with pytest.raises(UserError, match=r"has parts that torch.compile has wrapped \(conv\)"):
        checked_network(network, role="teacher")
    with pytest.raises(UserError, match=r"student none was compiled in place.*StudentSpec\(compile=True\)"):
        us.trainer(
            task=us.Classification(num_classes=CLASSES),
            teacher=None,
            students=us.StudentSpec(compiled_in_place(small_net(2)), name="none"),
            sample=plain_batches()[0],
        )


def prepared_for_quantisation() -> nn.Module:
    quantised = torch.ao.quantization
    layers = [quantised.QuantStub(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES)]
    network = nn.Sequential(*layers, quantised.DeQuantStub()).train()
    network.qconfig = quantised.get_default_qat_qconfig("x86")
    return quantised.prepare_qat(network)


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
@pytest.mark.parametrize("make", [pruned, Growing, prepared_for_quantisation])
def test_odd_students_are_distilled_and_read_again(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    student = make()
    student(IMAGES)
    result = distilled(small_net(1), student, tmp_path / "run", device=torch.device("cpu"))
    assert result.student(IMAGES).shape == (8, CLASSES)
    if make is pruned:
        assert (result.student.state_dict()["conv.weight_mask"] == 0).sum() == 81


def test_a_student_that_keeps_a_view_of_its_maps_runs_contiguous_and_that_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Viewing(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return self.fc(maps.view(len(maps), -1)[:, :6])

    us.distill(small_net(1), Viewing(), train=data(), val=data(), epochs=1, out=tmp_path / "r", allow_weak_teacher=True)
    assert capsys.readouterr().out.count("student Viewing runs contiguous, since it fails in channels_last") == 1


def test_the_probabilities_of_a_teacher_are_noted_in_the_results(tmp_path: Path) -> None:
    class Softmaxed(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).softmax(1)

    notes = distilled(Softmaxed(), small_net(2), tmp_path / "run").results.data.notes
    assert [note for note in notes if "gives probabilities" in note and "logarithm" in note]


def test_a_student_that_keeps_a_view_only_in_training_runs_contiguous(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class ViewingInTraining(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return self.fc((maps.view(len(maps), -1) if self.training else maps.flatten(1))[:, :6])

    student = ViewingInTraining()
    us.distill(small_net(1), student, train=data(), val=data(), epochs=1, out=tmp_path / "r", allow_weak_teacher=True)
    assert capsys.readouterr().out.count("student ViewingInTraining runs contiguous, since it fails") == 1
