"""CRD: a sample's student embedding is told apart from all but the teacher's of the same sample."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.precision import widest_dtype
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, at_least_float32
from understudy.methods.shared.connectors import linear_connector
from understudy.methods.shared.relations import (
    EmbeddingConfig,
    embedding_channels,
    embedding_taps,
    embeddings,
    inner_products,
)
from understudy.utils.errors import UserError

__all__ = ["CRD", "Negatives", "crd_log_normaliser", "crd_loss", "crd_scores", "remember_"]

_EPS = 1e-7  # the official code's, beside K / N


def crd_scores(anchors: Tensor, memory: Tensor, contrast: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Inner products of anchors with chosen rows of the other side's memory, over the temperature.

    Args:
        anchors: (M, D) rows of length 1; half types are raised to float32, wider ones stay.
        memory: (N, D).
        contrast: (M, K + 1) places in the memory: the anchor's own first, then its negatives'.
        temperature: > 0.

    Returns:
        (M, K + 1) logarithms of unnormalised scores.
    """
    if len(memory) <= contrast.shape[1] * memory.shape[1]:
        # All N products take less memory than K + 1 gathered rows of D: 12 MiB against 512 at the defaults.
        products = inner_products(anchors, memory).gather(1, contrast)
    else:
        products = inner_products(memory[contrast], anchors[:, None]).squeeze(2)
    return products / temperature


def crd_log_normaliser(scores: Tensor, num_samples: int) -> Tensor:
    """log Z, Z = N times the mean unnormalised score of a batch; the official code keeps that of the first batch.

    Args:
        scores: (M, K + 1) from `crd_scores`.
        num_samples: N.

    Returns:
        Scalar without gradient.
    """
    return scores.detach().flatten().logsumexp(dim=0) - math.log(scores.numel()) + math.log(num_samples)


def crd_loss(scores: Tensor, log_normaliser: Tensor, *, num_samples: int) -> Tensor:
    """Noise-contrastive estimation: the first of K + 1 candidates is real, the others are noise.

    Tian et al., "Contrastive Representation Distillation", ICLR 2020, eq. 17 to 19, in the official code's form:
    -1/M sum over m of log(x_0 / (x_0 + c')) + sum over k of log(c / (x_k + c')), x = e^score / Z, c = K / N,
    c' = c + 1e-7. Computed in log space, finite for any score.

    Args:
        scores: (M, K + 1) from `crd_scores`, the positive first.
        log_normaliser: scalar log Z.
        num_samples: N.

    Returns:
        Scalar in nats: sum over the K + 1 candidates, mean over the M anchors; one direction of the two.
    """
    scores = at_least_float32(scores)
    noise = (scores.shape[1] - 1) / num_samples
    log_ratio = scores - log_normaliser - math.log(noise + _EPS)  # log x / c'
    positive = F.softplus(-log_ratio[:, 0])
    negatives = F.softplus(log_ratio[:, 1:]) + math.log1p(_EPS / noise)
    return (positive + negatives.sum(dim=1)).mean()


def remember_(memory: Tensor, indices: Tensor, rows: Tensor, *, momentum: float = 0.5) -> None:
    """Move the memory of these samples towards new embeddings: normalised momentum * old + (1 - momentum) * new.

    Rows of one sample are averaged first, so that their order does not matter.

    Args:
        memory: (N, D), changed in place.
        indices: (M,) places in it.
        rows: (M, D) embeddings.
        momentum: share that stays.
    """
    with torch.no_grad():
        is_same = (indices[:, None] == indices).to(memory.dtype)
        mean = inner_products(is_same / is_same.sum(dim=1, keepdim=True), rows.to(memory.dtype).mT)
        mixed = momentum * memory[indices] + (1 - momentum) * mean
        memory[indices] = F.normalize(mixed, dim=1)


class Negatives(nn.Module):
    """Draws places of other samples, or of samples of other classes, uniformly and with replacement.

    Samples lie sorted by class, so that "any other class" is a range with a gap: no table per class is kept.

    Args:
        labels: (N,) class of each sample; N different ones make it "any other sample".
        count: how many to draw for each, at most as many as the smallest choice has.

    Raises:
        UserError: there is nothing to draw from.
    """

    order: Tensor
    class_of: Tensor
    first: Tensor
    sizes: Tensor

    def __init__(self, labels: Tensor, count: int) -> None:
        super().__init__()
        class_of = labels - labels.min()  # from 0: unlabelled samples (-1) are a class of their own
        sizes = class_of.bincount()
        self.count = min(count, len(labels) - int(sizes.max()))
        if self.count < 1:
            raise UserError(
                f"method 'crd' finds no negatives: all {len(labels)} training samples are of one class; set "
                "method.negatives=other_samples"
            )
        # Derived from the data: no part of the state.
        self.register_buffer("order", class_of.argsort(stable=True), persistent=False)  # (N,)
        self.register_buffer("class_of", class_of, persistent=False)  # (N,)
        self.register_buffer("sizes", sizes, persistent=False)  # (C,)
        self.register_buffer("first", sizes.cumsum(0) - sizes, persistent=False)  # (C,)

    def forward(self, indices: Tensor) -> Tensor:
        """(M, K + 1) places for (M,) samples: their own, then K others'. Draws from the device's global generator."""
        own = self.class_of[indices]
        first, size = self.first[own, None], self.sizes[own, None]
        dtype = widest_dtype(indices.device)
        uniform = torch.rand(len(indices), self.count, device=indices.device, dtype=dtype)
        place = (uniform * (len(self.order) - size)).long()  # among the others, as if the own class were not there
        negatives = self.order[torch.where(place < first, place, place + size)]
        return torch.cat([indices[:, None], negatives], dim=1)


