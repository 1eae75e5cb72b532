"""The Python API at its three heights, as a person writes it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import understudy as us
from helpers.command_line import refused
from helpers.tiny import tiny_data, tiny_network, tiny_teacher
from understudy.data.divide import held_out

Distill = Callable[..., us.Result]


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return tiny_teacher()


@pytest.fixture
def distill(teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distill:
    """`us.distill` of the tiny teacher, two quiet epochs, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(student: nn.Module | None = None, *, teacher: nn.Module = teacher, **settings: Any) -> us.Result:
        given = {"train": tiny_data(), "epochs": 2, "batch_size": 16, "quiet": True} | settings
        return us.distill(teacher, student or tiny_network(4), **given)

    return call


class Photographs(Dataset[Any]):
    """As torchvision's data sets: PIL images, `classes`, and labels that are read sample by sample."""

    classes = ("red", "green", "blue")

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        image, label = tiny_data(24)[i]
        return Image.fromarray((image * 255).permute(1, 2, 0).numpy().astype(np.uint8)), int(label)


def test_one_call_leaves_a_student_its_score_and_a_page(teacher: nn.Module, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    student, data = tiny_network(4), tiny_data()
    train_set, val_set = Subset(data, range(36)), Subset(data, range(36, 48))
    result = us.distill(
        teacher, student, train=train_set, val=val_set, method="dist", update="dot", epochs=5, batch_size=16
    )
    images, labels = data.tensors
    with torch.no_grad():
        top1 = 100 * (result.student(images[36:]).argmax(1) == labels[36:]).double().mean().item()
    assert result.top1 == pytest.approx(top1, abs=1e-3)
    assert result.report("report.html").read_text(encoding="utf-8").count("<html") == 1
    assert result.run.path == Path("runs/distill-1")
    assert [row.name for row in result.results.rows] == ["dist+dot"]


def test_the_student_is_a_trained_copy_in_evaluation_mode(distill: Distill) -> None:
    student = tiny_network(4)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    result = distill(student)
    assert not result.student.training
    assert all(torch.equal(student.state_dict()[name], value) for name, value in before.items())
    assert not torch.equal(nn.utils.parameters_to_vector(result.student.parameters()), vector_of(student))


def test_the_trained_student_has_its_own_class_and_keys(distill: Distill, teacher: nn.Module) -> None:
    result = distill(ByHand(), epochs=1, method="projector", settings={"ema": 0.9})
    assert type(result.student) is ByHand
    torch.save(result.student, "whole.pth")  # no hook of a tap is left in it
    torch.save(result.student.state_dict(), "student.pth")
    again, images = ByHand(), tiny_data().tensors[0]
    again.load_state_dict(torch.load("student.pth"))
    loaded = us.load_student(result.run.path, module=ByHand(), prepared=False)
    assert type(loaded) is ByHand
    for network in (again.eval(), loaded, us.load_student(result.run.path, module=ByHand())):
        assert torch.equal(network(images), result.student(images))


class UnderModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = tiny_network(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images)


def test_a_student_with_a_part_called_module_comes_back_trained(distill: Distill) -> None:
    result = distill(UnderModule())
    assert set(result.student.state_dict()) == set(UnderModule().state_dict())
    assert not torch.equal(vector_of(result.student), vector_of(UnderModule()))


def vector_of(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters())


def test_the_same_call_gives_the_same_student(distill: Distill) -> None:
    one, two = distill(), distill()
    assert torch.equal(vector_of(one.student), vector_of(two.student))
    assert (one.run.path.name, two.run.path.name) == ("distill-1", "distill-2")


def test_photographs_are_distilled_with_their_class_names(distill: Distill, teacher: nn.Module) -> None:
    result = distill(
        train=Photographs(), method=us.methods.DIST.Config(tau=4), update=us.DOT.Config(lr=0.1, delta=0.05)
    )
    assert result.results.data.classes == ("red", "green", "blue")
    assert (result.results.rows[0].methods[0]["tau"], result.results.rows[0].update["lr"]) == (4, 0.1)


def test_a_test_set_is_what_the_score_is_read_on(distill: Distill) -> None:
    wrong = tiny_data()
    wrong.tensors = (wrong.tensors[0], (wrong.tensors[1] + 1) % 3)
    result = distill(val=tiny_data(), test=wrong, epochs=4)
    assert result.results.rows[0].summary.scores["top1"].mean > 60
    assert result.top1 < 40


def test_several_methods_schedule_and_task_weight_are_taken(distill: Distill) -> None:
    schedule = us.Schedule(name="step", milestones=(1,))
    result = distill(method=["kd", us.methods.DIST.Config()], schedule=schedule, task_weight=0.3, out="x")
    row = result.results.rows[0]
    assert ([method["name"] for method in row.methods], row.task_weight) == (["kd", "dist"], 0.3)
    assert result.run.recipe()["schedule"]["milestones"] == [1.0]


def test_images_that_are_no_squares_are_taken_as_they_are(distill: Distill) -> None:
    data = TensorDataset(torch.rand(24, 3, 8, 12), torch.arange(24) % 3)
    result = distill(train=data, allow_weak_teacher=True)
    assert result.results.rows[0].student.image_size == (8, 12)
    assert result.results.teacher is not None
    assert result.results.teacher.image_size == (8, 12)
    about = json.loads((result.run.student / "config.json").read_text())
    assert (about["understudy"]["resize_to"], about["pretrained_cfg"]["input_size"]) == ([8, 12], [3, 8, 12])


def test_rectangles_of_several_sizes_are_refused_rather_than_cropped(distill: Distill) -> None:
    data = [(torch.rand(3, 8, 12 + i % 2), i % 3) for i in range(24)]
    with pytest.raises(us.UserError, match="images are 8 x 12 pixels and 8 x 13; one size is wanted: crop or resize"):
        distill(train=data)


class SaysTwoThings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_network(4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images), images


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"method": "kdd"}, r"method +'kdd' is unknown; did you mean kd\?"),
        ({"epochs": 0}, "epochs +input should be greater than or equal to 1, got 0"),
        ({"update": "dott"}, r"'dott' is unknown; did you mean dot\?"),
        ({"teacher": tiny_network(16)}, "scores .* on 3 classes: no better than chance"),
        ({"teacher": tiny_network(4, 5), "allow_weak_teacher": True}, "teacher has 5 classes and the student 3"),
        ({"student": tiny_network(4, 2)}, r"student kd gives 2 logits, but there are 3 classes; build it with 3"),
        ({"student": tiny_network(4, 5), "teacher": None, "method": "none"}, "student alone gives 5 logits"),
        ({"student": SaysTwoThings()}, r"must return \(B,C\) logits, got tuple"),
        ({"teacher": SaysTwoThings()}, r"must return \(B,C\) logits, got tuple"),
        ({"classes": ["red", "green"]}, r"label 2 of row 2 is outside 0\.\.1"),
        ({"method": "projector", "batch_size": 1}, "needs at least 2 images in every batch"),
        ({"settings": [("ema", 0.9)]}, r"settings must be a mapping such as \{'ema': 0\.999\}, got"),
        ({"settings": {"data": {"image_size": 16}}}, r"settings: data\.image_size says nothing here"),
        ({"settings": {"student": {"model": "x"}}}, r"settings: student\.model says nothing here"),
        ({"settings": {"teacher": {"train_epochs": 1}}, "teacher": None, "method": "none"}, "settings: teacher"),
        ({"classes": 3}, "classes must be names, one for each class in order, got 3"),
        ({"classes": ["a", None, "c"]}, "classes must be names"),
        ({"out": 3}, "out must be a folder's name, got 3"),
        ({"seed": 2**70}, "a seed of more than 18 digits"),
        ({"train": iter([1])}, "is no data set with a length and samples by number"),
        ({"train": Subset(tiny_data(), [])}, "empty|no image"),
        ({"train": TensorDataset(tiny_data().tensors[0], F.one_hot(tiny_data().tensors[1]))}, "label"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, "teacher"),  # made for grey images
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_distilled_is_refused_in_words(distill: Distill, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(us.UserError, match=text):
        distill(**settings)


def test_classes_may_be_numbers(distill: Distill) -> None:
    assert distill(epochs=1, classes=[7, 8, 9]).results.data.classes == ("7", "8", "9")


def test_of_several_rows_the_student_is_the_one_that_is_deployed(distill: Distill) -> None:
    simkd = us.methods.SimKD.Config(match="embedding", student_tap="embedding", teacher_tap="embedding")
    result = distill(epochs=3, method=simkd, task_weight=0.0, settings={"rows": ["alone", "simkd"]})
    deployed = result.results.row(result.results.deployed.row)
    assert (type(result.student).__name__ == "SimKDStudent") == (deployed.name == "simkd")
    images, labels = data_of_val(result)
    with torch.no_grad():
        top1 = 100 * (result.student(images).argmax(1) == labels).double().mean().item()
    assert result.top1 == pytest.approx(top1, abs=1e-3) == deployed.summary.scores["top1"].mean


def data_of_val(result: us.Result) -> tuple[Tensor, Tensor]:
    """The held-out part of `tiny_data`, in stored order."""
    images, labels = tiny_data().tensors
    held = held_out(labels, 0.2, 0)[1]
    assert len(held) == result.results.data.num_val
    return images[held], labels[held]


def test_advice_in_python_names_what_python_has(distill: Distill) -> None:
    with pytest.raises(us.UserError) as caught:
        distill(teacher=tiny_network(16))
    assert "allow_weak_teacher" in str(caught.value)


def unfinished(result: us.Result) -> Path:
    """The folder of a run as if it had been stopped just before its end."""
    result.run.results_file.unlink()
    return result.run.path


class ByHand(nn.Module):
    """A network of which neither weights nor `repr` say everything."""

    def __init__(self, width: int = 4, *, activation: str = "relu", drop: float = 0.1) -> None:
        super().__init__()
        self.activation, self.drop = activation, drop
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, width, 3), nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = getattr(F, self.activation)(self.conv(images)).mean((2, 3))
        return self.fc(F.dropout(features, self.drop, self.training))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"student": ByHand()}, {"student": ByHand(activation="silu")}, r"student\.outputs"),
        ({"val": tiny_data(24)}, {"val": tiny_data(36)}, r"val\.images"),
    ],
    ids=["the student's activation", "validation images"],
)
def test_an_unfinished_run_is_continued_by_the_same_call_alone(
    before: dict[str, Any], after: dict[str, Any], words: str, distill: Distill, capsys: pytest.CaptureFixture[str]
) -> None:
    first = unfinished(distill(**{"val": tiny_data(24), "epochs": 1, **before}))
    capsys.readouterr()
    assert distill(**{"val": tiny_data(24), "epochs": 1, **after}, quiet=False).run.path != first
    assert re.search(rf"runs/distill-1 is unfinished, but not of this run \(other .*{words}", capsys.readouterr().out)
    assert distill(**{"val": tiny_data(24), "epochs": 1, **before}).run.path == first


