"""SimKD: the student's features are made the teacher's, and the teacher's own classifier is reused on them."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.taps import TappedModel, Taps
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, TapShapes, at_least_float32
from understudy.methods.shared.connectors import pooled
from understudy.methods.shared.embeddings import conv_norm, deepest_stage, frozen_classifier, pooled_to
from understudy.methods.shared.maps import as_map
from understudy.utils.errors import UserError

__all__ = ["SimKD", "SimKDStudent", "simkd_loss", "simkd_projector"]

_MOST_UNLIKE = 0.05  # of the largest entry: half types round to 0.01, another pooling or a norm in between is near 1


def simkd_loss(projected: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean squared distance between projected student features and the teacher's.

    Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022.

    Args:
        projected: (M, D, H, W) or (M, D); half types are raised to float32, wider ones stay.
        teacher_features: the same shape, no gradient flows into it.

    Returns:
        Scalar: mean over all elements.

    Raises:
        UserError: the shapes differ.
    """
    if projected.shape != teacher_features.shape:
        raise UserError(
            f"projected features are {tuple(projected.shape)}, the teacher's {tuple(teacher_features.shape)}; "
            "project onto as many channels as the teacher has, and pool the larger map first"
        )
    return F.mse_loss(at_least_float32(projected), at_least_float32(teacher_features.detach()))


