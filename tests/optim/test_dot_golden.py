"""DOT against trajectories of the authors' optimizer (commit and command in each case's JSON)."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.optim import DOT

_FOLDERS = os.environ.get("UNDERSTUDY_GOLDEN", str(Path(__file__).parents[2] / "../shared/golden")).split(os.pathsep)
CASES = sorted(file for folder in _FOLDERS for file in (Path(folder) / "dot").glob("*.json"))
BUFFERS = {"momentum_buffer": "momentum_task", "momentum_kd_buffer": "momentum_distill"}  # theirs: ours
STREAMS = {"task": "grad_task", "distill": "grad_kd"}

pytestmark = pytest.mark.skipif(not CASES, reason="no trajectories in UNDERSTUDY_GOLDEN/dot or ../shared/golden/dot")


class Case:
    """One stored trajectory: its settings, and its tensors by step and parameter."""

    def __init__(self, file: Path) -> None:
        told = json.loads(file.read_text())
        self.settings = {name: entry["value"] for name, entry in told["hyperparameters"].items()}
        self.tolerance = told.get("tolerance_suggested", {"rtol": 1e-9, "atol": 1e-11})
        self.tensors = load_file(file.with_suffix(".safetensors"))
        first = "out.step0.param."
        self.names = [key.removeprefix(first) for key in self.tensors if key.startswith(first)]

    def start(self) -> dict[str, nn.Parameter]:
        return {name: nn.Parameter(self.tensors[f"init.{name}"].clone()) for name in self.names}

    def optimizer(self, parameters: dict[str, nn.Parameter]) -> DOT:
        settings = {key: self.settings[key] for key in ("lr", "momentum", "delta", "weight_decay")}
        return DOT(parameters.values(), **settings)

    def set_lr(self, optimizer: DOT, step: int) -> None:
        for changed_at, lr in self.settings["lr_schedule"]:
            if changed_at == step:
                optimizer.param_groups[0]["lr"] = lr

    def fed(self, step: int, stream: str) -> dict[str, Tensor]:
        """The stored gradients of one loss, for the parameters that it reaches at all."""
        what = STREAMS[stream]
        every = range(self.settings["steps"])
        return {
            name: self.stored(step, what, name)
            for name in self.names
            if any((found := self.stored(k, what, name)) is not None and found.any() for k in every)
        }

    def stored(self, step: int, what: str, name: str) -> Tensor | None:
        return self.tensors.get(f"out.step{step}.{what}.{name}")

    def check(self, step: int, parameters: dict[str, nn.Parameter], optimizer: DOT) -> None:
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.data, self.stored(step, "param", name), **self.tolerance)
            for theirs, ours in BUFFERS.items():
                expected = self.stored(step, theirs, name)
                if expected is not None and ours in optimizer.state[parameter]:
                    torch.testing.assert_close(optimizer.state[parameter][ours], expected, **self.tolerance)


@pytest.fixture(params=CASES, ids=lambda file: file.stem)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def loss_with_gradients(parameters: dict[str, nn.Parameter], gradients: dict[str, Tensor]) -> Tensor:
    return torch.stack([(parameters[name] * gradient).sum() for name, gradient in gradients.items()]).sum()


def test_dot_follows_the_authors_optimizer_on_their_gradients(case: Case) -> None:
    parameters = case.start()
    optimizer = case.optimizer(parameters)
    for step in range(case.settings["steps"]):
        case.set_lr(optimizer, step)
        fed = {stream: case.fed(step, stream) for stream in STREAMS}
        if step == 0:  # their first step does not decay what only the distill loss reaches; ours does
            for name in fed["distill"].keys() - fed["task"].keys():
                fed["distill"][name] = fed["distill"][name] - case.settings["weight_decay"] * parameters[name].data
        optimizer.backward(**{stream: loss_with_gradients(parameters, found) for stream, found in fed.items()})
        optimizer.step()
        case.check(step, parameters, optimizer)


def test_dot_follows_the_authors_optimizer_through_a_network_trained_with_kd(case: Case) -> None:
    if case.settings["distiller"] != "KD":
        pytest.skip("the case stores no network that can be rebuilt from its names")
    parameters = case.start()
    optimizer = case.optimizer(parameters)
    temperature = case.settings["kd_temperature"]
    for step in range(case.settings["steps"]):
        case.set_lr(optimizer, step)
        hidden = F.linear(
            case.tensors[f"images.{step}"], parameters["student.fc1.weight"], parameters["student.fc1.bias"]
        )
        logits = F.linear(F.relu(hidden), parameters["student.fc2.weight"], parameters["student.fc2.bias"])
        softened = F.log_softmax(logits / temperature, dim=1)
        teacher = F.log_softmax(case.tensors[f"teacher_logits.{step}"] / temperature, dim=1)
        kl = F.kl_div(softened, teacher, reduction="batchmean", log_target=True) * temperature**2
        optimizer.backward(
            task=case.settings["ce_weight"] * F.cross_entropy(logits, case.tensors[f"target.{step}"]),
            distill=case.settings["kd_weight"] * kl,
        )
        optimizer.step()
        case.check(step, parameters, optimizer)
