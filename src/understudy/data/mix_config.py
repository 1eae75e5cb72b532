"""Settings of Mixup and CutMix."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from understudy.config import Config

__all__ = ["MixConfig"]


class MixConfig(Config):
    """Images and labels of a batch mixed in pairs; the defaults are DeiT's (Touvron et al., ICML 2021, table 9)."""

    mixup: float = Field(default=0.8, ge=0)  # alpha of the share's Beta(alpha, alpha); 0: no Mixup
    cutmix: float = Field(default=1.0, ge=0)  # likewise; 0: no CutMix
    prob: float = Field(default=1.0, gt=0, le=1)  # of mixing at all
    switch_prob: float = Field(default=0.5, ge=0, le=1)  # of CutMix, where both are on
    mode: Literal["batch", "pair", "elem"] = "batch"  # what shares one draw: the batch, a pair of images, none

    @model_validator(mode="after")
    def _mixes(self) -> MixConfig:
        if self.mixup == 0 and self.cutmix == 0:
            raise ValueError("mixup and cutmix are both 0, so nothing is mixed; leave mix out")
        return self
