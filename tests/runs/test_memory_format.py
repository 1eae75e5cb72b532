"""Memory formats: what is told is done, what is measured is written down and kept to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from helpers.engine import CPU, reproducible_files, run_recipe, tiny_recipe
from understudy.models import Network, network_of
from understudy.runs import memory_format
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.memory_format import Choice, Trial, choose_memory_format, faster_format
from understudy.runs.preflight import check

# Narrower ones stay contiguous whatever is wanted (models/network.py).
WIDE_ENOUGH = {"model": "cifar:resnet8", "kwargs": {"width": 1}, "weights": "none"}


def parts_with(channels_last: bool | str) -> Components:
    return open_components(
        tiny_recipe({"channels_last": channels_last, "student": WIDE_ENOUGH, "teacher": {"kwargs": {"width": 1}}}),
        allow_code=False,
        say=lambda text: None,
    )


def is_channels_last(module: nn.Module) -> bool:
    """Whether all its convolutions are, of those where the formats differ: several channels, several pixels."""
    convolutions = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    weights = [child.weight for child in convolutions if child.in_channels > 1 and child.kernel_size != (1, 1)]
    assert weights
    found = {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}
    assert len(found) == 1
    return found.pop()


def formats_of(components: Components) -> tuple[bool, bool, bool]:
    """Of the student that is described, of one that is made, and of the teacher that looks."""
    assert components.teacher is not None
    return (
        is_channels_last(components.student_network.module),
        is_channels_last(components.make_student().module),
        is_channels_last(components.teacher.model.module),
    )


@pytest.mark.parametrize(("told", "wanted"), [(True, True), (False, False)])
def test_what_is_told_is_done_and_nothing_is_written(told: bool, wanted: bool, tmp_path: Path) -> None:
    components = choose_memory_format(parts_with(told), tmp_path / "choice.json", say=lambda text: None)
    assert formats_of(components) == (wanted, wanted, wanted)
    assert not (tmp_path / "choice.json").exists()


@pytest.mark.parametrize(("student", "teacher"), [(True, False), (False, True)])
def test_auto_takes_for_each_network_the_format_that_was_faster(
    student: bool, teacher: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(network: Network, trial: Trial) -> tuple[bool, tuple[float, float]]:
        faster = student if trial.trains else teacher
        return faster, (0.02, 0.01) if faster else (0.01, 0.02)

    monkeypatch.setattr(memory_format, "faster_format", fake)
    said: list[str] = []
    components = choose_memory_format(parts_with("auto"), tmp_path / "choice.json", say=said.append)
    assert formats_of(components) == (student, student, teacher)
    assert f"student {'channels_last' if student else 'contiguous'}" in said[0]
    assert f"teacher {'channels_last' if teacher else 'contiguous'}" in said[0]
    assert "20.0 ms" in said[0]


def test_the_slower_format_is_not_taken() -> None:
    class SlowWhereChannelsLast(nn.Module):
        def __init__(self, slow: bool) -> None:
            super().__init__()
            self.conv, self.slow = nn.Conv2d(3, 16, 3), slow

        def forward(self, images: Tensor) -> Tensor:
            for _ in range(40 if self.conv.weight.is_contiguous() != self.slow else 1):
                found = self.conv(images)
            return found.mean((2, 3))

    trial = Trial(batch_size=8, image_size=16, device=CPU, trains=True)
    for slow in (True, False):
        chosen, (contiguous, channels_last) = faster_format(
            network_of(SlowWhereChannelsLast(slow), num_classes=16), trial
        )
        assert chosen is not slow
        assert (channels_last < contiguous) is chosen


@pytest.mark.parametrize(("channels", "only_in_training"), [(1, False), (3, True)])
def test_a_network_that_fails_in_channels_last_is_measured_contiguous(channels: int, only_in_training: bool) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(channels, 16, 3), nn.Conv2d(16, 16, 3))

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return maps.view(len(maps), -1) if self.training or not only_in_training else maps.flatten(1)

    trial = Trial(batch_size=2, image_size=8, device=CPU, trains=True, channels=channels)
    chosen, (_, channels_last) = faster_format(network_of(Viewing(), num_classes=256, channels=channels), trial)
    assert not chosen
    assert channels_last is None


def test_measuring_changes_neither_the_network_nor_what_is_drawn_next() -> None:
    network = parts_with(True).student_network
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    random_state = torch.get_rng_state()
    faster_format(network, Trial(batch_size=4, image_size=8, device=CPU, trains=True))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert all(parameter.grad is None for parameter in network.module.parameters())


def test_a_choice_that_was_written_is_kept_and_nothing_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "choice.json"
    first = choose_memory_format(parts_with("auto"), file, say=lambda text: None)
    chosen = Choice.read(json.loads(file.read_text()), what="choice")
    file.write_text(
        Choice(student=not chosen.student, teacher=chosen.teacher, seconds=chosen.seconds).model_dump_json()
    )

    def refused(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(memory_format, "faster_format", refused)
    again = choose_memory_format(parts_with("auto"), file, say=lambda text: None)
    assert formats_of(again)[0] is not formats_of(first)[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"student": "perhaps"}', '{"student": true}'])
def test_a_damaged_choice_is_refused_with_the_way_out(content: str, tmp_path: Path) -> None:
    (tmp_path / "choice.json").write_text(content)
    with pytest.raises(
        us.UserError, match=r"choice.json does not say any more.*begin anew, with channels_last: true or"
    ):
        choose_memory_format(parts_with("auto"), tmp_path / "choice.json", say=lambda text: None)


def test_a_run_with_auto_that_is_cut_off_goes_on_in_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe({"channels_last": "auto", "seeds": [0], "rows": ["kd"], "student": WIDE_ENOUGH})
    told = {True: (0.2, 0.1), False: (0.1, 0.2)}
    monkeypatch.setattr(memory_format, "faster_format", lambda *_: (False, told[False]))
    whole = run_recipe(recipe, tmp_path / "whole")

    with monkeypatch.context() as patch:
        patch.setattr("understudy.runs.run.keep_seed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, tmp_path / "cut")
    monkeypatch.setattr(memory_format, "faster_format", lambda *_: (True, told[True]))  # another day, other times
    resumed = run_recipe(recipe, tmp_path / "cut")
    assert files_of(resumed) == files_of(whole)


def files_of(run: RunFolder) -> dict[str, bytes]:
    return {name: content for name, content in reproducible_files(run).items() if name != "results.json"}


def test_distill_runs_in_the_faster_format_and_gives_back_a_plain_network(tmp_path: Path) -> None:
    images, labels = torch.rand(32, 3, 8, 8), torch.arange(32) % 4
    data = torch.utils.data.TensorDataset(images, labels)
    student = us.create_model("cifar:resnet8", num_classes=4, kwargs={"width": 1}, weights="none").module
    seen: list[bool] = []
    student.conv1.register_forward_hook(
        lambda module, inputs, output: seen.append(module.weight.is_contiguous(memory_format=torch.channels_last))
    )
    result = us.distill(
        None, student, train=data, val=data, method="none", epochs=1, batch_size=16, out=tmp_path / "run", quiet=True
    )
    assert True in seen
    assert all(seen[seen.index(True) :])  # before: contiguous copies, by which the network is known again
    assert is_channels_last(student) is False  # what was handed over stays as it was
    assert all(value.is_contiguous() for value in result.student.state_dict().values())


def test_check_says_which_format_a_run_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    check(tiny_recipe({"channels_last": "auto", "rows": [], "method": "kd"}), allow_code=False, display=Display())
    assert re.search(r"format +student (channels_last|contiguous) \(.* ms contiguous", capsys.readouterr().out)
