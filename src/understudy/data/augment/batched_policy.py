"""RandAugment and AutoAugment on whole batches: timm's policies and Pillow's pixels, drawn from hashes.

Cubuk et al., "RandAugment", CVPR Workshops 2020; "AutoAugment", CVPR 2019. Options, probabilities and strengths are
read off timm's own transform. What is drawn has timm's distribution, not its numbers: those come from generators of
Python and numpy that would have to be started anew for every image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from timm.data.auto_augment import AugmentOp, RandAugment
from torch import Tensor

from understudy.data.augment.batched_pil import (
    affine,
    coloured,
    contrasting,
    equalizing,
    looked_up,
    rotations,
    sharpened,
    stretching,
)
from understudy.data.augment.by_rows import as_bits, as_numbers, changed, normal, uniform
from understudy.data.augment.policies import image_policy, translation
from understudy.utils.hashing import hashed_tensor

__all__ = ["BatchedPolicy", "policy_problem"]

TABLES = INVERT, POSTERIZE, SOLARIZE, SOLARIZE_ADD, BRIGHTNESS = range(1, 6)
AUTOCONTRAST, EQUALIZE, CONTRAST, COLOUR, SHARPNESS = range(6, 11)
MOVES = ROTATE, SHEAR_X, MOVE_X, MOVE_X_CONST, SHEAR_Y, MOVE_Y, MOVE_Y_CONST = range(11, 18)
CUBIC = len(MOVES)  # added to the code of a move that takes 16 pixels instead of 4
NUM_CODES = MOVES[-1] + 1 + CUBIC  # 0: nothing is done
THRESHOLD = 128  # beneath which SolarizeAdd adds

# The code of an option of timm's, and its argument by level in 0..1 and sign.
_LEVELS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "AutoContrast": (AUTOCONTRAST, lambda level, sign: 0 * level),
    "Equalize": (EQUALIZE, lambda level, sign: 0 * level),
    "Invert": (INVERT, lambda level, sign: 0 * level),
    "Rotate": (ROTATE, lambda level, sign: sign * (level * 30)),
    "Posterize": (POSTERIZE, lambda level, sign: (level * 4).floor()),
    "PosterizeIncreasing": (POSTERIZE, lambda level, sign: 4 - (level * 4).floor()),
    "PosterizeOriginal": (POSTERIZE, lambda level, sign: 4 + (level * 4).floor()),
    "Solarize": (SOLARIZE, lambda level, sign: (level * 256).floor().clamp_max(256)),
    "SolarizeIncreasing": (SOLARIZE, lambda level, sign: 256 - (level * 256).floor().clamp_max(256)),
    "SolarizeAdd": (SOLARIZE_ADD, lambda level, sign: (level * 110).floor().clamp_max(128)),
    "ShearX": (SHEAR_X, lambda level, sign: sign * (level * 0.3)),
    "ShearY": (SHEAR_Y, lambda level, sign: sign * (level * 0.3)),
    "TranslateX": (MOVE_X_CONST, lambda level, sign: sign * level),
    "TranslateY": (MOVE_Y_CONST, lambda level, sign: sign * level),
    "TranslateXRel": (MOVE_X, lambda level, sign: sign * (level * 0.45)),
    "TranslateYRel": (MOVE_Y, lambda level, sign: sign * (level * 0.45)),
    "Desaturate": (COLOUR, lambda level, sign: 1 - (0.5 + 0.5 * level).clamp(0.5, 1)),
}
for _name, _code in (("Color", COLOUR), ("Contrast", CONTRAST), ("Brightness", BRIGHTNESS), ("Sharpness", SHARPNESS)):
    _LEVELS[_name] = _code, lambda level, sign: level * 1.8 + 0.1
    _LEVELS[f"{_name}Increasing"] = _code, lambda level, sign: (1 + sign * (level * 0.9)).clamp_min(0.1)


def policy_problem(text: str) -> str | None:
    """Why a policy in timm's notation cannot be carried out on whole batches; None: it can."""
    options, chosen = _options(text, "bilinear")
    unknown = sorted({option.name for option in options} - set(_LEVELS))
    if unknown:
        return f"{text} has {' and '.join(unknown)}, which is done in workers only"
    if isinstance(chosen, tuple) and chosen[0] > len(options):
        return f"{text} takes {chosen[0]} different operations, and there are {len(options)}"
    return None