def simkd_projector(
    in_channels: int, out_channels: int, *, factor: int = 2, ends_in_relu: bool = True
) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolution with out_channels / factor channels inside, each with batch norm and ReLU."""
    hidden = max(1, out_channels // factor)
    return nn.Sequential(
        *conv_norm(in_channels, hidden),
        nn.ReLU(),
        *conv_norm(hidden, hidden, kernel_size=3),
        nn.ReLU(),
        *conv_norm(hidden, out_channels),
        *([nn.ReLU()] if ends_in_relu else []),
    )


class SimKDStudent(nn.Module):
    """What SimKD deploys: student up to a tap, projector, mean over positions, the teacher's classifier.

    The student's own classifier is computed but goes nowhere. Its state has the names student.module.*, projector.*
    and classifier.*; to read a saved one, build the same and pass it to `load_student(folder, module=...)`:
    `SimKDStudent(network, tap="stages.3", projector=simkd_projector(64, 256), classifier=Linear(256, 10), size=(8, 8))`

    Args:
        student: the plain network.
        tap: which of its maps is projected.
        projector: as `simkd_projector` builds it.
        classifier: (M, D) to (M, C).
        size: larger maps are averaged down to this height and width first.

    Shapes: (B,3,H,W) images as the student takes them to (B,C) logits.
    """

    def __init__(
        self, student: nn.Module, *, tap: str, projector: nn.Module, classifier: nn.Module, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.student = TappedModel(student, [tap], name="the student")
        self.tap = tap
        self.projector = projector
        self.classifier = classifier
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """(B,C) logits."""
        _, features = self.student(images)
        projected = self.projector(pooled_to(as_map(features[self.tap]), self.size))
        logits: Tensor = self.classifier(pooled(projected))
        return logits


class SimKD(Method, name="simkd"):
    """The student's last map, projected, becomes the teacher's, so that the teacher's classifier can be reused.

    Mean over all elements of (P(f_s) - f_t)^2 on (M, D, H, W) last maps, the larger averaged down to the smaller;
    P is a bottleneck of three convolutions with batch norm and ReLU (`simkd_projector`). It is the only loss: task
    weight 0, so the student's own classifier is not trained, and what the training log says of its accuracy
    means nothing. Evaluated, counted and exported is the `SimKDStudent` with projector and teacher classifier.

    `match: embedding` compares the mean of the projected map with what the teacher's classifier takes. It is the way
    for teachers whose classifier sees something other than the mean of the last map (a ViT's class token, ConvNeXt's
    normalised mean, MobileNetV3's wider layer); P then ends without ReLU, since what it meets has negative entries. Any
    student with stages will do; the teacher needs the task's classes.

    Differs from: nothing in value (golden simkd, equal to 1e-12 in float64). Where classifier and last map do not go
    together the authors' code trains towards logits that the teacher never gives; here it is an error at the first
    batch (test_a_teacher_that_classifies_something_else_than_its_mean_map_is_refused).
    """

    class Config(MethodConfig):
        """Settings of SimKD."""

        factor: int = Field(default=2, ge=1)  # teacher channels over the projector's inner ones; SimKD models/util.py
        match: Literal["map", "embedding"] = "map"
        student_tap: str = "stages"  # a group stands for its deepest
        teacher_tap: str = "stages"

    paper = Paper(
        authors="Chen, Mei, Zhang, Wang, Feng, Chen",
        title="Knowledge Distillation with the Reused Teacher Classifier",
        venue="CVPR",
        year=2022,
        arxiv="2203.14001",
    )
    taps = Taps(student=("stages",), teacher=("stages", "embedding"))
    rows = "related"  # the projector's batch norms
    default_loss = LossWeights(task=0.0, distill=1.0, source="SimKD repository: cls 0, div 0, beta 1")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        if context.teacher.num_classes != context.num_classes:
            raise UserError(
                f"method 'simkd' deploys the teacher's classifier, which has {context.teacher.num_classes} classes for "
                f"{context.num_classes} of the data; fine-tune the teacher on this data first (--train-teacher)"
            )
        self.student_tap = deepest_stage(context.student, config.student_tap, setting="method.student_tap")
        self.classifier = frozen_classifier(context, method="simkd")
        size = _size(context.student, self.student_tap)
        if config.match == "map":
            self.teacher_tap = deepest_stage(context.teacher, config.teacher_tap, setting="method.teacher_tap")
            if context.teacher[self.teacher_tap].channels != self.classifier.in_features:
                raise _classifies_something_else(self.teacher_tap)
            theirs = _size(context.teacher, self.teacher_tap)
            size = (min(size[0], theirs[0]), min(size[1], theirs[1]))
        self.size = size
        self.projector = simkd_projector(
            context.student[self.student_tap].channels,
            self.classifier.in_features,
            factor=config.factor,
            ends_in_relu=config.match == "map",  # such an embedding has negative entries
        )
        self._is_checked = False
        self._deployed: tuple[SimKDStudent, ...] = ()  # a tuple keeps the student out of this module's parameters

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The map on either side, and what the teacher's classifier takes."""
        assert isinstance(config, cls.Config)
        teacher = ("embedding",) if config.match == "embedding" else (config.teacher_tap, "embedding")
        return Taps(student=(config.student_tap,), teacher=teacher)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "simkd"."""
        maps, embedding = as_map(pairing.student_features[self.student_tap]), pairing.teacher_features["embedding"]
        projected = self.projector(pooled_to(maps, self.size))
        if self.config.match == "embedding":
            return {"simkd": simkd_loss(pooled(at_least_float32(projected)), pooled(at_least_float32(embedding)))}
        teacher = as_map(pairing.teacher_features[self.teacher_tap])
        self._check_once(teacher, embedding)
        return {"simkd": simkd_loss(projected, pooled_to(teacher, self.size))}

    def deployed(self, student: nn.Module) -> SimKDStudent:
        """Student, projector and the teacher's classifier, sharing their weights with what is trained."""
        if not self._deployed or self._deployed[0].student.module is not student:
            reused = SimKDStudent(
                student, tap=self.student_tap, projector=self.projector, classifier=self.classifier, size=self.size
            )
            self._deployed = (reused,)
        return self._deployed[0]

    def _check_once(self, teacher: Tensor, embedding: Tensor) -> None:
        if not self._is_checked:
            taken = pooled(embedding)
            if (pooled(teacher) - taken).abs().max() > _MOST_UNLIKE * taken.abs().max():
                raise _classifies_something_else(self.teacher_tap)
            self._is_checked = True


def _size(shapes: TapShapes, tap: str) -> tuple[int, int]:
    return shapes[tap].height or 1, shapes[tap].width or 1


def _classifies_something_else(tap: str) -> UserError:
    return UserError(
        f"method 'simkd' reuses the teacher's classifier on the mean of its map at {tap!r}, but this teacher's "
        "classifier takes something else (a class token, a normalised mean, a wider layer); set method.match=embedding"
    )
