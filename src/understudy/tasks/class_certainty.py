"""How sure classifiers are of single images, and how far student and teacher are apart on each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from understudy.core.batch import Batch
from understudy.core.outputs import logits_of
from understudy.distributed.world import SINGLE, World
from understudy.tasks.base import Predictor

__all__ = ["Certainties", "certainty", "certainty_of_images"]

K = TypeVar("K", bound=Hashable)


def certainty(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> dict[str, Tensor]:
    """How sure a classifier is of each image, and its Kullback-Leibler divergence to the teacher.

    Args:
        logits: (B,C).
        labels: (B,) class numbers.
        teacher_logits: (B,C) of the same images.

    Returns:
        (B,) float32 each: `confidence`, the largest class probability; `label_probability`, that of the label; with a
        teacher `kl`, sum of p_t log(p_t / p_s) in nats at T = 1. NaN where a logit is NaN or infinite.
    """
    log_p = logits.float().log_softmax(1)
    found = {
        "confidence": log_p.max(1).values.exp(),
        "label_probability": log_p.gather(1, labels[:, None]).squeeze(1).exp(),
    }
    is_finite = logits.isfinite().all(1)
    if teacher_logits is not None:
        p_t, log_t = teacher_logits.float().softmax(1), teacher_logits.float().log_softmax(1)
        terms = torch.where(p_t > 0, p_t * (log_t - log_p), 0.0)  # 0 log 0 is 0
        found["kl"] = torch.where(teacher_logits.isfinite().all(1), terms.sum(1).clamp_min(0), torch.nan)
    return {name: torch.where(is_finite, value, torch.nan) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Certainties(Generic[K]):
    """What one pass over N labelled images shows.

    Attributes:
        labels: (N,) class numbers, in the order in which evaluations keep them.
        indices: (N,) places in the split; None where a stream does not tell.
        by_model: what `certainty` says, (N,) each on the CPU, by predictor and name.
        teacher: likewise of the teacher; empty where there is none to ask.
    """

    labels: Tensor
    indices: Tensor | None
    by_model: Mapping[K, Mapping[str, Tensor]]
    teacher: Mapping[str, Tensor]


@torch.no_grad()
def certainty_of_images(
    predictors: Mapping[K, Predictor],
    batches: Iterable[Batch],
    device: torch.device,
    world: World = SINGLE,
    *,
    teacher: Predictor | None = None,
) -> Certainties[K]:
    """How sure every predictor is of each image, all in one pass, each process on its own batches.

    Args:
        predictors: (B,C) logits of a batch; one or several.
        batches: of labelled images; unlabelled ones are left out.
        device: where the predictors are.
        world: the processes that share the images.
        teacher: (B,C) logits of the same classes.
    """
    names: list[K | None] = [*predictors, *([] if teacher is None else [None])]
    parts: dict[tuple[K | None, str], list[Tensor]] = {
        # A process without images still takes part in every exchange.
        (name, what): [torch.empty(0, device=device)]
        for name in names
        for what in ("confidence", "label_probability", *(["kl"] if teacher is not None and name is not None else []))
    }
    labels = [torch.empty(0, dtype=torch.int64, device=device)]
    indices = [torch.empty(0, dtype=torch.int64, device=device)]
    has_indices = True
    for batch in batches:
        here = batch.to(device)
        targets = here.targets.argmax(1) if here.targets.ndim == 2 else here.targets
        kept = targets >= 0
        labels.append(targets[kept])
        has_indices &= here.indices is not None
        if here.indices is not None:
            indices.append(here.indices[kept])
        taught = None if teacher is None else _logits(teacher(here))[kept]
        if taught is not None:
            _add(parts, None, certainty(taught, targets[kept]))
        for name, predict in predictors.items():
            _add(parts, name, certainty(_logits(predict(here))[kept], targets[kept], taught))
    together = {key: world.gather_rows(torch.cat(of)).cpu() for key, of in parts.items()}
    told = all(flag for (flag,) in world.exchange(int(has_indices)))
    return Certainties(
        labels=world.gather_rows(torch.cat(labels)).cpu(),
        indices=world.gather_rows(torch.cat(indices)).cpu() if told else None,
        by_model={name: {what: of for (by, what), of in together.items() if by == name} for name in predictors},
        teacher={what: of for (by, what), of in together.items() if by is None},
    )


def _add(parts: dict[tuple[K | None, str], list[Tensor]], name: K | None, found: Mapping[str, Tensor]) -> None:
    for what, values in found.items():
        parts[name, what].append(values)


def _logits(output: Any) -> Tensor:
    """The (B,C) logits, where a network gives other outputs beside them."""
    logits = logits_of(output)
    assert logits is not None, "an evaluation has met it"
    return logits
