"""RKD: how far apart samples are, and at which angles they see each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, at_least_float32
from understudy.methods.shared.relations import (
    EmbeddingConfig,
    embedding_taps,
    embeddings,
    inner_products,
    related_rows,
)

__all__ = ["RKD", "rkd_angle_loss", "rkd_distance_loss", "rkd_loss"]

_EPS = 1e-12  # smallest squared distance, the official code's
_BLOCK_ELEMENTS = 2**24  # 64 MiB of float32: what the angles at one block of vertices may take


def rkd_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    squared: bool = False,
    eps: float = _EPS,
    pushes_coinciding_rows: bool = False,
) -> Tensor:
    """Relational knowledge distillation: distances between pairs and angles in triples of samples.

    Park et al., "Relational Knowledge Distillation", CVPR 2019, eq. 5 to 8:
    w_d * mean over i, j of h(d_ij / mu) + w_a * mean over i, j, k of h(cos_ijk), h the smooth L1 distance (beta 1)
    between student and teacher, mu each side's mean distance.

    Args:
        student_features: (M, D_s) or (M, D_s, H, W); half types are raised to float32, wider ones stay.
        teacher_features: (M, ...) of any other size; no gradient flows into it.
        distance_weight: w_d.
        angle_weight: w_a.
        squared: compare squared distances.
        eps: smallest squared distance; nearer pairs count as this far and get no gradient.
        pushes_coinciding_rows: as the official code, angles of student rows nearer than sqrt(eps) have gradients of
            about 1e11; otherwise they have none.

    Returns:
        Scalar, dimensionless: means over all M^2 pairs and M^3 triples, the diagonal and degenerate ones included.

    Raises:
        UserError: other samples on one side than on the other.
    """
    loss = at_least_float32(student_features).new_zeros(())
    if distance_weight:
        distance = rkd_distance_loss(student_features, teacher_features, squared=squared, eps=eps)
        loss = loss + distance_weight * distance
    if angle_weight:
        nearest = 0.0 if pushes_coinciding_rows else eps**0.5
        loss = loss + angle_weight * rkd_angle_loss(student_features, teacher_features, nearest=nearest)
    return loss


def rkd_distance_loss(
    student_features: Tensor, teacher_features: Tensor, *, squared: bool = False, eps: float = _EPS
) -> Tensor:
    """The distance term of `rkd_loss`, unweighted; arguments as there."""
    student, teacher = related_rows(student_features, teacher_features)
    with torch.no_grad():
        aim = _relative_distances(teacher, squared, eps)
    return F.smooth_l1_loss(_relative_distances(student, squared, eps), aim)


def _relative_distances(features: Tensor, squared: bool, eps: float) -> Tensor:
    """(M, M) distances over their mean off the diagonal, the diagonal 0."""
    # From differences, not from a Gram matrix: in float32 that one loses the distances of near rows.
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=eps**0.5)
    if squared:
        distances = distances.square()
    is_pair = 1 - torch.eye(len(features), dtype=features.dtype, device=features.device)
    distances = distances * is_pair
    return distances / (distances.sum() / is_pair.sum().clamp(min=1)).clamp(min=torch.finfo(distances.dtype).tiny)


def rkd_angle_loss(student_features: Tensor, teacher_features: Tensor, *, nearest: float = _EPS**0.5) -> Tensor:
    """The angle term of `rkd_loss`, unweighted.

    Angles are taken a block of vertices at a time. Where one block does not hold all of them, their intermediate
    values are computed again in the backward pass, so that memory stays bounded for any M.

    Args:
        student_features: (M, D_s) or (M, D_s, H, W).
        teacher_features: (M, ...) of any other size, no gradient flows into it.
        nearest: student rows this near have no direction from each other, and no gradient.

    Returns:
        Scalar mean over all M^3 triples.
    """
    student, teacher = related_rows(student_features, teacher_features)
    num_rows = len(student)
    per_vertex = num_rows * max(num_rows, student.shape[1], teacher.shape[1])
    block = max(1, _BLOCK_ELEMENTS // per_vertex)
    blocks = [slice(start, start + block) for start in range(0, num_rows, block)]
    if len(blocks) == 1:
        total = _angle_differences(student, teacher, blocks[0], nearest)
    else:
        total = student.new_zeros(())
        for vertices in blocks:
            total = total + checkpoint(
                _angle_differences, student, teacher, vertices, nearest, use_reentrant=False, preserve_rng_state=False
            )
    return total / num_rows**3


def _angle_differences(student: Tensor, teacher: Tensor, vertices: slice, nearest: float) -> Tensor:
    """Sum of smooth L1 distances between the cosines at these vertices."""
    with torch.no_grad():
        teacher_cosines = _cosines(teacher, vertices, 0.0)  # (V, M, M)
    return F.smooth_l1_loss(_cosines(student, vertices, nearest), teacher_cosines, reduction="sum")


def _cosines(features: Tensor, vertices: slice, nearest: float) -> Tensor:
    """(V, M, M) cosines of the angles between any two rows, seen from each of V vertices."""
    edges = features - features[vertices, None]  # (V, M, D)
    if nearest > 0:
        edges = edges * (torch.linalg.vector_norm(edges.detach(), dim=2, keepdim=True) > nearest)
    directions = F.normalize(edges, dim=2)
    return inner_products(directions, directions)


class RKD(Method, name="rkd"):
    """The student keeps the teacher's distances between samples and the angles at which they see each other.

    distance_weight * mean h(d_ij / mu) + angle_weight * mean h(cos_ijk) on embeddings (M, D) of any width, maps
    averaged over their positions; h is smooth L1. Means over M^2 pairs and M^3 triples. Weights 25 and 50, and 1
    beside a task weight of 1, are the field's on CIFAR-100; the paper has 1 and 2 for the two terms.

    Differs from: the official angle term has gradients of about 1e11 where two rows of the student coincide, such as
    two dead ones; here rows nearer than sqrt(eps) have no direction
    (test_coinciding_rows_get_no_gradient_unless_asked_for). A batch of one row gives 0 instead of NaN. Values and
    other gradients are the official ones (golden rkd). Differences of all pairs (M^2 D numbers) are formed as there,
    but in blocks of bounded size.
    """

    class Config(EmbeddingConfig):
        """Settings of RKD."""

        distance_weight: float = Field(default=25.0, ge=0)  # mdistiller engine/cfg.py and RepDistiller
        angle_weight: float = Field(default=50.0, ge=0)  # the same
        squared: bool = False
        eps: float = Field(default=_EPS, gt=0)
        pushes_coinciding_rows: bool = False

    paper = Paper(
        authors="Park, Kim, Lu, Cho",
        title="Relational Knowledge Distillation",
        venue="CVPR",
        year=2019,
        arxiv="1904.05068",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    rows = "related"
    default_loss = LossWeights(task=1.0, distill=1.0, source="mdistiller engine/cfg.py: CE 1, RKD 1 (CIFAR-100)")

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        return embedding_taps(config)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "distance" and "angle", weighted."""
        settings = self.config
        student, teacher = embeddings(pairing, settings)
        distance = rkd_distance_loss(student, teacher, squared=settings.squared, eps=settings.eps)
        nearest = 0.0 if settings.pushes_coinciding_rows else settings.eps**0.5
        angle = rkd_angle_loss(student, teacher, nearest=nearest)
        return {"distance": settings.distance_weight * distance, "angle": settings.angle_weight * angle}
