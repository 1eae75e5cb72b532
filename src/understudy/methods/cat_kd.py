"""CAT-KD: at every place of its last map, the student sees the classes that the teacher sees there."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, at_least_float32
from understudy.methods.shared.maps import as_map
from understudy.utils.errors import UserError

__all__ = ["CATKD", "cat_kd_loss"]

_SMALLEST_NORM = 1e-6  # as of `unit_rows`


def cat_kd_loss(student_maps: Tensor, teacher_maps: Tensor, *, resolution: int = 2, normalise: bool = True) -> Tensor:
    """Class attention transfer: mean squared distance between class activation maps, pooled and at length 1.

    Guo et al., "Class Attention Transfer Based Knowledge Distillation", CVPR 2023, eq. 4 and 5: mean of
    (A_s / |A_s| - A_t / |A_t|)^2, A adaptive averages of resolution x resolution and |A| the length of one class's map.

    Args:
        student_maps: (M, C, H_s, W_s) or (M, C); half types are raised to float32, wider ones stay.
        teacher_maps: (M, C, H_t, W_t) or (M, C), no gradient flows into it.
        resolution: positions a side that are compared.
        normalise: divide each map by its length; False: compare them as they are.

    Returns:
        Scalar: mean over rows, classes and positions.

    Raises:
        UserError: other rows or other classes on one side than on the other.
    """
    student, teacher = (as_map(at_least_float32(maps)) for maps in (student_maps, teacher_maps.detach()))
    if student.shape[:2] != teacher.shape[:2]:
        raise UserError(
            f"cat_kd compares maps class by class, but the student's are {tuple(student_maps.shape)} and the "
            f"teacher's {tuple(teacher_maps.shape)}; take a teacher with the student's classes"
        )
    student, teacher = (F.adaptive_avg_pool2d(maps, resolution).flatten(2) for maps in (student, teacher))  # (M, C, P)
    if normalise:
        student, teacher = (F.normalize(maps, dim=2, eps=_SMALLEST_NORM) for maps in (student, teacher))
    return F.mse_loss(student, teacher)


class CATKD(Method, name="cat_kd"):
    """The student attends to the places that the teacher attends to, class by class (CAT-KD).

    Mean over m, c, h, w of (A_s / |A_s| - A_t / |A_t|)^2 on class activation maps (M, C, H, W) averaged to
    resolution x resolution: what the classifier's weights give at each place of the map whose mean it takes. The
    gradient reaches the student's features and its classifier. Task weight 1; the authors' 400 is their code's default,
    beside it they take another for each pair: 15 without normalising for resnet32x4-resnet8x4, 600 at resolution 4 for
    resnet32x4-shufflenetv1 (the shipped recipes cifar100/cat_kd), and ask for one under which the weighted loss is 1 to
    50 after the first epoch. Sizes may differ; classes may not.

    Which map that is, is found in a pass: both networks have to average a map and classify the mean (ResNets, VGG,
    MobileNetV2, ShuffleNets, Swin); ViTs with a class token and ConvNeXts do not, and are refused.

    Differs from: the authors replace the classifier by a 1x1 convolution without a bias in front of the pooling; here
    networks stay what they are, and the bias, alike at all places, is left out of the maps. Equal in value otherwise
    (golden cat_kd; test_maps_are_what_the_classifier_says_at_each_place). Maps shorter than 1e-6 are divided by 1e-6,
    theirs by 1e-12. Binarised maps and maps of some classes alone, with which the paper probes, are not offered.
    """

    class Config(MethodConfig):
        """Settings of CAT-KD."""

        resolution: int = Field(default=2, ge=1)  # CAM_RESOLUTION, 2 for most pairs of CIFAR-100; 4 to ShuffleNets
        normalise: bool = True  # IF_NORMALIZE; false for pairs of one architecture

    paper = Paper(
        authors="Guo, Yan, Li, Lin",
        title="Class Attention Transfer Based Knowledge Distillation",
        venue="CVPR",
        year=2023,
        arxiv="2304.12777",
    )
    taps = Taps(student=("cam",), teacher=("cam",))
    needs = frozenset({"teacher_logits"})  # of the same classes
    default_loss = LossWeights(task=1.0, distill=400.0, source="CAT-KD repository: CE 1, CAT_loss_weight 400")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        sides = {"student": context.student["cam"], "teacher": context.teacher["cam"]}
        for side, shape in sides.items():
            if (shape.height or 1) * (shape.width or 1) == 1:
                raise UserError(
                    f"method 'cat_kd' compares places of a map, but the {side}'s last map has a single one; take "
                    "larger images, or a network that halves them less often"
                )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "cam"."""
        student, teacher = pairing.student_features["cam"], pairing.teacher_features["cam"]
        settings = self.config
        return {"cam": cat_kd_loss(student, teacher, resolution=settings.resolution, normalise=settings.normalise)}
