"""Segmentation as a task: its loss, its rows, its scores, and a step of training with them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.shapes import CLASSES, Segmenter, labelled_batch
from understudy import Joint, LiveTeacher, StudentSpec, UserError, methods
from understudy.core.batch import Batch, Observation
from understudy.core.taps import TappedModel
from understudy.methods.dkd import dkd_loss
from understudy.tasks.segmentation import Segmentation, SegmentationConfig
from understudy.training.build import BuildContext, build_student, refuse_dense, tap_teacher
from understudy.training.student import Student

CPU = torch.device("cpu")


def paired(settings: SegmentationConfig | None = None, **options: object) -> tuple[Tensor, dict, Batch]:
    task = Segmentation(CLASSES, settings=settings)
    batch = labelled_batch()
    teacher = Segmenter(1, **options)  # type: ignore[arg-type]
    return *task.pair(TappedModel(Segmenter()), Observation(teacher(batch.images)), batch), batch


def test_the_loss_is_the_mean_cross_entropy_of_labelled_pixels_and_a_share_of_the_auxiliary_heads() -> None:
    loss, _, batch = paired()
    output = Segmenter()(batch.images)
    main, aux = (
        F.cross_entropy(
            F.interpolate(output[name], size=(16, 24), mode="bilinear"), batch.targets.long(), ignore_index=255
        )
        for name in ("logits", "aux")
    )
    assert loss.item() == pytest.approx((main + 0.4 * aux).item(), rel=1e-6)


def test_rows_are_positions_of_the_coarse_grid_with_the_label_of_the_nearest_pixel() -> None:
    _, pairings, batch = paired()
    output, taught = Segmenter()(batch.images), Segmenter(1)(batch.images)
    nearest = F.interpolate(batch.targets[:, None].float(), size=(4, 6), mode="nearest")[:, 0]
    main = pairings["main"]
    assert main.student_logits.shape == (3 * 4 * 6, CLASSES)
    assert torch.equal(main.student_logits[7], output["logits"][0, :, 1, 1])
    assert torch.equal(main.teacher_logits[7], taught["logits"][0, :, 1, 1])
    assert torch.equal(main.labels, nearest.flatten().long().masked_fill(nearest.flatten() == 255, -1))
    assert pairings["aux"].student_logits.shape == (3 * 8 * 12, CLASSES)
    images = pairings["images"]
    assert (images.student_logits.shape, images.labels.tolist()) == ((3, 0), [-1] * 3)
    assert torch.equal(images.maps["labels"].flatten(), main.labels)


def test_rows_of_ignored_pixels_are_left_out_where_that_is_asked_for() -> None:
    _, everything, _ = paired()
    _, valid, _ = paired(SegmentationConfig(rows="valid"))
    is_valid = everything["main"].labels >= 0
    assert 0 < is_valid.sum() < len(is_valid)
    for side in ("student_logits", "teacher_logits", "labels"):
        assert torch.equal(getattr(valid["main"], side), getattr(everything["main"], side)[is_valid])


def test_methods_on_hard_labels_are_shown_the_labelled_rows_alone() -> None:
    student, teacher = student_with(methods.DKD.Config(weight=1.0, warmup_epochs=0))
    batch = labelled_batch()
    _, pairings = Segmentation(CLASSES).pair(student.model, teacher.observe(batch), batch)
    main = pairings["main"].labelled()
    assert len(main.labels) < len(pairings["main"].labels)
    expected = dkd_loss(main.student_logits, main.teacher_logits, main.labels)
    assert student.step(batch, teacher.observe(batch), epoch=1).mean("distill").item() == pytest.approx(expected.item())


def test_a_teacher_of_another_stride_is_brought_to_the_students_grid() -> None:
    _, pairings, batch = paired(stride=8)
    resized = F.interpolate(Segmenter(1, stride=8)(batch.images)["logits"], size=(4, 6), mode="bilinear")
    assert torch.equal(pairings["main"].teacher_logits, resized.movedim(1, -1).flatten(0, -2))


def test_a_batch_without_any_label_has_no_loss_and_no_nan() -> None:
    batch = labelled_batch()
    blank = Batch(batch.images, torch.full_like(batch.targets, 255))
    for rows in ("all", "valid"):
        task = Segmentation(CLASSES, settings=SegmentationConfig(rows=rows))
        loss, pairings = task.pair(TappedModel(Segmenter()), Observation(Segmenter(1)(batch.images)), blank)
        assert loss.item() == 0
        assert task.batch_measures(pairings["main"]).means["pixel_accuracy"].item() == 0


def test_scores_are_those_of_all_pixels_together_and_ignored_ones_count_nowhere() -> None:
    batch = labelled_batch()
    truth = batch.targets.long()
    said = torch.where(truth == 255, 0, truth)
    said[0] = (said[0] + 1) % CLASSES  # wrong on the first image alone
    logits = F.one_hot(said, CLASSES).movedim(-1, 1).float()
    found = Segmentation(CLASSES).evaluate({"it": lambda batch: logits}, [batch], CPU)["it"]
    known = truth != 255
    ious = [((said == c) & (truth == c)).sum() / (((said == c) | (truth == c)) & known).sum() for c in range(CLASSES)]
    assert found.scores["miou"] == pytest.approx(100 * torch.stack(ious).mean().item(), abs=1e-3)
    assert found.scores["pixel_accuracy"] == pytest.approx(
        100 * ((said == truth) & known).sum().item() / known.sum().item(), abs=1e-3
    )
    assert found.per_item.tolist() == [0, 100, 100]
    again = Segmentation(CLASSES).restored(found.scores, found.tensors())
    assert again.scores == found.scores


def test_several_looks_are_the_mean_of_their_probabilities() -> None:
    batch, network = labelled_batch(), Segmenter().eval()

    def scored(**settings: object) -> dict[str, float]:
        task = Segmentation(CLASSES, settings=SegmentationConfig(**settings))
        return dict(task.evaluate({"it": lambda batch: network(batch.images)}, [batch], CPU)["it"].scores)

    assert scored(eval_scales=(1.0,)) == scored()
    with torch.no_grad():
        looks = [network(batch.images)["logits"], network(batch.images.flip(-1))["logits"].flip(-1)]
        large = network(F.interpolate(batch.images, scale_factor=2, mode="bilinear"))["logits"].softmax(1)
    mean = sum(look.softmax(1) for look in looks) / 2
    expected = Segmentation(CLASSES).evaluate({"it": lambda _: mean.log()}, [batch], CPU)["it"].scores
    assert scored(eval_mirrored=True) == pytest.approx(expected, rel=1e-4)
    small = F.interpolate(looks[0].softmax(1), size=large.shape[2:], mode="bilinear")
    expected = Segmentation(CLASSES).evaluate({"it": lambda _: ((large + small) / 2).log()}, [batch], CPU)["it"].scores
    assert scored(eval_scales=(1.0, 2.0)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"are factors from 0\.1 to 8, each once"):
        SegmentationConfig(eval_scales=(1.0, 1.0))


def test_one_class_everywhere_has_nothing_to_teach() -> None:
    batch = labelled_batch()
    task = Segmentation(CLASSES)
    frequent = int(batch.targets[batch.targets != 255].bincount().argmax())
    constant, right = torch.zeros(3, CLASSES, 16, 24), torch.zeros(3, CLASSES, 16, 24)
    constant[:, frequent] = 1
    right.scatter_(1, batch.targets.long().clamp(max=CLASSES - 1)[:, None], 1.0)
    found = task.evaluate({"constant": lambda _: constant, "right": lambda _: right}, [batch], CPU)
    assert "no better than the most frequent one everywhere" in str(task.nothing_to_teach(found["constant"]))
    assert task.nothing_to_teach(found["right"]) is None


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (torch.full((1, 4, 4), 4), "a mask holds class 4, but there are 4"),
        (
            torch.zeros(2, dtype=torch.int64),
            r"learns from label maps \(B,H,W\) of class numbers, but got torch.int64 \(2,\)",
        ),
        (torch.zeros(1, 4, 4), "got torch.float32"),
    ],
)
def test_targets_that_are_no_label_maps_are_refused(targets: Tensor, text: str) -> None:
    with pytest.raises(UserError, match=text):
        Segmentation(CLASSES).check_targets(targets)


def student_with(*configs: methods.MethodConfig) -> tuple[Student, LiveTeacher]:
    for config in configs:
        refuse_dense(config, Segmentation(CLASSES))
    teacher = LiveTeacher(Segmenter(1))
    tap_teacher(teacher, configs)
    around = BuildContext(Segmentation(CLASSES), CLASSES, labelled_batch().images, teacher)
    return build_student(StudentSpec(Segmenter(), method=configs), around), teacher


MAPS = {"student_stages": ("last",), "teacher_stages": ("last",)}


@pytest.mark.parametrize(
    "config",
    [
        methods.KD.Config(temperature=1.0),
        methods.DKD.Config(),
        methods.NKD.Config(),
        methods.WTTM.Config(),
        methods.RLD.Config(),
        methods.StreamlinedKD.Config(rows="local", group_size=64),
        methods.CWD.Config(student_stages=("output.logits",), teacher_stages=("output.logits",)),
        methods.IFVD.Config(**MAPS),
        methods.Projector.Config(kl_weight=0, student_tap="last", teacher_tap="last"),
        methods.DIST.Config(on={"main": 1.0, "aux": 0.4}),
        methods.AT.Config(**MAPS),
        methods.FitNet.Config(**MAPS),
    ],
    ids=["kd", "dkd", "nkd", "wttm", "rld", "skd_streamlined", "cwd", "ifvd", "projector", "dist", "at", "fitnet"],
)
def test_methods_on_pixels_and_on_maps_take_a_step(config: methods.MethodConfig) -> None:
    student, teacher = student_with(config)
    batch = labelled_batch()
    before = student.model.module.first[0].weight.clone()
    record = student.step(batch, teacher.observe(batch), epoch=1)
    assert record.mean("distill").isfinite()
    assert record.mean("kl_to_teacher") > 0
    assert not torch.equal(before, student.model.module.first[0].weight)


def test_a_step_in_two_passes_is_the_step_in_one() -> None:
    """Losses count by labelled pixels and by images; the parts here have other numbers of labelled pixels."""
    batch = labelled_batch(num_images=4)
    ends = []
    for accumulate in (1, 2):
        network, teacher = Segmenter(), LiveTeacher(Segmenter(1))
        network.first[1] = nn.Identity()  # batch statistics are of a pass
        around = BuildContext(Segmentation(CLASSES), CLASSES, batch.images, teacher)
        spec = StudentSpec(network, method=methods.KD.Config(), update=Joint.Config(lr=0.5), accumulate=accumulate)
        student = build_student(spec, around)
        student.begin_step(progress=0.0, epochs=2)
        student.step(batch, teacher.observe(batch), epoch=1)
        ends.append(network.classifier.weight.detach())
    assert torch.allclose(ends[0], ends[1], rtol=1e-5, atol=1e-7)
    assert not torch.allclose(ends[0], Segmenter().classifier.weight)


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_half_precision_keeps_losses_in_float32(precision: str) -> None:
    batch, teacher = labelled_batch(), LiveTeacher(Segmenter(1))
    around = BuildContext(Segmentation(CLASSES), CLASSES, batch.images, teacher)
    student = build_student(StudentSpec(Segmenter(), method=methods.DIST.Config(), precision=precision), around)
    record = student.step(batch, teacher.observe(batch), epoch=1)
    assert all(value.isfinite() for value in record.sums.values())


@pytest.mark.parametrize("config", [methods.CRD.Config(), methods.SRRL.Config(), methods.Projector.Config()])
def test_methods_on_whole_images_are_refused_by_name(config: methods.MethodConfig) -> None:
    with pytest.raises(UserError, match=f"method '{config.method.name}' compares whole images, .* take a method on"):
        student_with(config)


@pytest.mark.parametrize("lacks", ["student", "teacher"])
def test_auxiliary_rows_that_one_side_does_not_have_are_refused_before_anything_is_trained(lacks: str) -> None:
    student, teacher = (Segmenter(has_aux=lacks != side) for side in ("student", "teacher"))
    around = BuildContext(Segmentation(CLASSES), CLASSES, labelled_batch().images, LiveTeacher(teacher))
    with pytest.raises(
        UserError, match="'dist': on names aux, and these networks and this task have main, images; both"
    ):
        build_student(StudentSpec(student, method=methods.DIST.Config(on=["main", "aux"])), around)


def test_a_classifier_is_no_student_of_segmentation() -> None:
    class OneEach(Segmenter):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)["logits"].mean(dim=(2, 3))

    around = BuildContext(Segmentation(CLASSES), CLASSES, labelled_batch().images, LiveTeacher(Segmenter(1)))
    with pytest.raises(UserError, match=r"must return \(B,C,H,W\) logits, got shape \(2, 4\)"):
        build_student(StudentSpec(OneEach(), method=methods.KD.Config()), around)
