"""Our answers to the successors of DOT and KD: DeepKD's losses and its three streams, and CTKD's temperature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from answers import answers
from cases import Case
from torch import Tensor, nn

from understudy.methods.ctkd import ctkd_loss, reversal_in
from understudy.methods.deepkd import deepkd_terms
from understudy.methods.logit_std import standardised
from understudy.methods.shared.decoupled import Decoupled, decoupled
from understudy.optim import DeepKD

THEIRS = {"task": "tog", "target": "tcg", "non_target": "ncg"}  # by our name of a stream
LOSSES = {"task": "loss_task", "target": "loss_tckd", "non_target": "loss_nckd"}
BUFFERS = {"task": "momentum_buffer", "target": "momentum_tcg_buffer", "non_target": "momentum_ncg_buffer"}


@answers("deepkd_loss")
def deepkd_loss(case: Case) -> dict[str, Tensor]:
    student, teacher, labels = case["student_logits"], case["teacher_logits"], case["target"]
    tckd, unreduced = _as_released(student, teacher, labels, case.hyper)
    nckd = unreduced.mean()
    gradients = {
        f"grad_{name}": torch.autograd.grad(part, student, retain_graph=True)[0]
        for name, part in (("tckd", tckd), ("nckd", nckd))
    }
    parts = {"loss": tckd + nckd, "tckd": tckd, "nckd": nckd, "nckd_unreduced": unreduced}
    return parts | gradients | {"mask": _masked_as_released(teacher, labels, case.hyper["topk"])}


def _as_released(student: Tensor, teacher: Tensor, labels: Tensor, hyper: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Both parts, with the slips of the released code put back: what K counts, and a mean of 1 - p_t for each row's."""
    temperature = hyper.get("temperature", hyper.get("kd_temperature"))
    stand = hyper.get("logit_stand", False)
    masked = _masked_as_released(teacher, labels, hyper["topk"])
    tckd, nckd = deepkd_terms(
        student, teacher, labels, temperature=temperature, kept=~masked if hyper["topk"] else None,
        standardise=stand, by_rest=False,
    )  # fmt: skip
    sides = (standardised(student), standardised(teacher)) if stand else (student, teacher)
    rows = decoupled(*sides, labels, temperature=temperature, what="deepkd")
    if hyper["topk"]:
        nckd = nckd + _of_rows_with_none_left(rows, masked) * temperature**2
    if hyper["dkd"]:
        warmed = min(hyper["epoch"] / hyper["warmup"], 1.0)
        return hyper["alpha"] * warmed * tckd, hyper["beta"] * warmed * nckd
    return tckd, rows.rest[:, None] * nckd


def _masked_as_released(teacher: Tensor, labels: Tensor, top_k: int) -> Tensor:
    """(M, C) true at all but the K likeliest classes, the label's counted among them, and at the label's."""
    is_top = torch.zeros_like(teacher, dtype=torch.bool).scatter(1, teacher.topk(top_k, dim=1).indices, True)
    return (~is_top).scatter(1, labels[:, None], True)


def _of_rows_with_none_left(rows: Decoupled, masked: Tensor) -> Tensor:
    """What those add to NCKD, where the released code compares a row's whole distributions and ours has 0."""
    return rows.mean((rows.target + rows.rest * rows.others) * masked.all(1))


@answers("ctkd")
def ctkd(case: Case) -> dict[str, Tensor]:
    hyper, parameter = case.hyper, case["temperature_parameter"]
    first, last = -hyper["decay_max"], -hyper["decay_min"]
    reversal = reversal_in(hyper["epoch"], hyper["decay_loops"], first=first, last=last)
    lowest, span = hyper["t_start"], hyper["t_end"]
    loss = ctkd_loss(
        case["student_logits"], case["teacher_logits"], parameter, lowest=lowest, span=span, reversal=reversal
    )
    temperature = lowest + span * parameter.detach().sigmoid()
    return {"loss": loss, "temperature": temperature, "lambda": torch.tensor(-reversal, dtype=torch.float64)}


