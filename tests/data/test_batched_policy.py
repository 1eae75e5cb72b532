"""RandAugment and AutoAugment on whole batches: timm's options, strengths and pixels, drawn by hash."""

from __future__ import annotations

import platform
import random
from collections import Counter

import pytest
import torch
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP, auto_augment_transform, rand_augment_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from understudy.data.augment import batched_policy
from understudy.data.augment.batched_policy import BatchedPolicy, policy_problem
from understudy.data.augment.policies import fill_colour, image_policy, translation
from understudy.utils.hashing import hashed_tensor

STRONG = "rand-m9-mstd0.5-inc1"
MEAN = (0.485, 0.456, 0.406)
FILL = torch.tensor(fill_colour(MEAN), dtype=torch.uint8)
ATOL = 0 if platform.machine().lower() in ("x86_64", "amd64") else 1  # see test_batched_pil.py
PER_CODE = reversed(batched_policy._LEVELS.items())
NAMES = {code: name for name, (code, _) in PER_CODE if name != "Desaturate"}  # one that does what the code says


def drawn(text: str, count: int, interpolation: str = "random", seed: int = 0) -> Tensor:
    return BatchedPolicy(text, interpolation).drawn(hashed_tensor(seed, torch.arange(count)))


def noise(count: int, height: int = 24, width: int = 20) -> Tensor:
    return torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def values_of(bits: Tensor) -> Tensor:
    return bits.contiguous().view(torch.float64)


def by_timm(image: Tensor, codes: list[int], values: list[float]) -> Tensor:
    """One image by timm's own functions, given what was drawn."""
    shown = transforms.to_pil_image(image)
    for drawn_code, value in zip(codes, values, strict=True):
        is_cubic = drawn_code >= batched_policy.MOVES[0] + batched_policy.CUBIC
        code = drawn_code - batched_policy.CUBIC * is_cubic
        if code == 0:
            continue
        if code == batched_policy.POSTERIZE and value == 0:
            shown.paste((0, 0, 0), (0, 0, *shown.size))  # which Pillow refuses to do
            continue
        is_absolute = code in (batched_policy.MOVE_X_CONST, batched_policy.MOVE_Y_CONST)
        arguments: tuple[float, ...] = (value * (translation(min(shown.size)) if is_absolute else 1),)
        if code in (batched_policy.POSTERIZE, batched_policy.SOLARIZE, batched_policy.SOLARIZE_ADD):
            arguments = (int(value),)
        if NAMES[code] in ("AutoContrast", "Equalize", "Invert"):
            arguments = ()
        resample = 3 if is_cubic else 2
        shown = NAME_TO_OP[NAMES[code]](shown, *arguments, fillcolor=tuple(FILL.tolist()), resample=resample)
    return transforms.pil_to_tensor(shown)


@pytest.mark.parametrize("in_groups", [True, False])
@pytest.mark.parametrize("text", [STRONG, "rand-m6-n3-p1", "rand-m9-n2-tweights", "v0", "original-mstd0.5"])
def test_a_batch_has_the_pixels_that_timm_gives_each_image(text: str, in_groups: bool) -> None:
    count = 48
    numbers, images = drawn(text, count), noise(count)
    images[::2] = images[::2] // 4 + 80  # whose values can be stretched
    found = BatchedPolicy(text, "random").of(images, numbers, FILL, in_groups=in_groups)
    codes, values = numbers[::2], values_of(numbers[1::2])
    wanted = [by_timm(image, codes[:, i].tolist(), values[:, i].tolist()) for i, image in enumerate(images)]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=ATOL)
    assert len(codes.unique()) > 8


@pytest.mark.parametrize("name", sorted(batched_policy._LEVELS))
@pytest.mark.parametrize("sign", [1, -1])
def test_strengths_are_timms(name: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.25 if sign == 1 else 0.75)
    argument = batched_policy._LEVELS[name][1]
    for level in (0.0, 0.3, 2.5, 5.0, 8.99, 9.4, 10.0):
        found = float(argument(torch.tensor(level / 10, dtype=torch.float64), torch.tensor(sign)))
        theirs = LEVEL_TO_ARG[name] and LEVEL_TO_ARG[name](level, {"translate_const": 100})
        if name in ("TranslateX", "TranslateY"):
            found *= 100
        if name == "Desaturate":
            theirs = (1 - theirs[0],)  # timm takes it from 1 where it is applied
        assert not theirs or found == theirs[0]


def plain(codes: Tensor) -> Tensor:
    """Without what they say of the interpolation."""
    is_cubic = codes >= batched_policy.MOVES[0] + batched_policy.CUBIC
    return torch.where(is_cubic, codes - batched_policy.CUBIC, codes)


