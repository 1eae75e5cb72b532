"""Everything that a run computes lies on the run's device; held on machines without a GPU, too (pretended_cuda)."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.engine import tiny_recipe
from helpers.pretended_cuda import CUDA, devices_of, pretended_cuda
from helpers.pretended_runs import check_losses, on_cuda, opened, tensors_in, trainer_of
from helpers.two_teachers import TWO
from understudy.core.batch import Losses, PlannedBatch
from understudy.data.loaders.base import planned_batches
from understudy.models.cost import count_macs, images_per_second, model_facts
from understudy.optim import Joint
from understudy.runs.bank.layout import BankOptions
from understudy.runs.bank.make import make_banks
from understudy.runs.build import deployed_network
from understudy.runs.components import Components
from understudy.runs.console import Display
from understudy.runs.further_teachers import evaluate_further_teachers
from understudy.runs.memory_format import Trial, faster_format
from understudy.teachers.bank.packing import packed
from understudy.teachers.bank.seeds import SeededBanks
from understudy.teachers.bank.teacher import BankTeacher

ROWS = ["alone", "kd", "dist+dot", "projector", "simkd", "reviewkd"]


def of_classes(**settings: Any) -> Components:
    """A tiny run's parts."""
    over = {"rows": ROWS, "seeds": [0], "ema": {"decay": 0.9}, "fold_teacher": False}
    return opened(tiny_recipe({**over, **settings}))


@pytest.fixture
def components() -> Components:
    return of_classes()


def test_the_guard_refuses_what_a_gpu_refuses() -> None:
    with pretended_cuda():
        here, there = torch.rand(3), torch.rand(3, device=CUDA)
        with pytest.raises(RuntimeError, match=r"same device|different devices"):
            here + there
        assert (there + there.to(CUDA)).device == CUDA
        assert here.numpy().tolist() == pytest.approx(here.tolist())
        with pytest.raises(TypeError, match="cuda:0 device type tensor to numpy"):
            there.numpy()


def test_what_a_trainer_is_made_of_lies_on_its_device(components: Components) -> None:
    with pretended_cuda():
        trainer = trainer_of(on_cuda(components))
        for student in trainer.students:
            modules = [student.model, student.connectors, student.deployed(), student.raw_deployed()]
            tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
            assert devices_of(tensors) == {"cuda"}, student.name
            state = student.state_dict()
            kept = [state[key] for key in ("model", "connectors", "update", "average")]
            assert devices_of(tensors_in(kept)) == {"cuda"}, student.name


