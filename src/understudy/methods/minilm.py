"""MiniLM: how the patches of a vision transformer attend to each other, and how their values relate."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.attention import ATTENTION
from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, TapShapes, at_least_float32
from understudy.methods.shared.embeddings import tap_channels
from understudy.methods.shared.maps import on_one_grid
from understudy.utils.errors import UserError

__all__ = ["MiniLM", "Relation", "minilm_loss"]

Relation = Literal["attention", "queries", "keys", "values"]

_MOST_HEADS = 12


def minilm_loss(student: Tensor, teacher: Tensor, *, num_heads: int = 1) -> Tensor:
    """Divergence of two relations between patches: of the teacher's softmax(x y^T / sqrt(d)) from the student's.

    Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
    NeurIPS 2020, eq. 7 and 9: sum over columns, mean over images, heads and rows.

    Args:
        student: (2, M, D_s, N) the two sides of the relation, x and y, of N patches; half types are raised to float32.
        teacher: (2, M, D_t, N), no gradient flows into it.
        num_heads: that D_s and D_t are divided into, alike.

    Returns:
        Scalar in nats.

    Raises:
        UserError: shapes that cannot be related.
    """
    if student.ndim != 4 or student.shape[:2] != teacher.shape[:2] or student.shape[3] != teacher.shape[3]:
        raise UserError(
            f"minilm relates patches of the same images, (2, M, D, N) on either side, but got {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}; bring both to one grid first"
        )
    for side, tensor in (("student", student), ("teacher", teacher)):
        if tensor.shape[2] % num_heads:
            raise UserError(f"minilm: {num_heads} heads do not divide the {side}'s {tensor.shape[2]} channels")
    log_student = _log_relation(at_least_float32(student), num_heads)
    log_teacher = _log_relation(at_least_float32(teacher.detach()), num_heads)
    return F.kl_div(log_student.flatten(0, -2), log_teacher.flatten(0, -2), reduction="batchmean", log_target=True)


def _log_relation(sides: Tensor, num_heads: int) -> Tensor:
    """(M, num_heads, N, N) log softmax over the last axis."""
    left, right = sides.reshape(*sides.shape[:2], num_heads, -1, sides.shape[3])  # (M, num_heads, d, N) each
    return F.log_softmax(left.mT @ right / math.sqrt(left.shape[2]), dim=-1)


class MiniLM(Method, name="minilm"):
    """The last block's attention and the relations of its values approach the teacher's, both vision transformers.

    KL(softmax(Q_t K_t^T / sqrt(d)) || softmax(Q_s K_s^T / sqrt(d))) + the same of V V^T, over N patches: sum over
    columns, mean over images, heads and rows. Widths and numbers of heads may differ: both sides are divided into
    `num_heads` heads anew, as in MiniLMv2, whose relations are `[queries, keys, values]`. Patches of unlike grids are
    brought to the smaller one. Both terms have weight 1 beside a task loss of weight 1.

    Differs from: only patches are related, without class and distillation tokens, of which teacher and student may
    have different numbers. The papers distil without labels, a language model on text; that the task loss stands
    beside it, and its weight, are ours. MiniLM itself keeps the networks' own heads, which are to be as many on both
    sides: `num_heads` may say so (test_the_loss_is_the_papers_formula).
    """

    class Config(MethodConfig):
        """Settings of MiniLM."""

        relations: tuple[Relation, ...] = Field(default=("attention", "values"), min_length=1)  # which are compared
        num_heads: int | None = Field(default=None, ge=1)  # None: the most that divide both widths, up to 12
        student_tap: str = ATTENTION  # a layer that gives queries, keys and values side by side
        teacher_tap: str = ATTENTION

    paper = Paper(
        authors="Wang, Wei, Dong, Bao, Yang, Zhou",
        title="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
        venue="NeurIPS",
        year=2020,
        arxiv="2002.10957",
    )
    taps = Taps(student=(ATTENTION,), teacher=(ATTENTION,))
    default_loss = LossWeights(task=1.0, distill=1.0, source="ours: the paper has no labels")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        widths = [
            _width(context.student, config.student_tap, side="student"),
            _width(context.teacher, config.teacher_tap, side="teacher"),
        ]
        shared = math.gcd(*widths)
        fitting = [heads for heads in range(1, _MOST_HEADS + 1) if shared % heads == 0]
        self.num_heads = config.num_heads or fitting[-1]
        if shared % self.num_heads:
            raise UserError(
                f"method.num_heads {self.num_heads} of 'minilm' must divide the student's {widths[0]} and the "
                f"teacher's {widths[1]} channels; of up to {_MOST_HEADS}, {', '.join(map(str, fitting))} do"
            )

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one layer of either side."""
        assert isinstance(config, cls.Config)
        return Taps(student=(config.student_tap,), teacher=(config.teacher_tap,))

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """A term for each relation."""
        settings = self.config
        student, teacher = on_one_grid(
            pairing.student_features[settings.student_tap], pairing.teacher_features[settings.teacher_tap]
        )
        ours, theirs = _queries_keys_values(student), _queries_keys_values(teacher)
        return {
            relation: minilm_loss(_sides(ours, relation), _sides(theirs, relation), num_heads=self.num_heads)
            for relation in settings.relations
        }


def _queries_keys_values(maps: Tensor) -> Tensor:
    """(3, M, D, N) of (M, 3D, H, W)."""
    return maps.reshape(len(maps), 3, maps.shape[1] // 3, -1).movedim(1, 0)


def _sides(qkv: Tensor, relation: Relation) -> Tensor:
    """(2, M, D, N) of (3, M, D, N) queries, keys and values: what is related with what."""
    left, right = {"attention": (0, 1), "queries": (0, 0), "keys": (1, 1), "values": (2, 2)}[relation]
    return qkv[[left, right]]


def _width(shapes: TapShapes, tap: str, *, side: str) -> int:
    channels, shape = tap_channels(shapes, tap, setting=f"method.{side}_tap"), shapes[tap]
    if channels % 3 or shape.height is None:
        raise UserError(
            f"method 'minilm' wants queries, keys and values of an image's patches side by side, and the {side}'s "
            f"{tap!r} holds {shape}; name the qkv layer of a block in method.{side}_tap"
        )
    return channels // 3
