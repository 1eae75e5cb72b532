"""How far a block of a network is from being translation equivariant: mu_T of the projector paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from understudy.utils.errors import UserError

__all__ = ["SHIFTS", "Equivariance", "block_equivariance", "block_paths", "equivariance", "keeps_plane", "shifted"]

Shift = tuple[int, int]  # rows down, columns to the right

SHIFTS: tuple[Shift, ...] = ((0, 1), (1, 0), (1, 1))
SMALLEST_SIDE = 3  # of a map whose shifts mean something


@dataclass(frozen=True, slots=True)
class Equivariance:
    """mu_T of a block by three scales, each as the mean over images and shifts.

    Attributes:
        sum: squared L2 norm of phi(T x) - T phi(x) of an image: eq. 14 as it stands.
        mean: the same by element.
        relative: the same over the squared norm of T phi(x).
        standard_error: of `relative`, over images (each the mean over its shifts).
        num_images: B.
    """

    sum: float
    mean: float
    relative: float
    standard_error: float | None
    num_images: int


def shifted(maps: Tensor, by: Shift, *, filling: Literal["zero", "cyclic"] = "zero") -> Tensor:
    """(B,D,H,W) moved down and to the right; what enters at the border is zero, or what left on the other side."""
    moved = torch.roll(maps, by, dims=(2, 3))
    if filling == "cyclic":
        return moved
    return moved * _is_old(maps, by)


def equivariance(
    block: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    shifts: Sequence[Shift] = SHIFTS,
    num_prefix: int = 0,
    keeps_prefix: bool = False,
    filling: Literal["zero", "cyclic"] = "zero",
    only_valid: bool = False,
) -> Equivariance:
    """mu_T(phi) = mean ||phi(T x) - T phi(x)||^2 over images and translations T, of maps or of tokens laid in a plane.

    Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024, eq. 13, 14 and
    table 7. Shifts, filling, blocks and scale of the paper's numbers are not published: values compare within one
    definition alone. Under cyclic shifts a block without position-dependent parts has mu_T = 0 whatever its weights.

    Args:
        block: phi, in evaluation mode; keeps the size of its input.
        inputs: (B,D,H,W) maps, or (B,P+N,D) tokens with N a square number, row by row: what enters the block as it
            arises for an image, position codes included.
        shifts: T, in rows and columns, at least one of them other than (0, 0) and none as large as the map.
        num_prefix: P, class and distillation tokens in front.
        keeps_prefix: whether the block sees them, unshifted; they are never part of what is compared.
        filling: what enters at the border.
        only_valid: compare only where T phi(x) is no filling.

    Raises:
        UserError: inputs of another shape, tokens that make no square, shifts as large as the map, a block that changes
            the size.
    """
    layout = _layout(inputs, num_prefix)
    if not shifts or any(abs(rows) >= layout[0] or abs(columns) >= layout[1] for rows, columns in shifts):
        raise UserError(f"shifts must be smaller than the map, {layout[0]}x{layout[1]}, and at least one; got {shifts}")

    def look(maps: Tensor) -> Tensor:
        return _through(block, maps, inputs, num_prefix if keeps_prefix else None)

    maps = _as_maps(inputs, num_prefix, layout)
    with torch.no_grad():
        plain = look(maps)
        found = [_of_shift(look(shifted(maps, by, filling=filling)), plain, by, filling, only_valid) for by in shifts]
    sums, means, relatives = (torch.stack(parts).double() for parts in zip(*found, strict=True))  # (T,B)
    by_image = relatives.mean(0)
    error = None if len(by_image) < 2 else float(by_image.std() / len(by_image) ** 0.5)
    return Equivariance(float(sums.mean()), float(means.mean()), float(relatives.mean()), error, len(by_image))


def block_paths(network: nn.Module) -> list[str]:
    """Where a network's blocks are: entries of its lists of layers (`layer1.0`, `blocks.3`), none within another."""
    paths = [
        f"{path}.{name}".removeprefix(".")
        for path, part in network.named_modules()
        if isinstance(part, nn.Sequential | nn.ModuleList)
        for name, child in part.named_children()
        if not isinstance(child, nn.Sequential | nn.ModuleList) and next(child.children(), None) is not None
    ]
    return [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]


