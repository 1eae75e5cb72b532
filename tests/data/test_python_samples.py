"""Data sets made in Python: what their samples are, and what of them may be kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from understudy.data import DataConfig, DataSplits, TensorSource, dataset_source, dataset_splits, eval_loader
from understudy.utils.errors import UserError

WriteTree = Callable[..., Path]


class Flipped(Dataset[Any]):
    """Flips at random where nobody looks, with the attribute that torchvision's data sets have."""

    transform = None

    def __init__(self, count: int = 20) -> None:
        self.images = torch.rand(count, 3, 6, 6)
        self.targets = [i % 2 for i in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.images[i].flip(-1) if torch.rand(()) < 0.5 else self.images[i], self.targets[i]


class OwnFolder(ImageFolder):
    def __getitem__(self, i: int) -> Any:
        image, label = super().__getitem__(i)
        return v2.functional.horizontal_flip(image) if torch.rand(()) < 0.5 else image, label


def drawing_loader(path: str) -> Image.Image:
    return v2.RandomHorizontalFlip()(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    "made",
    [
        lambda root: Flipped(),
        lambda root: Subset(Flipped(), range(20)),
        lambda root: ConcatDataset([Flipped(10), Flipped(10)]),
        lambda root: OwnFolder(root),
        lambda root: ImageFolder(root, loader=drawing_loader),
    ],
)
def test_what_a_data_set_draws_without_a_transform_is_drawn_anew(made: Any, write_tree: WriteTree) -> None:
    source = dataset_source(made(write_tree({"cat": 10, "dog": 10})))
    torch.manual_seed(0)
    assert len({tuple(source.image(0).flatten().tolist()) for _ in range(20)}) == 2


def test_torchvisions_own_without_a_transform_are_kept(write_tree: WriteTree) -> None:
    root = write_tree({"cat": 3, "dog": 3})
    assert isinstance(dataset_source(ConcatDataset([ImageFolder(root), ImageFolder(root)])), TensorSource)


class Noisy(Dataset[Any]):
    """Clean `targets`, other labels in some samples, and none of these is the first, the middle or the last."""

    def __init__(self) -> None:
        self.targets = [i % 3 for i in range(60)]

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(3, 4, 4), (self.targets[i] + (i in (7, 11, 23))) % 3


def test_labels_that_a_wrapper_changes_win_over_its_list() -> None:
    dataset = Noisy()
    assert dataset_source(dataset).labels.tolist() == [label for _, label in dataset] != dataset.targets


def test_reading_labels_leaves_the_random_state_alone() -> None:
    dataset = Flipped()
    torch.manual_seed(3)
    wanted = torch.rand(())
    torch.manual_seed(3)
    dataset_splits(dataset)
    assert torch.rand(()) == wanted


def test_whole_floats_are_class_numbers_and_fractions_are_refused() -> None:
    images = torch.zeros(4, 3, 4, 4)
    assert dataset_source(TensorDataset(images, torch.tensor([0.0, 1, 2, 1]))).labels.tolist() == [0, 1, 2, 1]
    with pytest.raises(UserError, match=r"a label is 0\.9; one class number .* \(nothing is rounded\)"):
        dataset_source(TensorDataset(images, torch.tensor([0.0, 0.9, 2, 1])))
    with pytest.raises(UserError, match=r"a label is 0\.9"):
        dataset_source([(images[0], 0), (images[1], 0.9)])


@pytest.mark.parametrize(
    "label", [torch.tensor([1.0, 0, 1]), np.array([1, 1, 0]), [0, 2], torch.tensor([0, 0, 0]), (1, 0, 1)]
)
def test_several_labels_of_one_image_are_said_not_to_be_there_yet(label: Any) -> None:
    with pytest.raises(UserError, match=r"several labels of one image \(multi-label classification\) are not there"):
        dataset_source([(torch.zeros(3, 4, 4), label)] * 2)


def test_several_labels_in_tensors_and_columns_are_refused_too() -> None:
    with pytest.raises(UserError, match="multi-label"):
        dataset_source(TensorDataset(torch.zeros(2, 3, 4, 4), torch.tensor([[1.0, 1, 0], [0, 1, 0]])))
    rows = datasets.Dataset.from_dict({"image": [[[0]]] * 2, "label": [[0, 1], [1]]})
    with pytest.raises(UserError, match="multi-label"):
        dataset_source(rows)


@pytest.mark.parametrize("sample", [torch.zeros(3, 4, 4), (torch.zeros(3, 4, 4),), 5])
def test_a_sample_that_is_no_pair_is_refused_in_words(sample: Any) -> None:
    with pytest.raises(UserError, match=r"a sample of list is .*; \(image, label\), or a mapping"):
        dataset_source([sample])


def test_mappings_are_read_by_what_they_hold() -> None:
    image = torch.rand(3, 4, 4)
    dataset = [{"pixel_values": image, "labels": 1, "id": 5}, {"pixel_values": image, "labels": 0, "id": 6}]
    source = dataset_source(dataset)
    assert source.labels.tolist() == [1, 0]
    assert torch.equal(source.image(0), image)
    with pytest.raises(UserError, match=r"has no column 'label'; it has: image, fine_label, coarse_label \(fine_label"):
        dataset_source([{"image": image, "fine_label": 0, "coarse_label": 1}])


def test_numpy_images_with_channels_last_are_turned() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    assert dataset_source([(pixels, 0)]).image(0).permute(1, 2, 0).tolist() == pixels.tolist()


def with_names(root: Path) -> ImageFolder:
    return ImageFolder(root, transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))


