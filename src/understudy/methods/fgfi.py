"""FGFI: the teacher's features where objects are."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper
from understudy.methods.losses.imitation import LevelNorm, fgfi_pyramid_loss
from understudy.methods.shared.maps import as_map, comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError

__all__ = ["FGFI"]


class FGFI(StageMethod, name="fgfi"):
    """The student's features, through a convolution, imitate the teacher's where an anchor is near an object.

    sum over masked positions of |ReLU(conv3x3(f_s)) - f_t|^2 / (2 N_p) on the levels of a detector's pyramid, N_p the
    masked positions; the masks are the task's, from the student's anchors and the boxes (`imitation_masks`). Weights
    1 task and 0.01 distill, the authors' for the one map of their VGG detectors; nothing is published for a pyramid.

    Differs from: the authors' code has one level, a factor of 0 for the first 400 steps and anchors whose last pixel
    is included (golden fgfi). On a pyramid every level has masks of its own (golden fgfi_fpn): `norm: all` divides by
    the masked positions of all levels together, "level" each level by its own. ReLU suits maps that are not negative;
    the levels of a pyramid have both signs, hence `relu: false` by default. Maps of two sizes are averaged down to
    the smaller.
    """

    class Config(StageConfig):
        """Settings of FGFI."""

        norm: LevelNorm = "all"  # what N_p counts: the positions of all levels, or of each
        relu: bool = False  # after the convolution, as in the authors' code for a map behind a ReLU

    paper = Paper(
        authors="Wang, Yuan, Zhang, Feng",
        title="Distilling Object Detectors with Fine-grained Feature Imitation",
        venue="CVPR",
        year=2019,
        arxiv="1906.03609",
    )
    needs = frozenset({"object_masks"})
    has_stem = False
    default_loss = LossWeights(
        task=1.0, distill=0.01, source="Distilling-Object-Detectors: 0.01 of the imitation loss, from step 400 on"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.adapters = nn.ModuleList()
        for pair in self.pairs:
            convolution = nn.Conv2d(pair.student_shape.channels, pair.teacher_shape.channels, 3, padding=1)
            self.adapters.append(nn.Sequential(convolution, nn.ReLU()) if config.relu else convolution)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "fgfi"."""
        student, teacher = self.features(pairing)
        adapted, taught, masks = [], [], []
        for pair, adapter, ours, theirs in zip(self.pairs, self.adapters, student, teacher, strict=True):
            maps = comparable_maps(adapter(as_map(ours)), theirs, channels_agree=True)
            adapted.append(maps[0])
            taught.append(maps[1])
            masks.append(self._mask(pairing, pair.student, maps[0]))
        return {"fgfi": fgfi_pyramid_loss(adapted, taught, masks, norm=self.config.norm)}

    def _mask(self, pairing: Pairing, tap: str, maps: Tensor) -> Tensor:
        name = f"weights.{tap}"
        if name not in pairing.maps:
            masked = ", ".join(found.removeprefix("weights.") for found in pairing.maps if found.startswith("weights."))
            raise UserError(
                f"method {self.name!r}: {tap} has no mask of objects; name levels of the student's pyramid in "
                f"method.student_stages: {masked or 'there are none'}"
            )
        mask = pairing.maps[name]
        if mask.shape != maps[:, 0].shape:
            raise UserError(
                f"method {self.name!r}: {tap} is compared at {maps.shape[2]} x {maps.shape[3]}, but its mask is "
                f"{mask.shape[1]} x {mask.shape[2]}; pair levels of one stride in method.teacher_stages"
            )
        return mask
