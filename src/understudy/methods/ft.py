"""FT: factors of the teacher's map, as a paraphraser trained beforehand tells them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.at import attention
from understudy.methods.base import Context, LossWeights, MethodConfig, Paper, at_least_float32
from understudy.methods.shared.maps import Paraphraser, as_map, comparable_maps, factor_encoder
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair
from understudy.utils.errors import UserError, unknown_name

__all__ = ["FT", "FactorForm", "ft_loss", "paraphraser_loss"]

FactorForm = Literal["attention", "factors"]


def ft_loss(
    student_factor: Tensor,
    teacher_factor: Tensor,
    *,
    attention_exponent: int = 2,
    norm: int = 1,
    form: FactorForm = "attention",
) -> Tensor:
    """Distance between the student's and the teacher's factor, both of length 1.

    Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018.
    "attention", RepDistiller's form: mean over rows and positions of |Q'_s - Q'_t|^norm, Q' the mean over channels
    of F^attention_exponent, as a vector over positions of length 1. "factors", the paper's: mean over rows of
    the norm (1 or 2) of F_s / |F_s|_2 - F_t / |F_t|_2.

    Args:
        student_factor: (M, K, H_s, W_s), the translator's output; half types are raised to float32.
        teacher_factor: (M, K, H_t, W_t), the paraphraser's, no gradient flows into it; the larger map is averaged
            down to the smaller.
        attention_exponent: >= 1.
        norm: p >= 1.
        form: which of the two.

    Returns:
        Scalar, at least 0.

    Raises:
        UserError: the rows or the channels differ, or an unknown form.
    """
    student, teacher = comparable_maps(student_factor, teacher_factor, channels_agree=True)
    if form == "attention":
        difference = attention(student, exponent=attention_exponent) - attention(teacher, exponent=attention_exponent)
        return difference.abs().pow(norm).mean()
    if form == "factors":
        difference = F.normalize(student.flatten(1), dim=1) - F.normalize(teacher.flatten(1), dim=1)
        distances: Tensor = torch.linalg.vector_norm(difference, ord=norm, dim=1)
        return distances.mean()
    raise UserError(f"form {form!r} is {unknown_name(form, get_args(FactorForm))}")


def paraphraser_loss(reconstructed: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean squared error over all entries of (M, D, H, W) maps: what the paraphraser is trained by.

    Raises:
        UserError: the shapes differ.
    """
    if reconstructed.shape != teacher_features.shape:
        raise UserError(
            f"the paraphraser gives back the teacher's map {tuple(teacher_features.shape)}, but got "
            f"{tuple(reconstructed.shape)}"
        )
    return F.mse_loss(at_least_float32(reconstructed), at_least_float32(teacher_features.detach()))


_PARAPHRASER_LOSS = LossWeights(task=0.0, distill=1.0, source="RepDistiller helper/pretrain.py: this loss alone")


class FT(StageMethod, name="ft"):
    """The student's map, translated, tells the factors that a paraphraser finds in the teacher's.

    Sum over pairs of stages of mean |Q'_s - Q'_t| over rows and positions, Q' the mean over the K = rate * D_t channels
    of the squared (M, K, H, W) factor, as a vector of length 1; by default one pair, the last stages. The translator
    of the student has batch norm, the paraphraser of the teacher has none. Weights 1 task and 200 distill.

    Two runs: the first, `stage: paraphraser`, trains the paraphraser to give back the teacher's map (mean squared
    error, by default with weight 1 and no task loss; its gradient reaches nothing of the student; RepDistiller:
    30 epochs at learning rate 0.01). The second, the default `stage: distill`, starts from it:
    `init_from: FIRST_RUN`. There the paraphraser is frozen.

    Differs from: the paper compares the normalised factors themselves (`form: factors`); RepDistiller, the default
    here, their attention maps (golden ft, ft_paraphraser).
    """

    class Config(StageConfig):
        """Settings of FT."""

        stage: Literal["paraphraser", "distill"] = "distill"
        rate: float = Field(default=0.5, gt=0, le=4)  # k: factors per channel of the teacher; RepDistiller
        attention_exponent: int = Field(default=2, ge=1)  # p1; RepDistiller distiller_zoo/FT.py
        norm: int = Field(default=1, ge=1)  # p2; the same file
        form: FactorForm = "attention"

    paper = Paper(
        authors="Kim, Park, Kwak",
        title="Paraphrasing Complex Network: Network Compression via Factor Transfer",
        venue="NeurIPS",
        year=2018,
        arxiv="1802.04977",
    )
    rows = "related"  # batch norm in the translator
    default_loss = LossWeights(task=1.0, distill=200.0, source="RepDistiller run_cifar_distill.sh: -b 200")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        factors = [max(1, int(pair.teacher_shape.channels * config.rate)) for pair in self.pairs]
        paraphrasers = [Paraphraser(p.teacher_shape.channels, k) for p, k in zip(self.pairs, factors, strict=True)]
        self.paraphrasers = nn.ModuleList(paraphrasers)
        if config.stage == "paraphraser":
            return
        if config.init_from is None:
            raise UserError(
                "method 'ft' needs a paraphraser that has been trained: run with method.stage=paraphraser first, then "
                "set method.init_from to that run"
            )
        if config.form == "attention":
            self.refuse_single_positions()
        self.paraphrasers.requires_grad_(False)
        self.translators = nn.ModuleList(
            factor_encoder(p.student_shape.channels, k, has_batch_norm=True)
            for p, k in zip(self.pairs, factors, strict=True)
        )

    @classmethod
    def default_loss_for(cls, config: MethodConfig) -> LossWeights:
        """The paraphraser is trained by its own loss alone: 200 would be 200 times the learning rate."""
        assert isinstance(config, cls.Config)
        return _PARAPHRASER_LOSS if config.stage == "paraphraser" else cls.default_loss

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The last pair."""
        return pairs[-1:]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "paraphraser" in the first stage, "ft" in the second."""
        student, teacher = self.features(pairing)
        # The model's half type is the paraphraser's business only under autocast.
        maps = [at_least_float32(as_map(each.detach())) for each in teacher]
        if self.config.stage == "paraphraser":
            again = [paraphrase(each) for paraphrase, each in zip(self.paraphrasers, maps, strict=True)]
            losses = [paraphraser_loss(ours, theirs) for ours, theirs in zip(again, maps, strict=True)]
            return {"paraphraser": torch.stack(losses).sum()}
        losses = [
            self._distance(translator(as_map(ours)), _factor(paraphraser, theirs))
            for translator, ours, paraphraser, theirs in zip(
                self.translators, student, self.paraphrasers, maps, strict=True
            )
        ]
        return {"ft": torch.stack(losses).sum()}

    def _distance(self, student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
        settings = self.config
        return ft_loss(
            student_factor,
            teacher_factor,
            attention_exponent=settings.attention_exponent,
            norm=settings.norm,
            form=settings.form,
        )


@torch.no_grad()
def _factor(paraphraser: nn.Module, maps: Tensor) -> Tensor:
    assert isinstance(paraphraser, Paraphraser)
    factor: Tensor = paraphraser.encoder(maps)
    return factor
