"""Every public loss on rows (M, D), on tokens (M, N, D) and on maps (M, D, H, W): right, or refused in words."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

from understudy import methods
from understudy.methods.ab import ab_loss
from understudy.methods.at import at_loss, attention
from understudy.methods.cat_kd import cat_kd_loss
from understudy.methods.cc import cc_kernel_loss, cc_loss
from understudy.methods.ctkd import ctkd_loss
from understudy.methods.deepkd import deepkd_loss
from understudy.methods.dist import dist_loss, inter_class_relation, intra_class_relation
from understudy.methods.dist_kl import dist_kl_loss
from understudy.methods.dist_rank import dist_rank_loss, rank_relation
from understudy.methods.dkd import dkd_loss
from understudy.methods.fitnet import fitnet_loss
from understudy.methods.fsp import fsp_loss
from understudy.methods.ft import ft_loss, paraphraser_loss
from understudy.methods.hsakd import hsakd_loss
from understudy.methods.ickd import ickd_loss
from understudy.methods.itrd import itrd_correlation_loss, itrd_loss, itrd_mutual_loss
from understudy.methods.kd import kd_loss
from understudy.methods.kdsvd import kdsvd_loss
from understudy.methods.logit_std import logit_std_loss
from understudy.methods.losses.dense import cwd_loss, fgfi_loss, skd_pairwise_loss, skd_pixelwise_loss
from understudy.methods.losses.imitation import fgfi_pyramid_loss
from understudy.methods.losses.kd_variants import elementwise_kd_loss, takd_objective
from understudy.methods.losses.segmentation import (
    cirkd_memory_loss,
    cirkd_minibatch_loss,
    class_similarity_loss,
    dsd_loss,
    ifvd_loss,
    residual_attention_loss,
)
from understudy.methods.losses.token import (
    co_advise_objective,
    deit_hard_loss,
    deit_hard_objective,
    deit_soft_loss,
    deit_soft_objective,
)
from understudy.methods.mlld import mlld_loss
from understudy.methods.nkd import nkd_loss
from understudy.methods.nst import nst_loss
from understudy.methods.ofa import ofa_loss
from understudy.methods.ofd import ofd_loss
from understudy.methods.pad import pad_loss
from understudy.methods.pkt import pkt_loss
from understudy.methods.projector import projector_loss
from understudy.methods.projector_ensemble import projector_ensemble_loss
from understudy.methods.reviewkd import reviewkd_loss
from understudy.methods.rkd import rkd_angle_loss, rkd_distance_loss, rkd_loss
from understudy.methods.rld import rld_loss
from understudy.methods.simkd import simkd_loss
from understudy.methods.simreg import simreg_loss
from understudy.methods.skd_streamlined import skd_direction_loss, skd_streamlined_loss
from understudy.methods.sp import sp_loss
from understudy.methods.spherical import spherical_loss
from understudy.methods.srrl import srrl_loss
from understudy.methods.sskd import kept_kd_loss, sskd_loss
from understudy.methods.tfkd import tfkd_loss
from understudy.methods.ttm import ttm_loss
from understudy.methods.uskd import uskd_loss
from understudy.methods.vid import vid_loss
from understudy.methods.vkd import vkd_loss
from understudy.methods.wttm import wttm_loss
from understudy.utils.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]

LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
ROWS, TOKENS, MAPS = (8, 6), (8, 6, 5), (8, 6, 3, 4)


def labelled(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Loss:
    return lambda student, teacher: loss(student, teacher, LABELS)


def of_lists(loss: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]) -> Loss:
    return lambda student, teacher: loss([student, student.cos()], [teacher, teacher.cos()])


# Whole maps and tokens are one row for each sample.
RELATIONS: dict[str, Loss] = {
    "rkd_loss": rkd_loss,
    "rkd_angle_loss": rkd_angle_loss,
    "rkd_distance_loss": rkd_distance_loss,
    "sp_loss": sp_loss,
    "cc_loss": cc_loss,
    "cc_kernel_loss": cc_kernel_loss,
    "pkt_loss": pkt_loss,
    "itrd_correlation_loss": itrd_correlation_loss,
    "itrd_mutual_loss": itrd_mutual_loss,
    "itrd_loss": lambda student, teacher: itrd_loss(student, student, teacher),
}
# Every position is a row (M, C), and the loss a mean over all of them.
POSITIONS: dict[str, Loss] = {
    "dist_loss": dist_loss,
    "dist_kl_loss": dist_kl_loss,
    "dist_rank_loss": dist_rank_loss,
    "elementwise_kd_loss": elementwise_kd_loss,
    "deit_soft_loss": deit_soft_loss,
    "deit_hard_loss": deit_hard_loss,
    "simkd_loss": simkd_loss,
    "paraphraser_loss": paraphraser_loss,
}
# The same, summed over positions and a mean over samples.
SUMMED: dict[str, Loss] = {
    "kd_loss": kd_loss,
    "logit_std_loss": logit_std_loss,
    "ctkd_loss": lambda student, teacher: ctkd_loss(student, teacher, torch.ones((), dtype=student.dtype)),
    "hsakd_loss": lambda student, teacher: hsakd_loss(student, teacher, [student], [teacher]),
}
# Vectors alone: anything else is refused.
VECTORS: dict[str, Loss] = {
    "inter_class_relation": inter_class_relation,
    "intra_class_relation": intra_class_relation,
    "rank_relation": rank_relation,
    "deepkd_loss": labelled(deepkd_loss),
    "dkd_loss": labelled(dkd_loss),
    "nkd_loss": labelled(nkd_loss),
    "ofa_loss": labelled(ofa_loss),
    "uskd_loss": labelled(uskd_loss),
    "spherical_loss": labelled(spherical_loss),
    "takd_objective": labelled(takd_objective),
    "rld_loss": labelled(rld_loss),
    "skd_direction_loss": skd_direction_loss,
    "skd_streamlined_loss": skd_streamlined_loss,
    "ttm_loss": ttm_loss,
    "wttm_loss": wttm_loss,
    "tfkd_loss": lambda student, teacher: tfkd_loss(student, LABELS),
    "kept_kd_loss": lambda student, teacher: kept_kd_loss(student, teacher, LABELS, temperature=4, ratio=0.5),
    "deit_hard_objective": lambda student, teacher: deit_hard_objective(student, student, teacher, LABELS),
    "deit_soft_objective": lambda student, teacher: deit_soft_objective(student, student, teacher, LABELS),
    "co_advise_objective": lambda student, teacher: co_advise_objective(student, [student], [teacher], LABELS),
    "mlld_loss": lambda student, teacher: mlld_loss(student, student, teacher, teacher),
    "projector_loss": projector_loss,
    "projector_ensemble_loss": projector_ensemble_loss,
    "simreg_loss": simreg_loss,
    "vkd_loss": vkd_loss,
    "srrl_loss": lambda student, teacher: srrl_loss(student, teacher, torch.ones(3, 6), None),
    "pad_loss": lambda student, teacher: pad_loss(student, teacher, torch.zeros(8, 1)),
}
# A vector is a map of one position; tokens have no height and width.
MAPS_OR_VECTORS: dict[str, Loss] = {
    "at_loss": at_loss,
    "attention": lambda student, teacher: attention(student),
    "fitnet_loss": fitnet_loss,
    "cat_kd_loss": cat_kd_loss,
    "ft_loss": ft_loss,
    "nst_loss": nst_loss,
    "ickd_loss": ickd_loss,
    "ab_loss": of_lists(ab_loss),
    "fsp_loss": of_lists(fsp_loss),
    "kdsvd_loss": of_lists(kdsvd_loss),
    "reviewkd_loss": of_lists(reviewkd_loss),
    "ofd_loss": lambda student, teacher: ofd_loss([student], [teacher], [-torch.ones(6)]),
    "vid_loss": lambda student, teacher: vid_loss(student, teacher, torch.zeros(6)),
}
CONTRAST = torch.eye(6)[:4]
MAPS_ALONE: dict[str, Loss] = {
    "cwd_loss": cwd_loss,
    "skd_pairwise_loss": skd_pairwise_loss,
    "skd_pixelwise_loss": skd_pixelwise_loss,
    "ifvd_loss": lambda student, teacher: ifvd_loss(student, teacher, torch.zeros(8, 3, 4), num_classes=2),
    "dsd_loss": of_lists(dsd_loss),
    "residual_attention_loss": of_lists(residual_attention_loss),
    "class_similarity_loss": class_similarity_loss,
    "cirkd_memory_loss": lambda student, teacher: cirkd_memory_loss(student, teacher, CONTRAST),
    "cirkd_minibatch_loss": cirkd_minibatch_loss,
    "fgfi_pyramid_loss": lambda student, teacher: fgfi_pyramid_loss([student], [teacher], [torch.ones(8, 3, 4)]),
    "fgfi_loss": lambda student, teacher: fgfi_loss(student, teacher, torch.ones(8, *student.shape[2:])),
}
# Shapes of their own, that say which copy or which negative: joint_label_loss (M, 4C), crd_loss (M, K + 1); or which
# side of a relation: minilm_loss (2, M, D, N); or which region: sdd_loss (M, C, N). Their refusals are in their tests.
OWN_SHAPES = {"sskd_loss", "joint_label_loss", "crd_loss", "minilm_loss", "sdd_loss"}


def sides(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def positions(features: Tensor) -> Tensor:
    return features.movedim(1, -1).flatten(0, -2)


def check(loss: Loss, shape: tuple[int, ...], laid_out: Callable[[Tensor], Tensor], factor: float = 1.0) -> None:
    """The loss of maps is that of the rows they stand for, and its gradient reaches every entry."""
    student, teacher = sides(shape)
    found = loss(student, teacher)
    torch.testing.assert_close(found, factor * loss(laid_out(student), laid_out(teacher)))
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert gradient.isfinite().all()
    assert gradient.shape == student.shape


@pytest.mark.parametrize(("name", "shape"), product(RELATIONS, (ROWS, TOKENS, MAPS)))
def test_relations_between_samples_are_those_of_whole_maps(name: str, shape: tuple[int, ...]) -> None:
    check(RELATIONS[name], shape, lambda features: features.flatten(1))


def test_relations_compare_maps_of_any_size() -> None:
    student, teacher = sides(MAPS)[0], sides((8, 10, 2, 2))[1]
    for loss in (rkd_loss, sp_loss, pkt_loss, itrd_mutual_loss):
        assert loss(student, teacher).isfinite()


@pytest.mark.parametrize(("name", "others"), product(RELATIONS, (6, 1)))
def test_relations_of_other_samples_are_refused(name: str, others: int) -> None:
    with pytest.raises(UserError, match=rf"\(8, 6\).*\({others}, 6\)"):  # else torch lays one row beside all
        RELATIONS[name](sides(ROWS)[0], sides((others, 6))[1])


@pytest.mark.parametrize(
    ("relation", "shape"),
    product((inter_class_relation, intra_class_relation, rank_relation), ((1, 6), (8, 1), (6, 6))),
)
def test_correlations_of_other_rows_or_classes_are_refused(relation: Loss, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="the same shape"):
        relation(sides(ROWS)[0], sides(shape)[1])


@pytest.mark.parametrize(
    "name", [name for name in (*POSITIONS, *SUMMED) if name not in ("simkd_loss", "paraphraser_loss")]
)
def test_logits_without_an_axis_for_classes_are_refused(name: str) -> None:
    loss = (POSITIONS | SUMMED)[name]
    with pytest.raises(UserError, match=r"\(M, C\).* got \(8,\)"):
        loss(*sides((8,)))


@pytest.mark.parametrize(("name", "shape"), product(POSITIONS, (ROWS, TOKENS, MAPS)))
def test_means_over_positions_take_each_as_a_row(name: str, shape: tuple[int, ...]) -> None:
    check(POSITIONS[name], shape, positions)


@pytest.mark.parametrize(("name", "shape"), product(SUMMED, (ROWS, TOKENS, MAPS)))
def test_kd_sums_over_positions(name: str, shape: tuple[int, ...]) -> None:
    check(SUMMED[name], shape, positions, factor=torch.Size(shape[2:]).numel())


@pytest.mark.parametrize("name", VECTORS)
def test_losses_of_rows_refuse_tokens_and_maps(name: str) -> None:
    check(VECTORS[name], ROWS, lambda features: features)
    for shape in (TOKENS, MAPS):
        with pytest.raises(UserError):
            VECTORS[name](*sides(shape))


@pytest.mark.parametrize("name", MAPS_OR_VECTORS)
def test_losses_of_maps_take_a_vector_as_one_position_and_refuse_tokens(name: str) -> None:
    loss = MAPS_OR_VECTORS[name]
    check(loss, MAPS, lambda features: features)
    check(loss, ROWS, lambda features: features[:, :, None, None])
    with pytest.raises(UserError, match=r"lay out tokens .* as a map first"):
        loss(*sides(TOKENS))


@pytest.mark.parametrize("name", MAPS_ALONE)
def test_dense_losses_refuse_all_but_maps(name: str) -> None:
    check(MAPS_ALONE[name], MAPS, lambda features: features)
    for shape in (ROWS, TOKENS):
        with pytest.raises(UserError, match=r"takes maps \(N, C, H, W\)"):
            MAPS_ALONE[name](*sides(shape))


def test_sskd_refuses_embeddings_that_are_maps() -> None:
    (student, teacher), (maps, others) = sides((4, 2, 6)), sides((4, 2, 6, 3, 3))
    labels = LABELS[:2]
    assert sskd_loss(student, teacher, student, teacher, labels).isfinite()
    with pytest.raises(UserError, match="sskd compares embeddings"):
        sskd_loss(student, teacher, maps, others, labels)


def test_the_tables_hold_every_public_loss() -> None:
    public = set()
    for info in pkgutil.walk_packages(methods.__path__, f"{methods.__name__}."):
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            if inspect.isfunction(getattr(module, name)) and name.endswith(("_loss", "_objective")):
                public.add(name)
    tables = (RELATIONS, POSITIONS, SUMMED, VECTORS, MAPS_OR_VECTORS, MAPS_ALONE)
    assert public <= set().union(*tables) | OWN_SHAPES
