"""What a finished seed leaves: its students, predictions and record."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from understudy.models import save_student
from understudy.models.cost import model_facts
from understudy.runs.build import deployed_network
from understudy.runs.collect import seed_record
from understudy.runs.context import Execution
from understudy.runs.folder import RunFolder
from understudy.tasks import Evaluation
from understudy.training.connector_weights import save_connectors
from understudy.training.trainer import Trainer
from understudy.utils import files

__all__ = ["is_kept", "keep_seed"]


def is_kept(run: RunFolder, seed: int, *, epochs: int) -> bool:
    """Whether a seed is finished, after so many epochs."""
    return run.epochs_of(seed) == epochs


def keep_seed(
    execution: Execution,
    trainer: Trainer,
    seed: int,
    found: Mapping[str, Mapping[str, Evaluation]],
    skipped: Sequence[str],
) -> None:
    """Write what a finished seed leaves: students, predictions, and last the record that marks it as done.

    `found` has the evaluations of what is deployed, by split and row.
    """
    parts, run = execution.parts, execution.run
    predictions: dict[str, Tensor] = {}
    records: dict[str, Any] = {}
    for student in trainer.students:
        network = deployed_network(parts, student)
        folder = run.students / student.name / f"seed{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # what a call that died in here left half-way
        save_student(
            folder,
            network,
            label_names=parts.data.classes,
            image_size=parts.image_size,
            crop_share=parts.crop_share,
        )
        save_connectors(folder, [weighted.method for weighted in student.methods])
        of_row = {split: by_row[student.name] for split, by_row in found.items()}
        for split, evaluation in of_row.items():
            predictions |= evaluation.kept_as(split, f"{student.name}/{seed}")
        record = seed_record(trainer, student.name, seed=seed, found=of_row, teacher=execution.teacher)
        records[student.name] = {"record": record, "student": model_facts(network, parts.image_size)}
    predictions_file = run.seed_file(seed).with_suffix(".safetensors")
    save_file(_contiguous(predictions), predictions_file)
    for file in (predictions_file, *run.students.glob(f"*/seed{seed}/*")):
        files.to_disk(file)  # before the record that counts on them
    run.write_json(run.seed_file(seed), {"rows": records, "skipped": list(skipped), "lengths": trainer.lengths})


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