def _options(text: str, interpolation: str) -> tuple[list[AugmentOp], list[list[int]] | tuple[int, Tensor] | int]:
    """All operations, and how some are chosen: rows of them, so many by weights, each once, or so many of any."""
    policy = image_policy(text, 32, (0.5, 0.5, 0.5), interpolation)
    if isinstance(policy, RandAugment):
        weights, count = policy.choice_weights, int(policy.num_layers)
        return list(policy.ops), count if weights is None else (count, torch.tensor(weights).double())
    options: list[AugmentOp] = []
    rows = []
    for row in policy.policy:  # type: ignore[attr-defined]
        rows.append(list(range(len(options), len(options) + len(row))))
        options += row
    return options, rows


@dataclass(frozen=True, slots=True)
class BatchedPolicy:
    """A policy of timm's for whole batches.

    Attributes:
        text: in timm's notation, one that has no `policy_problem`.
        interpolation: of moved images, "bilinear", "bicubic" or "random": one of the two for each.
    """

    text: str
    interpolation: str

    def drawn(self, key: Tensor) -> Tensor:
        """(2L,...) int64 on the CPU: what is done L times in turn, and with what argument; `key` (...) decides it."""
        options, chosen = _options(self.text, self.interpolation)
        codes = torch.tensor([_LEVELS[option.name][0] for option in options])
        found = []
        for layer, picked in enumerate(_picked(key, len(options), chosen)):
            value, is_applied = _arguments(options, picked, key, layer)
            code = codes[picked]
            is_cubic = hashed_tensor(key, "policy", layer, "cubic") % 2 == 1
            if self.interpolation != "random":
                is_cubic = torch.full_like(is_cubic, self.interpolation == "bicubic")
            code = code + CUBIC * (is_cubic & (code >= MOVES[0]))
            found += [torch.where(is_applied & (picked >= 0), code, 0), as_bits(value)]
        return torch.stack(found) if found else key.new_empty((0, *key.shape))

    def of(self, images: Tensor, numbers: Tensor, fill: Tensor, *, in_groups: bool) -> Tensor:
        """(B,3,H,W) uint8 after everything that was drawn.

        Args:
            images: likewise.
            numbers: (2L,B) of `drawn`.
            fill: (3,) uint8, the colour of what is moved in.
            in_groups: see `changed`.
        """
        families = dict(_IN_PLACE)
        families |= _TABLES_APART if in_groups else {(TABLES[0], CONTRAST): _by_any_table}
        moves = _MOVES_APART if in_groups else _MOVES_AT_ONCE
        for is_cubic in {"bilinear": [False], "bicubic": [True]}.get(self.interpolation, [False, True]):
            for (first, last), along in moves.items():
                more = CUBIC * is_cubic
                families[first + more, last + more] = partial(_moved, fill=fill, is_cubic=is_cubic, along=along)
        for codes, values in zip(numbers[::2], as_numbers(numbers[1::2]), strict=True):
            for (first, last), change in families.items():  # each row is changed by one of them at most
                rows = (codes >= first) & (codes <= last)
                images = changed(images, rows, change, codes, values, in_groups=in_groups)
        return images


def _picked(key: Tensor, num_options: int, chosen: list[list[int]] | tuple[int, Tensor] | int) -> list[Tensor]:
    """Numbers of the options (...) of each layer; -1: none."""
    if isinstance(chosen, int):
        return [hashed_tensor(key, "policy", layer, "option") % num_options for layer in range(chosen)]
    if isinstance(chosen, tuple):
        count, weights = chosen
        # The first to arrive, each at its rate: drawn one after the other, in proportion to what is left.
        arrivals = -(1 - uniform(key[..., None], "policy", "option", torch.arange(num_options))).log() / weights
        return list(arrivals.argsort(-1)[..., :count].unbind(-1))
    longest = max(map(len, chosen))
    table = torch.tensor([row + [-1] * (longest - len(row)) for row in chosen])
    return list(table[hashed_tensor(key, "policy", "row") % len(chosen)].unbind(-1))


