import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.data import CropFlip, DataConfig, NoAugment, ResizedCrop, RotateFlip, TensorSource, augment_for
from understudy.data.augment.crops import Rendering, crop_flip, fitted, globally_seeded, resized


def random_images(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def windows_of(image: torch.Tensor, pad: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every outcome that crop_flip may have for one (3,H,H) image, by its bytes."""
    padded, size = F.pad(image, (pad,) * 4), image.shape[-1]
    outcomes = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = padded[:, top : top + size, left : left + size]
            for flips in (False, True):
                outcome = window.flip(-1) if flips else window
                outcomes[outcome.contiguous().numpy().tobytes()] = (top, left, flips)
    return outcomes


def test_crop_flip_gives_every_window_of_the_zero_padded_image() -> None:
    image = random_images(1, 4)[0]
    outcomes = windows_of(image, pad=1)
    views = crop_flip(image.expand(400, -1, -1, -1), torch.arange(400), CropFlip(pad=1), seed=0, view=0)
    met = {outcomes[view.numpy().tobytes()] for view in views}
    assert met == set(outcomes.values())


def test_crop_without_flip_never_mirrors() -> None:
    image = random_images(1, 4)[0]
    outcomes = windows_of(image, pad=1)
    views = crop_flip(image.expand(200, -1, -1, -1), torch.arange(200), CropFlip(pad=1, flip=False), seed=0, view=0)
    assert not any(outcomes[view.numpy().tobytes()][2] for view in views)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6), st.integers(0, 2**40), st.integers(0, 1000))
def test_crop_flip_of_a_sample_does_not_depend_on_its_batch(order: list[int], size: int, seed: int, view: int) -> None:
    images, chosen = random_images(6, 8), torch.tensor(order[:size])
    together = crop_flip(images, torch.arange(6), CropFlip(), seed=seed, view=view)
    apart = crop_flip(images[chosen], chosen, CropFlip(), seed=seed, view=view)
    assert torch.equal(apart, together[chosen])


def test_seed_view_and_copy_each_change_the_augmentation() -> None:
    images, indices = random_images(20, 8), torch.arange(20)
    base, other_seed, other_view, other_copy = (
        crop_flip(images, indices, CropFlip(), seed=seed, view=view, copies=copy)
        for seed, view, copy in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    )
    assert all((base != other).flatten(1).any(1).sum() > 15 for other in (other_seed, other_view, other_copy))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_crop_flip_is_the_same_on_an_accelerator() -> None:
    images, indices = random_images(50, 32), torch.arange(50)
    here = crop_flip(images, indices, CropFlip(), seed=3, view=7)
    there = crop_flip(images.cuda(), indices.cuda(), CropFlip(), seed=3, view=7)
    assert torch.equal(here, there.cpu())


def test_student_and_teacher_see_the_same_resized_crop() -> None:
    ramp = torch.arange(240, dtype=torch.float32).expand(3, 200, 240)  # a pixel's value is its column
    for seed in range(20):
        with globally_seeded(seed):
            small, large = Rendering(ResizedCrop(scale=(0.2, 1)), 32, 64)(ramp)
        assert large is not None
        assert (small.shape, large.shape) == ((3, 32, 32), (3, 64, 64))
        assert torch.allclose(small, F.avg_pool2d(large, 2), atol=2)


def test_rendering_at_the_images_own_size_leaves_evaluation_pixels_alone() -> None:
    image = random_images(1, 100)[0]
    assert torch.equal(Rendering(NoAugment(), 100)(image)[0], image)


def test_large_images_are_evaluated_on_their_centre() -> None:
    image = torch.zeros(3, 300, 500)
    image[:, :, 150:350] = 1  # all but the central 200 columns are black
    assert fitted(image, 64).shape == (3, 64, 64)
    centre_columns = fitted(image, 64)[0, 32]
    assert centre_columns[0] == 0
    assert centre_columns[12:52].min() > 0.999


def test_small_images_are_evaluated_whole() -> None:
    image = random_images(1, 16)[0]
    assert torch.equal(Rendering(NoAugment(), 32)(image)[0], resized(image, 32))


def test_large_image_under_crop_flip_has_the_models_size() -> None:
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    with globally_seeded(0):
        student, teacher = Rendering(CropFlip(), 32, 64)(image)
    assert teacher is not None
    assert (student.shape, teacher.shape) == ((3, 32, 32), (3, 64, 64))


def test_seeded_puts_every_generator_back() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with globally_seeded(5):
        inside = drawn()
    assert drawn() == undisturbed
    with globally_seeded(5):
        assert drawn() == inside


def test_auto_chooses_by_the_images() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    config = DataConfig(root="x")
    assert augment_for(config, TensorSource(random_images(2, 32), labels)) == CropFlip()
    assert augment_for(config, TensorSource(random_images(2, 96), labels)) == ResizedCrop()
    assert augment_for(config, TensorSource(torch.rand(2, 3, 32, 32), labels)) == NoAugment()
    digits = DataConfig(root="digits")
    assert augment_for(digits, TensorSource(random_images(2, 8), labels)) == CropFlip(pad=1, flip=False)
    assert (
        augment_for(DataConfig(root="digits", augment="none"), TensorSource(random_images(2, 8), labels)) == NoAugment()
    )


def test_rotation_turns_about_the_centre_by_at_most_the_angle() -> None:
    image = torch.zeros(3, 64, 64)
    image[:, 28:36, 4:60] = 1  # a bar through the centre
    angles = []
    for seed in range(60):
        with globally_seeded(seed):
            turned = Rendering(RotateFlip(degrees=20, flip=False), 64)(image)[0]
        assert turned[:, 30:34, 30:34].min() == 1
        rows, columns = turned[0].nonzero().double().T
        angles.append(torch.rad2deg(torch.atan(torch.cov(torch.stack([rows, columns]))[0, 1] / columns.var())).item())
    assert max(map(abs, angles)) < 21
    assert min(angles) < -12
    assert max(angles) > 12


def test_rotation_by_nothing_without_flip_leaves_the_image() -> None:
    image = random_images(1, 64)[0]
    with globally_seeded(3):
        assert torch.equal(Rendering(RotateFlip(degrees=0, flip=False), 64)(image)[0], image)


class TestRectangles:
    @staticmethod
    def ramp(height: int, width: int) -> torch.Tensor:
        """Row numbers in the first channel, column numbers in the second."""
        rows, columns = torch.arange(height).float(), torch.arange(width).float()
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return torch.cat([grid, torch.zeros(1, height, width)])

    @pytest.mark.parametrize("sides", [(240, 400), (240, 300), (300, 240), (500, 80), (31, 77)])
    def test_evaluation_shows_the_centre_and_squeezes_nothing(self, sides: tuple[int, int]) -> None:
        shown = fitted(self.ramp(*sides), (48, 80))
        assert shown.shape == (3, 48, 80)
        rows, columns = shown[0, :, 40].numpy(), shown[1, 24].numpy()
        assert (rows[40] - rows[8]) / 32 == pytest.approx((columns[72] - columns[8]) / 64, rel=0.02)
        assert rows[23:25].mean() == pytest.approx((sides[0] - 1) / 2, abs=float(rows[1] - rows[0]))
        assert columns[39:41].mean() == pytest.approx((sides[1] - 1) / 2, abs=float(columns[1] - columns[0]))
        share = max((rows[-1] - rows[0]) / sides[0], (columns[-1] - columns[0]) / sides[1])
        assert share == pytest.approx(1 / 1.143, rel=0.03)

    def test_random_parts_have_the_shape_of_the_input_give_or_take_the_ratio(self) -> None:
        image, stretches = self.ramp(300, 500), []
        for seed in range(40):
            with globally_seeded(seed):
                shown, other = Rendering(ResizedCrop(scale=(0.2, 0.4), flip=False), (48, 80), (96, 160))(image)
            assert (shown.shape, other.shape) == ((3, 48, 80), (3, 96, 160))
            rows, columns = shown[0, :, 40], shown[1, 24]
            stretches.append(float((columns[72] - columns[8]) / 64 / ((rows[40] - rows[8]) / 32)))
        assert 0.72 < min(stretches) < 0.9 < 1.1 < max(stretches) < 1.38

    def test_a_window_of_a_large_image_is_cut_at_the_larger_size_of_the_students_shape(self) -> None:
        with globally_seeded(0):
            student, teacher = Rendering(CropFlip(pad=0, flip=False), (48, 80), (64, 64))(self.ramp(240, 400))
        assert (student.shape, teacher.shape) == ((3, 48, 80), (3, 64, 64))
        assert float(student[1, 24, -1] - student[1, 24, 0]) == pytest.approx(400 / 1.143, rel=0.03)

    def test_auto_is_a_window_of_small_rectangles_unless_squares_are_asked_for(self) -> None:
        source = TensorSource(torch.zeros(2, 3, 24, 40, dtype=torch.uint8), torch.tensor([0, 1]))
        assert augment_for(DataConfig(root="x"), source) == CropFlip()
        assert augment_for(DataConfig(root="x", image_size=(48, 80)), source) == CropFlip()
        assert augment_for(DataConfig(root="x", image_size=32), source) == ResizedCrop()

    def test_translations_are_a_share_of_the_shorter_side(self) -> None:
        augment = ResizedCrop(rand_augment="rand-m9-mstd0.5-inc1", erasing=1.0)
        with globally_seeded(0):
            assert Rendering(augment, (48, 80))(torch.zeros(3, 300, 500, dtype=torch.uint8))[0].shape == (3, 48, 80)
