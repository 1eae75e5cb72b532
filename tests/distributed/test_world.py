"""What processes exchange: sums, rows with gradient, what the first one says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.two_processes import TwoProcesses
from understudy import UserError
from understudy.core.batch import Pairing
from understudy.distributed.launch import joined
from understudy.distributed.world import SINGLE, RankCounts

COUNTS = (3, 4)


def rows_of_all(num_copies: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    num_rows = sum(COUNTS)
    copies = torch.arange(num_copies).repeat_interleave(num_rows)
    return {
        "logits": torch.randn(num_rows * num_copies, 3, generator=generator, dtype=torch.float64),
        "labels": torch.arange(num_rows).repeat(num_copies) % 3,
        "indices": torch.arange(num_rows).repeat(num_copies),
        "copies": copies,
    }


def related_loss(logits: Tensor) -> Tensor:
    """A number that relates all rows."""
    return (logits @ logits.T).logsumexp(dim=1).square().sum()


def gathered_with_gradient(num_copies: int) -> tuple[dict[str, Any], Tensor]:
    """The gathered rows, and this process's gradient of a loss on them."""
    with joined() as world:
        rows = world.rows(COUNTS[world.rank])
        every = rows_of_all(num_copies)
        is_mine = (every["indices"] < COUNTS[0]) == (world.rank == 0)
        mine = every["logits"][is_mine].requires_grad_()
        pairing = Pairing(
            student_logits=mine,
            teacher_logits=None,
            labels=every["labels"][is_mine],
            student_features={"maps": mine[:, :, None, None] * 2},
            indices=every["indices"][is_mine],
            copies=every["copies"][is_mine] if num_copies > 1 else None,
        )
        whole = world.gather(pairing, rows)
        (related_loss(whole.student_logits) / world.size).backward()
        found = {"logits": whole.student_logits.detach(), "labels": whole.labels, "indices": whole.indices}
        assert whole.teacher_logits is None
        assert torch.equal(whole.student_features["maps"][:, :, 0, 0], 2 * whole.student_logits)
        return {"rows": rows.counts, "mine": rows.mine, **found}, mine.grad


@pytest.mark.parametrize("num_copies", [1, 4])
def test_gathered_rows_are_in_one_process_s_order_and_their_gradient_is_too(
    num_copies: int, pair: TwoProcesses
) -> None:
    answers = pair.call(gathered_with_gradient, num_copies)
    every = rows_of_all(num_copies)
    alone = every["logits"].clone().requires_grad_()
    related_loss(alone).backward()
    of_first = every["indices"] < COUNTS[0]
    for (found, gradient), is_mine, count in zip(answers, (of_first, ~of_first), COUNTS, strict=True):
        assert found["rows"] == COUNTS
        assert found["mine"] == count
        assert all(torch.equal(found[name], every[name]) for name in ("logits", "labels", "indices"))
        assert torch.allclose(gradient, alone.grad[is_mine], rtol=1e-12)


def sums() -> list[Tensor]:
    with joined() as world:
        mine = 10.0**world.rank
        big = torch.full((5_000_000,), mine)  # more than a bucket
        channels_last = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last) * mine
        return world.add_up([torch.tensor(mine), big, channels_last, torch.full((2,), mine).double(), big[:3]])


def test_sums_keep_type_and_memory_format_over_buckets_of_any_size(pair: TwoProcesses) -> None:
    for scalar, big, maps, double, end in pair.call(sums):
        assert scalar.item() == 11
        assert bool((big == 11).all())
        assert torch.equal(maps, 11 * torch.arange(24.0).view(1, 2, 3, 4))
        assert maps.is_contiguous(memory_format=torch.channels_last)
        assert double.dtype == torch.float64
        assert bool((end == 11).all())


def first_ones_word() -> list[Any]:
    with joined() as world:
        tensor = torch.full((2, 2), float(world.rank)).t()
        world.copy_from_first_([tensor])
        norm = torch.nn.BatchNorm1d(2)
        norm.running_mean.fill_(world.rank)
        world.average_buffers_(norm)

        def refuse() -> None:
            raise UserError(f"the data of process {world.rank} is missing")

        try:
            world.from_first(refuse)
        except UserError as error:
            said = str(error)
        rows = world.gather_rows(torch.arange(world.rank * 3))
        return [
            world.from_first(lambda: f"path of {world.rank}"),
            said,
            tensor.tolist(),
            norm.running_mean.tolist(),
            int(norm.num_batches_tracked),
            rows.tolist(),
            world.exchange(world.rank, 7),
        ]


def test_what_the_first_process_has_and_refuses_is_everybodys(pair: TwoProcesses) -> None:
    for answer in pair.call(first_ones_word):
        assert answer == [
            "path of 0",
            "the data of process 0 is missing",
            [[0.0, 0.0], [0.0, 0.0]],
            [0.5, 0.5],
            0,
            [0, 1, 2],
            [(0, 7), (1, 7)],
        ]


def test_a_single_process_exchanges_nothing() -> None:
    with joined() as world:
        assert world is SINGLE
    tensor, rows = torch.ones(2), RankCounts((2,))
    assert world.add_up([tensor])[0] is tensor
    assert world.rows(2) == rows
    assert rows.mine == 2
    assert world.gather_rows(tensor) is tensor


def test_processes_that_cannot_meet_are_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match=r"the processes of this run cannot be brought together: .*RANK"), joined():
        pass
