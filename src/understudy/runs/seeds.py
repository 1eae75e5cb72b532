"""What a finished seed leaves: its students, predictions and record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.models import save_student
from understudy.models.cost import model_facts
from understudy.results.schema import ModelFacts
from understudy.results.seed_record import SeedRecord, SeedRow, seed_record_from
from understudy.runs.build import deployed_network
from understudy.runs.collect import seed_result
from understudy.runs.context import Execution
from understudy.runs.examples import example_masks
from understudy.runs.folder import RunFolder
from understudy.tasks import Evaluation
from understudy.training.connector_weights import save_connectors
from understudy.training.trainer import Trainer
from understudy.utils import files

__all__ = ["is_kept", "keep_seed", "kept_seed", "save_predictions"]


def is_kept(run: RunFolder, seed: int, *, epochs: int) -> bool:
    """Whether a seed is finished, after so many epochs."""
    return run.epochs_of(seed) == epochs


def keep_seed(
    execution: Execution,
    trainer: Trainer,
    seed: int,
    found: Mapping[str, Mapping[str, Evaluation]],
    details: Mapping[str, Tensor],
    skipped: Sequence[str],
) -> None:
    """Write what a finished seed leaves: students, predictions, and last the record that marks it as done.

    `found` has the evaluations of what is deployed, by split and row, `details` what is kept of each image beside them.
    """
    components, run = execution.components, execution.run
    is_first = seed == execution.recipe.seeds[0]
    predictions: dict[str, Tensor] = dict(details)
    predictions |= example_masks(components, trainer) if is_first else {}
    rows: dict[str, SeedRow] = {}
    for student in trainer.students:
        network = deployed_network(components, student)
        folder = run.students / student.name / f"seed{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # what a call that died in here left half-way
        save_student(
            folder,
            network,
            label_names=components.data.classes,
            image_size=components.kept_size,
            crop_share=components.crop_share,
        )
        save_connectors(folder, [weighted.method for weighted in student.methods])
        of_row = {split: by_row[student.name] for split, by_row in found.items()}
        for split, evaluation in of_row.items():
            predictions |= evaluation.kept_as(split, f"{student.name}/{seed}")
        result = seed_result(trainer, student.name, seed=seed, found=of_row, teacher=execution.teacher)
        facts = ModelFacts(**model_facts(network, components.image_size))
        rows[student.name] = SeedRow(record=result, student=facts)
    predictions_file = run.seed_file(seed).with_suffix(".safetensors")
    save_predictions(predictions, predictions_file)
    for file in (predictions_file, *run.students.glob(f"*/seed{seed}/*")):
        files.to_disk(file)  # before the record that counts on them
    record = SeedRecord(rows=rows, skipped=tuple(skipped), lengths=tuple(trainer.lengths))
    run.write_json(run.seed_file(seed), record.as_dict())


def kept_seed(run: RunFolder, seed: int) -> tuple[SeedRecord, dict[str, Tensor]]:
    """The record of a finished seed, and its predictions by key."""
    file = run.seed_file(seed)
    record = seed_record_from(json.loads(file.read_text(encoding="utf-8")), what=str(file))
    return record, load_file(file.with_suffix(".safetensors"))


def save_predictions(predictions: Mapping[str, Tensor], file: Path) -> None:
    """Write predictions by key as safetensors, which stores whole tensors alone."""
    save_file({name: tensor.contiguous() for name, tensor in predictions.items()}, file)
