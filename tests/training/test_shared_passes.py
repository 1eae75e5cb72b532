"""Rows of a seed share every batch and every teacher pass; each still learns as if it were alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.engine import tiny_recipe
from helpers.states import differing, tensors_of
from understudy import Batch, LiveTeacher, Observation, TappedModel, Trainer
from understudy.data.augment.crops import Windows
from understudy.recipes.comparison import rows_of
from understudy.runs.build import build_trainer
from understudy.runs.components import Components, open_components

EPOCHS, STEPS_PER_EPOCH = 2, 3
THREE = ["alone", "kd", "kd+dot"]


class CountingTeacher(LiveTeacher):
    """A teacher that remembers what it was shown."""

    shown: list[Batch]

    @classmethod
    def of(cls, teacher: LiveTeacher) -> CountingTeacher:
        counting = cls.__new__(cls)
        counting.__dict__.update(teacher.__dict__, shown=[])
        return counting

    def observe(self, batch: Batch) -> Observation:
        self.shown.append(batch)
        return super().observe(batch)


class CountingLoader:
    """A training loader that remembers what it gave."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.steps_per_epoch = loader.steps_per_epoch
        self.given: list[Batch] = []

    def epoch(self, epoch: int, start_step: int = 0) -> Any:
        for batch in self._loader.epoch(epoch, start_step):
            self.given.append(batch)
            yield batch


@pytest.fixture
def components() -> Components:
    return open_components(tiny_recipe({"rows": THREE}), allow_code=False, say=lambda text: None)


def fitted(components: Components, names: list[str], seed: int = 0) -> tuple[Trainer, CountingTeacher, CountingLoader]:
    """A trainer of these rows after two epochs, and what passed through it."""
    rows = {row.name: row for row in rows_of(components.recipe)}
    trainer = build_trainer(components, [rows[name] for name in names], seed)
    assert isinstance(trainer.teacher, LiveTeacher)
    trainer.teacher = teacher = CountingTeacher.of(trainer.teacher)
    loader = CountingLoader(components.train_loader(seed))
    trainer.fit(loader, epochs=EPOCHS)
    return trainer, teacher, loader


def test_three_rows_take_as_many_batches_and_teacher_passes_as_one(components: Components) -> None:
    _, teacher_of_one, loader_of_one = fitted(components, ["kd"])
    _, teacher_of_three, loader_of_three = fitted(components, THREE)
    steps = EPOCHS * STEPS_PER_EPOCH
    assert [len(teacher_of_one.shown), len(loader_of_one.given)] == [steps, steps]
    assert [len(teacher_of_three.shown), len(loader_of_three.given)] == [steps, steps]


def test_the_teachers_network_runs_once_a_batch_for_all_rows(
    components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: Counter[str] = Counter()
    run = TappedModel.forward

    def counted(model: TappedModel, images: Tensor) -> Any:
        runs[model.model_name] += 1
        return run(model, images)

    trainer = build_trainer(components, rows_of(components.recipe), 0)
    trainer.teacher.observe(next(iter(components.eval_loader("val"))))  # the first look of all folds its batch norms
    monkeypatch.setattr(TappedModel, "forward", counted)
    trainer.fit(components.train_loader(0), epochs=EPOCHS)
    names = {student.name: runs[student.model.model_name] for student in trainer.students}
    steps = EPOCHS * STEPS_PER_EPOCH
    assert names == dict.fromkeys(THREE, steps)
    assert sum(runs.values()) == (len(THREE) + 1) * steps


def test_images_are_augmented_once_a_batch_for_all_rows(
    components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmented: list[int] = []
    augment = Windows.of

    def counted(windows: Windows, images: Tensor) -> Tensor:
        augmented.append(len(images))
        return augment(windows, images)

    monkeypatch.setattr(Windows, "of", counted)
    fitted(components, THREE)
    assert sum(augmented) == EPOCHS * len(components.data.train)


def test_all_rows_learn_from_the_same_pixels_and_the_same_teacher_outputs(
    components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in THREE}
    trainer = build_trainer(components, rows_of(components.recipe), 0)
    for student in trainer.students:
        step = student.step

        def noted(
            batch: Batch, observed: Observation, *, _name: str = student.name, _step: Any = step, **rest: Any
        ) -> Any:
            seen[_name].append((batch.images.clone(), observed.output.clone()))
            return _step(batch, observed, **rest)

        monkeypatch.setattr(student, "step", noted)
    trainer.fit(components.train_loader(0), epochs=1)
    for name in THREE[1:]:
        for (images, output), (other_images, other_output) in zip(seen[THREE[0]], seen[name], strict=True):
            assert torch.equal(images, other_images)
            assert torch.equal(output, other_output)


def test_a_row_beside_others_ends_with_the_weights_of_the_row_alone(components: Components) -> None:
    together, _, _ = fitted(components, THREE)
    for student in together.students:
        by_itself, _, _ = fitted(components, [student.name])
        assert differing(tensors_of(student), tensors_of(by_itself.students[0])) == []


def test_another_seed_is_another_order_and_other_views(components: Components) -> None:
    first, other = (list(components.train_loader(seed).epoch(1)) for seed in (0, 1))
    assert not torch.equal(first[0].indices, other[0].indices)
    by_sample = [
        dict(zip(torch.cat([b.indices for b in epoch]).tolist(), torch.cat([b.images for b in epoch]), strict=True))
        for epoch in (first, other)
    ]
    assert by_sample[0].keys() == by_sample[1].keys()
    alike = [torch.equal(image, by_sample[1][sample]) for sample, image in by_sample[0].items()]
    # 9 x 9 windows and a mirror: some of 80 may agree by chance, or in a blank border
    assert sum(alike) < len(alike) / 2


def test_another_seed_needs_teacher_passes_of_its_own(components: Components) -> None:
    _, teacher, _ = fitted(components, THREE, seed=0)
    _, other_teacher, _ = fitted(components, THREE, seed=1)
    pairs = zip(teacher.shown, other_teacher.shown, strict=True)
    assert not any(torch.equal(batch.images, other.images) for batch, other in pairs)
