"""Methods for the maps of dense tasks: CWD, CIRKD, DSD, SKD, IFVD, FGFI."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.examples import normal
from helpers.examples_features import batch_of, method_of, stages
from understudy.core.batch import Pairing
from understudy.core.tap_shapes import TapShapes
from understudy.core.taps import TapShape
from understudy.methods import METHODS
from understudy.methods.base import Context
from understudy.methods.losses.dense import cwd_loss, skd_pairwise_loss, skd_pixelwise_loss
from understudy.methods.losses.segmentation import (
    cirkd_minibatch_loss,
    class_similarity_loss,
    ifvd_loss,
    residual_attention_loss,
)
from understudy.training.checks import check_pairing
from understudy.utils.errors import UserError

LAST = {"student_stages": ["stages.3"], "teacher_stages": ["stages.3"]}


def test_cwd_compares_the_last_maps_after_a_convolution_to_the_teachers_channels() -> None:
    method, batch = method_of("cwd"), batch_of(stages())
    adapted = method.adapters[0](batch.student_features["stages.3"])
    torch.testing.assert_close(method(batch)["cwd"], cwd_loss(adapted, batch.teacher_features["stages.3"]))


def test_cwd_has_no_convolution_where_channels_agree() -> None:
    context = stages(teacher=[(6, 8, 8), (8, 8, 8), (10, 4, 4), (8, 2, 2)])
    assert list(method_of("cwd", context).parameters()) == []
    assert list(method_of("cwd").parameters()) != []


def test_cirkd_compares_the_last_maps_at_the_smaller_size() -> None:
    context = stages(teacher=[(6, 8, 8), (8, 8, 8), (10, 4, 4), (12, 4, 4)])
    batch = batch_of(context)
    smaller = F.avg_pool2d(batch.teacher_features["stages.3"], 2)
    expected = cirkd_minibatch_loss(batch.student_features["stages.3"], smaller, temperature=0.2)
    torch.testing.assert_close(method_of("cirkd", context, temperature=0.2)(batch)["minibatch"], expected)


def test_dsd_compares_attention_at_the_smallest_size_and_the_classes_of_the_last_maps() -> None:
    context = stages(teacher=[(6, 8, 8), (8, 8, 8), (10, 4, 4), (8, 2, 2)])
    method, batch = method_of("dsd", context, residual_weight=2, class_weight=3), batch_of(context)
    sides = batch.student_features, batch.teacher_features
    ours, theirs = ([F.adaptive_avg_pool2d(side[f"stages.{i}"], 2) for i in (1, 2, 3)] for side in sides)
    terms = method(batch)
    torch.testing.assert_close(terms["psd"], 2 * residual_attention_loss(ours, theirs))
    torch.testing.assert_close(terms["csd"], 3 * class_similarity_loss(ours[-1], theirs[-1]))


def test_dsd_wants_several_maps_and_the_same_classes() -> None:
    with pytest.raises(UserError, match="name two or more places"):
        method_of("dsd", **LAST)
    with pytest.raises(UserError, match=r"8x2x2 and the teacher's stages\.3 12x2x2.*class_weight=0"):
        method_of("dsd")
    assert set(method_of("dsd", class_weight=0)(batch_of(stages()))) == {"psd"}


@pytest.mark.parametrize("method", ["cwd", "cirkd", "dsd"])
def test_a_single_position_is_no_map(method: str) -> None:
    flat = stages([(4, 1, 1), (4, 1, 1), (4, 1, 1)], [(4, 1, 1), (4, 1, 1), (4, 1, 1)])
    with pytest.raises(UserError, match="have a single one in common"):
        method_of(method, flat)


@pytest.mark.parametrize("method", ["cwd", "cirkd", "dsd"])
def test_a_student_with_its_teachers_maps_has_nothing_left_to_learn(method: str) -> None:
    shapes = [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2)]
    context = stages(shapes, shapes)
    batch = batch_of(context)
    same = {
        name: normal(*maps.shape, seed=number) for number, (name, maps) in enumerate(batch.student_features.items())
    }
    terms = method_of(method, context)(replace(batch, student_features=same, teacher_features=same))
    assert sum(term.item() for term in terms.values()) == pytest.approx(0, abs=1e-12)


def with_outputs(num_classes: int = 5) -> tuple[Context, Pairing]:
    """The stages, and maps of logits beside them."""
    context = stages()
    logits = [TapShape(5, 4, 4), TapShape(num_classes, 4, 4)]
    ours, theirs = (
        TapShapes({**dict(side), "output.logits": shape}, num_classes=shape.channels)
        for side, shape in zip((context.student, context.teacher), logits, strict=True)
    )
    context = replace(context, student=ours, teacher=theirs)
    return context, batch_of(context)


def test_skd_has_a_term_of_pixels_and_one_of_patches() -> None:
    context, batch = with_outputs()
    terms = method_of("skd", context, pixel_weight=2, pair_weight=3, form="cirkd")(batch)
    ours, theirs = batch.student_features, batch.teacher_features
    pixels = skd_pixelwise_loss(ours["output.logits"], theirs["output.logits"])
    torch.testing.assert_close(terms["pixel"], 2 * pixels / 5)  # a mean over the five images
    patches = skd_pairwise_loss(ours["stages.3"], theirs["stages.3"], form="cirkd")
    torch.testing.assert_close(terms["pair"], 3 * patches)


def test_skd_looks_at_the_logits_only_where_they_have_a_weight() -> None:
    config = METHODS["skd"].Config
    assert METHODS["skd"].taps_for(config()).student == ("stages", "output.logits")
    assert METHODS["skd"].taps_for(config.model_validate({"pixel_weight": 0})).teacher == ("stages",)
    with pytest.raises(UserError, match=r"has 9 classes and the student 5; set method\.pixel_weight=0"):
        method_of("skd", with_outputs(9)[0])
    assert set(method_of("skd", with_outputs(9)[0], pixel_weight=0)(batch_of(stages()))) == {"pair"}


def test_ifvd_reads_the_labels_of_pixels() -> None:
    context, labels = stages(), torch.randint(0, 5, (5, 4, 4))
    batch = replace(batch_of(context), maps={"labels": labels})
    ours, theirs = batch.student_features["stages.3"], batch.teacher_features["stages.3"]
    expected = ifvd_loss(ours, theirs, labels, num_classes=5)
    torch.testing.assert_close(method_of("ifvd", context)(batch)["ifvd"], expected)


def test_fgfi_imitates_masked_positions_of_every_level() -> None:
    batch = batch_of(stages())
    masks = {f"weights.stages.{i}": torch.zeros(5, *batch.student_features[f"stages.{i}"].shape[2:]) for i in range(4)}
    masks["weights.stages.1"][0, 2, 3] = 1
    method = method_of("fgfi")
    adapted = method.adapters[1](batch.student_features["stages.1"])[0, :, 2, 3]
    expected = (adapted - batch.teacher_features["stages.1"][0, :, 2, 3]).square().sum() / 2
    torch.testing.assert_close(method(replace(batch, maps=masks))["fgfi"], expected)


def test_fgfi_says_which_levels_have_a_mask() -> None:
    batch = batch_of(stages())
    with pytest.raises(UserError, match=r"stages\.0 has no mask of objects.*output\.p2, output\.p3"):
        method_of("fgfi")(replace(batch, maps={f"weights.output.p{i}": torch.ones(5, 4, 4) for i in (2, 3)}))
    with pytest.raises(UserError, match=r"compared at 8 x 8, but its mask is 4 x 4; pair levels of one stride"):
        method_of("fgfi")(replace(batch, maps={"weights.stages.0": torch.ones(5, 4, 4)}))


@pytest.mark.parametrize(("method", "what"), [("ifvd", "the class of each pixel"), ("fgfi", "masks of objects")])
def test_a_task_that_does_not_know_what_is_where_is_told_so(method: str, what: str) -> None:
    with pytest.raises(UserError, match=f"{method}.*needs {what}"):
        check_pairing(batch_of(stages()), [method_of(method)])