def _arguments(options: list[AugmentOp], picked: Tensor, key: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The argument (...) float64 of each option that was picked, and whether it is applied."""
    settings = torch.tensor(
        [[one.prob, one.magnitude, one.magnitude_std, one.magnitude_max or 10] for one in options]
    ).double()
    probability, magnitude, deviation, most = settings[picked].unbind(-1)
    is_applied = (probability >= 1) | (uniform(key, "policy", layer, "applied") <= probability)
    about = magnitude + deviation * normal(hashed_tensor(key, "policy", layer, "magnitude"), torch.float64)
    anywhere = magnitude * uniform(key, "policy", layer, "magnitude")
    drawn = torch.where(deviation.isinf(), anywhere, torch.where(deviation > 0, about, magnitude))
    level = drawn.clamp_min(0).minimum(most) / 10
    sign = 1 - 2 * (hashed_tensor(key, "policy", layer, "sign") % 2)
    value = torch.zeros_like(level)
    for number, option in enumerate(options):
        value = torch.where(picked == number, _LEVELS[option.name][1](level, sign), value)
    return value, is_applied


def _tables(codes: Tensor, values: Tensor) -> Tensor:
    """(B,1,256) uint8, what becomes of each value in an image that changes each by itself."""
    old, code, value = torch.arange(256, device=codes.device), codes[:, None], values[:, None]
    step = 1 << (8 - value.long()).clamp(0, 8)
    tables = torch.where(code == INVERT, 255 - old, old // step * step)
    tables = torch.where(code == SOLARIZE, torch.where(old < value, old, 255 - old), tables)
    added = torch.where(old < THRESHOLD, (old + value.long()).clamp_max(255), old)
    tables = torch.where(code == SOLARIZE_ADD, added, tables)
    brighter = (value.float() * old.float()).clamp(0, 255).long()
    return torch.where(code == BRIGHTNESS, brighter, tables).byte()[:, None]


def _by_any_table(images: Tensor, codes: Tensor, values: Tensor) -> Tensor:
    """By the table of any operation that has one: 256 values are chosen among, and the images looked up once."""
    code = codes[:, None, None]
    tables = torch.where(code == AUTOCONTRAST, stretching(images), _tables(codes, values))
    tables = torch.where(code == EQUALIZE, equalizing(images), tables)
    return looked_up(images, torch.where(code == CONTRAST, contrasting(images, values), tables))


def _moved(
    images: Tensor, codes: Tensor, values: Tensor, *, fill: Tensor, is_cubic: bool, along: Literal["x", "y"] | None
) -> Tensor:
    """What turns, shears or shifts."""
    height, width = images.shape[-2:]
    code, zero = codes - CUBIC * is_cubic, torch.zeros_like(values)
    most = translation(min(height, width))
    slopes = [torch.where(code == shear, values, zero) for shear in (SHEAR_X, SHEAR_Y)]
    shifts = [
        torch.where(code == move, values * side, torch.where(code == move_const, values * most, zero))
        for move, move_const, side in ((MOVE_X, MOVE_X_CONST, width), (MOVE_Y, MOVE_Y_CONST, height))
    ]
    one = torch.ones_like(values)
    matrices = torch.stack([one, slopes[0], shifts[0], slopes[1], one, shifts[1]], 1)
    if along is None:
        matrices = torch.where((code == ROTATE)[:, None], rotations(values, height, width), matrices)
    return affine(images, matrices, fill, is_cubic=is_cubic, along=along)


# What changes rows whose codes are from the first to the last, both included.
_TABLES_APART: dict[tuple[int, int], Callable[..., Tensor]] = {
    (TABLES[0], TABLES[-1]): lambda images, codes, values: looked_up(images, _tables(codes, values)),
    (AUTOCONTRAST, AUTOCONTRAST): lambda images, codes, values: looked_up(images, stretching(images)),
    (EQUALIZE, EQUALIZE): lambda images, codes, values: looked_up(images, equalizing(images)),
    (CONTRAST, CONTRAST): lambda images, codes, values: looked_up(images, contrasting(images, values)),
}
_IN_PLACE: dict[tuple[int, int], Callable[..., Tensor]] = {
    (COLOUR, COLOUR): lambda images, codes, values: coloured(images, values),
    (SHARPNESS, SHARPNESS): lambda images, codes, values: sharpened(images, values),
}
_MOVES_AT_ONCE: dict[tuple[int, int], Literal["x", "y"] | None] = {(MOVES[0], MOVES[-1]): None}
_MOVES_APART: dict[tuple[int, int], Literal["x", "y"] | None] = {
    (ROTATE, ROTATE): None,
    (SHEAR_X, MOVE_X_CONST): "x",
    (SHEAR_Y, MOVE_Y_CONST): "y",
}