def test_whole_batches_are_augmented_on_the_device() -> None:
    augment = {"name": "resized_crop", "rand_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25}
    components = of_classes(rows=["kd"], data={"augment": augment, "augment_on": "device"})
    with pretended_cuda():
        components = on_cuda(components)
        batch = next(iter(components.train_loader(0).epoch(1)))
        assert {batch.images.device, batch.targets.device} == {CUDA}
        teacher = trainer_of(components).teacher
        assert teacher is not None
        assert teacher.observe(batch).output.device == CUDA


@pytest.mark.parametrize("mix", [{}, {"mode": "elem", "prob": 0.5}], ids=str)
def test_batches_are_mixed_on_the_device(mix: dict[str, Any]) -> None:
    components = of_classes(rows=["kd"], data={"augment": {"name": "crop_flip", "pad": 2}, "mix": mix})
    expected = next(iter(components.train_loader(0).epoch(1)))
    with pretended_cuda():
        components = on_cuda(components)
        planned = next(planned_batches(components.train_loader(0), 1))
        assert isinstance(planned, PlannedBatch)
        assert planned.keys.device == CUDA
        batch = planned.made()
        assert {batch.images.device, batch.targets.device} == {CUDA}
        assert batch.targets.tolist() == expected.targets.tolist()
        assert batch.images.tolist() == expected.images.tolist()
        check_losses(trainer_of(components), batch)


@pytest.mark.parametrize("optimizer", ["nadam", "rmsprop", "rmsprop_tf", "lion"])
def test_an_optimizer_reads_its_numbers_on_the_device(optimizer: str) -> None:
    with pretended_cuda():
        layer = torch.nn.Linear(3, 2).to(CUDA)
        update = Joint.Config(optimizer=optimizer, clip_norm=1.0).build(layer.named_parameters())
        update.prepare_capture(CUDA)
        for _ in range(2):
            update.begin_step()
            update(Losses(layer(torch.rand(4, 3, device=CUDA)).square().mean(), None, {}))
        state = update.state_dict()["state"]
    counts = ("step", "mu_product")
    assert devices_of(value for known in state.values() for key, value in known.items() if key not in counts) == {
        "cuda"
    }
    assert {float(known.get("step", 2)) for known in state.values()} == {2}


def test_losses_of_every_row_are_worked_out_on_the_device(components: Components) -> None:
    with pretended_cuda():
        components = on_cuda(components)
        trainer = trainer_of(components)
        check_losses(trainer, next(iter(components.train_loader(0).epoch(1))))


@pytest.mark.parametrize("split", ["val", "train"])
def test_evaluation_stays_on_the_device(components: Components, split: str) -> None:
    with pretended_cuda():
        components = on_cuda(components)
        found = trainer_of(components).evaluate(components.eval_loader(split))
    assert set(found) == set(ROWS)


def test_several_teachers_look_and_are_scored_on_the_device() -> None:
    components = of_classes(**TWO)
    with pretended_cuda():
        components = on_cuda(components)
        trainer = trainer_of(components)
        assert trainer.teacher is not None
        batch = next(iter(components.train_loader(0).epoch(1)))
        seen = trainer.teacher.observe(batch)
        assert {name: one.device for name, one in seen.output.items()} == {"logits": CUDA, "distilled2": CUDA}
        (student,) = trainer.students
        _, pairings = student.task.pair(student.model, seen, batch)
        assert devices_of(pairings[head].teacher_logits for head in ("main", "distilled2")) == {"cuda"}
        assert [*evaluate_further_teachers(components)] == ["distilled2"]
        assert trainer.teacher.facts()["macs"] > 0


def test_what_is_kept_of_a_seed_is_counted_and_timed_on_the_device(components: Components) -> None:
    """The run's own preparation of images stays on the CPU when the student goes to the GPU."""
    expected = count_macs(components.student_network.prepared, components.image_size)
    with pretended_cuda():
        components = on_cuda(components)
        for student in trainer_of(components).students:
            network = deployed_network(components, student)
            assert devices_of(chain(network.prepared.parameters(), network.prepared.buffers())) == {"cuda"}
            facts = model_facts(network, components.image_size)
            assert facts["macs"] >= expected
            speed = images_per_second(network.prepared, image_size=components.image_size, batch_size=2, seconds=0.0)
            assert speed > 0


def test_a_memory_format_is_chosen_on_the_device(components: Components) -> None:
    with pretended_cuda():
        network = on_cuda(components).teacher_network
        assert network is not None
        _, seconds = faster_format(network, Trial(2, components.image_size, CUDA))
    assert min(seconds) > 0


def test_what_is_learnt_from_a_bank_lies_on_the_device(tmp_path: Path) -> None:
    rows = ["kd", "projector", "simkd"]
    recipe = tiny_recipe({"rows": rows, "seeds": [0], "fold_teacher": False})
    options = BankOptions(views=1, feature_maps=True)
    [folder] = make_banks(recipe, out=tmp_path, options=options, display=Display(quiet=True))
    banks = SeededBanks({0: BankTeacher(folder.path)}, path=str(tmp_path))
    components = of_classes(rows=rows)
    with pretended_cuda():
        live = on_cuda(components)
        teacher = trainer_of(live).teacher
        assert teacher is not None
        batch = next(iter(live.train_loader(0).epoch(1)))
        seen = teacher.observe(batch)
        stored = packed(seen.output, seen.features, folder.manifest().layout)
        assert devices_of(iter(stored.values())) == {"cpu"}  # on its way to the disk
        for student in trainer_of(replace(live, teacher=banks, teacher_network=None)).students:
            tensors = chain(student.connectors.parameters(), student.connectors.buffers())
            assert devices_of(tensors) <= {"cuda"}, student.name