class CRD(Method, name="crd"):
    """The student's embedding of a sample is close to the teacher's of it, and far from those of other samples.

    Noise-contrastive loss with K negatives on unit embeddings (M, embedding_dim) of both sides, each trained and
    each scored against a memory of the other side's over all N training samples: sum over candidates, mean over rows,
    sum of the two directions. The memory and the constants Z (from the first batch) are buffers, so a resumed run has
    them. Weights 1 task and 0.8 are the field's on CIFAR-100; add `kd` for the paper's CRD+KD. `init_from` takes over
    connectors and memory.

    Differs from: negatives are drawn on the device and with replacement, from all samples of other classes
    (`other_samples`: any other sample); the official loader draws without, from a table for each class, where K
    allows. K is at most the number of samples there are. Several rows of one sample (rotated copies) enter
    its memory as their mean, where the official result depends on their order
    (test_memory_takes_the_mean_of_several_rows_of_a_sample). The loss stays in log space: e^(1/0.07) overflows
    float16. The paper's constant and Z are the code's here (golden crd).
    """

    class Config(EmbeddingConfig):
        """Settings of CRD."""

        embedding_dim: int = Field(default=128, ge=1)  # mdistiller engine/cfg.py, on every data set
        num_negatives: int = Field(default=16384, ge=1)  # K
        temperature: float = Field(default=0.07, gt=0)
        momentum: float = Field(default=0.5, ge=0, lt=1)  # of the memory
        negatives: Literal["other_classes", "other_samples"] = "other_classes"  # the code's "exact" and "relax"

        @field_validator("rows")
        @classmethod
        def _has_one_memory(cls, rows: str) -> str:
            if rows == "local":
                raise ValueError("crd keeps one memory of all processes' samples; leave it out, got 'local'")
            return rows

    memory: Tensor
    log_normaliser: Tensor

    paper = Paper(
        authors="Tian, Krishnan, Isola",
        title="Contrastive Representation Distillation",
        venue="ICLR",
        year=2020,
        arxiv="1910.10699",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    needs = frozenset({"indices"})
    rows = "related"
    default_loss = LossWeights(task=1.0, distill=0.8, source="mdistiller engine/cfg.py: CE 1, CRD 0.8 (CIFAR-100)")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        student_channels, teacher_channels = embedding_channels(context, config)
        self.student_embedding = linear_connector(student_channels, config.embedding_dim)
        self.teacher_embedding = linear_connector(teacher_channels, config.embedding_dim)
        self.negatives = Negatives(_labels_of(config, context), config.num_negatives)
        width = math.sqrt(3 / config.embedding_dim)  # rows of length about 1, as in the official code
        size = (2, context.num_train, config.embedding_dim)
        # The student's, then the teacher's.
        self.register_buffer("memory", width * (2 * torch.rand(size, generator=context.generator) - 1))
        self.register_buffer("log_normaliser", torch.full((2,), math.inf))  # inf: no batch was seen yet

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        return embedding_taps(config)

    def forward(self, pairing: Pairing, contrast: Tensor | None = None) -> dict[str, Tensor]:
        """The terms "student" and "teacher", by whose embedding is the anchor; the memory moves on in training mode.

        Args:
            pairing: a batch with indices.
            contrast: (M, K + 1) own place and negatives of each row; None: drawn.
        """
        assert pairing.indices is not None
        student_features, teacher_features = embeddings(pairing, self.config)
        contrast = self.negatives(pairing.indices) if contrast is None else contrast
        anchors = [
            F.normalize(at_least_float32(self.student_embedding(student_features)), dim=1),
            F.normalize(at_least_float32(self.teacher_embedding(teacher_features)), dim=1),
        ]
        terms = [self._contrasted(side, anchors[side], contrast) for side in (0, 1)]
        if self.training:
            for memory, rows in zip(self.memory, anchors, strict=True):
                remember_(memory, pairing.indices, rows, momentum=self.config.momentum)
        return {"student": terms[0], "teacher": terms[1]}

    def _contrasted(self, side: int, anchors: Tensor, contrast: Tensor) -> Tensor:
        """The loss of one direction, ready to be differentiated after the memory has changed.

        Its gradient is taken at once: the backward pass needs the memory as it was, and holding (M, N) products or a
        copy of the memory until then would cost more than two numbers per entry of the anchors.
        """
        with torch.enable_grad():
            leaf = anchors.detach().requires_grad_()
            scores = crd_scores(leaf, self.memory[1 - side], contrast, temperature=self.config.temperature)
            loss = crd_loss(scores, self._log_normaliser(side, scores), num_samples=self.memory.shape[1])
            (gradient,) = torch.autograd.grad(loss, leaf)
        linear = (anchors * gradient).sum()
        return loss.detach() + (linear - linear.detach())

    def _log_normaliser(self, side: int, scores: Tensor) -> Tensor:
        """That of the first batch, kept from then on."""
        kept = self.log_normaliser[side]
        chosen = torch.where(kept.isinf(), crd_log_normaliser(scores, self.memory.shape[1]), kept)
        if self.training:
            self.log_normaliser[side] = chosen
        return chosen


def _labels_of(config: CRD.Config, context: Context) -> Tensor:
    """(N,) by which negatives are told from positives."""
    if context.num_train < 1:
        raise UserError(
            "method 'crd' keeps a memory of the training samples, but their number is not known here; use "
            "understudy.distill with a data set, or give train_labels"
        )
    if config.negatives == "other_samples":
        return torch.arange(context.num_train)
    if context.train_labels is None:
        raise UserError(
            "method 'crd' draws negatives from other classes, but the training labels are not known here; give "
            "train_labels, or set method.negatives=other_samples"
        )
    return context.train_labels.detach().cpu()