def test_an_unfinished_run_in_out_of_another_network_is_refused(distill: Distill) -> None:
    unfinished(distill(ByHand(), epochs=1, out="x"))
    with pytest.raises(us.UserError, match=r"(?s)another recipe; take another --out.*student\.outputs   another one"):
        distill(ByHand(activation="silu"), epochs=1, out="x")


def test_the_same_call_continues_a_run_that_was_cut_off_and_another_one_does_not(distill: Distill) -> None:
    first = unfinished(distill())
    assert distill(train=tiny_data(45)).run.path != first
    assert distill(teacher=tiny_teacher_again()).run.path != first
    assert distill().run.path == first


def test_a_data_set_whose_transform_draws_is_known_again(distill: Distill) -> None:
    class Noisy(Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.rand(3, 8, 8), i % 3

    first = distill(train=Noisy(), val=tiny_data(), epochs=1).run
    first.results_file.unlink()
    torch.rand(7)  # whatever was drawn in between
    assert distill(train=Noisy(), val=tiny_data(), epochs=1).run.path == first.path


def tiny_teacher_again() -> nn.Module:
    """Of the same class and as good, but with other weights."""
    teacher = tiny_teacher()
    with torch.no_grad():
        teacher[-1].bias += 0.1
    return teacher


def test_a_finished_run_is_replaced_only_where_that_is_said(distill: Distill) -> None:
    distill(out="x")
    with pytest.raises(us.UserError, match="holds a finished run"):
        distill(out="x")
    assert distill(out="x", overwrite=True).run.path == Path("x")


def test_a_trainer_is_composed_from_settings(teacher: nn.Module) -> None:
    student, loader = tiny_network(4), DataLoader(tiny_data(), batch_size=16, shuffle=True)
    before = vector_of(student)
    trainer = us.trainer(
        task=us.Classification(num_classes=3),
        teacher=us.LiveTeacher(teacher),
        students=[
            us.StudentSpec(student, method=us.methods.DIST.Config(tau=1), update=us.DOT.Config(lr=0.05, delta=0.075))
        ],
        sample=next(iter(loader)),
    )
    trainer.fit(loader, epochs=5)
    history = trainer.history["dist+dot"]
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5]
    assert history[-1]["train"]["kl_to_teacher"] < history[0]["train"]["kl_to_teacher"]
    assert not torch.equal(vector_of(student), before)  # the network itself is trained


