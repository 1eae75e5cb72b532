"""README.md of a student's folder: a model card, as the Hugging Face hub shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from understudy.core.image_size import size_text
from understudy.methods.combination import ALONE
from understudy.report.formatting import compact, score, score_spread, with_unit
from understudy.report.licences import licence_notes
from understudy.report.predict_options import code_options
from understudy.report.sentences import row_sentence
from understudy.results.schema import ModelFacts, Results, Row, Scores, SeedResult
from understudy.utils.text import listed
from understudy.utils.untrusted import visible

__all__ = ["FOLDER", "model_card"]

FOLDER = "FOLDER"  # stands in the examples for where the student lies
LIBRARIES = {"timm": "timm", "hf": "transformers"}  # that read a student without understudy, by the source of its name
MOST_CLASSES = 20  # that are named
# By task: what the hub calls it and its usual metric there, and what a student of it is.
_KINDS = {
    "classification": ("image-classification", ["accuracy"], "An image classifier"),
    "segmentation": ("image-segmentation", ["mean_iou"], "A segmenter, which names each pixel of an image,"),
    "detection": ("object-detection", [], "A detector of objects in images"),
}

_NORMALISED = "# images of {size} px, normalised as timm.data.resolve_model_data_config(model) says"
_LOADED = {
    "timm": f'import timm\n\nmodel = timm.create_model("local-dir:{FOLDER}", pretrained=True).eval()\n{_NORMALISED}',
    **dict.fromkeys(
        ("cifar", "understudy"),
        "import timm\nimport understudy  # makes its networks known to timm\n\n"
        f'model = timm.create_model("local-dir:{FOLDER}", pretrained=True).eval()\n{_NORMALISED}',
    ),
    "hf": (
        "from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
        f'processor = AutoImageProcessor.from_pretrained("{FOLDER}")\n'
        f'model = AutoModelForImageClassification.from_pretrained("{FOLDER}").eval()'
    ),
}


def model_card(
    results: Results,
    row: Row,
    seed: SeedResult,
    *,
    environment: Mapping[str, Any],
    dataset: str | None = None,
    base_model: str | None = None,
) -> str:
    """The card of the student that one row left under one seed: Markdown behind a front matter in YAML.

    Args:
        results: of its run.
        row: whose student it is.
        seed: one of the row's.
        environment: what environment.json holds: version and commit of understudy are read.
        dataset: the data set's name on the hub, where it is there.
        base_model: the name there of the network whose pretrained weights the student started from, likewise.
    """
    front = yaml.safe_dump(_front_matter(results, row, dataset, base_model), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {_plain(row.student.model)}, {results.data.num_classes} classes of {_plain(results.data.name)}",
        _opening(results, row),
        f"## Use\n\n{_use(results, row.student)}",
        f"## Scores\n\n{_scores(results, row, seed)}",
        f"## How it was made\n\n{_making(results, row, seed, environment)}",
        *_licence(results, row),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(results: Results, row: Row, dataset: str | None, base_model: str | None) -> dict[str, Any]:
    """What the hub files a model under; a licence is nobody's to guess."""
    task, metrics, _ = _KINDS.get(results.task, _KINDS["classification"])
    library = LIBRARIES.get(_source(row.student), "understudy")
    methods = [str(method.get("name")) for method in row.methods]
    tags = [task, *(["knowledge-distillation"] if methods else []), "understudy", *methods]
    return {
        "library_name": library,
        "pipeline_tag": task,
        "tags": list(dict.fromkeys(tags if library == "understudy" else [*tags, library])),
        **({"metrics": metrics} if metrics else {}),
        **({"datasets": [dataset]} if dataset else {}),
        **({"base_model": base_model, "base_model_relation": "finetune"} if base_model else {}),
    }


def _licence(results: Results, row: Row) -> Iterator[str]:
    """What the packages ask that ran student and teacher, where that is more than a notice."""
    teachers = [results.teacher.model] if results.teacher is not None and row.methods else []
    for note in licence_notes([row.student.model, *teachers]):
        yield f"## Licence\n\n{_plain(note)}."


def _opening(results: Results, row: Row) -> str:
    classes = results.data.classes
    named = f": {_plain(listed(classes, MOST_CLASSES))}" if classes else ""
    how = f"distilled from {_plain(results.teacher.model)}" if results.teacher and row.methods else "trained"
    what = _KINDS.get(results.task, _KINDS["classification"])[2]
    return (
        f"{what} with {results.data.num_classes} classes{named}. It has "
        f"{compact(row.student.parameters)} parameters and was {how} by understudy, a tool for knowledge distillation."
    )


def _use(results: Results, student: ModelFacts) -> str:
    """Code that loads it: without understudy where another library reads the folder, then with it."""
    if results.task == "detection":
        return _use_of_detector(student)
    size = size_text(student.image_size) if student.image_size else "any size"
    own = f'model = understudy.load_student("{FOLDER}"{code_options(student.model)[1]})  # {_takes(student)}'
    of_classes = _LOADED.get(_source(student), "") if results.task == "classification" else ""
    ways = [of_classes, f"import understudy\n\n{own}"]
    return "\n\n".join(f"```python\n{code.replace('{size}', size)}\n```" for code in ways if code)


