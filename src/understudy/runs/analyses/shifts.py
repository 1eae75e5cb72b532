"""How far the blocks of each network are from being translation equivariant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy.analysis.equivariance import SHIFTS, block_equivariance, block_paths, keeps_plane
from understudy.runs.analyses.base import Analysis, Found, Piece, register_analysis
from understudy.runs.analyses.opened import Opened
from understudy.utils.errors import UserError

__all__ = ["EQUIVARIANCE", "blocks_of"]

SPLIT = "val"
MOST_IMAGES = 64
MOST_BLOCKS = 24


def blocks_of(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What enters each block that keeps the plane of its input, by the block's path, in the order they are met.

    Blocks are the entries of a network's lists of layers (`layer1.0`, `blocks.3`); those that take something else
    beside one tensor of maps or tokens, or change its plane, are left out.
    """
    found: dict[str, Tensor] = {}

    def heard(path: str, given: tuple[Any, ...], out: Any) -> None:
        if len(given) == 1 and isinstance(given[0], Tensor) and isinstance(out, Tensor) and keeps_plane(given[0], out):
            found[path] = given[0].detach()

    handles = [
        module.get_submodule(path).register_forward_hook(lambda _, given, out, path=path: heard(path, given, out))
        for path in block_paths(module)
    ]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return dict(list(found.items())[:MOST_BLOCKS])


def _equivariance(opened: Opened, name: str) -> Found:
    module = opened.network(name).module
    images = next(iter(opened.images(name, SPLIT, most=MOST_IMAGES)))[0]
    prefix = int(getattr(module, "num_prefix_tokens", 0) or 0)
    values: dict[str, Any] = {}
    for path, given in blocks_of(module, images).items():
        try:
            found = block_equivariance(module.get_submodule(path), given, num_prefix=prefix)
        except UserError:  # tokens that make no square
            continue
        values[path] = asdict(found)
    if not values:
        raise UserError("it has no blocks of maps or tokens that keep the plane of what enters them")
    return Found({"blocks": values})


def _settings(opened: Opened) -> Mapping[str, Any]:
    return {"shifts": [list(shift) for shift in SHIFTS], "most_images": MOST_IMAGES}


def _pieces(opened: Opened) -> Iterable[Piece]:
    share = min(1.0, MOST_IMAGES / len(opened.shown(SPLIT)))
    return [Piece(name, share * (2 + len(SHIFTS)), name, partial(_equivariance, opened, name)) for name in opened.names]


EQUIVARIANCE = register_analysis(
    Analysis("equivariance", "translation equivariance", 60, SPLIT, lambda _: None, _settings, _pieces)
)
