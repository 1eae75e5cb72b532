"""SimReg: an MLP head on the student's embedding regresses the teacher's, both at length 1."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import (
    Context,
    LossWeights,
    Method,
    MethodConfig,
    Paper,
    at_least_float32,
    refuse_all_but_rows,
)
from understudy.methods.shared.connectors import linear_connector, pooled
from understudy.methods.shared.embeddings import tap_channels, unit_rows
from understudy.utils.errors import UserError

__all__ = ["SimReg", "simreg_head", "simreg_loss"]


def simreg_loss(predicted: Tensor, teacher_features: Tensor) -> Tensor:
    """Squared distance between unit vectors, 2 - 2 cosine.

    Navaneet et al., "SimReg: Regression as a Simple Yet Effective Tool for Self-supervised Knowledge Distillation",
    BMVC 2021.

    Args:
        predicted: (M, D) student features in the teacher's space; half types are raised to float32, wider ones stay.
        teacher_features: (M, D), no gradient flows into it.

    Returns:
        Scalar mean over the M rows, in 0..4; a zero row on one side counts 1 to 2, with a finite gradient.

    Raises:
        UserError: the shapes differ.
    """
    refuse_all_but_rows("simreg", predicted, teacher_features)
    if predicted.shape != teacher_features.shape:
        raise UserError(
            f"predicted features are {tuple(predicted.shape)}, the teacher's {tuple(teacher_features.shape)}; "
            "project onto as many channels as the teacher has, and pool maps first"
        )
    student, teacher = unit_rows(at_least_float32(predicted)), unit_rows(at_least_float32(teacher_features.detach()))
    return (2 - 2 * (student * teacher).sum(dim=1)).mean()


def simreg_head(in_channels: int, out_channels: int, *, num_layers: int = 4, hidden_channels: int) -> nn.Sequential:
    """Prediction head, (M, in_channels) to (M, out_channels).

    Four layers: in, hidden, in, hidden, out, with batch norm and ReLU after the first and the third. Two layers: in,
    hidden, out and nothing between them, as in the authors' code. One: an affine layer.
    """
    if num_layers == 1:
        return nn.Sequential(linear_connector(in_channels, out_channels))
    if num_layers == 2:
        return nn.Sequential(
            linear_connector(in_channels, hidden_channels), linear_connector(hidden_channels, out_channels)
        )
    return nn.Sequential(
        linear_connector(in_channels, hidden_channels),
        nn.BatchNorm1d(hidden_channels),
        nn.ReLU(),
        linear_connector(hidden_channels, in_channels),
        linear_connector(in_channels, hidden_channels),
        nn.BatchNorm1d(hidden_channels),
        nn.ReLU(),
        linear_connector(hidden_channels, out_channels),
    )


class SimReg(Method, name="simreg"):
    """The student's embedding, through a deep head that is thrown away afterwards, predicts the teacher's.

    mean over rows of 2 - 2 cos(P(z_s), z_t) on (M, D) embeddings; maps are averaged over their positions. The head P
    has four layers with 2 D_s hidden channels by default.

    The authors distil self-supervised teachers without labels, this loss being the only one, and train a classifier
    afterwards: task_weight 0 is theirs. The default here is 1, since a student's classifier that no loss reaches
    would be evaluated at chance.

    Differs from: nothing in value (golden simreg, equal to 1e-12 in float64) but at rows shorter than 1e-6, which they
    divide by 1e-12 (test_a_zero_row_has_a_finite_gradient). Their two-layer head is affine as well, having neither
    batch norm nor ReLU; their flag mse_nonorm changes nothing and is not here.
    """

    class Config(MethodConfig):
        """Settings of SimReg."""

        num_layers: Literal[1, 2, 4] = 4  # of the head; simreg.py knows 2 and 4
        hidden_channels: int | None = Field(default=None, ge=1)  # None: twice the student's, as in the paper
        student_tap: str = "embedding"
        teacher_tap: str = "embedding"

    paper = Paper(
        authors="Navaneet, Koohpayegani, Tejankar, Pirsiavash",
        title="SimReg: Regression as a Simple Yet Effective Tool for Self-supervised Knowledge Distillation",
        venue="BMVC",
        year=2021,
        arxiv="2201.05131",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    rows = "related"  # the head's batch norms
    default_loss = LossWeights(
        task=1.0, distill=1.0, source="simreg.py: the regression alone, with weight 1; task 1 is our addition"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        in_channels = tap_channels(context.student, config.student_tap, setting="method.student_tap")
        self.head = simreg_head(
            in_channels,
            tap_channels(context.teacher, config.teacher_tap, setting="method.teacher_tap"),
            num_layers=config.num_layers,
            hidden_channels=config.hidden_channels or 2 * in_channels,
        )

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        assert isinstance(config, cls.Config)
        return Taps(student=(config.student_tap,), teacher=(config.teacher_tap,))

    @classmethod
    def min_rows(cls, config: MethodConfig) -> int:
        """2 for the head with batch norms."""
        assert isinstance(config, cls.Config)
        return 2 if config.num_layers == 4 else 1

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "simreg"."""
        predicted = self.head(pooled(pairing.student_features[self.config.student_tap]))
        teacher = pooled(at_least_float32(pairing.teacher_features[self.config.teacher_tap]))
        return {"simreg": simreg_loss(predicted, teacher)}
