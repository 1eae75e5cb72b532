"""`data.sampling: balanced`: classes equally often, as a function of seed and epoch."""

from __future__ import annotations

import pytest
import torch

from understudy.data import DataConfig, TensorSource, train_loader
from understudy.utils.errors import UserError

LABELS = torch.tensor([0] * 20 + [1] * 3 + [3] * 7)  # class 2 has none
CONFIG = DataConfig(root="x", batch_size=8, sampling="balanced", augment="none")


def source() -> TensorSource:
    return TensorSource(torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 3, 4, 4), LABELS)


def drawn(epoch: int, start_step: int = 0, **settings: int) -> list[int]:
    loader = train_loader(source(), CONFIG, **({"seed": 0, "image_size": 4} | settings))  # type: ignore[arg-type]
    return [index for batch in loader.epoch(epoch, start_step) for index in batch.indices.tolist()]  # type: ignore[union-attr]


def test_every_class_comes_equally_often_and_the_samples_of_each_as_evenly_as_can_be() -> None:
    order = drawn(1)
    assert torch.bincount(LABELS[order]).tolist() == [10, 10, 0, 10]
    counts = torch.bincount(torch.tensor(order), minlength=30)
    assert counts[:20].max() == 1
    assert sorted(counts[20:23].tolist()) == [3, 3, 4]
    assert sorted(set(counts[23:].tolist())) == [1, 2]


def test_the_order_is_of_seed_and_epoch_and_goes_on_in_the_middle() -> None:
    assert drawn(2) == drawn(2)
    assert len({tuple(drawn(1)), tuple(drawn(2)), tuple(drawn(1, seed=1))}) == 3
    assert drawn(2, start_step=2) == drawn(2)[16:]


def test_several_processes_share_the_batches_of_one() -> None:
    parts = [drawn(1, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(drawn(1))


def test_an_uneven_number_is_off_by_one_at_most_and_not_always_for_the_same_class() -> None:
    labels = torch.tensor([0] * 20 + [1] * 3 + [3] * 8)
    images = torch.zeros(31, 3, 4, 4, dtype=torch.uint8)
    loader = train_loader(TensorSource(images, labels), CONFIG, seed=0, image_size=4)
    counts = {
        tuple(torch.bincount(torch.cat([batch.targets for batch in loader.epoch(epoch)])).tolist())
        for epoch in range(1, 12)
    }
    assert counts == {(11, 10, 0, 10), (10, 11, 0, 10), (10, 10, 0, 11)}


def test_images_without_labels_and_streams_are_refused() -> None:
    unlabelled = TensorSource(torch.zeros(4, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, -1, 0]))
    with pytest.raises(UserError, match=r"data\.sampling: balanced .* some training images have no label"):
        train_loader(unlabelled, CONFIG, seed=0, image_size=4)
    with pytest.raises(UserError, match=r"streaming: .* cannot go with sampling: balanced"):
        DataConfig.read({"root": "hf:x", "streaming": True, "sampling": "balanced"}, what="data")
