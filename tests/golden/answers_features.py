"""Our answers to the golden feature methods: fitnet, at, nst, vid, kdsvd, ickd, fsp, ab, ft."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from answers import answers
from cases import Case
from torch import Tensor
from torch.func import functional_call

from understudy.core.taps import TapShape
from understudy.methods.ab import ab_loss
from understudy.methods.at import at_loss
from understudy.methods.fitnet import fitnet_loss
from understudy.methods.fsp import fsp_loss
from understudy.methods.ft import ft_loss, paraphraser_loss
from understudy.methods.ickd import embedding, ickd_loss
from understudy.methods.kdsvd import VectorAxis, kdsvd_loss
from understudy.methods.nst import nst_loss
from understudy.methods.shared.maps import Paraphraser, comparable_maps, conv_regressor, factor_encoder
from understudy.methods.shared.singular_vectors import singular_vectors
from understudy.methods.vid import Regressor, vid_loss


@answers("fitnet_hint")
def fitnet_hint(case: Case) -> dict[str, Tensor]:
    student, teacher = case["student_features.0"], case["teacher_features.0"]
    state = _state(case, "projector.")
    projected = functional_call(conv_regressor(_shape(student), _shape(teacher)), state, (student,))
    # Batch norm moves its statistics in the tensors that it is given.
    buffers = {f"projector.{name}": tensor for name, tensor in state.items() if _is_statistic(name)}
    return {"loss": fitnet_loss(projected, teacher), "projected": projected, **buffers}


@answers("at")
def at(case: Case) -> dict[str, Tensor]:
    pairs = zip(*_features(case), strict=True)
    return {"loss": _total(at_loss(ours, theirs, exponent=case.hyper["p"]) for ours, theirs in pairs)}


@answers("at_paper")
def at_paper(case: Case) -> dict[str, Tensor]:
    pairs = zip(*_features(case), strict=True)
    return {"loss": case.hyper["weight"] * _total(at_loss(ours, theirs, form="paper") for ours, theirs in pairs)}


@answers("nst")
def nst(case: Case) -> dict[str, Tensor]:
    return {"loss": _total(nst_loss(ours, theirs) for ours, theirs in zip(*_features(case), strict=True))}


@answers("vid")
def vid(case: Case) -> dict[str, Tensor]:
    student, teacher = comparable_maps(case["student_features.0"], case["teacher_features.0"])
    connector = Regressor(
        student.shape[1],
        teacher.shape[1],
        hidden_channels=case.hyper["mid_channels"],
        initial_variance=case.hyper["init_pred_var"],
        eps=case.hyper["eps"],
    )
    predicted = functional_call(connector, _state(case, "projector."), (student,))
    loss = vid_loss(predicted, teacher, case["projector.log_scale"], eps=case.hyper["eps"])
    return {"loss": loss, "loss_mdistiller": loss}  # equal in value, and ours trains the variance


@answers("kdsvd_mdistiller")
def kdsvd_mdistiller(case: Case) -> dict[str, Tensor]:
    return _kdsvd(case, "columns")


@answers("kdsvd_repdistiller")
def kdsvd_repdistiller(case: Case) -> dict[str, Tensor]:
    return _kdsvd(case, "channels")


@answers("ickd")
def ickd(case: Case) -> dict[str, Tensor]:
    student, teacher = case["student_features.0"], case["teacher_features.0"]
    embedded = functional_call(
        embedding(student.shape[1], teacher.shape[1]),
        _state(case, "projector.embed_s.", {"conv2d": "conv", "l2norm": "bn"}),
        (student,),
    )
    return {"loss": ickd_loss(embedded, teacher)}


@answers("ickd_imagenet")
def ickd_imagenet(case: Case) -> dict[str, Tensor]:
    loss = ickd_loss(case["student_features.0"], case["teacher_features.0"], reduction="imagenet")
    return {"loss": case.hyper["weight"] * loss}


@answers("fsp")
def fsp(case: Case) -> dict[str, Tensor]:
    return {"loss": fsp_loss(*_features(case))}


@answers("fsp_torchdistill")
def fsp_torchdistill(case: Case) -> dict[str, Tensor]:
    return {"loss": fsp_loss(*_features(case), pooling="max", distance="column_norm")}


@answers("ab")
def ab(case: Case) -> dict[str, Tensor]:
    return {"loss": ab_loss(*_features(case), margin=case.hyper["margin"])}


@answers("ft")
def ft(case: Case) -> dict[str, Tensor]:
    student, teacher, hyper = case["student_features.0"], case["teacher_features.0"], case.hyper
    num_factors = int(teacher.shape[1] * hyper["k"])
    translator = factor_encoder(student.shape[1], num_factors, has_batch_norm=True)
    ours = functional_call(translator, _state(case, "projector.translator.encoder."), (student,))
    paraphraser = Paraphraser(teacher.shape[1], num_factors).encoder
    theirs = functional_call(paraphraser, _state(case, "projector.paraphraser.encoder."), (teacher,))
    loss = ft_loss(ours, theirs, attention_exponent=hyper["p1"], norm=hyper["p2"])
    return {"loss": loss, "factor_student": ours, "factor_teacher": theirs}


@answers("ft_paraphraser")
def ft_paraphraser(case: Case) -> dict[str, Tensor]:
    teacher = case["teacher_features.0"]
    paraphraser = Paraphraser(teacher.shape[1], int(teacher.shape[1] * case.hyper["k"]))
    state = _state(case, "projector.paraphraser.")
    factor = functional_call(paraphraser.encoder, _state(case, "projector.paraphraser.encoder."), (teacher,))
    return {"loss": paraphraser_loss(functional_call(paraphraser, state, (teacher,)), teacher), "factor": factor}


def _kdsvd(case: Case, axis: VectorAxis) -> dict[str, Tensor]:
    """The sign of a singular vector is arbitrary: the teacher's take those of the reference."""
    student, teacher = _features(case)
    signs = [case.expected[f"out.teacher_v.{i}"].to(student[0]) for i in range(len(teacher))]
    loss = kdsvd_loss(student, teacher, num_vectors=case.hyper["k"], axis=axis, teacher_signs=signs)
    found = {"loss": loss}
    for i, (maps, reference) in enumerate(zip(teacher, signs, strict=True)):
        vectors = singular_vectors(maps.flatten(1, 2) if axis == "columns" else maps.flatten(2).mT, case.hyper["k"])
        found[f"teacher_v.{i}"] = vectors * (vectors * reference).sum(dim=1, keepdim=True).sign()
    return found


def _total(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


def _shape(maps: Tensor) -> TapShape:
    return TapShape(*maps.shape[1:])


def _features(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    num_stages = sum(name.startswith("student_features.") for name in case.inputs)
    student = [case[f"student_features.{i}"] for i in range(num_stages)]
    return student, [case[f"teacher_features.{i}"] for i in range(num_stages)]


def _state(case: Case, prefix: str, renamed: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The case's tensors under `prefix`; batch norm's statistics as copies, since they are changed in place."""
    state = {name.removeprefix(prefix): case[name] for name in case.inputs if name.startswith(prefix)}
    for theirs, ours in (renamed or {}).items():
        state = {name.replace(theirs, ours, 1): tensor for name, tensor in state.items()}
    return {name: tensor.clone() if _is_statistic(name) else tensor for name, tensor in state.items()}


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