def shares_of(codes: Tensor) -> dict[str, float]:
    found = Counter(plain(codes).flatten().tolist())
    return {NAMES[code]: count / codes.numel() for code, count in found.items() if code}


def test_operations_are_as_frequent_as_timms() -> None:
    count = 20_000
    used = shares_of(drawn(STRONG, count)[::2])
    assert len(used) == len(rand_augment_transform(STRONG, {}).ops) == 15
    assert all(share == pytest.approx(0.5 / 15, abs=0.004) for share in used.values())

    weighted = rand_augment_transform("rand-m9-n2-p1-tweights", {})
    numbers = drawn("rand-m9-n2-p1-tweights", count)
    first = shares_of(numbers[0])
    for option, weight in zip(weighted.ops, weighted.choice_weights, strict=True):
        name = NAMES[batched_policy._LEVELS[option.name][0]]
        assert first[name] == pytest.approx(weight, abs=0.012)
    one, other = plain(numbers[::2])
    assert (one != other).all()


def test_auto_augment_takes_whole_rows_of_its_table() -> None:
    table = auto_augment_transform("v0", {}).policy
    allowed = {tuple(batched_policy._LEVELS[option.name][0] for option in row) for row in table}
    codes = drawn("v0", 4000, "bilinear")[::2]
    both = (codes > 0).all(0)
    met = {tuple(pair) for pair in codes[:, both].T.tolist()}
    assert met <= allowed
    assert len(met) > 0.8 * len(allowed)


def test_strength_varies_and_signs_and_interpolations_are_even() -> None:
    numbers = drawn(STRONG, 20_000)
    codes, values = numbers[0], values_of(numbers[1])
    turned = values[(codes == batched_policy.ROTATE) | (codes == batched_policy.ROTATE + batched_policy.CUBIC)]
    assert turned.abs().mean() == pytest.approx(27, abs=0.25)
    assert turned.abs().std() == pytest.approx(1.4, abs=0.2)  # 1.5 but for what is cut off at 10
    assert turned.abs().max() == 30
    assert (turned > 0).double().mean() == pytest.approx(0.5, abs=0.05)
    cubic = (codes >= batched_policy.MOVES[0] + batched_policy.CUBIC).sum() / (codes >= batched_policy.MOVES[0]).sum()
    assert float(cubic) == pytest.approx(0.5, abs=0.04)
    for kind in ("bilinear", "bicubic"):
        is_cubic = drawn(STRONG, 500, kind)[::2] >= batched_policy.MOVES[0] + batched_policy.CUBIC
        assert bool(is_cubic.any()) == (kind == "bicubic")
    anyhow = drawn("rand-m9-p1-mstd101", 20_000)
    uniform = values_of(anyhow[1])[plain(anyhow[0]) == batched_policy.SHEAR_X]
    assert uniform.abs().max() == pytest.approx(0.27, abs=0.002)
    assert uniform.abs().mean() == pytest.approx(0.135, abs=0.008)


def test_rows_do_not_depend_on_the_others_of_their_batch() -> None:
    numbers, images = drawn(STRONG, 40), noise(40)
    policy = BatchedPolicy(STRONG, "random")
    whole = policy.of(images, numbers, FILL, in_groups=True)
    for rows in (slice(0, 7), slice(7, 40, 3), [39, 0, 20]):
        assert torch.equal(policy.of(images[rows], numbers[:, rows], FILL, in_groups=True), whole[rows])
    assert torch.equal(drawn(STRONG, 60)[:, :40], numbers)
    assert not torch.equal(drawn(STRONG, 40, seed=1), numbers)


def test_workers_interpolate_as_the_setting_says() -> None:
    """The codes above stand on timm's numbers for the two ways."""
    policy = image_policy(STRONG, 32, MEAN, "bicubic")
    assert int(policy.ops[3].kwargs["resample"]) == 3
    assert InterpolationMode.BICUBIC.value == "bicubic"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STRONG, None),
        ("originalr-mstd0.5", None),
        ("3a", "3a has GaussianBlurRand, which is done in workers only"),
        ("rand-m9-t3aw", "has GaussianBlur"),
        ("rand-m9-n16-tweights", "takes 16 different operations, and there are 15"),
    ],
)
def test_what_is_done_in_workers_only_is_said(text: str, said: str | None) -> None:
    problem = policy_problem(text)
    assert (problem is None) == (said is None)
    assert said is None or said in str(problem)


def test_a_policy_of_no_operation_changes_nothing() -> None:
    numbers, images = drawn("rand-m9-n0", 3), noise(3)
    assert numbers.shape == (0, 3)
    assert torch.equal(BatchedPolicy("rand-m9-n0", "random").of(images, numbers, FILL, in_groups=False), images)