class Around(Dataset[Any]):
    """A person's own wrapper, which carries no names."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Any:
        return self.dataset[i]


class Elsewhere(Around):
    """Another, which keeps what it wraps under a name of its own."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.its_images = self.__dict__.pop("dataset")
        self.numbers = np.arange(len(self.its_images))

    def __len__(self) -> int:
        return len(self.its_images)

    def __getitem__(self, i: int) -> Any:
        return self.its_images[i]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda dataset: dataset,
        lambda dataset: Subset(dataset, [0, 1, 2, 3]),
        lambda dataset: ConcatDataset([Subset(dataset, [0, 1]), Subset(dataset, [2, 3])]),
        lambda dataset: Subset(ConcatDataset([dataset]), [0, 1, 2, 3]),
        Around,
        Elsewhere,
        lambda dataset: Elsewhere(Around(dataset)),
    ],
)
@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_are_matched_by_name(split: str, wrapped: Callable[[Any], Any], write_tree: WriteTree) -> None:
    train = with_names(write_tree({"ant": 3, "bee": 3, "cat": 3}))
    lacking = wrapped(with_names(write_tree({"ant": 2, "cat": 2}, name="lacking")))
    data = dataset_splits(train, **{"val": train, split: lacking})
    assert getattr(data, split).labels.tolist() == [0, 0, 2, 2]


def test_a_class_that_train_lacks_is_refused_with_both_lists(write_tree: WriteTree) -> None:
    train, other = (with_names(write_tree(dict.fromkeys(names, 2), name="".join(names))) for names in ("ab", "bd"))
    with pytest.raises(UserError, match=r"val has other classes than train: it has b, d \(2\); train has a, b \(2\)"):
        dataset_splits(train, other)
    unused = Subset(other, [0, 1])  # of b alone
    assert dataset_splits(train, unused).val.labels.tolist() == [1, 1]


def test_parts_of_a_train_set_with_other_numberings_are_matched_too(write_tree: WriteTree) -> None:
    parts = [
        with_names(write_tree(tree, name=name))
        for name, tree in (("x", {"a": 2, "c": 2}), ("y", {"a": 1, "b": 1, "c": 1}))
    ]
    data = dataset_splits(ConcatDataset(parts), parts[1])
    assert (data.classes, data.train.labels.tolist()) == (("a", "b", "c"), [0, 0, 2, 2, 0, 1, 2])


def rows(image: str, label: str, names: list[str], labels: list[int]) -> datasets.Dataset:
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=names)})
    pixels = [Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(len(labels))]
    return datasets.Dataset.from_dict({image: pixels, label: labels}, features=features)


def test_hugging_face_columns_and_names_are_found_by_their_features() -> None:
    data = dataset_splits(rows("img", "labels", ["a", "b", "c"], [0, 1, 2]), rows("image", "label", ["c", "a"], [0, 1]))
    assert (data.classes, data.val.labels.tolist()) == (("a", "b", "c"), [2, 0])
    assert data.train.image(1).unique().tolist() == [10]


@pytest.mark.parametrize("form", ["torch", "numpy", None])
def test_hugging_face_formats_give_the_same_images(form: str | None) -> None:
    source = dataset_source(rows("img", "labels", ["a", "b"], [0, 1]).with_format(form))
    assert (source.labels.tolist(), source.image(1).shape, source.image(1).unique().tolist()) == (
        [0, 1],
        (3, 8, 8),
        [10],
    )


def test_hugging_face_images_that_are_left_undecoded_are_decoded() -> None:
    undecoded = rows("img", "labels", ["a", "b"], [0, 1]).cast_column("img", datasets.Image(decode=False))
    source = dataset_source(undecoded)
    assert (source.labels.tolist(), source.image(1).unique().tolist()) == ([0, 1], [10])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_floating_point_images_of_any_precision_are_taken(dtype: torch.dtype) -> None:
    data = dataset_splits([(torch.full((3, 4, 4), 0.5, dtype=dtype), label) for label in (0, 1) * 5])
    assert data.train.image(0).unique().tolist() == [0.5]


def test_complex_images_and_paths_are_refused() -> None:
    with pytest.raises(UserError, match="train: an image is of complex64; give its absolute or real part"):
        dataset_splits([(torch.zeros(3, 4, 4, dtype=torch.complex64), label) for label in (0, 1) * 5])
    with pytest.raises(UserError, match=r"train: got 'images/train', which is no data set yet; open it"):
        dataset_splits("images/train")


