"""Folders of images and masks: which pairs there are, what their numbers mean, and how both move together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.masks import masks_folder, save_mask, write_pairs
from understudy import UserError
from understudy.data import eval_loader, open_data, train_loader
from understudy.data.augment.config import ScaleCrop
from understudy.data.augment.dense import DenseRendering
from understudy.data.config import DataConfig
from understudy.data.sources.mask_folders import CITYSCAPES
from understudy.data.sources.masked import mask_of
from understudy.utils.seeding import globally_seeded

DARK = "shapes-on-dark"


def config(root: object, **settings: object) -> DataConfig:
    return DataConfig.read({"root": str(root), "workers": 0, "batch_size": 4, **settings}, what="the test's data")


def test_shapes_on_dark_are_the_shapes_before_a_darker_background() -> None:
    first, second = (open_data(config(root, train_rows="0:2", val_rows="500:501")).train for root in ("shapes", DARK))
    mask = mask_of(first, 1)
    assert torch.equal(mask, mask_of(second, 1))
    assert first.image(1)[:, mask > 0].equal(second.image(1)[:, mask > 0])
    assert int(second.image(1)[:, mask == 0].max()) < 110 < int(first.image(1)[:, mask == 0].max())


class TestLayouts:
    def test_images_and_masks_with_a_folder_for_each_split(self, tmp_path: Path) -> None:
        data = open_data(config(masks_folder(tmp_path)))
        assert (data.classes, len(data.train), len(data.val)) == (("background", "disc", "square", "triangle"), 6, 4)
        assert (data.val_origin, data.window, data.notes) == ("val split", 32, ())

    def test_splits_with_images_and_masks_each(self, tmp_path: Path) -> None:
        for split, count in (("train", 3), ("validation", 2)):
            write_pairs(tmp_path / split / "images", tmp_path / split / "labels", count)
        data = open_data(config(tmp_path))
        assert (len(data.train), len(data.val), data.classes[1]) == (3, 2, "class 1")
        assert "nothing names the classes" in data.notes[0]

    def test_folders_that_lie_anywhere_are_written_out(self, tmp_path: Path) -> None:
        write_pairs(tmp_path / "a", tmp_path / "b", 5, palette=True)
        (tmp_path / "names.txt").write_text("ground\no\n[]\nA\n")
        root = f"images={tmp_path}/a,masks={tmp_path}/b,classes={tmp_path}/names.txt"
        data = open_data(config(root, val_fraction=0.4))
        assert (data.classes, len(data.train), len(data.val)) == (("ground", "o", "[]", "A"), 3, 2)
        assert sorted(mask_of(data.train, 0).unique().tolist())[-1] == 255

    def test_voc(self, tmp_path: Path) -> None:
        write_pairs(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", 3, palette=True)
        for image in (tmp_path / "JPEGImages").glob("*.png"):
            Image.open(image).save(image.with_suffix(".jpg"))
            image.unlink()
        lists = tmp_path / "ImageSets/Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("0_0\n0_1\n")
        (lists / "val.txt").write_text("0_2\n")
        data = open_data(config(tmp_path))
        assert (len(data.classes), len(data.train), len(data.val)) == (21, 2, 1)

    def test_cityscapes_maps_its_numbers_to_the_19_classes(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            for folder in ("leftImg8bit", "gtFine"):
                (tmp_path / folder / split / "ulm").mkdir(parents=True)
            Image.new("RGB", (16, 8)).save(tmp_path / "leftImg8bit" / split / "ulm/u_1_leftImg8bit.png")
            values = np.array([*CITYSCAPES, *[0] * (16 * 8 - 19)]).reshape(8, 16)
            save_mask(tmp_path / "gtFine" / split / "ulm/u_1_gtFine_labelIds.png", values)
        data = open_data(config(tmp_path))
        assert data.classes[:2] == ("road", "sidewalk")
        assert mask_of(data.train, 0).flatten()[:21].tolist() == [*range(19), 255, 255]

    def test_ade20k_ignores_zero(self, tmp_path: Path) -> None:
        for split in ("training", "validation"):
            write_pairs(tmp_path / "images" / split, tmp_path / "annotations" / split, 2)
        (tmp_path / "objectInfo150.txt").write_text("Idx\tName\n")
        data = open_data(config(tmp_path, class_map={1: 0, 2: 1, 3: 2}))
        assert len(data.classes) == 150
        assert (mask_of(data.train, 0) == 255).float().mean() > 0.5


class TestSeveral:
    def test_two_folders_are_put_together_under_the_class_numbers_of_the_one_with_more(self, tmp_path: Path) -> None:
        masks_folder(tmp_path / "a")
        masks_folder(tmp_path / "b", train=2)
        (tmp_path / "b/classes.txt").write_text("background\ntriangle\ndisc\n")
        for file in (tmp_path / "b/masks").rglob("*.png"):
            save_mask(file, np.full((32, 32), 1))
        data = open_data(config(f"{tmp_path}/a,{tmp_path}/b"))
        assert (len(data.train), len(data.val), len(data.classes)) == (8, 8, 4)
        assert mask_of(data.train, 7).unique().tolist() == [3]
        assert data.train.name(7).startswith("b: ")

    def test_masks_and_classes_do_not_mix(self, tmp_path: Path) -> None:
        masks_folder(tmp_path / "a")
        with pytest.raises(UserError, match="some of these have masks and others one class an image"):
            open_data(config(f"{tmp_path}/a,digits"))


class TestBadInput:
    def refused(self, root: Path, text: str, **settings: object) -> None:
        with pytest.raises(UserError, match=text):
            open_data(config(root, **settings))

    def test_masks_of_another_size_than_their_images(self, tmp_path: Path) -> None:
        masks_folder(tmp_path)
        for file in (tmp_path / "masks/train").iterdir():
            save_mask(file, np.ones((8, 16)))
        self.refused(tmp_path, "6 masks are of no use: 1_0.png has 32 x 32 pixels and its mask 16 x 8")

    def test_images_that_exif_turns_away_from_their_masks(self, tmp_path: Path) -> None:
        masks_folder(tmp_path)
        for file in (tmp_path / "masks/train").iterdir():
            save_mask(file, np.ones((16, 32)))
            turned = Image.Exif()
            turned[0x0112] = 6
            picture = tmp_path / "images/train" / file.name
            picture.unlink()
            Image.new("RGB", (32, 16)).save(picture.with_suffix(".jpg"), exif=turned)
        self.refused(
            tmp_path,
            r"16 x 32 pixels and its mask 32 x 16, .* \(where EXIF turns the image: data.exif_rotation=fal",
        )
        assert len(open_data(config(tmp_path, exif_rotation=False)).train) == 6

    def test_numbers_beyond_the_classes(self, tmp_path: Path) -> None:
        masks_folder(tmp_path)
        (tmp_path / "classes.txt").write_text("background\nthing\n")
        self.refused(
            tmp_path, r"the mask holds 2, 3, and there are 2 classes \(0\.\.1\); name all classes, or say with"
        )

    def test_no_pair(self, tmp_path: Path) -> None:
        write_pairs(tmp_path / "images", tmp_path / "masks", 2)
        for number, file in enumerate(sorted((tmp_path / "masks").iterdir())):
            file.rename(file.with_name(f"other{number}.png"))
        self.refused(
            tmp_path, r"no image of .*images has a mask in .*masks \(there are 0_0.png, 0_1.png and other0.png"
        )

    def test_masks_in_colours(self, tmp_path: Path) -> None:
        masks_folder(tmp_path)
        for file in (tmp_path / "masks/train").iterdir():
            Image.new("RGB", (32, 32), (0, 128, 0)).save(file)
        self.refused(tmp_path, r"the mask is in colours; give a table of them \(classes.json")
        for file in (tmp_path / "masks/train").iterdir():
            Image.new("F", (32, 32)).save(file.with_suffix(".tiff"))
            file.unlink()
        self.refused(tmp_path, "a class number up to 255 or a colour for each pixel .* this one has mode F")

    def test_a_map_beyond_the_classes_and_masks_without_any(self, tmp_path: Path) -> None:
        masks_folder(tmp_path)
        self.refused(tmp_path, "maps to classes beyond the 4", class_map={0: 9})
        self.refused(tmp_path, "no pixel of the masks has a class", class_map={77: 0})

    def test_settings_of_one_class_an_image(self, tmp_path: Path) -> None:
        masks_folder(tmp_path)
        self.refused(
            tmp_path, "data.per_class, data.copies: of images with one class each", per_class=2, copies="pairs"
        )
        self.refused(tmp_path, "data.augment: crop_flip moves images alone", augment="crop_flip")
        digits = config("digits", train_rows="0:8", val_rows="8:12", augment="scale_crop")
        with pytest.raises(UserError, match="scale_crop is of images with masks, and these have none"):
            train_loader(open_data(digits), digits, seed=0, image_size=8)

    def test_a_damaged_pair_is_left_out_and_said(self, tmp_path: Path) -> None:
        masks_folder(tmp_path)
        damaged = tmp_path / "masks/val/2_0.png"
        damaged.write_bytes(damaged.read_bytes()[:60])
        loader = eval_loader(open_data(config(tmp_path)).val, config(tmp_path), image_size=32)
        assert sum(len(batch.images) for batch in loader) == 3
        assert "2_0.png" in loader.skipped[0]


class TestMotion:
    def picture(self, height: int = 20, width: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.arange(height * width).reshape(height, width).div(4, rounding_mode="floor").remainder(200)
        return mask.expand(3, -1, -1).to(torch.uint8), mask.to(torch.uint8)

    @pytest.mark.parametrize("seed", range(6))
    def test_image_and_mask_are_cut_and_mirrored_alike(self, seed: int) -> None:
        with globally_seeded(seed):
            image, mask = DenseRendering(ScaleCrop(scale=(1, 1)), (24, 16), mean=(1.0, 1.0, 1.0))(*self.picture())
        assert (image.shape, mask.shape) == ((3, 24, 16), (24, 16))
        assert torch.equal(image[0], mask)  # 255 is white, and ignored

    def test_a_scaled_mask_takes_the_nearest_pixel(self) -> None:
        with globally_seeded(0):
            image, mask = DenseRendering(ScaleCrop(scale=(2, 2), flip=False), (40, 60))(*self.picture())
        assert torch.equal(mask[::2, ::2], self.picture()[1])
        assert image.float().sub(mask).abs().median() < 3

    def test_factors_come_in_steps(self) -> None:
        tenths = ScaleCrop(scale=(0.5, 2.0), step=0.1)
        assert (tenths.factor(0.0), round(tenths.factor(0.999), 6)) == (0.5, 2.0)
        assert len({round(tenths.factor(i / 1000), 6) for i in range(1000)}) == 16

    def test_batches_are_a_function_of_seed_epoch_and_sample(self, tmp_path: Path) -> None:
        settings = config(masks_folder(tmp_path), batch_size=3)
        data = open_data(settings)

        def batches(start: int = 0, epoch: int = 2, workers: int = 0) -> list[torch.Tensor]:
            loader = train_loader(data, settings.model_copy(update={"workers": workers}), seed=5, image_size=24)
            return [tensor for batch in loader.epoch(epoch, start) for tensor in (batch.images, batch.targets)]

        first = batches()
        assert (first[0].shape, first[1].shape, first[1].dtype) == ((3, 3, 24, 24), (3, 24, 24), torch.uint8)
        assert all(torch.equal(a, b) for a, b in zip(first[2:], batches(start=1), strict=True))
        assert not torch.equal(first[0], batches(epoch=1)[0])

    def test_whole_images_are_evaluated_at_their_own_size_neighbours_of_one_size_together(self, tmp_path: Path) -> None:
        write_pairs(tmp_path / "images", tmp_path / "masks", 2, seed=0, side=32)
        write_pairs(tmp_path / "images", tmp_path / "masks", 1, seed=1, side=48)
        settings = config(tmp_path, val_fraction=0.34)
        source = open_data(settings)
        shapes = []
        for split in (source.train, source.val):
            for batch in eval_loader(split, settings.model_copy(update={"shorter_side": 16}), image_size=32):
                assert batch.images.shape[2:] == (16, 16)
                shapes.append(tuple(batch.targets.shape))
        assert sorted(shapes) in ([(1, 48, 48), (2, 32, 32)], [(1, 32, 32), (1, 32, 32), (1, 48, 48)])
