"""The Python loop's doors: settings, loaders and labels that people hand to `trainer`, `fit` and `evaluate`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import understudy as us
from helpers.engine import CLASSES, batches, plain_batches, small_net, small_teacher
from helpers.states import differing, tensors_of
from understudy.data.augment.copies import with_rotations
from understudy.utils.seeding import alone

KD = us.methods.KD.Config()
IMAGES, LABELS = (torch.cat(parts) for parts in zip(*plain_batches(), strict=True))
INDEXED = [us.Batch(images, labels, indices=torch.arange(len(labels))) for images, labels in plain_batches()]


def trainer(*specs: us.StudentSpec, **options: Any) -> us.Trainer:
    specs = specs or (us.StudentSpec(small_net(1)),)
    given = {"task": us.Classification(CLASSES), "students": specs, "sample": plain_batches()[0]} | options
    return us.trainer(**given)


def taught(method: us.MethodConfig = KD, network: nn.Module | None = None, **settings: Any) -> us.Trainer:
    spec = us.StudentSpec(network or small_net(1), method=method, **settings)
    return trainer(spec, teacher=small_teacher(), train_labels=LABELS)


class OnOnePixel(nn.Module):
    """A network with a batch norm on maps of one pixel, as deep ones have on small images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 8), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def loader_of(num_images: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES[:num_images], LABELS[:num_images]), batch_size=4, **options)


class Counted(IterableDataset[Any]):
    """So many samples, of a data set that says it has others."""

    def __init__(self, gives: int, says: int) -> None:
        self.gives, self.says = gives, says

    def __len__(self) -> int:
        return self.says

    def __iter__(self) -> Iterator[Any]:
        return iter([(IMAGES[i % 21], LABELS[i % 21]) for i in range(self.gives)])


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"method": "kd"}, r"method must be settings such as understudy\.methods\.KD\.Config\(\).*got 'kd'"),
            ({"method": 3}, "method must be settings"),
            ({"update": "dot"}, r"update must be .*understudy\.DOT\.Config\(\.\.\.\), got 'dot'"),
            ({"schedule": "cosine"}, r"schedule must be an understudy\.Schedule, got 'cosine'"),
            ({"task_weight": -1}, "task_weight must be a number from 0 on, or None, got -1"),
            ({"task_weight": float("nan")}, "task_weight must be a number"),
            ({"accumulate": 0}, "accumulate must be a whole number from 1 on, got 0"),
            ({"accumulate": 1.5}, "accumulate must be a whole number"),
            ({"precision": "float8"}, "precision must be one of float32, bfloat16, float16, got 'float8'"),
            ({"ema": 0.9}, r"ema must be understudy\.optim\.ema\.Averaging"),
            ({"compile": "fast"}, "compile must be True, False or 'reduce-overhead', got 'fast'"),
            ({"name": ""}, "name must be a text"),
            ({"model": "resnet18"}, r"model must be a torch\.nn\.Module, got 'resnet18'"),
            (
                {"method": us.methods.SSKD.Config(), "accumulate": 2},
                "accumulate 2 would tear the copies of an image apart, which sskd compares",
            ),
        ],
        ids=str,
    )
    def test_what_is_no_setting_of_a_student_is_refused_in_words(self, settings: dict[str, Any], text: str) -> None:
        with pytest.raises(us.UserError, match=text):
            us.StudentSpec(**{"model": small_net(1), **settings})

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"students": [small_net(1)]}, "students must be understudy.StudentSpec"),
            ({"students": []}, "there is no student to train"),
            ({"teacher": "resnet18"}, "teacher must be understudy.LiveTeacher"),
            ({"seed": 0.5}, r"seed must be a whole number, got 0\.5"),
            ({"train_labels": [1, 2]}, r"train_labels must be a tensor \(N,\) of class numbers"),
            ({"sample": IMAGES}, r"a tensor of shape \(21, 3, 8, 8\) as a batch; \(images, labels\), or"),
            ({"sample": {"image": IMAGES}}, "a dict with 'image' as a batch"),
        ],
        ids=str,
    )
    def test_what_a_trainer_cannot_be_composed_of_is_refused_in_words(self, options: Any, text: str) -> None:
        with pytest.raises(us.UserError, match=text):
            trainer(**options)

    def test_a_single_student_and_a_plain_teacher_are_taken_as_they_are(self) -> None:
        found = trainer(students=us.StudentSpec(small_net(1), method=KD), teacher=small_net(2))
        found.fit(plain_batches(), epochs=1)
        assert found.history["kd"][0]["train"]["kl_to_teacher"] > 0

    @pytest.mark.parametrize("num_classes", [0, 2.5, True, "ten"])
    def test_a_task_has_a_whole_number_of_classes(self, num_classes: Any) -> None:
        with pytest.raises(us.UserError, match="num_classes must be a whole number above 0"):
            us.Classification(num_classes)

    @pytest.mark.parametrize("epochs", [0, -1, 2.5, True, "3"])
    def test_epochs_are_a_whole_number(self, epochs: Any) -> None:
        with pytest.raises(us.UserError, match="epochs must be a whole number above 0, got"):
            trainer().fit(plain_batches(), epochs=epochs)

    def test_a_warm_up_as_long_as_the_training_is_refused(self) -> None:
        spec = us.StudentSpec(small_net(1), schedule=us.Schedule(warmup_epochs=2))
        with pytest.raises(us.UserError, match="warm"):
            trainer(spec).fit(plain_batches(), epochs=2)