def test_a_hugging_face_transform_gives_images_and_labels() -> None:
    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        return {
            "pixel_values": [v2.functional.to_image(image).float() for image in batch["img"]],
            "labels": [1 - label for label in batch["labels"]],
        }

    source = dataset_source(rows("img", "labels", ["a", "b"], [0, 1]).with_transform(transform))
    assert (source.labels.tolist(), source.image(1).unique().tolist()) == ([1, 0], [10.0])


def test_a_dictionary_of_data_sets_gives_its_splits() -> None:
    parts = {"train": [0, 1, 0], "validation": [1], "test": [-1]}
    data = dataset_splits(
        datasets.DatasetDict({key: rows("image", "label", ["a", "b"], its) for key, its in parts.items()})
    )
    assert (len(data.train), len(data.val), data.test) == (3, 1, None)
    assert any("test split" in note and "no labels" in note for note in data.notes)
    with pytest.raises(UserError, match=r"train: a dict without a train split; it has: validation"):
        dataset_splits({"validation": [(torch.zeros(3, 4, 4), 0)]})


AUGMENTING = v2.Compose(
    [
        v2.RandomResizedCrop(12),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ]
)


def draws(data: DataSplits) -> bool:
    batches = [next(iter(eval_loader(data.val, DataConfig(root="x", workers=0), image_size=12))).images for _ in "ab"]
    return not torch.equal(data.val.image(0), data.val.image(0)) or not torch.equal(*batches)


def test_what_is_held_out_is_shown_without_what_the_transform_draws(write_tree: WriteTree) -> None:
    dataset = ImageFolder(write_tree({"cat": 10, "dog": 10}, size=(20, 20)), transform=AUGMENTING)
    data = dataset_splits(Subset(dataset, range(20)))
    assert not draws(data)
    assert not torch.equal(data.train.image(0), data.train.image(0))
    whole = v2.functional.center_crop(v2.functional.resize(dataset.loader(dataset.samples[0][0]), 14), 12)
    plain = dataset_splits(Subset(dataset, range(20)), config=DataConfig(root="x", val_rows="0:1")).val.image(0)
    assert torch.equal(plain, v2.Compose(AUGMENTING.transforms[2:])(whole))
    assert any(
        "val, held out of train, is shown without" in note and "RandomResizedCrop" in note for note in data.notes
    )


def test_a_random_split_of_an_augmented_data_set_is_validated_without_augmentation(write_tree: WriteTree) -> None:
    dataset = ImageFolder(write_tree({"cat": 10, "dog": 10}, size=(20, 20)), transform=AUGMENTING)
    assert not draws(dataset_splits(*random_split(dataset, [14, 6], torch.Generator().manual_seed(0))))


@pytest.mark.parametrize(("split", "words"), [("train", "val, held out of train,"), ("val", "val"), ("test", "test")])
def test_a_transform_that_cannot_be_taken_away_from_evaluation_is_told_of(split: str, words: str) -> None:
    plain = TensorDataset(torch.rand(20, 3, 6, 6), torch.arange(20) % 2)
    given = {
        "train": plain,
        split: Flipped(),
        **({} if split == "train" else {"test": plain, "val": plain, split: Flipped()}),
    }
    notes = dataset_splits(**given).notes
    assert any(note.startswith(f"warning  {words} goes through a transform that changes its images") for note in notes)


def test_nothing_is_said_of_samples_that_do_not_change(write_tree: WriteTree) -> None:
    assert not any("transform" in note for note in dataset_splits(with_names(write_tree({"a": 5, "b": 5}))).notes)


def taking(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("image", "takes", "channels", "note"),
    [
        (torch.rand(1, 8, 8), 1, 1, "as one channel"),
        (torch.rand(1, 8, 8), 3, 3, "one channel is repeated to three"),
        (torch.rand(5, 8, 8), 5, 5, "with their 5 channels"),
        (torch.rand(8, 8), 1, 1, "as one channel"),
        (Image.fromarray(np.zeros((8, 8), np.uint8)), 1, 1, "as one channel"),
        (Image.fromarray(np.zeros((8, 8), np.uint8)), 3, 3, "one channel is repeated to three"),
        (Image.fromarray(np.zeros((8, 8, 3), np.uint8)), 3, 3, None),
        (torch.rand(3, 8, 8), 3, 3, None),
    ],
)
def test_channels_are_those_that_the_networks_take(image: Any, takes: int, channels: int, note: str | None) -> None:
    data = dataset_splits([(image, i % 2) for i in range(8)], networks=[taking(takes), taking(takes)])
    assert (data.channels, data.train.image(0).shape) == (channels, (channels, 8, 8))
    said = [text for text in data.notes if "channel" in text]
    assert said == [] if note is None else note in said[0]
