"""Losses of segmentation students that relate positions: to their class, to other stages, to other images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.methods.base import at_least_float32, comparable_logits, refuse_unlike_shapes
from understudy.methods.losses.dense import refuse_all_but_maps
from understudy.methods.shared.maps import full_precision
from understudy.utils.errors import UserError

__all__ = [
    "cirkd_memory_loss",
    "cirkd_minibatch_loss",
    "class_similarity_loss",
    "dsd_loss",
    "ifvd_loss",
    "residual_attention_loss",
]

_LARGE = 256  # height and width from which CIRKD averages 4 x 4 positions first


def ifvd_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """Intra-class feature variation distillation: how far each position is from the centre of its class.

    Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020, eq. 2 to 4: the
    mean of (cos(f_s, c_s) - cos(f_t, c_t))^2 over positions, where c is the mean feature of the position's class in
    its own image. Gradient flows through the student's centres.

    Differs from: the released code adds 1e-6 to the float32 count of a class's positions, where it is lost beyond 16.

    Args:
        student: (N, D, H, W); half types are raised to float32, wider ones stay.
        teacher: (N, D', H, W), any number of channels; no gradient flows into it.
        labels: (N, H', W') class numbers, brought to H x W by taking the nearest; a number outside 0..num_classes - 1
            (ignored) gives a position no class: both of its cosines are 1, and it counts in the mean.
        num_classes: C.

    Returns:
        Scalar mean over images and all positions, between 0 and 4. The authors weigh it by 200, CIRKD's code by 20.

    Raises:
        UserError: maps of different size, or labels of other images.
    """
    _refuse_other_positions("ifvd", student, teacher)
    if labels.ndim != 3 or len(labels) != len(student):
        raise UserError(
            f"ifvd needs a map of labels (N, H, W) for {len(student)} images, but got {tuple(labels.shape)}; give one "
            "class number for each pixel"
        )
    places = F.interpolate(labels[:, None].double(), size=student.shape[2:], mode="nearest").flatten(1).long()
    has_class = (places >= 0) & (places < num_classes)  # (N, P)
    members = F.one_hot(places.where(has_class, num_classes), num_classes + 1)[..., :num_classes]  # (N, P, C)
    ours, theirs = (_cosines_with_centres(side, members, has_class) for side in (student, teacher.detach()))
    return F.mse_loss(ours, theirs)


def _cosines_with_centres(maps: Tensor, members: Tensor, has_class: Tensor) -> Tensor:
    """(N, P) cosine of each position with the mean of its class; 1 where it has none."""
    features = at_least_float32(maps).flatten(2).mT  # (N, P, D)
    members = members.to(features.dtype)
    with full_precision(maps):
        centres = members.mT @ features / (members.sum(dim=1)[..., None] + 1e-6)  # (N, C, D)
        centres = members @ centres  # (N, P, D)
    return F.cosine_similarity(features, torch.where(has_class[..., None], centres, features), dim=2)


def dsd_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    residual_weight: float = 1000.0,
    class_weight: float = 10.0,
    exponent: int = 2,
    tau: float = 4.0,
) -> Tensor:
    """Double similarity distillation: of how attention changes between maps, and of where classes are together.

    Feng et al., "Double Similarity Distillation for Semantic Image Segmentation", IEEE TIP 2021, as in CIRKD's code:
    residual_weight * `residual_attention_loss` of all maps + class_weight * `class_similarity_loss` of the last.

    Args:
        student: maps (N, D, H, W) of one size, the logits last; half types are raised to float32.
        teacher: as many, of any channels but for the last; no gradient flows into them.
        residual_weight: 1000 in CIRKD's script.
        class_weight: 10 in CIRKD's script.
        exponent: p of the attention.
        tau: temperature > 0 of the softmax over positions.

    Returns:
        Scalar.

    Raises:
        UserError: as the two losses.
    """
    residual = residual_attention_loss(student, teacher, exponent=exponent)
    return residual_weight * residual + class_weight * class_similarity_loss(student[-1], teacher[-1], tau=tau)


def residual_attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], *, exponent: int = 2) -> Tensor:
    """How attention changes from one map to another: the pixel-wise half of `dsd_loss`.

    Feng et al., IEEE TIP 2021. With A the attention of a map (mean over channels of f^p, as a vector over positions
    of length 1), the mean of (R_s - R_t)^2, R the difference of two attentions brought to length 1 again.

    Args:
        student: two or more maps (N, D, H, W) of one size, of any channels; half types are raised to float32.
        teacher: as many of the same size; no gradient flows into them.
        exponent: p >= 1.

    Returns:
        Scalar mean over images and positions, then over the pairs of maps.

    Raises:
        UserError: fewer than two maps, other numbers of them, or maps of different size.
    """
    refuse_all_but_maps("dsd", *student, *teacher)
    sizes = {(len(maps), *maps.shape[2:]) for maps in (*student, *teacher)}
    if len(student) < 2 or len(student) != len(teacher) or len(sizes) > 1:
        shapes = [[tuple(maps.shape) for maps in side] for side in (student, teacher)]
        raise UserError(
            f"dsd compares two or more maps of one size on either side, but got the student's {shapes[0]} and the "
            f"teacher's {shapes[1]}; interpolate them to one size first"
        )
    ours = _residuals(student, exponent)
    theirs = _residuals([maps.detach() for maps in teacher], exponent)
    return torch.stack([F.mse_loss(a, b) for a, b in zip(ours, theirs, strict=True)]).mean()


def _residuals(maps: Sequence[Tensor], exponent: int) -> list[Tensor]:
    """(N, P) unit vectors, one for each pair of maps."""
    strengths = [at_least_float32(each).pow(exponent).mean(dim=1).flatten(1) for each in maps]
    attentions = [F.normalize(strength, dim=1) for strength in strengths]
    return [F.normalize(later - earlier, dim=1) for earlier, later in combinations(attentions, 2)]


def class_similarity_loss(student_logits: Tensor, teacher_logits: Tensor, *, tau: float = 4.0) -> Tensor:
    """How much any two classes are looked for in the same places: the category-wise half of `dsd_loss`.

    Feng et al., IEEE TIP 2021. Logits are averaged over 2 x 2 positions (the last ones may be fewer); Q is their
    softmax over positions at temperature tau; compared are the C x C products Q Q^T.

    Args:
        student_logits: (N, C, H, W); half types are raised to float32, wider ones stay.
        teacher_logits: the same shape, no gradient flows into it.
        tau: temperature > 0.

    Returns:
        Scalar mean over images and pairs of classes.

    Raises:
        UserError: the shapes differ.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits)
    refuse_all_but_maps("dsd", student_logits, teacher_logits)
    return F.mse_loss(_class_products(student_logits, tau), _class_products(teacher_logits, tau))