def test_students_of_one_trainer_share_the_teachers_passes(teacher: nn.Module) -> None:
    loader, passes = DataLoader(tiny_data(), batch_size=16), []
    handle = teacher.register_forward_hook(lambda *_: passes.append(1))
    specs = [us.StudentSpec(tiny_network(4), method=us.methods.KD.Config()), us.StudentSpec(tiny_network(4))]
    task = us.Classification(num_classes=3)
    trainer = us.trainer(task=task, teacher=us.LiveTeacher(teacher), students=specs, sample=next(iter(loader)))
    passes.clear()
    trainer.fit(loader, epochs=2)
    handle.remove()
    assert len(passes) == 2 * len(loader)
    assert set(trainer.history) == {"kd", "alone"}


def test_two_students_of_one_name_are_refused(teacher: nn.Module) -> None:
    specs = [us.StudentSpec(tiny_network(4)), us.StudentSpec(tiny_network(8))]
    with pytest.raises(us.UserError, match=r"two students are called 'alone'; give StudentSpec\(name=\.\.\.\)"):
        us.trainer(task=us.Classification(num_classes=3), students=specs, sample=tiny_data()[:2])


def test_a_loader_without_a_length_is_refused(teacher: nn.Module) -> None:
    trainer = us.trainer(
        task=us.Classification(num_classes=3), students=[us.StudentSpec(tiny_network(4))], sample=tiny_data()[:2]
    )
    with pytest.raises(us.UserError, match=r"a plain loader needs a length \(steps per epoch\)"):
        trainer.fit(iter([]), epochs=1)


