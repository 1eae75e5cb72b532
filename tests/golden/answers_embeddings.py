"""Our answers to the golden methods on deep features: OFD, ReviewKD, SimKD, SRRL, PEFD, SimReg."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from answers import answers
from cases import Case
from torch import Tensor, nn
from torch.func import functional_call

from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, Method, TapShapes
from understudy.methods.ofd import OFD
from understudy.methods.projector_ensemble import ProjectorEnsemble
from understudy.methods.reviewkd import ReviewKD, reviewkd_loss
from understudy.methods.shared.connectors import pooled
from understudy.methods.shared.embeddings import pooled_to
from understudy.methods.simkd import SimKD, SimKDStudent
from understudy.methods.simreg import SimReg
from understudy.methods.srrl import SRRL
from understudy.methods.vkd import vkd_loss

Named = Mapping[str, Tensor]


@answers("ofd")
def ofd(case: Case) -> dict[str, Tensor]:
    student = _numbered(case, "student_features", "preact_stages")
    teacher = _numbered(case, "teacher_features", "preact_stages")
    norms = {tap: _norm(case, f"teacher_bn.{number}.") for number, tap in enumerate(teacher)}
    context = Context(
        student=_shapes(student), teacher=TapShapes(_shapes(teacher), num_classes=2, norms=norms), num_classes=2
    )
    method = OFD(OFD.Config(student_stages=tuple(student), teacher_stages=tuple(teacher)), context)
    margins = {f"margin.{number}": margin for number, margin in enumerate(method.margins)}
    return {"loss": _terms(method, _stored(case, "projector."), student, teacher)["ofd"], **margins}


@answers("reviewkd")
def reviewkd(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    student = _numbered(case, "student_features", "stages") | {"embedding": case["student_pooled"]}
    teacher = _numbered(case, "teacher_features", "preact_stages") | {"embedding": case["teacher_pooled"]}
    num_levels = sum(name.endswith(".conv1.0.weight") for name in case.inputs)  # the embedding is one of them
    config = ReviewKD.Config(
        student_stages=tuple(student)[-num_levels:-1], teacher_stages=tuple(teacher)[-num_levels:-1]
    )
    method = ReviewKD(config, Context(student=_shapes(student), teacher=_shapes(teacher), num_classes=2))
    terms = _terms(method, _stored(case, "projector.", "fusions."), student, teacher)
    task = hyper["ce_weight"] * F.cross_entropy(case["student_logits"], case["target"])
    warmup = min(hyper["epoch"] / hyper["warmup_epochs"], 1.0)
    return {"loss": hyper["reviewkd_weight"] * warmup * terms["hcl"], "loss_ce": task}


@answers("reviewkd_hcl")
def reviewkd_hcl(case: Case) -> dict[str, Tensor]:
    student, teacher = _numbered(case, "student_features", "stages"), _numbered(case, "teacher_features", "stages")
    return {"loss": reviewkd_loss(list(student.values()), list(teacher.values()))}


@answers("simkd")
def simkd(case: Case) -> dict[str, Tensor]:
    maps, target = case["student_features.0"], case["teacher_features.0"]
    student, teacher = {"stages.0": maps}, {"stages.0": target, "embedding": pooled(target)}
    method = SimKD(SimKD.Config(factor=case.hyper["factor"]), _with_classifier(case, student, teacher)).to(maps.dtype)
    weights = _stored(case, "projector.transfer.", "projector.") | _stored(case, "teacher_fc.", "classifier.")
    # A network whose tapped map is its input.
    reused = SimKDStudent(
        nn.Sequential(nn.Identity()),
        tap="0",
        projector=method.projector,
        classifier=method.classifier,
        size=method.size,
    )
    only_projector = _stored(case, "projector.transfer.")
    return {
        "loss": _terms(method, weights, student, teacher)["simkd"],
        "prediction": functional_call(reused, _cloned(weights), (maps,)),
        "projected": functional_call(method.projector, _cloned(only_projector), (pooled_to(maps, method.size),)),
        "target_feature": pooled_to(target, method.size),
    }


@answers("srrl")
def srrl(case: Case) -> dict[str, Tensor]:
    maps, target = case["student_features.0"], pooled(case["teacher_features.0"])
    student, teacher = {"stages.0": maps}, {"embedding": target}
    config = SRRL.Config(regression_weight=case.hyper["weight"])
    method = SRRL(config, _with_classifier(case, student, teacher)).to(maps.dtype)
    connector = _cloned(_stored(case, "projector.Connectors."))
    classifier = _stored(case, "teacher_fc.")
    projected = functional_call(method.connector, _cloned(connector), (maps,))
    weights = {f"connector.{name}": tensor for name, tensor in connector.items()}
    terms = _terms(method, weights | _stored(case, "teacher_fc.", "classifier."), student, teacher)
    return {
        "loss": terms["matching"] + terms["regression"],
        "loss_stat": terms["matching"],
        "pred_sc": functional_call(method.classifier, classifier, (pooled(projected),)),
        "pred_t": functional_call(method.classifier, classifier, (target,)),
        **{f"projector.Connectors.{name}": connector[name] for name in connector if name.startswith("1.")},
    }


@answers("srrl_simkd_repo")
def srrl_simkd_repo(case: Case) -> dict[str, Tensor]:
    student, teacher = {"embedding": case["student_features.0"]}, {"embedding": case["teacher_features.0"]}
    method = SRRL(SRRL.Config(connect="embedding"), _with_classifier(case, student, teacher))
    weights = _stored(case, "projector.transfer.", "connector.") | _stored(case, "teacher_fc.", "classifier.")
    terms = _terms(method, weights, student, teacher)
    return {"loss": terms["matching"] + terms["regression"]}


@answers("pefd")
def pefd(case: Case) -> dict[str, Tensor]:
    student, teacher = {"embedding": case["student_features.0"]}, {"embedding": case["teacher_features.0"]}
    layers = sorted(name for name in case.inputs if name.endswith(".linear.weight"))
    method = ProjectorEnsemble(ProjectorEnsemble.Config(num_projectors=len(layers)), _context(student, teacher))
    parts = {part: [case[name.replace("weight", part)] for name in layers] for part in ("weight", "bias")}
    weights = {f"projectors.{part}": torch.cat(tensors) for part, tensors in parts.items()}
    loss = _terms(method, weights, student, teacher)["cosine"]
    with torch.no_grad():
        method.projectors.weight.copy_(weights["projectors.weight"])
        method.projectors.bias.copy_(weights["projectors.bias"])
    return {"loss": loss, "projected": method.projected(student["embedding"])}


@answers("simreg")
def simreg(case: Case) -> dict[str, Tensor]:
    student, teacher = {"embedding": case["student_features.0"]}, {"embedding": case["teacher_features.0"]}
    num_layers = case.hyper["n_mlp_layers"]
    config = SimReg.Config(num_layers=num_layers, hidden_channels=len(case["projector.0.weight"]))
    method = SimReg(config, _context(student, teacher))
    return {"loss": _terms(method, _stored(case, "projector.", "head."), student, teacher)["simreg"]}


def _terms(method: Method, state: Named, student: Named, teacher: Named) -> dict[str, Tensor]:
    """The method's terms with the case's connectors in place of its own; buffers in `state` change in place."""
    first = next(iter(student.values()))
    no_logits, no_labels = first.new_zeros(len(first), 2), torch.zeros(len(first), dtype=torch.long)
    pairing = Pairing(no_logits, None, no_labels, student, teacher)
    unknown = set(state) - set(method.state_dict())
    assert not unknown, f"the case has connectors that {method.name} has not: {sorted(unknown)}"
    missing = {name for name, _ in method.named_parameters()} - set(state)
    assert not missing, f"{method.name} has connectors that the case has not: {sorted(missing)}"
    terms: dict[str, Tensor] = functional_call(method.to(first.dtype), dict(state), (pairing,))
    return terms


def _numbered(case: Case, stored: str, group: str) -> dict[str, Tensor]:
    """Features "stored.0", "stored.1", ... under the names of a group of taps."""
    count = sum(name.startswith(f"{stored}.") for name in case.inputs)
    return {f"{group}.{number}": case[f"{stored}.{number}"] for number in range(count)}


def _stored(case: Case, stored: str, ours: str = "") -> dict[str, Tensor]:
    return {ours + name.removeprefix(stored): case[name] for name in case.inputs if name.startswith(stored)}


@answers("vkd")
def vkd(case: Case) -> dict[str, Tensor]:
    projected = case["student_tokens"].mean(dim=1) @ case["weight"].T
    loss = vkd_loss(projected, pooled(case["teacher_map"]), beta=case.hyper["beta"], eps=case.hyper["eps"])
    return {"loss": case.hyper["alpha"] * loss}


def _cloned(state: Named) -> dict[str, Tensor]:
    """With buffers of their own, for a forward pass that moves running statistics."""
    return {name: tensor if tensor.requires_grad else tensor.clone() for name, tensor in state.items()}


def _norm(case: Case, stored: str) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(case[f"{stored}weight"]), dtype=case[f"{stored}weight"].dtype)
    norm.load_state_dict(_stored(case, stored), strict=False)
    return norm


def _shapes(features: Named) -> TapShapes:
    return TapShapes({tap: TapShape(*feature.shape[1:]) for tap, feature in features.items()}, num_classes=2)


def _context(student: Named, teacher: Named) -> Context:
    return Context(student=_shapes(student), teacher=_shapes(teacher), num_classes=2)


def _with_classifier(case: Case, student: Named, teacher: Named) -> Context:
    num_classes, channels = case["teacher_fc.weight"].shape
    shapes = TapShapes(_shapes(teacher), num_classes=num_classes, classifier=nn.Linear(channels, num_classes))
    return Context(student=_shapes(student), teacher=shapes, num_classes=num_classes)
