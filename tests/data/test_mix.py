"""Mixup and CutMix: timm's mathematics, on student and teacher alike, whatever is loaded how."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

from understudy.core.batch import Batch, PlannedBatch
from understudy.data import DataConfig, DataSplits, TensorSource, TrainLoader, open_data, train_loader
from understudy.data.augment.config import MixConfig
from understudy.data.augment.crops import globally_seeded
from understudy.data.augment.mix import mixed
from understudy.data.loaders.base import planned_batches
from understudy.tasks import Classification
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed

NUM_CLASSES = 5
KINDS = [
    {"mixup_alpha": 0.8, "cutmix_alpha": 0.0},
    {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.8},
]
MODES = ["batch", "pair", "elem"]


def timms(mode: str = "batch", **kind: float) -> Mixup:
    return Mixup(**kind, mode=mode, label_smoothing=0.0, num_classes=NUM_CLASSES)


def plain_batch(size: int = 6, teacher_size: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, 16, 16, generator=generator)
    larger = None if teacher_size is None else F.interpolate(images, size=teacher_size, mode="nearest")
    targets = torch.arange(size) % NUM_CLASSES
    return Batch(images, targets, larger, indices=torch.arange(size) + 100, view=3)


def mixed_by_timm(batch: Batch, mixup: Mixup, *, seed: int) -> Batch:
    """What timm makes of a batch, its middle row twice where their number is odd; the teacher's by its shares."""
    middle, is_odd = len(batch.targets) // 2, len(batch.targets) % 2 == 1

    def even(rows: Tensor) -> Tensor:
        return torch.cat([rows[: middle + 1], rows[middle:]]) if is_odd else rows.clone()

    def as_before(rows: Tensor) -> Tensor:
        return torch.cat([rows[: middle + 1], rows[middle + 2 :]]) if is_odd else rows

    with globally_seeded(seed):
        images, targets = mixup(even(batch.images), even(batch.targets))
    seen = None
    if batch.teacher_images is not None:
        is_first = (torch.arange(len(images)) < len(images) // 2).view(-1, 1, 1, 1)
        with globally_seeded(seed):
            shares, _ = mixup(
                is_first.float().expand(-1, 1, *images.shape[-2:]).contiguous(), is_first.flatten().long()
            )
        others = even(batch.teacher_images)
        own = F.interpolate(torch.where(is_first, shares, 1 - shares), size=others.shape[-2:], mode="nearest")
        seen = as_before(others * own + others.flip(0) * (1 - own))
    return replace(batch, images=as_before(images), targets=as_before(targets), teacher_images=seen)


def assert_same(one: Batch, other: Batch) -> None:
    for field in ("images", "targets", "teacher_images", "indices"):
        ours, theirs = getattr(one, field), getattr(other, field)
        assert ours is theirs is None or torch.equal(ours, theirs), field


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_batch_is_mixed_as_timm_mixes_it_bit_for_bit(mode: str, kind: dict[str, float]) -> None:
    for size in (1, 6, 7):
        for teacher_size in (None, 32):
            batch, untouched = (plain_batch(size, teacher_size) for _ in range(2))
            for seed in range(10):
                ours = mixed(batch, timms(mode, **kind), seed=seed)
                assert_same(ours, mixed_by_timm(batch, timms(mode, **kind), seed=seed))
                assert (ours.targets.dtype, ours.targets.shape) == (torch.float32, (size, NUM_CLASSES))
                assert torch.allclose(ours.targets.sum(dim=1), torch.ones(size))
            assert_same(batch, untouched)
            assert ours.view == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mix", [{"cutmix": 0.0}, {"mixup": 0.0}, {"prob": 0.7}], ids=str)
def test_batches_that_are_mixed_within_the_step_are_those_that_timm_mixes(mode: str, mix: dict[str, float]) -> None:
    config = MixConfig(mode=mode, **mix)
    mixup = Mixup(config.mixup, config.cutmix, prob=config.prob, mode=mode, label_smoothing=0.0, num_classes=10)
    for epoch in (1, 2):
        planned = planned_batches(loader_of({"mix": {"mode": mode, **mix}}), epoch)
        for step, (batch, plain) in enumerate(zip(planned, loader_of({}).epoch(epoch), strict=True)):
            assert isinstance(batch, PlannedBatch)
            assert batch.keys.dtype == torch.int64
            assert batch.view == epoch - 1
            assert_same(batch.made(), mixed_by_timm(plain, mixup, seed=hashed(0, "mix", epoch, step, 0)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_middle_row_of_an_odd_batch_stays_and_the_others_meet_each_other(mode: str, size: int) -> None:
    batch, middle = plain_batch(size), size // 2
    for seed in range(10):
        ours = mixed(batch, timms(mode, mixup_alpha=0.8, cutmix_alpha=1.0), seed=seed)
        assert ours.images.shape == batch.images.shape
        assert torch.allclose(ours.images[middle], batch.images[middle], atol=1e-6)
        assert torch.allclose(ours.targets[middle], F.one_hot(batch.targets[middle], NUM_CLASSES).float())
        for row in range(size):
            own, other = batch.images[row], batch.images[size - 1 - row]
            low, high = torch.minimum(own, other), torch.maximum(own, other)
            assert (ours.images[row] >= low - 1e-6).all()
            assert (ours.images[row] <= high + 1e-6).all()


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_teacher_at_another_size_sees_the_same_shares_and_boxes(mode: str, kind: dict[str, float], size: int) -> None:
    batch = plain_batch(size, teacher_size=32)
    for seed in range(10):
        ours = mixed(batch, timms(mode, **kind), seed=seed)
        assert ours.teacher_images is not None
        doubled = F.interpolate(ours.images, size=32, mode="nearest")
        assert torch.allclose(ours.teacher_images, doubled, atol=1e-5)
        assert torch.equal(ours.images, mixed(plain_batch(size), timms(mode, **kind), seed=seed).images)


@pytest.mark.parametrize("mode", MODES)
def test_smoothing_by_the_task_equals_timms_smoothed_targets(mode: str) -> None:
    batch = plain_batch()
    ours = mixed(batch, timms(mode, mixup_alpha=0.8, cutmix_alpha=1.0), seed=1)
    with globally_seeded(1):
        smoothing = Mixup(0.8, 1.0, mode=mode, label_smoothing=0.1, num_classes=NUM_CLASSES)
        _, theirs = smoothing(plain_batch().images, batch.targets)
    logits = torch.randn(6, NUM_CLASSES, generator=torch.Generator().manual_seed(1))

    assert torch.allclose(ours.targets * 0.9 + 0.1 / NUM_CLASSES, theirs, atol=1e-6)
    loss = Classification(NUM_CLASSES, label_smoothing=0.1)._loss(logits, ours.targets)
    assert torch.allclose(loss, SoftTargetCrossEntropy()(logits, theirs))


def test_labels_say_how_much_is_seen_of_whom() -> None:
    black, white = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    batch = Batch(torch.cat([black, white]), torch.tensor([0, 1]))
    for seed in range(30):
        ours = mixed(batch, timms(mixup_alpha=0.8, cutmix_alpha=1.0), seed=seed)
        assert torch.allclose(ours.images.mean(dim=(1, 2, 3)), ours.targets[:, 1], atol=1e-5)


def splits(labels: Tensor) -> DataSplits:
    images = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8)
    source = TensorSource(images, labels)
    return DataSplits("x", tuple("abcde"), train=source, val=source, test=None, val_origin="train")


def loader_of(settings: dict[str, Any], *, rank: int = 0, seed: int = 0) -> TrainLoader:
    config = DataConfig(root="digits", train_rows="0:23", val_rows="30:40", batch_size=5, **settings)
    loader = train_loader(open_data(config), config, seed=seed, image_size=8, rank=rank)
    assert (loader.batch_size, loader.num_samples, loader.steps_per_epoch) == (5, 23, 5)
    return loader


def loaded(settings: dict[str, Any], *, rank: int = 0, seed: int = 0, start: int = 0, epoch: int = 1) -> list[Batch]:
    return list(loader_of(settings, rank=rank, seed=seed).epoch(epoch, start))


def test_loader_mixes_every_batch_and_keeps_its_size() -> None:
    batches = loaded({"mix": {"mixup": 0.8}})
    assert [batch.targets.shape for batch in batches] == [(5, 10)] * 4 + [(3, 10)]
    assert torch.cat([batch.indices for batch in batches]).sort().values.tolist() == list(range(23))
    shares = torch.cat([batch.targets for batch in batches])
    assert torch.allclose(shares.sum(dim=1), torch.ones(23))
    assert ((shares > 0).sum(dim=1) == 2).any()


def test_mixing_differs_by_step_epoch_seed_and_rank_and_repeats() -> None:
    settings = {"mix": {}, "augment": "none"}

    def shares(batches: list[Batch]) -> list[float]:
        return [round(batch.targets.max(dim=1).values.min().item(), 6) for batch in batches]

    first = shares(loaded(settings))
    assert len(set(first)) >= 4
    assert first == shares(loaded(settings))
    assert first[2:] == shares(loaded(settings, start=2))
    for other in ({"seed": 1}, {"epoch": 2}):
        assert first != shares(loaded(settings, **other))
    config = DataConfig(root="x", batch_size=8, mix={})
    data = splits(torch.arange(16) % 5)
    ranks = [
        shares(list(train_loader(data, config, seed=0, image_size=32, rank=rank, world_size=2).epoch(1)))
        for rank in (0, 1)
    ]
    assert ranks[0] != ranks[1]


def test_mixing_leaves_numpys_generator_alone() -> None:
    np.random.seed(4)
    expected = np.random.RandomState(4).rand(3)
    loaded({"mix": {}})
    assert np.array_equal(np.random.rand(3), expected)


def test_mixup_targets_of_timm_are_what_we_think_they_are() -> None:
    assert torch.allclose(
        mixup_target(torch.tensor([0, 1]), 3, lam=0.7), torch.tensor([[0.7, 0.3, 0.0], [0.3, 0.7, 0.0]])
    )


def test_images_without_labels_cannot_be_mixed() -> None:
    labels = torch.tensor([0, 1, -1, 2])
    with pytest.raises(UserError, match=r"data\.mix mixes labels, and some training images have none"):
        train_loader(splits(labels), DataConfig(root="x", mix={}), seed=0, image_size=32)


def test_mixing_a_source_without_class_names_is_refused() -> None:
    source = splits(torch.arange(4)).train
    with pytest.raises(UserError, match=r"data\.mix needs the number of classes; give DataSplits"):
        train_loader(source, DataConfig(root="x", mix={}), seed=0, image_size=32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": {"mixup": 0, "cutmix": 0}}, r"mix\s+mixup and cutmix are both 0, so nothing is mixed"),
        ({"mix": {"mixpu": 1}}, r"mix\.mixpu\s+unknown; did you mean mixup"),
        ({"mix": {"mode": "half"}}, r"mix\.mode\s+input should be 'batch', 'pair' or 'elem', got 'half'"),
        ({"mix": {"mixup": -1}}, r"mix\.mixup\s+input should be greater than or equal to 0, got -1"),
        ({"mix": {}, "copies": "rotations"}, r"mix and copies: rotations do not go together"),
    ],
)
def test_what_cannot_be_mixed_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig.read({"root": "x", **settings}, what="data")
