"""What students see inside beside their teacher: similarity of layers, embeddings, projectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.analysis import CKA, fixed_point, principal_components, spectrum, tsne
from understudy.core.stages import stages_of
from understudy.core.tap_names import tap_names
from understudy.methods.projector import Projector
from understudy.methods.shared.connectors import pooled
from understudy.runs.analyses.base import Analysis, Found, Piece, register_analysis
from understudy.runs.analyses.opened import TEACHER, Opened
from understudy.training.connector_weights import FILE_NAME
from understudy.utils.errors import UserError

__all__ = ["EMBEDDINGS", "PROJECTION", "SIMILARITY"]

SPLIT = "val"
MOST_LAYERS = 12
PERPLEXITY = 30.0
TSNE_PASSES = 20.0


def layers_of(module: nn.Module) -> list[str]:
    """Taps of a network from its input to its output: its stages, else its own parts; then its embedding."""
    taps = [f"stages.{number}" for number in range(len(stages_of(module)))]
    if not taps:
        parts = [name for name, part in module.named_children() if next(part.parameters(), None) is not None]
        taps = parts[:-1][:MOST_LAYERS]
    return [*taps[-MOST_LAYERS:], *(["embedding"] if tap_names(module)[:1] == ["embedding"] else [])]


def _features(opened: Opened, name: str, taps: Sequence[str]) -> Iterable[Mapping[str, Tensor]]:
    """Features of batch after batch, by tap, on the device."""
    model = opened.tapped(name, list(taps))
    model.prepare = nn.Identity()  # `images` has done it
    for images, _ in opened.images(name, SPLIT):
        with torch.no_grad():  # not around the yield: two such generators side by side would leave it switched off
            features = model(images)[1]
        yield features


def _similarity(opened: Opened, pair: str) -> Found:
    row, beside = opened.pairs[pair]
    ours, theirs = (_compared(opened, name) for name in (row, beside))
    found = CKA()
    for student, teacher in zip(_features(opened, row, ours), _features(opened, beside, theirs), strict=True):
        if len(next(iter(student.values()))) >= 4:  # a last batch of fewer tells nothing without bias
            found.add(student, teacher)
    table = found.result()
    if not table:
        raise UserError("similarity of layers needs 4 images or more; set --images to more")
    values = torch.tensor([[table[one, other] for other in theirs] for one in ours], dtype=torch.float64)
    return Found({"student": ours, "teacher": theirs}, {"cka": values})


def _compared(opened: Opened, name: str) -> list[str]:
    """The layers of a network; the levels alone of a detector, whose head sees boxes."""
    layers = layers_of(opened.network(name).module)
    return layers if opened.recipe.task == "classification" else [one for one in layers if one != "embedding"]


def _similarity_problem(opened: Opened) -> str | None:
    if opened.teacher_problem is not None:
        return opened.teacher_problem
    bare = [name for name in opened.names if not layers_of(opened.network(name).module)]
    return f"{bare[0]} has no stages, parts or embedding that are known" if bare else None


def _embeddings_problem(opened: Opened) -> str | None:
    if len(opened.shown(SPLIT)) < 3:
        return "a layout needs 3 images or more; set --images to more"
    without = [name for name in opened.names if "embedding" not in layers_of(opened.network(name).module)]
    if len(without) == len(opened.names):
        return "no network of this run has an embedding: their logits are not what a linear layer gives"
    return None


def _embedding_pieces(opened: Opened) -> Iterable[Piece]:
    for name in opened.names:
        if "embedding" in layers_of(opened.network(name).module):
            yield Piece(f"{name}/pca", 1.0, name, partial(_pca, opened, name))
            yield Piece(f"{name}/tsne", TSNE_PASSES, name, partial(_tsne, opened, name))


def _embedding(opened: Opened, name: str, tap: str = "embedding") -> Tensor:
    """(N, D) on the CPU."""
    return torch.cat([pooled(features[tap]).float().cpu() for features in _features(opened, name, [tap])])


def _pca(opened: Opened, name: str) -> Found:
    places, shares = principal_components(_embedding(opened, name))
    tensors = {"places": torch.from_numpy(places).float(), "labels": opened.shown(SPLIT).labels}
    return Found({"shares": shares.tolist()}, tensors)


def _tsne(opened: Opened, name: str) -> Found:
    try:
        places = tsne(_embedding(opened, name), perplexity=PERPLEXITY)
    except UserError as error:
        return Found({"problem": str(error)})
    return Found({}, {"places": torch.from_numpy(places).float(), "labels": opened.shown(SPLIT).labels})


def _projectors(opened: Opened) -> dict[str, Any]:
    """The settings of every linear projector, by row."""
    return {
        row: config
        for row, variant in opened.rows.items()
        for config in variant.method
        if isinstance(config, Projector.Config) and config.projector == "linear"
    }


def _projection_problem(opened: Opened) -> str | None:
    if not _projectors(opened):
        return "no row has a linear projector; the row projector has one"
    return opened.teacher_problem


def _projection(opened: Opened, row: str) -> Found:
    config = _projectors(opened)[row]
    file = opened.run.students / row / f"seed{opened.seed}" / FILE_NAME
    if not file.is_file():
        raise UserError(f"{file} is not there, in which a run keeps its projectors")
    weight = load_file(file)["projector.projector.weight"]
    student, teacher = _embedding(opened, row, config.student_tap), _embedding(opened, TEACHER, config.teacher_tap)
    found = asdict(fixed_point(weight.T, student, teacher))
    matrices = {name: torch.from_numpy(found.pop(name)) for name in ("weights", "solution", "whitened")}
    spectra = {f"spectrum_{name}": spectrum(matrix) for name, matrix in matrices.items()}
    return Found({**found, "normalisation": config.normalisation}, spectra)


SIMILARITY = register_analysis(
    Analysis(
        "similarity", "similarity of layers", 40, SPLIT, _similarity_problem, lambda _: {},
        lambda opened: [
            Piece(name, 2.0, teacher, partial(_similarity, opened, name))
            for name, (_, teacher) in opened.pairs.items()
        ],
        frozenset({"classification", "detection"}),
    )
)  # fmt: skip
EMBEDDINGS = register_analysis(
    Analysis(
        "embeddings", "embeddings in a plane", 70, SPLIT, _embeddings_problem,
        lambda _: {"perplexity": PERPLEXITY}, _embedding_pieces,
    )
)  # fmt: skip
PROJECTION = register_analysis(
    Analysis(
        "projection", "projectors beside their fixed point", 50, SPLIT, _projection_problem, lambda _: {},
        lambda opened: [Piece(row, 2.0, TEACHER, partial(_projection, opened, row)) for row in _projectors(opened)],
    )
)  # fmt: skip
