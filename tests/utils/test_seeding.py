"""Random states of one's own, on CUDA by a model of what its generators do: they point to a seed and an offset."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from understudy.utils.seeding import RandomState, renew_default_generator


class ModelGenerator:
    """A CUDA generator: several may point to one state; one whose capture failed refuses to draw."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = torch.device("cuda", 0)
        self.state = {"seed": 0, "offset": 0, "capturing": False}

    def get_state(self) -> Tensor:
        return torch.tensor([self.state["seed"], self.state["offset"]])

    def set_state(self, state: Tensor) -> None:
        self.state["seed"], self.state["offset"] = state.tolist()

    def graphsafe_get_state(self) -> ModelGenerator:
        made = ModelGenerator()
        made.state = self.state
        return made

    def graphsafe_set_state(self, other: ModelGenerator) -> None:
        self.state = other.state

    def draw(self) -> tuple[int, int]:
        if self.state["capturing"]:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.state["offset"] += 4
        return self.state["seed"], self.state["offset"]


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelGenerator]:
    """The default generator of a GPU that is not there."""
    generator, manual_seed = ModelGenerator(), torch.manual_seed

    def seed_all(seed: int) -> None:
        manual_seed(seed)
        generator.set_state(torch.tensor([seed, 0]))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch.cuda, "get_rng_state", generator.get_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", generator.set_state)
    monkeypatch.setattr(torch, "Generator", ModelGenerator)
    monkeypatch.setattr(torch, "manual_seed", seed_all)
    return generator


def test_a_state_on_cuda_advances_only_while_it_is_swapped_in(default: ModelGenerator) -> None:
    torch.manual_seed(3)
    default.draw()
    own = RandomState(7)
    with own.swapped_in():
        assert default.draw() == (7, 4)
    assert default.draw() == (3, 8)
    with own.swapped_in(), RandomState(9).swapped_in():
        assert default.draw() == (9, 4)
    with own.swapped_in():
        assert default.draw() == (7, 8)
    assert own.state_dict()["cuda"].tolist() == [7, 8]


def test_what_a_graph_draws_from_is_what_checkpoints_hold(default: ModelGenerator) -> None:
    """A replay moves the generator that the graph was told of, whatever the default one points to by then."""
    own = RandomState(7)
    assert own.cuda_generator is not None
    own.cuda_generator.draw()
    resumed = RandomState(1)
    resumed.load_state_dict(own.state_dict())
    with own.swapped_in():
        expected = default.draw()
    with resumed.swapped_in():
        assert default.draw() == expected == (7, 8)


def test_after_a_capture_that_failed_there_are_generators_that_draw(default: ModelGenerator) -> None:
    own = RandomState(7)
    stood = own.state_dict()
    default.state["capturing"] = own.cuda_generator.state["capturing"] = True
    own.load_state_dict(stood)
    renew_default_generator()
    default.draw()
    with own.swapped_in():
        assert default.draw() == (7, 4)


def test_a_state_kept_on_a_gpu_goes_on_where_there_is_none() -> None:
    own, other = RandomState(7), RandomState(8)
    other.load_state_dict({**own.state_dict(), "cuda": torch.zeros(16, dtype=torch.uint8)})
    with own.swapped_in():
        expected = torch.rand(2)
    with other.swapped_in():
        assert torch.equal(torch.rand(2), expected)
    assert set(other.state_dict()) == {"cpu"}
