"""DOT's toy experiment: two logits between a label that says 1 and a teacher that says 0.7."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.utils.errors import UserError

__all__ = ["Toy", "toy", "toy_optimum"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Toy:
    """What one student of two logits says in each step.

    Attributes:
        probabilities: (K + 1,) of the label's class, before the first step and after each.
        task_loss: (K + 1,) cross entropy with the label, in nats.
        distill_loss: (K + 1,) KL(teacher || student), in nats.
    """

    probabilities: Floats
    task_loss: Floats
    distill_loss: Floats


def toy(
    *,
    delta: float,
    steps: int = 200,
    lr: float = 0.1,
    momentum: float = 0.9,
    task_weight: float = 0.5,
    teacher: float = 0.7,
    start: tuple[float, float] = (0.0, 0.0),
    noise: float = 0.0,
    seed: int = 0,
) -> Toy:
    """Two trainable logits under cross entropy and distillation, by DOT; delta 0 is SGD with momentum.

    Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023, appendix A.2 and figure 8. The paper gives the label
    (1) and the teacher's constant 0.7; start, rate, weights and steps are not published and are the defaults here.

    Args:
        delta: by which the momenta of the two losses differ.
        steps: K.
        lr: of both.
        momentum: of both, but for delta.
        task_weight: of the cross entropy; the distillation has the rest of 1.
        teacher: its probability of the label's class.
        start: the logits; the second is the label's.
        noise: standard deviation of what is added to each loss's gradient, as batches of images would.
        seed: of the noise, which is the same for every delta.

    Raises:
        UserError: numbers out of their bounds.
    """
    if not 0 < teacher < 1 or not 0 <= task_weight <= 1 or steps < 1 or not 0 <= momentum - abs(delta) <= momentum < 1:
        raise UserError("the toy needs 0 < teacher < 1, 0 <= task_weight <= 1, steps of 1 or more, |delta| <= momentum")
    if momentum + abs(delta) >= 1:
        raise UserError(f"momentum {momentum:g} and delta {delta:g} make a momentum of 1 or more; take less of either")
    drawn = np.random.default_rng(seed).normal(0, noise, (steps, 2, 2))
    targets = np.array([[0.0, 1.0], [1 - teacher, teacher]])  # of task and distill loss
    weights, keep = np.array([task_weight, 1 - task_weight]), np.array([momentum - delta, momentum + delta])
    logits, momenta = np.array(start, dtype=np.float64), np.zeros((2, 2))
    said = [_softmax(logits)]
    for step in range(steps):
        gradients = weights[:, None] * (said[-1] - targets + drawn[step])  # of softmax and cross entropy: p - target
        momenta = keep[:, None] * momenta + gradients
        logits = logits - lr * momenta.sum(axis=0)
        said.append(_softmax(logits))
    p = np.array(said)  # (K+1, 2)
    floor = np.finfo(np.float64).tiny
    log_p = np.log(np.maximum(p, floor))
    return Toy(p[:, 1], -log_p[:, 1], (targets[1] * (np.log(targets[1]) - log_p)).sum(axis=1))


def toy_optimum(*, delta: float, momentum: float = 0.9, task_weight: float = 0.5, teacher: float = 0.7) -> float:
    """Where the toy's probability comes to rest: a loss whose momentum is m weighs 1 / (1 - m) there.

    At rest both momenta are constant, v_s = g_s / (1 - m_s), and their sum is zero.
    """
    task, distill = task_weight / (1 - momentum + delta), (1 - task_weight) / (1 - momentum - delta)
    return (task + distill * teacher) / (task + distill)


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum())
