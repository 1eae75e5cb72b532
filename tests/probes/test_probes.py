"""Probes: they change nothing, go on with a resumed run, and say what the papers' figures say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.command_line import documented
from helpers.engine import (
    CPU,
    batches,
    read_metrics,
    reproducible_files,
    run_recipe,
    small_net,
    small_teacher,
    student_of,
    tiny_recipe,
)
from understudy import DOT, Joint, StudentSpec, Trainer, methods
from understudy.core.batch import Pairing
from understudy.probes import PROBES, Probe, Probed, Sight
from understudy.probes.momenta import Momenta
from understudy.recipes.schema import Recipe
from understudy.runs.folder import RunFolder
from understudy.runs.watcher import RunWatcher
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted

torch.set_num_threads(1)

ALL = ["momenta", "projector", "losses", "equivariance"]
ROWS = ["alone", "kd+dot", "crd"]  # crd writes into its memory in each pass


def recipe(**over: Any) -> Recipe:
    return tiny_recipe({"rows": ROWS, "seeds": [0], **over})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_recipe(recipe(), tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_recipe(recipe(probes=ALL, probe_every=2), tmp_path_factory.mktemp("probed") / "run")


def seen(run: RunFolder, probe: str) -> dict[str, Tensor]:
    return load_file(run.probes / f"{probe}.safetensors")


@pytest.mark.slow
class TestInARun:
    def test_a_probed_run_is_the_same_bit_for_bit(self, plain: RunFolder, probed: RunFolder) -> None:
        before, after = reproducible_files(plain), reproducible_files(probed)
        differ = {name for name in before if before[name] != after.get(name)}
        assert {name for name in differ if name.endswith((".safetensors", "results.json"))} == set()
        assert read_metrics(plain) == [line for line in read_metrics(probed) if line["kind"] != "probe"]

    def test_without_probes_nothing_is_left_of_them(self, plain: RunFolder) -> None:
        assert not plain.probes.exists()
        assert {line["kind"] for line in read_metrics(plain)} == {"train", "epoch"}

    def test_every_row_has_its_own_at_every_second_step(self, probed: RunFolder) -> None:
        found = seen(probed, "momenta")
        for row in ("kd+dot", "crd"):
            assert found[f"{row}/0/step"].tolist() == [2, 4, 6]
            assert (found[f"{row}/0/cos_gradients"].abs() <= 1).all()
        assert not any(name.startswith("alone/") for name in found)
        assert len({float(found[f"{row}/0/cos_gradients"][0]) for row in ("kd+dot", "crd")}) == 2

    def test_numbers_are_lines_of_the_metrics_too(self, probed: RunFolder) -> None:
        lines = [line for line in read_metrics(probed) if line["kind"] == "probe" and line["probe"] == "momenta"]
        mine = [line["values"]["cos_gradients"] for line in lines if line["row"] == "crd"]
        assert mine == seen(probed, "momenta")["crd/0/cos_gradients"].tolist()

    def test_the_spectrum_at_the_end_is_that_of_the_kept_connector(self, probed: RunFolder) -> None:
        kept = load_file(probed.students / "crd" / "seed0" / "method.safetensors")
        weight = next(value for name, value in kept.items() if name.endswith("student_embedding.weight"))
        found = seen(probed, "projector")["crd/0/crd.student_embedding/singular_values"]
        assert found.shape == (3, min(weight.shape))
        assert torch.allclose(found[-1], torch.linalg.svdvals(weight.double()), atol=1e-6)

    def test_losses_are_measured_of_a_student_alone_too(self, probed: RunFolder) -> None:
        found = seen(probed, "losses")
        assert found["alone/0/epoch"].tolist() == [1, 2]
        assert (found["alone/0/kl_to_teacher"] > 0).all()
        assert "alone/0/distill" not in found
        assert (found["crd/0/distill"] > 0).all()

    def test_a_run_that_is_stopped_between_two_looks_goes_on_with_them_bit_for_bit(
        self, probed: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stepped = RunWatcher.stepped

        def stop(watcher: RunWatcher, trainer: Trainer, *, is_last: bool) -> None:
            if trainer.step == 3:  # of 6, the end of an epoch
                watcher.stop.signal = 2
            stepped(watcher, trainer, is_last=is_last)

        monkeypatch.setattr(RunWatcher, "stepped", stop)
        again = recipe(probes=ALL, probe_every=2)
        with pytest.raises(Interrupted):
            run_recipe(again, tmp_path / "run")
        monkeypatch.undo()
        run = run_recipe(again, tmp_path / "run")
        expected, found = reproducible_files(probed), reproducible_files(run)
        assert [name for name in expected if name.startswith("probes") and expected[name] != found[name]] == []
        assert read_metrics(run) == read_metrics(probed)


def test_a_misspelt_probe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="momenta"):
        recipe(probes=["momentum"])


@pytest.mark.parametrize("update", [Joint.Config(lr=0.1), DOT.Config(lr=0.1)], ids=["joint", "dot"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_probed_student_takes_the_very_same_steps(update: Any, accumulate: int) -> None:
    def weights(probes: list[str]) -> Tensor:
        teacher = small_teacher()
        spec = StudentSpec(
            small_net(1, dropout=0.5), method=methods.Projector.Config(), update=update, accumulate=accumulate
        )
        student = student_of(spec, teacher)
        trainer = Trainer([student], teacher=teacher, device=CPU, probes=probes, probe_every=1)
        trainer.fit(list(batches()), epochs=2)
        return torch.cat([p.flatten() for p in [*student.model.parameters(), *student.connectors.parameters()]])

    assert torch.equal(weights([]), weights(ALL))


def fitted(update: Any, *, every: int = 1, network: nn.Module | None = None, **spec: Any) -> Trainer:
    teacher = small_teacher()
    kd = methods.KD.Config()
    student = student_of(StudentSpec(network or small_net(1), method=kd, update=update, name="row", **spec), teacher)
    trainer = Trainer([student], teacher=teacher, device=CPU, probes=["momenta"], probe_every=every)
    trainer.fit(list(batches()), epochs=2)
    return trainer


def test_a_compiled_student_is_not_asked_for_its_gradients() -> None:
    teacher = small_teacher()
    spec = StudentSpec(small_net(1), method=methods.Projector.Config(), name="row", compile=True)
    trainer = Trainer([student_of(spec, teacher)], teacher=teacher, device=CPU, probes=ALL)
    assert "leave out compile" in trainer.probing.problems()["momenta"]["row"]
    assert sorted(trainer.probing.tensors()) == ["losses", "projector"]


def series(trainer: Trainer) -> dict[str, Tensor]:
    return trainer.probing.tensors()["momenta"]["row"]


class TestMomenta:
    def test_a_joint_row_is_probed_as_dot_with_delta_0(self) -> None:
        joint = series(fitted(Joint.Config(lr=0.1)))
        dot = series(fitted(DOT.Config(lr=0.1, delta=0.0)))
        assert len(joint["step"]) == 6
        for name, values in joint.items():
            if name != "opposed":  # counts numbers that are rounding alone, such as a bias before a batch norm
                assert torch.allclose(values.double(), dot[name].double(), rtol=1e-3, atol=1e-5), name

    def test_under_dot_the_distill_momentum_comes_closer_to_the_whole(self) -> None:
        plain = series(fitted(DOT.Config(lr=0.01, delta=0.0)))
        apart = series(fitted(DOT.Config(lr=0.01, delta=0.09)))
        assert apart["cos_distill_total"][-1] > plain["cos_distill_total"][-1]
        share = [found["norm_distill_momentum"] / found["norm_task_momentum"] for found in (plain, apart)]
        assert (share[1][1:] > share[0][1:]).all()

    def test_passes_of_a_step_add_up(self) -> None:
        found = []
        for accumulate in (1, 2):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
            found.append(series(fitted(Joint.Config(lr=0.1), network=network, accumulate=accumulate)))
        for name, values in found[0].items():
            assert torch.allclose(values.double(), found[1][name].double(), rtol=1e-3), name

    def test_two_parameters_by_hand(self) -> None:
        # Gradients (-1, 3) and (1, 12) in every step, momentum 0.9: after two steps both momenta are 1.9 of them.
        weight = nn.Parameter(torch.zeros(2))
        update = Joint(torch.optim.SGD([weight], lr=0.1, momentum=0.9))
        method = student_of(StudentSpec(small_net(1), method=methods.KD.Config()), small_teacher()).methods[0].method
        probe = Momenta(Probed("row", nn.Identity(), [method], [("weight", weight)], update))
        pairing = Pairing(torch.zeros(1, 2), None, torch.zeros(1))
        gradients = {"task": [torch.tensor([-1.0, 3.0])], "distill": [torch.tensor([1.0, 12.0])]}
        for step in (1, 2):
            sight = Sight(1, step, pairing, gradients, {"task": [True], "distill": [True]})
            probe.before_step(sight)
            found = probe.look(sight)
        assert found["cos_gradients"] == pytest.approx(35 / (10 * 145) ** 0.5)
        assert found["cos_distill_total"] == pytest.approx((12 * 15) / (145**0.5 * 15))
        assert found["cos_task_total"] == pytest.approx((3 * 15) / (10**0.5 * 15))
        assert found["norm_task_momentum"] == pytest.approx(1.9 * 10**0.5)

    def test_a_gradient_stands_for_the_steps_since_the_one_before(self) -> None:
        weight = nn.Parameter(torch.zeros(1))
        update = Joint(torch.optim.SGD([weight], lr=0.1, momentum=0.5))
        method = student_of(StudentSpec(small_net(1), method=methods.KD.Config()), small_teacher()).methods[0].method
        probe = Momenta(Probed("row", nn.Identity(), [method], [("weight", weight)], update))
        one = {"task": [torch.ones(1)], "distill": [torch.ones(1)]}
        sight = Sight(1, 3, Pairing(torch.zeros(1, 2), None, torch.zeros(1)), one, {"task": [True], "distill": [True]})
        probe.before_step(sight)
        assert probe.look(sight)["norm_task_momentum"] == pytest.approx(1 + 0.5 + 0.25)


class TestOnesOwn:
    @pytest.fixture(autouse=True)
    def _forgotten(self) -> Any:
        before = dict(PROBES)
        yield
        PROBES.clear()
        PROBES.update(before)

    def test_the_documented_one_looks(self) -> None:
        exec(documented("Biases"), {"__name__": "documented"})  # of our own page
        trainer = Trainer(
            [student_of(StudentSpec(small_net(1), name="row"))],
            teacher=None,
            device=CPU,
            probes=["biases"],
            probe_every=3,
        )
        trainer.fit(list(batches()), epochs=2)
        assert trainer.probing.tensors()["biases"]["row"]["length"].shape == (2,)

    def test_one_that_fails_is_left_out_and_the_training_goes_on(self) -> None:
        class Failing(Probe, name="failing"):
            def look(self, sight: Sight) -> Any:
                raise RuntimeError("no")

        said: list[str] = []
        trainer = Trainer(
            [student_of(StudentSpec(small_net(1), name="row"))],
            teacher=None,
            device=CPU,
            probes=["failing"],
            probe_every=1,
            say=said.append,
        )
        trainer.fit(list(batches()), epochs=2)
        assert trainer.epoch == 3
        (told,) = [line for line in said if "failing" in line]
        assert "left out" in told

    def test_one_that_draws_random_numbers_changes_nothing(self) -> None:
        class Drawing(Probe, name="drawing"):
            def look(self, sight: Sight) -> Any:
                return {"drawn": torch.rand(())}

        def weights(probes: list[str]) -> Tensor:
            student = student_of(StudentSpec(small_net(1, dropout=0.5), name="row"))
            Trainer([student], teacher=None, device=CPU, probes=probes, probe_every=1).fit(list(batches()), epochs=1)
            return torch.cat([p.flatten() for p in student.model.parameters()])

        assert torch.equal(weights([]), weights(["drawing"]))