def test_ones_own_loop_takes_two_more_lines_than_sgd(teacher: nn.Module) -> None:
    student, loader = tiny_network(4), DataLoader(tiny_data(), batch_size=16)
    optimizer = us.DOT(student.parameters(), lr=0.05, momentum=0.9, delta=0.075, weight_decay=5e-4)
    losses = []
    for _ in range(8):
        for images, labels in loader:
            with torch.no_grad():
                seen = teacher(images)
            said = student(images)
            distill = us.kd_loss(said, seen, temperature=4)
            optimizer.backward(task=0.1 * F.cross_entropy(said, labels), distill=0.9 * distill)
            optimizer.step()
            losses.append(distill.item())
    assert losses[-1] < 0.5 * losses[0]


def test_any_scheduler_of_torch_drives_dot() -> None:
    student, (images, labels) = tiny_network(4), tiny_data().tensors
    optimizer = us.DOT(student.parameters(), lr=0.1, momentum=0.9, delta=0.075)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[2])
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        said = student(images)
        optimizer.backward(
            task=F.cross_entropy(said, labels), distill=us.kd_loss(said, said.detach() + 1, temperature=4)
        )
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.01, 0.055, 0.1, 0.085355, 0.05, 0.014645], abs=1e-5)
    stopped = vector_of(student)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.backward(task=F.cross_entropy(student(images), labels))
    optimizer.step()
    assert torch.equal(vector_of(student), stopped)


@pytest.mark.parametrize("name", sorted(us.__all__))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(us, name).__doc__


def test_a_student_with_the_teachers_classifier_comes_back_whole(distill: Distill) -> None:
    result = distill(
        method=us.methods.SimKD.Config(match="embedding", student_tap="embedding", teacher_tap="embedding")
    )
    images = tiny_data().tensors[0]
    assert result.student(images).shape == (len(images), 3)
    assert type(result.student).__name__ == "SimKDStudent"


def test_a_method_that_asks_no_teacher_needs_none(distill: Distill) -> None:
    assert distill(teacher=None, method="tfkd").results.teacher is None


def test_rotations_are_to_be_had_in_python_too(distill: Distill) -> None:
    assert distill(method=us.methods.SSKD.Config(stage="together"), copies="rotations").top1 >= 0


def test_a_run_that_python_made_is_read_in_python(distill: Distill) -> None:
    run = distill().run.path
    for command in (("evaluate", run), ("export", run, "--onnx", "x.onnx")):
        assert "was made by understudy.distill from objects in Python" in refused(*command)
