import pytest

from understudy.data import CropFlip, DataConfig, NoAugment, ResizedCrop
from understudy.utils.errors import UserError


def read(**settings: object) -> DataConfig:
    return DataConfig.read({"root": "x", **settings}, what="data")


def test_augment_may_be_a_name_or_a_mapping() -> None:
    assert read(augment="none").augment == NoAugment()
    assert read(augment="crop_flip").augment == CropFlip()
    assert read(augment={"name": "crop_flip", "pad": 8, "flip": False}).augment == CropFlip(pad=8, flip=False)
    assert read(augment={"name": "resized_crop", "scale": [0.5, 1]}).augment == ResizedCrop(scale=(0.5, 1.0))


def test_roots_may_be_a_list() -> None:
    assert read(root=["a", "b/c"]) == read(root="a,b/c")


def test_settings_survive_being_written_and_read() -> None:
    config = read(augment={"name": "resized_crop", "flip": False}, train_rows="0:100", workers=2, cache=False)
    assert DataConfig.model_validate(config.model_dump()) == config
    assert DataConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"batchsize": 4}, r"batchsize +unknown; did you mean batch_size\?"),
        ({"augment": "crop_flop"}, r"augment +'crop_flop' is unknown; did you mean crop_flip\?"),
        ({"augment": {"name": "crop_flip", "padd": 2}}, r"augment\.padd +unknown; did you mean pad\?"),
        ({"augment": {"name": "crop_flip", "pad": -1}}, r"augment\.pad +input should be greater than or equal to 0"),
        ({"augment": {"name": "resized_crop", "scale": [1, 0.5]}}, r"augment\.scale +must be \[low, high\]"),
        ({"train_rows": "5-10"}, r"train_rows +rows are written START:STOP, as in 0:10000, got '5-10'"),
        ({"val_rows": "10:5"}, r"val_rows +rows 10:5 are none: START must be below STOP"),
        ({"val": "test", "val_rows": "0:5"}, "both say where the validation comes from"),
        ({"per_class": 5, "fraction": 0.5}, "both say how much of train is used"),
        ({"streaming": True, "unlabelled": "x"}, "images that are never stored cannot go with unlabelled"),
        ({"root": ["a", 1]}, r"root +input should be text"),
        ({"root": ""}, r"root +is empty; name a folder"),
        ({"unlabelled": " "}, r"unlabelled +is empty; name a folder"),
        ({"val_fraction": 1.0}, r"val_fraction +input should be less than 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        read(**settings)
