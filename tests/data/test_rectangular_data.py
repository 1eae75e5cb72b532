"""Images that are no squares, in memory and from files, through the loaders."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from understudy.data import DataConfig, TensorSource, dataset_splits, eval_loader, open_data, train_loader
from understudy.data.augment.crops import covered, fitted
from understudy.data.loaders.memory import MemoryTrainLoader
from understudy.data.torch_datasets.random_transforms import without_drawing
from understudy.utils.errors import UserError

SOURCE = TensorSource(
    torch.randint(0, 256, (12, 3, 24, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(12) % 3,
)


def config(**settings: object) -> DataConfig:
    return DataConfig.model_validate({"root": "x", "batch_size": 4, "workers": 0, **settings})


class TestInMemory:
    def test_images_of_the_size_are_shown_as_they_are_stored(self) -> None:
        (batch,) = eval_loader(SOURCE, config(), image_size=(24, 40))
        assert torch.equal(batch.images, SOURCE.images / 255)

    def test_windows_are_cut_on_the_device_and_are_those_of_any_other_start(self) -> None:
        loader = train_loader(SOURCE, config(), seed=1, image_size=(48, 80), teacher_size=(24, 40))
        assert isinstance(loader, MemoryTrainLoader)
        batches = list(loader.epoch(2))
        assert [tuple(batch.images.shape) for batch in batches] == [(4, 3, 48, 80)] * 3
        assert torch.equal(batches[0].images, covered(batches[0].teacher_images, (48, 80)))
        assert torch.equal(next(loader.epoch(2, start_step=2)).images, batches[2].images)

    @pytest.mark.parametrize(("size", "shape"), [((16, 16), (24, 24)), ((24, 24), (24, 24)), ((12, 40), (12, 40))])
    def test_a_size_of_another_shape_shows_the_centre(self, size: tuple[int, int], shape: tuple[int, int]) -> None:
        images = torch.zeros(1, 3, 24, 40)
        top, left = (24 - shape[0]) // 2, (40 - shape[1]) // 2
        images[..., top : top + shape[0], left : left + shape[1]] = 1
        asked = size[0] if size[0] == size[1] else size
        shown = covered(images, asked)
        assert shown.shape == (1, 3, *size)
        assert shown[..., 2:-2, 2:-2].min() == 1

    def test_one_number_cuts_squares_as_of_photographs(self) -> None:
        loader = train_loader(SOURCE, config(image_size=24), seed=1, image_size=24)
        assert not isinstance(loader, MemoryTrainLoader)
        assert next(loader.epoch(1)).images.shape == (4, 3, 24, 24)

    @pytest.mark.parametrize("mix", [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
    def test_two_images_are_mixed(self, mix: dict[str, float]) -> None:
        data = dataset_splits(TensorDataset(SOURCE.images, SOURCE.labels), config=config(mix=mix))
        batch = next(train_loader(data, config(mix=mix), seed=1, image_size=(24, 40), teacher_size=(48, 80)).epoch(1))
        assert (batch.images.shape, batch.teacher_images.shape) == ((4, 3, 24, 40), (4, 3, 48, 80))
        assert batch.targets.shape == (4, 3)

    def test_every_augmentation_gives_batches_of_the_size(self) -> None:
        for augment in ("none", "crop_flip", "resized_crop", {"name": "rotate_flip", "erasing": 1.0}):
            loader = train_loader(SOURCE, config(augment=augment, image_size=[30, 50]), seed=1, image_size=(30, 50))
            assert next(loader.epoch(1)).images.shape == (4, 3, 30, 50)

    def test_quarter_turns_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"takes squares, and these are 24 x 40 pixels; set data.image_size to one"):
            train_loader(SOURCE, config(copies="rotations"), seed=1, image_size=(24, 40))


def test_a_data_set_of_python_gives_its_size() -> None:
    data = dataset_splits(TensorDataset(torch.rand(10, 3, 12, 20), torch.arange(10) % 2))
    assert (data.native_size, data.val.image(0).shape) == ((12, 20), (3, 12, 20))
    assert dataset_splits(TensorDataset(torch.rand(10, 3, 70, 20), torch.arange(10) % 2)).native_size is None


def test_unlabelled_images_are_brought_to_the_size_of_small_ones(
    write_tree: Callable[..., Path], tmp_path: Path
) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dog": 1}, size=(24, 40))
    other = tmp_path / "more"
    other.mkdir()
    for i, file in enumerate(sorted(root.rglob("*.*"))[:2]):
        (other / f"{i}{file.suffix}").write_bytes(file.read_bytes())
    data = open_data(DataConfig(root=str(root), unlabelled=str(other), image_size=(12, 20)))
    assert (data.native_size, data.num_unlabelled, data.train.image(7).shape) == ((24, 40), 2, (3, 24, 40))
    assert any("resized and cropped to 24 x 40 pixels" in note for note in data.notes)


@pytest.mark.parametrize("sides", [(3, 48, 80), (3, 30, 200), (3, 200, 30)])
def test_a_random_part_becomes_the_centre_that_covers_its_size(sides: tuple[int, int, int]) -> None:
    drawn = v2.Compose([v2.RandomResizedCrop((24, 40)), v2.PILToTensor()])
    plain = without_drawing(FakeData(2, sides, 2, drawn))
    assert plain is not None
    assert plain[0][0].shape == (3, 24, 40)
    assert pickle.loads(pickle.dumps(plain.transform)) is not None


@pytest.mark.parametrize("size", [[24, 40], (24, 40)])
def test_a_size_given_in_python_may_be_a_list(size: list[int]) -> None:
    loader = train_loader(SOURCE, config(), seed=1, image_size=size, teacher_size=[32, 32])  # type: ignore[arg-type]
    batch = next(loader.epoch(1))
    assert (batch.images.shape, batch.teacher_images.shape) == ((4, 3, 24, 40), (4, 3, 32, 32))


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"teacher_size is a number of pixels, or \[height, width\] of them, got 'wide'"
    ):
        train_loader(SOURCE, config(), seed=1, image_size=24, teacher_size="wide")  # type: ignore[arg-type]


def test_a_pair_of_equal_sides_may_be_turned() -> None:
    source = TensorSource(torch.zeros(8, 3, 24, 24, dtype=torch.uint8), torch.arange(8) % 2)
    loader = train_loader(source, config(copies="rotations"), seed=1, image_size=(24, 24))
    assert next(loader.epoch(1)).images.shape == (16, 3, 24, 24)


def test_the_largest_size_has_a_margin_around_it() -> None:
    assert fitted(torch.zeros(3, 10, 20), (20, 8_192)).shape == (3, 20, 8_192)
