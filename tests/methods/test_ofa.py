from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from timm.models.mlp_mixer import MlpMixer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from helpers.examples import class_counts, few, normal, random_labels, row_counts, seeds, softmax, total
from helpers.examples_embeddings import NUM_CLASSES, built, check_gradients, deep_context, deep_pairing
from understudy.core.batch import Pairing
from understudy.core.tap_shapes import shapes_of
from understudy.core.taps import TappedModel, TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.ofa import OFA, TokenBranch, map_branch, ofa_loss
from understudy.utils.errors import UserError

PATCHES = (TapShape(8, 4, 4),) * 6  # of a vision transformer


def pairing_of(context: Context) -> Pairing:
    return replace(deep_pairing(context), teacher_logits=normal(5, NUM_CLASSES, seed=7))


@few
@given(seeds, row_counts, class_counts)
def test_ofa_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)
    q, p = softmax(student, 2.0), softmax(teacher, 2.0)
    expected = 0.0
    for row, label in enumerate(labels.tolist()):
        expected -= ((1 + p[row, label]) ** 1.5 - 1) * np.log(q[row, label])
        expected -= sum(p[row, c] ** 1.5 * np.log(q[row, c]) for c in range(num_classes) if c != label)
    found = ofa_loss(student, teacher, labels, epsilon=1.5, temperature=2.0)
    assert found.item() == pytest.approx(expected / num_rows, rel=1e-9)


def test_at_epsilon_1_it_is_the_cross_entropy_with_the_teacher_whatever_the_labels() -> None:
    student, teacher, labels = normal(6, 5), normal(6, 5, seed=1), random_labels(6, 5)
    expected = F.cross_entropy(student, teacher.softmax(dim=1))
    torch.testing.assert_close(ofa_loss(student, teacher, labels), expected)


def test_ofa_is_finite_where_a_probability_underflows() -> None:
    student = torch.tensor([[0.0, 2000.0, 0.0]]).requires_grad_()
    teacher, labels = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0])
    assert F.softmax(student, dim=1).log()[0, 0].isinf()  # what the authors take
    loss = ofa_loss(student, teacher, labels, epsilon=1.5)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher, labels = normal(4, 5).requires_grad_(), normal(4, 5, seed=1), random_labels(4, 5)
    assert torch.autograd.gradcheck(lambda z: ofa_loss(z, teacher, labels, epsilon=1.5), student)


def test_mixed_labels_count_as_their_largest_share_and_rows_without_a_label_not_at_all() -> None:
    student, teacher, labels = normal(4, 5), normal(4, 5, seed=1), torch.tensor([3, 0, 1, 2])
    mixed = 0.6 * F.one_hot(labels, 5) + 0.4 * F.one_hot(labels.flip(0), 5)
    whole = ofa_loss(student, teacher, labels, epsilon=1.5)
    torch.testing.assert_close(ofa_loss(student, teacher, mixed, epsilon=1.5), whole)
    some = torch.tensor([3, -1, 1, -1])
    expected = ofa_loss(student[[0, 2]], teacher[[0, 2]], labels[[0, 2]], epsilon=1.5)
    torch.testing.assert_close(ofa_loss(student, teacher, some, epsilon=1.5), expected)
    assert ofa_loss(student, teacher, torch.full((4,), -1)) == 0