class TestNetworksInCommon:
    def test_a_teacher_that_is_the_student_is_refused(self) -> None:
        network = small_net(1)
        with pytest.raises(us.UserError, match=r"student kd and the teacher share .conv\.weight.*give each a copy"):
            trainer(us.StudentSpec(network, method=KD), teacher=us.LiveTeacher(network))

    @pytest.mark.parametrize("shared", ["conv", "norm"])
    def test_a_teacher_that_shares_a_layer_with_the_student_is_refused(self, shared: str) -> None:
        teacher, student = small_net(2), small_net(1)
        setattr(teacher, shared, getattr(student, shared))
        with pytest.raises(us.UserError, match=f"student kd and the teacher share '{shared}"):
            trainer(us.StudentSpec(student, method=KD), teacher=us.LiveTeacher(teacher))

    def test_a_shared_parameter_is_refused_and_a_shared_activation_is_not(self) -> None:
        teacher, student = small_net(2), small_net(1)
        teacher.act = student.act
        trainer(us.StudentSpec(student, method=KD), teacher=us.LiveTeacher(teacher))
        teacher.fc.bias = student.fc.bias
        with pytest.raises(us.UserError, match=r"share 'fc\.bias'"):
            trainer(us.StudentSpec(student, method=KD), teacher=us.LiveTeacher(teacher))

    def test_two_students_of_one_network_are_refused(self) -> None:
        network = small_net(1)
        with pytest.raises(us.UserError, match="are one network, so that each would undo the other; give each a copy"):
            trainer(us.StudentSpec(network), us.StudentSpec(network, name="other"))

    def test_two_students_that_share_a_layer_are_refused(self) -> None:
        one, other = small_net(1), small_net(2)
        other.conv = one.conv
        with pytest.raises(us.UserError, match=r"share 'conv\.weight'"):
            trainer(us.StudentSpec(one), us.StudentSpec(other, name="other"))


class TestStudentsBesideEachOther:
    def test_the_precision_of_one_does_not_change_what_another_is_taught(self) -> None:
        half = us.StudentSpec(small_net(1), method=KD, name="half", precision="bfloat16")
        beside = trainer(half, us.StudentSpec(small_net(2), method=KD, name="full"), teacher=small_teacher())
        apart = trainer(us.StudentSpec(small_net(2), method=KD, name="full"), teacher=small_teacher())
        for found in (beside, apart):
            found.fit(plain_batches(), epochs=2)
        assert differing(tensors_of(beside.students[1]), tensors_of(apart.students[0])) == []


