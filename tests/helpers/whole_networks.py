"""A student and a teacher that have all that any method asks for, and a batch of them."""

from __future__ import annotations

from dataclasses import replace

import torch

from helpers.examples import built, random_labels
from helpers.examples_embeddings import NUM_CLASSES, deep_context, deep_pairing
from helpers.smallest_settings import settings_of
from understudy.core.batch import Pairing
from understudy.methods.base import Context, Method

NUM_SAMPLES = 3
NUM_TRAIN = 24


def whole_context() -> Context:
    """Four stages on either side, their pre-activations and batch norms, embedding, classifier, and training labels."""
    labels = torch.arange(NUM_TRAIN) % NUM_CLASSES
    return replace(deep_context(), num_train=NUM_TRAIN, train_labels=labels, generator=torch.Generator().manual_seed(0))


def whole_pairing(*, seed: int = 0) -> Pairing:
    """A float64 batch of three samples in four copies each, block by block; all but labels and numbers are leaves."""
    pairing = deep_pairing(whole_context(), 4 * NUM_SAMPLES, seed=seed)
    return replace(
        pairing,
        teacher_logits=torch.randn_like(pairing.student_logits).requires_grad_(),
        labels=random_labels(NUM_SAMPLES, NUM_CLASSES, seed).repeat(4),
        indices=torch.arange(NUM_SAMPLES).repeat(4),
        copies=torch.arange(4).repeat_interleave(NUM_SAMPLES),
        maps={"labels": torch.arange(4 * NUM_SAMPLES * 64).reshape(-1, 8, 8) % NUM_CLASSES, **_masks(pairing)},
    )


def _masks(pairing: Pairing) -> dict[str, torch.Tensor]:
    """A mask for each of the student's stages, at the smaller of both sides' sizes."""
    sides = pairing.student_features, pairing.teacher_features
    sizes = {
        tap: min(side[tap].shape[2:] for side in sides) for tap in pairing.student_features if tap.startswith("stages.")
    }
    return {f"weights.{tap}": torch.ones(len(pairing.labels), *size) for tap, size in sizes.items()}


# Stages whose channels can be taken for queries, keys and values: 6 are three times 2.
_OWN_TAPS = {"minilm": {"student_tap": "stages.3", "teacher_tap": "stages.1"}}


def smallest(name: str) -> Method:
    """The method in float64 under its smallest settings; its connectors are the same every time."""
    settings = {key: value for key, value in settings_of(name).items() if key != "name"} | _OWN_TAPS.get(name, {})
    return built(name, whole_context(), **settings).double()