@answers("deepkd")
def deepkd(case: Case) -> dict[str, Tensor]:
    """The trajectory; where the network cannot be rebuilt from its names, on the stored gradients (and losses)."""
    weights = {
        name.removeprefix("init."): nn.Parameter(value.detach().clone())
        for name, value in case.inputs.items()
        if name.startswith("init.")
    }
    is_known = set(weights) == {f"student.fc{layer}.{what}" for layer in (1, 2) for what in ("weight", "bias")}
    reaching = {name: [s for s in THEIRS if f"out.step0.grad_{THEIRS[s]}.{name}" in case.expected] for name in weights}
    optimizer = DeepKD([{"params": [p], **_settings(case, reaching[name])} for name, p in weights.items()])
    found: dict[str, Tensor] = {}
    losses: dict[str, list[Tensor]] = {}
    for step in range(case.hyper["steps"]):
        for changed_at, lr in case.hyper["lr_schedule"]:
            if changed_at == step:
                for group in optimizer.param_groups:
                    group["lr"] = lr
        if is_known:
            gradients, of_step = _of_network(case, weights, step)
            for stream, loss in of_step.items():
                losses.setdefault(stream, []).append(loss.detach())
        else:
            gradients = _stored(case, reaching, step)
        for stream, of_stream in gradients.items():
            found |= {f"step{step}.grad_{THEIRS[stream]}.{name}": value for name, value in of_stream.items()}
        _step(optimizer, weights, gradients, case.hyper["weight_decay"], is_first=step == 0)
        for name, parameter in weights.items():
            found[f"step{step}.param.{name}"] = parameter.detach().clone()
            for stream in reaching[name]:
                buffer = optimizer.state[parameter][f"momentum_{stream}"]
                found[f"step{step}.{BUFFERS[stream]}.{name}"] = buffer.clone()
    if not is_known:
        return found | {
            name: case.expected[f"out.{name}"] for name in LOSSES.values() if f"out.{name}" in case.expected
        }
    return found | {LOSSES[stream]: torch.stack(of_stream) for stream, of_stream in losses.items()}


def _settings(case: Case, reaching: list[str]) -> dict[str, Any]:
    """What the released code does with a parameter that these losses reach, as a group of our own."""
    hyper = case.hyper
    tog, tcg, ncg = (hyper[f"delta_{name}"] for name in ("tog", "tcg", "ncg"))
    deltas = {"target": tcg, "non_target": ncg, "task": tcg}  # the task's momentum is the target's
    if reaching == ["task", "non_target"]:
        deltas["task"] = ncg
    if reaching == ["target", "non_target"]:  # each has the other's
        deltas |= {"target": ncg, "non_target": tcg}
    is_alone = len(reaching) == 1
    decay = hyper["weight_decay"]
    if "target" not in reaching and reaching != ["non_target"]:
        decay = 0.0
    return {
        "lr": hyper["lr"],
        "momentum": hyper["momentum"] + (sum((tog, tcg, ncg)) / 3 if is_alone else 0.0),
        **{f"delta_{stream}": 0.0 if is_alone else delta for stream, delta in deltas.items()},
        "weight_decay": 2 * decay if reaching == ["target"] else decay,
    }


def _step(
    optimizer: DeepKD,
    weights: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Mapping[str, Tensor]],
    decay: float,
    *,
    is_first: bool,
) -> None:
    """A step on these gradients; the decay is moved to where the released code has it."""
    groups = {group["params"][0]: group for group in optimizer.param_groups}
    fed = {stream: dict(of_stream) for stream, of_stream in gradients.items()}
    for name, parameter in weights.items():
        group, state = groups[parameter], optimizer.state[parameter]
        others = [stream for stream in ("task", "non_target") if name in gradients[stream]]
        if name in gradients["target"]:
            moved = torch.zeros_like(parameter)  # by the others, before the decay is worked out
            for stream in others:
                momentum = group["momentum"] + group[f"delta_{stream}"]
                moved -= group["lr"] * (momentum * state.get(f"momentum_{stream}", 0.0) + gradients[stream][name])
            if not others and is_first:  # once in the first step, twice afterwards
                moved -= parameter.detach()
            fed["target"][name] = gradients["target"][name] + decay * moved
        elif others == ["non_target"] and is_first:
            fed["non_target"][name] = gradients["non_target"][name] - decay * parameter.detach()
    losses = {
        stream: torch.stack([(weights[name] * value).sum() for name, value in of_stream.items()]).sum()
        for stream, of_stream in fed.items()
        if of_stream
    }
    optimizer.backward(**losses)
    optimizer.step()


def _stored(case: Case, reaching: Mapping[str, list[str]], step: int) -> dict[str, dict[str, Tensor]]:
    return {
        stream: {
            name: case.expected[f"out.step{step}.grad_{THEIRS[stream]}.{name}"].to(case[f"init.{name}"].dtype)
            for name in reaching
            if stream in reaching[name]
        }
        for stream in THEIRS
    }


def _of_network(
    case: Case, weights: Mapping[str, nn.Parameter], step: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Gradients of the three losses in the two layers of the case, by our losses; and these."""
    hidden = F.linear(case[f"images.{step}"], weights["student.fc1.weight"], weights["student.fc1.bias"])
    logits = F.linear(F.relu(hidden), weights["student.fc2.weight"], weights["student.fc2.bias"])
    labels = case[f"target.{step}"]
    tckd, nckd = _as_released(logits, case[f"teacher_logits.{step}"], labels, case.hyper)
    losses = {
        "task": case.hyper["ce_weight"] * F.cross_entropy(logits, labels),
        "target": tckd,
        "non_target": nckd.mean(),
    }
    gradients = {
        stream: dict(zip(weights, torch.autograd.grad(loss, list(weights.values()), retain_graph=True), strict=True))
        for stream, loss in losses.items()
    }
    return gradients, losses