class TestLoaders:
    def test_a_list_of_batches_with_indices_is_taken(self) -> None:
        crd = us.methods.CRD.Config(num_negatives=4)
        found = taught(crd)
        found.fit(INDEXED, epochs=2)
        assert found.history["crd"][1]["train"]["task_loss"] > 0

    def test_batches_are_as_good_as_pairs(self) -> None:
        pairs, whole = taught(), taught()
        pairs.fit(plain_batches(), epochs=2)
        whole.fit(list(batches()), epochs=2, val=list(batches()))
        assert differing(tensors_of(pairs.students[0]), tensors_of(whole.students[0])) == []

    def test_an_index_beyond_the_training_labels_is_refused(self) -> None:
        found = taught(us.methods.CRD.Config(num_negatives=4))
        beyond = [us.Batch(batch.images, batch.targets, indices=batch.indices + 100) for batch in INDEXED]
        with pytest.raises(us.UserError, match="remembers 21 training samples, but a batch has number 107"):
            found.fit(beyond, epochs=1)

    @pytest.mark.parametrize(
        ("loader", "text"),
        [
            ([], "the loader is empty"),
            (3, "the loader is a int; a DataLoader or a list of batches is wanted"),
            (iter(plain_batches()), r"used up when it has been gone through once .*needs a length \(steps per epoch\)"),
            ([IMAGES], r"gives a tensor of shape \(21, 3, 8, 8\) as a batch; \(images, labels\), or"),
            ([(IMAGES, LABELS, LABELS)], "gives a tuple of 3 as a batch"),
            ([{"image": IMAGES, "label": LABELS}], "gives a dict with 'image', 'label' as a batch"),
            ([(IMAGES, LABELS[:5])], "a batch has 21 images and 5 labels; one for each is wanted"),
            ([(IMAGES, LABELS.tolist())], "the labels of a batch are a list of 21; a tensor"),
            ([(IMAGES.tolist(), LABELS)], "the images of a batch are a list"),
            ([(IMAGES, LABELS.float())], r"the labels of a batch are float32 numbers; .*labels\.long\(\)"),
            ([(IMAGES, LABELS[:, None, None])], r"have shape \(21, 1, 1\); \(B,\), or \(B,C\) mixed, is wanted"),
            ([(IMAGES, torch.ones(len(LABELS), 1))], "mixed labels have 1 classes, but the student has 10"),
            ([(IMAGES, LABELS[:, None])], r"\(21, 1\) are no distributions .* several labels of one image"),
            ([*plain_batches(), (IMAGES, LABELS + 7)], r"label 1\d is outside the student's classes 0\.\.9"),
            ([(IMAGES[:0], LABELS[:0])], "a batch has 0 images"),
            (DataLoader(Counted(12, 16), batch_size=4), "length is 4 batches, but it gave 3 only in epoch 1"),
            (DataLoader(Counted(20, 16), batch_size=4), "length is 4 batches, but it gave more in epoch 1"),
        ],
        ids=lambda value: value[:40] if isinstance(value, str) else "",
    )
    def test_what_is_no_loader_or_gives_no_batches_is_refused_in_words(self, loader: Any, text: str) -> None:
        with pytest.raises(us.UserError, match=text):
            trainer().fit(loader, epochs=2)

    def test_a_loader_of_a_data_set_without_a_length_is_refused_in_words(self) -> None:
        class Endless(IterableDataset[Any]):
            def __iter__(self) -> Iterator[Any]:
                return iter([])

        with pytest.raises(us.UserError, match=r"needs a length .*where the data set has a __len__"):
            trainer().fit(DataLoader(Endless(), batch_size=4), epochs=1)

    def test_validation_batches_that_would_be_used_up_are_refused_before_training(self) -> None:
        found = trainer()
        with pytest.raises(us.UserError, match="val is used up when it has been gone through once"):
            found.fit(plain_batches(), epochs=2, val=iter(plain_batches()))
        assert found.step == 0

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
    def test_class_numbers_of_any_integer_type_are_labels(self, dtype: torch.dtype) -> None:
        one, other = trainer(), trainer()
        one.fit(plain_batches(), epochs=1)
        other.fit([(images, labels.to(dtype)) for images, labels in plain_batches()], epochs=1)
        assert differing(tensors_of(one.students[0]), tensors_of(other.students[0])) == []

    def test_one_hot_labels_teach_as_the_classes_do(self) -> None:
        one, other = trainer(), trainer()
        one.fit(plain_batches(), epochs=1)
        other.fit([(images, F.one_hot(labels, CLASSES)) for images, labels in plain_batches()], epochs=1)
        ours, theirs = (found.history["alone"][0]["train"] for found in (one, other))
        assert theirs["task_loss"] == pytest.approx(ours["task_loss"], rel=1e-5)

    def test_labels_that_become_mixed_later_are_noticed_by_a_method_that_wants_classes(self) -> None:
        mixed = [(images, F.one_hot(labels, CLASSES).float()) for images, labels in plain_batches()]
        with pytest.raises(us.UserError, match="method 'dkd' needs one class for each image, but labels are mixed"):
            taught(us.methods.DKD.Config()).fit([plain_batches()[0], *mixed], epochs=1)


