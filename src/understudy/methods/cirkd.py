"""CIRKD: which places, in any image of the batch, each place is like."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, MethodConfig, Need, Paper, at_least_float32
from understudy.methods.losses.segmentation import cirkd_memory_loss, cirkd_minibatch_loss
from understudy.methods.shared.class_memory import ClassMemory, region_means, sampled_positions
from understudy.methods.shared.maps import as_map, comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair
from understudy.utils.errors import UserError

__all__ = ["CIRKD"]

KEPT = 16  # pixels of each class of an image; the released code's pixel_update_freq


class CIRKD(StageMethod, name="cirkd"):
    """Every position of the student's map is like those positions, in all images of the batch, as in the teacher's.

    Over the ordered pairs of images, an image with itself among them: KL between softmaxes, at temperature T, of the
    cosine similarities of a position with all H * W positions of the other image; mean over pairs and positions,
    summed over the pairs of stages; by default one pair, the last. Weights 1 task and 1 distill, which the authors
    set beside KD with weight 1 (`method: [kd, cirkd]`). M^2 (H W)^2 similarities are held at once.

    `pixel_weight: 0.1, region_weight: 0.1` are the paper's two memories beside it, of the teacher's unit features of
    earlier batches: in each image up to 16 positions of each class, and the mean of each. The similarities of a
    position with features drawn from all classes are compared likewise, the student's after two 1x1 convolutions.
    They need a label for each pixel, and are buffers: C * 20,000 * D floats at the paper's size, 389 MB for 19 classes
    and 256 channels.

    Differs from: in the released code the pixels kept for a class are the first ones of the image; here they are
    pixels of that class (test_the_memory_of_a_class_holds_its_own_pixels). The first release related the images of all
    processes, as `rows: all` does, the last one those of one process (`rows: local`). Maps of two sizes are averaged
    down to the smaller.

    In float32 the gradient of the first of those convolutions, whose mean a batch norm takes away, is right to 5e-7 at
    best and to 4e-5 at worst of eight steps, in one process as in two (docs/distributed.md).
    """

    class Config(StageConfig):
        """Settings of CIRKD."""

        temperature: float = Field(default=0.1, gt=0)  # T of the similarities; CIRKD's scripts
        pixel_weight: float = Field(default=0.0, ge=0)  # of the memory of pixels; the paper's 0.1; 0: there is none
        region_weight: float = Field(default=0.0, ge=0)  # of the memory of regions; likewise
        pixel_memory: int = Field(default=20_000, ge=16)  # pixels that are kept of each class
        region_memory: int = Field(default=2_000, ge=1)  # regions
        pixel_contrast: int = Field(default=4_096, ge=2)  # pixels that a step compares with, of all classes together
        region_contrast: int = Field(default=1_024, ge=2)  # regions

        @model_validator(mode="after")
        def _remembers_all_images(self) -> Self:
            if self.rows == "local" and (self.pixel_weight or self.region_weight):
                raise ValueError(
                    "pixel_weight, region_weight: the memories are of the images of all processes; set rows: all"
                )
            return self

    paper = Paper(
        authors="Yang, Zhou, An, Jiang, Xu, Zhang",
        title="Cross-Image Relational Knowledge Distillation for Semantic Segmentation",
        venue="CVPR",
        year=2022,
        arxiv="2204.06986",
    )
    rows = "related"
    default_loss = LossWeights(task=1.0, distill=1.0, source="CIRKD train_cirkd.py: lambda_minibatch_pixel 1.0")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.refuse_single_positions()
        sizes = {"pixel": config.pixel_memory, "region": config.region_memory}
        weights = {"pixel": config.pixel_weight, "region": config.region_weight}
        self.memory_weights = {name: weight for name, weight in weights.items() if weight}
        if not self.memory_weights:
            return
        if len(self.pairs) != 1:
            raise UserError("method 'cirkd' keeps its memories of one map; name one stage, or set pixel_weight=0")
        ours, theirs = self.pairs[0].student_shape.channels, self.pairs[0].teacher_shape.channels
        self.project = nn.Sequential(
            nn.Conv2d(ours, theirs, 1, bias=False), nn.BatchNorm2d(theirs), nn.ReLU(), nn.Conv2d(theirs, theirs, 1)
        )
        self.memories = nn.ModuleDict(
            {
                name: ClassMemory(context.num_classes, sizes[name], theirs, generator=context.generator)
                for name in self.memory_weights
            }
        )

    @classmethod
    def needs_for(cls, config: MethodConfig) -> frozenset[Need]:
        """The labels of pixels, where a memory has a weight."""
        assert isinstance(config, cls.Config)
        return frozenset({"label_map"}) if config.pixel_weight or config.region_weight else frozenset()

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The last pair."""
        return pairs[-1:]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "minibatch", and "pixel" and "region" of the memories that have a weight."""
        losses = [
            cirkd_minibatch_loss(*comparable_maps(student, teacher), temperature=self.config.temperature)
            for student, teacher in zip(*self.features(pairing), strict=True)
        ]
        terms = {"minibatch": torch.stack(losses).sum()}
        if self.memory_weights:
            terms |= self._remembered(pairing)
        return terms

    def _remembered(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms of the memories, which then move on in training mode."""
        ((student,), (teacher,)) = self.features(pairing)
        ours, theirs = comparable_maps(self.project(as_map(student)), teacher, channels_agree=True)
        counts = {"pixel": self.config.pixel_contrast, "region": self.config.region_contrast}
        terms = {}
        for name, weight in self.memory_weights.items():
            contrast = self._memory(name).drawn(counts[name])
            loss = cirkd_memory_loss(ours, theirs, contrast, temperature=self.config.temperature)
            terms[name] = weight * loss
        if self.training:
            self._remember(theirs.detach(), pairing.maps["labels"])
        return terms

    def _memory(self, name: str) -> ClassMemory:
        memory = self.memories[name]
        assert isinstance(memory, ClassMemory)
        return memory

    def _remember(self, teacher: Tensor, labels: Tensor) -> None:
        """Keep the teacher's features of this batch."""
        classes = self.context.num_classes
        places = F.interpolate(labels[:, None].double(), size=teacher.shape[2:], mode="nearest").flatten(1).long()
        features = F.normalize(at_least_float32(teacher), dim=1).flatten(2)
        if "pixel" in self.memory_weights:
            self._memory("pixel").remember_(*sampled_positions(features, places, num_classes=classes, most=KEPT))
        if "region" in self.memory_weights:
            self._memory("region").remember_(*region_means(features, places, num_classes=classes))