def _use_of_detector(student: ModelFacts) -> str:
    lines = [
        "import torch",
        "import understudy",
        "",
        f'model = understudy.load_student("{FOLDER}"{code_options(student.model)[1]})',
        "with torch.no_grad():",
        "    maps = model(images)  # (B, 3, H, W) in [0, 1], H and W multiples of 32",
        "    found = maps.detector.detections(maps, images)  # of each image its boxes, scores and labels",
    ]
    of_transformers = [_LOADED["hf"].replace("ForImageClassification", "ForObjectDetection")]
    ways = [*(of_transformers if _source(student) == "hf" else []), "\n".join(lines)]
    return "\n\n".join(f"```python\n{code}\n```" for code in ways)


def _takes(student: ModelFacts) -> str:
    return "takes (B, 3, H, W) images in [0, 1]" if _source(student) else "takes images as it was trained on them"


def _scores(results: Results, row: Row, seed: SeedResult) -> str:
    """A table of last, best and tested epoch, each named for what it is, then the interval."""
    metric, summary = results.metric, row.summary
    n = len(results.seeds)
    seeds = f"seeds {', '.join(map(str, results.seeds))}, mean ± standard deviation" if n > 1 else "one seed: no spread"
    lines = [f"| {metric.title} | this student, seed {seed.seed} | {seeds} |", "| --- | ---: | ---: |"]
    last, best = summary.last or summary.scores, summary.best or summary.scores
    for name, scores, over in (
        (f"last epoch{_at(seed.last)}, validation images", seed.last, last),
        (f"best epoch{_at(seed.best)}, chosen on the same images, so it flatters", seed.best, best),
        (f"{results.epoch_words}, test images, read once at the end", seed.test, summary.test),
    ):
        if scores is not None and (spread := over.get(metric.name)) is not None:
            own = with_unit(score(scores.of(metric), metric), metric)
            lines.append(f"| {name} | {own} | {score_spread(spread, metric) if n > 1 else ''} |")
    if results.teacher is not None and (reached := results.teacher_score) is not None:
        lines.append(f"| the teacher, {results.split} images | {with_unit(score(reached, metric), metric)} | |")
    data = results.data
    origin = f" ({_plain(data.val_origin)})" if data.val_origin else ""
    basis = f"{data.num_val:,} validation images{origin}" + (f", {data.num_test:,} test images" * bool(data.num_test))
    averaged = ", averaged over the steps" if results.weights == "averaged" else ""
    kept = f"The weights in this folder are those of the {results.epoch_words}{averaged}. Measured on {basis}."
    against = [] if row.name == ALONE or not results.teacher else [row_sentence(results, row)]
    return "\n".join(lines) + "\n\n" + "\n\n".join([kept, *map(_plain, against)])


def _at(scores: Scores) -> str:
    return f" ({scores.epoch})" if scores.epoch else ""


def _making(results: Results, row: Row, seed: SeedResult, environment: Mapping[str, Any]) -> str:
    facts = [f"- {name}: {_plain(text)}" for name, text in _facts(results, row, environment)]
    settings = {
        "method": [dict(method) for method in row.methods] or "none",
        "task_weight": row.task_weight,
        "update": row.update,
        "epochs": results.epochs,
        "seed": seed.seed,
    }
    written = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return "\n".join(facts) + f"\n\n```yaml\n{written}```"


def _facts(results: Results, row: Row, environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data = results.data
    if results.teacher is not None and row.methods:
        yield "teacher", _network(results.teacher)
    yield "student", _network(row.student)
    yield "method", row.name if row.methods else "none: trained on the labels alone"
    images = f"{data.num_train:,} images to train on"
    batch = f", {data.batch_size} a step" if data.batch_size else ""
    yield "data", f"{data.name}, {images}{batch}" + (f", {data.augmentation}" if data.augmentation else "")
    yield "epochs", f"{results.epochs}"
    versions = environment.get("versions")
    version = versions.get("understudy") if isinstance(versions, Mapping) else None
    commit = environment.get("commit")
    yield "made with", f"understudy {version or '(version not known)'}" + (f", commit {commit}" if commit else "")


def _network(facts: ModelFacts) -> str:
    parts: Sequence[str | None] = [
        facts.model,
        f"{compact(facts.parameters)} parameters" if facts.parameters else None,
        f"{compact(facts.macs)} multiply-accumulates an image" if facts.macs else None,
        f"images of {size_text(facts.image_size)} px" if facts.image_size else None,
        f"from {facts.starts_from}" if facts.starts_from else None,
    ]
    return ", ".join(part for part in parts if part)


def _source(student: ModelFacts) -> str:
    """'timm' of timm:NAME; empty where the network was handed over in Python."""
    source, colon, _ = student.model.partition(":")
    return source if colon else ""


def _plain(text: str) -> str:
    """Text on one line, in which Markdown finds nothing to obey: names come from folders."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", " ".join(visible(text).split()))