@pytest.mark.parametrize("num_blocks", [0, 1, 3])
def test_a_branch_on_maps_halves_them_once_for_each_stage_that_follows(num_blocks: int) -> None:
    branch = map_branch(6, 20, num_blocks, num_classes=7)
    maps = torch.randn(2, 6, 16, 16)
    sides = []
    for step in branch[: max(1, num_blocks)]:
        maps = step(maps)
        sides.append(maps.shape[2])
    assert sides == [16 // 2 ** (i + 1) for i in range(num_blocks)] or (num_blocks == 0 and sides == [16])
    assert maps.shape[1] == 20
    assert branch(torch.randn(2, 6, 1, 1)).shape == (2, 7)


@pytest.mark.parametrize(("side", "merges"), [(2, 0), (7, 0), (14, 1), (16, 1), (28, 2)])
def test_a_branch_on_tokens_merges_a_large_grid(side: int, merges: int) -> None:
    branch = TokenBranch(TapShape(8, side, side), 2, num_classes=3)
    assert (len(branch.merge), len(branch.blocks)) == (merges, 2)
    assert branch(torch.randn(2, 8, side, side)).shape == (2, 3)


def test_a_pyramid_gets_a_branch_on_each_stage_after_the_stem() -> None:
    context = deep_context()
    method = built(OFA, context)
    assert method.stages == ["stages.1", "stages.2", "stages.3"]
    batch = pairing_of(context)
    assert method(batch).keys() == {"logits", "branches"}
    check_gradients(method, batch, "stages.1", "stages.2", "stages.3")


def test_a_vit_gets_branches_of_transformer_blocks_on_four_of_its_blocks() -> None:
    context = deep_context(student=PATCHES)
    method = built(OFA, context)
    assert method.stages == ["stages.1", "stages.2", "stages.4", "stages.5"]
    assert [len(branch.blocks) for branch in method.branches] == [3, 2, 1, 1]
    check_gradients(method, pairing_of(context), *method.stages)


def test_terms_are_the_losses_of_student_and_branches_by_their_weights() -> None:
    context = deep_context()
    method = built(OFA, context, epsilon=1.5, temperature=2, logit_weight=0.5, branch_weight=3).eval()
    batch = pairing_of(context)
    assert batch.teacher_logits is not None

    def loss(logits: Tensor) -> Tensor:
        assert batch.teacher_logits is not None
        return ofa_loss(logits, batch.teacher_logits, batch.labels, epsilon=1.5, temperature=2)

    branches = zip(method.branches, method.stages, strict=True)
    of_branches = [loss(branch(batch.student_features[stage])) for branch, stage in branches]
    terms = method(batch)
    torch.testing.assert_close(terms["logits"], 0.5 * loss(batch.student_logits))
    torch.testing.assert_close(terms["branches"], 3 * torch.stack(of_branches).sum())


def test_named_stages_are_the_only_ones_and_unknown_ones_are_refused() -> None:
    assert built(OFA, deep_context(), student_stages=["stages.3"]).stages == ["stages.3"]
    assert built(OFA, deep_context(), student_stages=[0, -1]).stages == ["stages.0", "stages.3"]
    assert OFA.taps_for(OFA.Config(student_stages=("layer1",))).student == ("layer1",)
    for wrong in ([4], ["nothing"], []):
        with pytest.raises(UserError, match="method 'ofa': student_stages"):
            built(OFA, deep_context(), student_stages=wrong)


def test_the_branch_is_as_wide_as_the_wider_of_both_networks_and_needs_nothing_else_of_the_teacher() -> None:
    context = deep_context()
    widths = []
    for classifier in (nn.Linear(40, NUM_CLASSES), nn.Conv2d(30, NUM_CLASSES, 1), None):
        teacher = TapShapes({}, num_classes=NUM_CLASSES, classifier=classifier)
        method = built(OFA, Context(student=context.student, teacher=teacher, num_classes=NUM_CLASSES))
        widths.append({branch[-1].in_features for branch in method.branches})
    assert widths == [{40}, {30}, {6}]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "CNN": lambda: timm.create_model("resnet10t", num_classes=NUM_CLASSES),
    "ViT": lambda: VisionTransformer(32, 8, embed_dim=24, depth=5, num_heads=2, num_classes=NUM_CLASSES),
    "Mixer": lambda: MlpMixer(NUM_CLASSES, 32, patch_size=8, embed_dim=24, num_blocks=4),
    "Swin": lambda: SwinTransformer(32, 4, num_classes=NUM_CLASSES, embed_dim=12, depths=(1, 1, 1, 1), window_size=2),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_branches_learn_on_the_stages_of_networks_of_any_kind(kind: str) -> None:
    torch.manual_seed(0)
    network, images = TappedModel(NETWORKS[kind](), ["stages"]), torch.rand(4, 3, 32, 32)
    teacher = TapShapes({}, num_classes=NUM_CLASSES)
    method = OFA(OFA.Config(), Context(student=shapes_of(network, images), teacher=teacher, num_classes=NUM_CLASSES))
    assert len(method.stages) == (3 if kind == "Swin" else 4)  # whose first stage passes for a stem
    with torch.no_grad():
        logits, features = network(images)
    batch = Pairing(logits, normal(4, NUM_CLASSES).float(), random_labels(4, NUM_CLASSES), student_features=features)
    first, optimizer = method(batch)["branches"].item(), torch.optim.Adam(method.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        total(method(batch)).backward()
        optimizer.step()
    assert method(batch)["branches"] < 0.8 * first