class TestSmallBatches:
    @pytest.mark.parametrize(
        "loader", [loader_of(21), [(IMAGES[:4], LABELS[:4]), (IMAGES[:1], LABELS[:1])]], ids=["DataLoader", "list"]
    )
    def test_a_last_batch_of_one_is_refused_before_training(self, loader: Any) -> None:
        found = trainer(us.StudentSpec(OnOnePixel()))
        before = tensors_of(found.students[0])
        with pytest.raises(
            us.UserError, match=r"student alone cannot be trained on a batch of 1 image \(Expected more"
        ):
            found.fit(loader, epochs=1)
        assert differing(before, tensors_of(found.students[0])) == []

    def test_it_is_left_out_by_drop_last_and_harmless_to_a_network_that_takes_it(self) -> None:
        left_out, harmless = trainer(us.StudentSpec(OnOnePixel())), trainer()
        left_out.fit(loader_of(21, drop_last=True), epochs=1)
        harmless.fit(loader_of(21), epochs=1)
        assert (left_out.step, harmless.step) == (5, 6)

    def test_parts_of_one_image_by_accumulation_are_refused_before_training(self) -> None:
        found = trainer(us.StudentSpec(OnOnePixel(), accumulate=4))
        with pytest.raises(us.UserError, match="cannot be trained on a batch of 1 image"):
            found.fit(loader_of(20), epochs=1)
        assert found.step == 0

    def test_one_that_nobody_could_foresee_is_refused_when_it_comes(self) -> None:

        class Wrapped:
            def __len__(self) -> int:
                return 2

            def __iter__(self) -> Iterator[Any]:
                return iter([(IMAGES[:4], LABELS[:4]), (IMAGES[:1], LABELS[:1])])

        with pytest.raises(us.UserError, match="student alone cannot be trained on a batch of 1 image"):
            trainer(us.StudentSpec(OnOnePixel())).fit(Wrapped(), epochs=1)
        with pytest.raises(us.UserError, match=r"'dist' needs at least 2 images in every batch, and this one .* has 1"):
            taught(us.methods.DIST.Config()).fit(Wrapped(), epochs=1)

    @pytest.mark.parametrize(
        "method", [us.methods.DIST.Config(), us.methods.Projector.Config()], ids=["dist", "projector"]
    )
    def test_a_method_that_relates_rows_refuses_one_row(self, method: us.MethodConfig) -> None:
        with pytest.raises(us.UserError, match="needs at least 2 images in every batch"):
            taught(method).fit(loader_of(21), epochs=1)

    def test_copies_are_not_torn_apart_by_accumulation(self) -> None:
        found = taught(us.methods.KD.Config(), accumulate=2)
        rotated = [with_rotations(batch) for batch in INDEXED]
        with pytest.raises(us.UserError, match="student kd: accumulate=2 would tear the copies of an image apart"):
            found.fit(rotated, epochs=1)


class TestEvaluation:
    def test_mixed_labels_count_by_their_largest_share(self) -> None:
        found = trainer()
        shares = [(images, 0.8 * F.one_hot(labels, CLASSES) + 0.02) for images, labels in plain_batches()]
        mixed, hard = found.evaluate(shares)["alone"], found.evaluate(plain_batches())["alone"]
        assert (mixed.top1, mixed.top5) == (hard.top1, hard.top5)
        assert torch.equal(mixed.labels, hard.labels)
        network = found.students[0].deployed()
        with torch.no_grad():
            expected = F.cross_entropy(network(IMAGES), 0.8 * F.one_hot(LABELS, CLASSES) + 0.02)
        assert mixed.loss == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            ([], "there are no images to evaluate on"),
            ([(IMAGES, LABELS + 5)], r"label 1\d is outside the student's classes"),
            ([IMAGES], "as a batch"),
        ],
        ids=["none", "labels", "images alone"],
    )
    def test_what_cannot_be_evaluated_is_refused_in_words(self, data: Any, text: str) -> None:
        with pytest.raises(us.UserError, match=text):
            trainer().evaluate(data)

    def test_scores_are_printed_without_their_images(self) -> None:
        assert "tensor" not in repr(trainer().evaluate(plain_batches()))


class TestThreads:
    def test_a_second_thread_that_trains_is_refused_in_words(self) -> None:
        found: list[BaseException] = []

        def second(act: Callable[[], Any]) -> None:
            try:
                act()
            except us.UserError as error:
                found.append(error)

        with alone("a training"):
            for act in (
                lambda: trainer().fit(plain_batches(), epochs=1),
                lambda: us.distill(None, small_net(1), train=TensorDataset(IMAGES, LABELS), method="none"),
            ):
                thread = threading.Thread(target=second, args=(act,), name="second")
                thread.start()
                thread.join()
        assert ["in thread 'second' while thread 'MainThread' trains" in str(error) for error in found] == [True, True]

    def test_one_after_the_other_is_fine(self) -> None:
        trainers = [trainer(), trainer()]
        thread = threading.Thread(target=lambda: trainers[0].fit(plain_batches(), epochs=1))
        thread.start()
        thread.join()
        trainers[1].fit(plain_batches(), epochs=1)
        assert trainers[0].step == trainers[1].step == len(plain_batches())  # an error in the thread is not raised here
