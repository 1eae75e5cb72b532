"""FitNet: a hint from the middle of the teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper
from understudy.methods.shared.maps import as_map, comparable_maps, conv_regressor
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair

__all__ = ["FitNet", "fitnet_loss"]


def fitnet_loss(regressed: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean squared difference of the regressed student map and the teacher's.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, eq. 3 without its factor 1/2.

    Args:
        regressed: (M, D, H, W) student map after its regressor, or (M, D); half types are raised to float32.
        teacher_features: (M, D, H, W), no gradient flows into it; the larger map is averaged down to the smaller.

    Returns:
        Scalar mean over all entries.

    Raises:
        UserError: the rows or the channels differ.
    """
    student, teacher = comparable_maps(regressed, teacher_features, channels_agree=True)
    return F.mse_loss(student, teacher)


class FitNet(StageMethod, name="fitnet"):
    """A map in the middle of the student, through a regressor, approaches the teacher's.

    mean (ReLU(BN(conv(f_s))) - f_t)^2 over rows, channels and positions of (M, D, H, W) maps, summed over the pairs
    of stages; by default one pair, the middle one (layer2 of a residual network, mdistiller's HINT_LAYER 2). The
    convolution takes its form from the two sizes, see `conv_regressor`. Weights 1 task and 100 distill.

    Differs from: the paper trains the student up to the hint first and everything by KD afterwards, has no batch
    norm in its regressor and a factor 1/2; mdistiller and RepDistiller, followed here, train hint and task loss
    together (golden fitnet_hint). Where the student's map is neither as large, half, twice nor somewhat larger,
    they raise an error or take a convolution as large as the map; here the larger map is averaged down. The ReLU
    suits teachers whose maps are not negative; for others, a ViT's, there is `relu: false`.
    """

    class Config(StageConfig):
        """Settings of FitNet."""

        relu: bool = True  # after the regressor's batch norm, as ConvReg; false for teachers with negative features

    paper = Paper(
        authors="Romero, Ballas, Kahou, Chassang, Gatta, Bengio",
        title="FitNets: Hints for Thin Deep Nets",
        venue="ICLR",
        year=2015,
        arxiv="1412.6550",
    )
    rows = "related"  # batch norm in the regressor
    default_loss = LossWeights(
        task=1.0, distill=100.0, source="mdistiller engine/cfg.py: CE 1.0, FEAT 100 (CIFAR-100), RepDistiller the same"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.regressors = nn.ModuleList(
            conv_regressor(pair.student_shape, pair.teacher_shape, has_relu=config.relu) for pair in self.pairs
        )

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The middle pair."""
        return [pairs[(len(pairs) - 1) // 2]]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "fitnet"."""
        losses = [
            fitnet_loss(regressor(as_map(student)), teacher)
            for regressor, student, teacher in zip(self.regressors, *self.features(pairing), strict=True)
        ]
        return {"fitnet": torch.stack(losses).sum()}
