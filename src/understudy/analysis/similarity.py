"""How alike two layers see the same images: linear CKA, over minibatches without bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from understudy.utils.errors import UserError

__all__ = ["CKA", "linear_cka"]


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA of two layers on the same images, with the unbiased estimate of HSIC; 1: alike up to a rotation.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019; the unbiased HSIC of Song et
    al., JMLR 2012, eq. 5, so that few images and wide layers do not look alike by themselves.

    Args:
        first: (N, D) or (N, D, H, W) features, N of 4 or more.
        second: (N, E) or (N, E, H, W) features of the same images.

    Raises:
        UserError: fewer images, or not the same number.
    """
    similarity = CKA()
    similarity.add({"first": first}, {"second": second})
    return float(similarity.result()["first", "second"])


class CKA:
    """Linear CKA of every layer of one network with every layer of another, added up over minibatches.

    Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, eq. 2 and 3: sums of unbiased HSICs
    over batches, so that no matrix of all images is needed and the expected value does not depend on the batch size.
    """

    def __init__(self) -> None:
        self._cross: dict[tuple[str, str], float] = {}
        self._own: tuple[dict[str, float], dict[str, float]] = ({}, {})

    def add(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
        """Add a batch of features by layer, (B, D) or (B, D, H, W), B of 4 or more.

        Raises:
            UserError: fewer images, or not the same number.
        """
        sides = [{name: _gram(feature) for name, feature in side.items()} for side in (first, second)]
        counts = {len(gram) for side in sides for gram in side.values()}
        if len(counts) != 1 or min(counts) < 4:
            raise UserError(f"CKA needs the same 4 images or more of every layer, got {sorted(counts)}")
        for side, own in zip(sides, self._own, strict=True):
            for name, gram in side.items():
                own[name] = own.get(name, 0.0) + _hsic(gram, gram)
        for one, gram in sides[0].items():
            for other, against in sides[1].items():
                self._cross[one, other] = self._cross.get((one, other), 0.0) + _hsic(gram, against)

    def result(self) -> dict[tuple[str, str], float]:
        """CKA by pair of layers, the first network's before the second's; NaN where a layer does not vary."""
        found = {}
        for (one, other), cross in self._cross.items():
            size = self._own[0][one] * self._own[1][other]
            found[one, other] = cross / size**0.5 if size > 0 else float("nan")
        return found


def _gram(feature: Tensor) -> Tensor:
    """(B, B) products of centred rows with a diagonal of zeros, in float64."""
    rows = feature.detach().flatten(1).double()
    rows = rows - rows.mean(0)
    gram = rows @ rows.T
    return gram - torch.diag(gram.diagonal())


def _hsic(a: Tensor, b: Tensor) -> float:
    """Unbiased HSIC of two Gram matrices whose diagonals are zero."""
    n = len(a)
    trace = (a * b).sum()
    sums = a.sum() * b.sum() / ((n - 1) * (n - 2))
    crossed = 2 * (a.sum(0) @ b.sum(0)) / (n - 2)
    return float((trace + sums - crossed) / (n * (n - 3)))