def keeps_plane(given: Tensor, out: Tensor) -> bool:
    """Whether a block gives maps or tokens of the plane that it got, which is large enough for a shift."""
    if given.ndim == 4:
        return out.ndim == 4 and out.shape[2:] == given.shape[2:] and min(given.shape[2:]) >= SMALLEST_SIDE
    return given.ndim == 3 and out.shape == given.shape and given.shape[1] >= SMALLEST_SIDE**2


def block_equivariance(block: Callable[[Tensor], Tensor], inputs: Tensor, *, num_prefix: int = 0) -> Equivariance:
    """mu_T of a network's block as runs show it: shifts by a place, zeros enter, only what is no filling is compared.

    Zeros, and not what left on the other side: under cyclic shifts a block of self-attention has mu_T = 0 whatever its
    weights. Tokens in front of the patches are seen, and stay where they are.

    Args:
        block: phi, in evaluation mode.
        inputs: what enters it for some images, maps or tokens.
        num_prefix: P, of tokens.

    Raises:
        UserError: as `equivariance`.
    """
    prefix = num_prefix if inputs.ndim == 3 else 0
    return equivariance(block, inputs, num_prefix=prefix, keeps_prefix=prefix > 0, filling="zero", only_valid=True)


def _of_shift(
    moved: Tensor, plain: Tensor, by: Shift, filling: Literal["zero", "cyclic"], only_valid: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) squared norm of the difference, its mean by element, and its share of the output's own squared norm."""
    wanted = shifted(plain, by, filling=filling)
    counted = _is_old(plain, by) if only_valid else torch.ones_like(_is_old(plain, by))
    apart = ((moved - wanted) * counted).square().flatten(1).sum(1)
    size = (wanted * counted).square().flatten(1).sum(1)
    num_elements = counted.sum() * plain.shape[1]
    return apart, apart / num_elements, apart / size


def _is_old(maps: Tensor, by: Shift) -> Tensor:
    """(1,1,H,W) 1 where a shifted map has what was in the map before, 0 where something entered."""
    kept = maps.new_zeros(1, 1, *maps.shape[2:])
    rows, columns = (slice(max(step, 0), side + min(step, 0)) for step, side in zip(by, maps.shape[2:], strict=True))
    kept[:, :, rows, columns] = 1
    return kept


def _layout(inputs: Tensor, num_prefix: int) -> tuple[int, int]:
    """Height and width of the plane."""
    if inputs.ndim == 4 and num_prefix == 0:
        return inputs.shape[2], inputs.shape[3]
    num_tokens = inputs.shape[1] - num_prefix if inputs.ndim == 3 else 0
    side = round(max(num_tokens, 0) ** 0.5)
    if num_tokens < 1 or side**2 != num_tokens:
        raise UserError(
            f"equivariance takes maps (B,D,H,W), or tokens (B,P+N,D) whose N make a square; got shape "
            f"{tuple(inputs.shape)} with {num_prefix} tokens in front"
        )
    return side, side


def _as_maps(tokens: Tensor, num_prefix: int, layout: tuple[int, int]) -> Tensor:
    return tokens if tokens.ndim == 4 else tokens[:, num_prefix:].mT.reshape(len(tokens), -1, *layout)


def _through(block: Callable[[Tensor], Tensor], maps: Tensor, inputs: Tensor, num_kept: int | None) -> Tensor:
    """(B,D,H,W) what the block makes of these maps, in the form that it takes."""
    if inputs.ndim == 4:
        out = block(maps)
    else:
        tokens = maps.flatten(2).mT
        prefix = inputs[:, :num_kept] if num_kept is not None else inputs[:, :0]
        out = block(torch.cat([prefix, tokens], dim=1))
        if out.shape[:2] == (len(inputs), prefix.shape[1] + tokens.shape[1]):
            out = _as_maps(out, prefix.shape[1], (maps.shape[2], maps.shape[3]))
    if out.ndim != 4 or out.shape[2:] != maps.shape[2:]:
        raise UserError(f"the block must keep the plane {tuple(maps.shape[2:])}, and gave {tuple(out.shape)}")
    return out