def _class_products(logits: Tensor, tau: float) -> Tensor:
    shares = F.softmax(F.avg_pool2d(logits, 2, ceil_mode=True).flatten(2) / tau, dim=2)  # (N, C, P)
    with full_precision(logits):
        return shares @ shares.mT


def cirkd_minibatch_loss(student: Tensor, teacher: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Cross-image relational distillation within a batch: which positions of any image each position is like.

    Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR 2022, eq. 4: over
    the ordered pairs of images, an image with itself among them, KL from teacher to student of the softmaxes of
    cosine similarities over the second image's positions. Maps of 256 x 256 and more are averaged over 4 x 4
    positions first. N^2 P^2 similarities are held at once, P = H W positions.

    Args:
        student: (N, D, H, W); half types are raised to float32, wider ones stay.
        teacher: (N, D', H, W), any number of channels; no gradient flows into it.
        temperature: T > 0 of both softmaxes.

    Returns:
        Scalar in nats: mean over pairs of images and positions. No T^2. The authors weigh it by 1.

    Raises:
        UserError: maps of different size.
    """
    _refuse_other_positions("cirkd", student, teacher)
    ours, theirs = (_similarities(side, temperature) for side in (student, teacher.detach()))
    divergence = F.kl_div(F.log_softmax(ours, dim=-1), F.log_softmax(theirs, dim=-1), reduction="sum", log_target=True)
    return divergence / ours[..., 0].numel()


def cirkd_memory_loss(student: Tensor, teacher: Tensor, contrast: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Cross-image relational distillation against a memory: which of its features each position is like.

    Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR 2022, section 3.4: KL
    from teacher to student of the softmaxes of cosine similarities to features of earlier images.

    Args:
        student: (N, D, H, W), brought to the teacher's channels; half types are raised to float32, wider ones stay.
        teacher: (N, D, H, W); no gradient flows into it.
        contrast: (K, D) unit vectors, of the teacher's features; no gradient flows into them.
        temperature: T > 0 of both softmaxes.

    Returns:
        Scalar in nats: mean over images and positions. No T^2. The authors weigh it by 0.1.

    Raises:
        UserError: maps of different size or channels.
    """
    _refuse_other_positions("cirkd", student, teacher)
    refuse_unlike_shapes("cirkd's memory", student, teacher)
    ours, theirs = (
        F.normalize(at_least_float32(side), dim=1).movedim(1, -1).flatten(0, -2)
        @ contrast.detach().to(at_least_float32(side).dtype).mT
        / temperature
        for side in (student, teacher.detach())
    )
    divergence = F.kl_div(F.log_softmax(ours, dim=-1), F.log_softmax(theirs, dim=-1), reduction="sum", log_target=True)
    return divergence / len(ours)


def _similarities(maps: Tensor, temperature: float) -> Tensor:
    """(N, N, P, P) cosines of every position of one image with every one of another, divided by the temperature."""
    maps = at_least_float32(maps)
    if min(maps.shape[2:]) >= _LARGE:
        maps = F.avg_pool2d(maps, 4)
    features = F.normalize(maps, dim=1).flatten(2)  # (N, D, P)
    with full_precision(maps):
        return features.mT[:, None] @ features[None] / temperature


def _refuse_other_positions(what: str, student: Tensor, teacher: Tensor) -> None:
    refuse_all_but_maps(what, student, teacher)
    # A channel of each: the number of channels may differ.
    refuse_unlike_shapes(f"{what}, position by position,", student[:, 0], teacher[:, 0])
