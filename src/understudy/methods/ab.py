"""AB: on which side of its activation boundary each of the teacher's neurons is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, Paper
from understudy.methods.shared.maps import as_map, comparable_maps, conv_regressor
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError

__all__ = ["AB", "ab_loss"]

_SCALE = 3 / 1000  # of the authors' code


def ab_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, margin: float = 1.0) -> Tensor:
    """Activation transfer: a squared hinge that puts every neuron on the teacher's side of zero.

    Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons", AAAI 2019:
    (s + m)^2 where t <= 0 and s > -m, (s - m)^2 where t > 0 and s <= m, else 0.

    Args:
        student_features: n pre-activations (M, D, H, W) with the teacher's channels; half types are raised to float32.
        teacher_features: n pre-activations (M, D, H, W), no gradient flows into them; a larger map is averaged down
            to the smaller.
        margin: m > 0, in units of the student's pre-activations.

    Returns:
        Scalar: sum over entries, mean over rows, times 3/1000; the i-th of n pairs weighs 2^(i + 1 - n), i from 0.

    Raises:
        UserError: no pair, not as many on either side, or rows or channels that differ.
    """
    if not student_features or len(student_features) != len(teacher_features):
        raise UserError(
            f"ab compares stage with stage, but got {len(student_features)} of the student and "
            f"{len(teacher_features)} of the teacher; give the same one or more of either"
        )
    losses = []
    for i, pair in enumerate(zip(student_features, teacher_features, strict=True)):
        student, teacher = comparable_maps(*pair, channels_agree=True)
        short_of_side = torch.where(teacher > 0, margin - student, margin + student).clamp(min=0)
        losses.append(short_of_side.square().sum() / len(student) * 2.0 ** (i + 1 - len(student_features)))
    return _SCALE * torch.stack(losses).sum()


class AB(StageMethod, name="ab"):
    """The student's neurons, connected to the teacher's, are active where the teacher's are.

    3/1000 * sum over the n pairs of stages of 2^(i + 1 - n) * max(0, m - s)^2 where the teacher's neuron is active,
    max(0, m + s)^2 where it is not; sum over entries, mean over rows of (M, D, H, W) pre-activations, s after a
    convolution and batch norm (see `conv_regressor`, without ReLU). Weights 1 task and 1 distill, over all stages
    after the stem.

    The paper works in two runs: a first one trains student and connectors by this loss alone (`task_weight: 0` in its
    recipe), a second one trains the student that it left (`student.weights: FIRST_RUN`) by the task alone
    (`method: none`) or by KD. Nothing of this method is needed in the second, so it has no setting for it; with
    the default task weight, both are done in one run.

    It looks in front of an activation (`preact_stages`): known for networks of the cifar family and for timm's and
    torchvision's ResNet, RegNet, VGG, MobileNet and EfficientNet. Of others name modules in `student_stages` and
    `teacher_stages`, such as blocks.3.mlp.fc1: the output of a stage is not what the method compares.

    Differs from: nothing in value (golden ab), 3/1000 and the weights of stages included, which are the authors'
    code's. Sizes that RepDistiller's connector does not know are brought together by averaging.
    """

    class Config(StageConfig):
        """Settings of AB."""

        margin: float = Field(default=1.0, gt=0)  # m; RepDistiller distiller_zoo/AB.py

    paper = Paper(
        authors="Heo, Lee, Yun, Choi",
        title="Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        venue="AAAI",
        year=2019,
        arxiv="1811.03233",
    )
    group = "preact_stages"
    taps = Taps(student=("preact_stages",), teacher=("preact_stages",))
    rows = "related"  # batch norm in the connectors
    default_loss = LossWeights(
        task=1.0, distill=1.0, source="RepDistiller run_cifar_distill.sh: -b 1, there in its first stage only"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.connectors = nn.ModuleList(
            conv_regressor(pair.student_shape, pair.teacher_shape, has_relu=False) for pair in self.pairs
        )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "ab"."""
        student, teacher = self.features(pairing)
        connected = [connector(as_map(maps)) for connector, maps in zip(self.connectors, student, strict=True)]
        return {"ab": ab_loss(connected, teacher, margin=self.config.margin)}
