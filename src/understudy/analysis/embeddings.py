"""Embeddings of many dimensions laid out in a plane: by principal components, and by t-SNE."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike, as_array
from understudy.utils.errors import UserError

__all__ = ["principal_components", "tsne"]

Floats = npt.NDArray[np.float64]
FEWEST_IMAGES = 3


def principal_components(embeddings: ArrayLike) -> tuple[Floats, Floats]:
    """(N, 2) embeddings along their two directions of most variance, and (2,) the share of variance of each, percent.

    The sign of a direction, which is arbitrary, is such that its largest number is above zero.

    Args:
        embeddings: (N, D), three images or more.

    Raises:
        UserError: another shape, or fewer images.
    """
    values = _checked(embeddings)
    centred = values - values.mean(axis=0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(values), 2))
    shares = np.zeros(2)
    total = float((sizes**2).sum())
    for axis in range(min(2, len(sizes))):
        sign = np.sign(right[axis][np.abs(right[axis]).argmax()]) or 1.0
        places[:, axis] = sign * left[:, axis] * sizes[axis]
        shares[axis] = 100 * sizes[axis] ** 2 / total if total else 0.0
    return places, shares


def tsne(embeddings: ArrayLike, *, perplexity: float = 30.0, seed: int = 0) -> Floats:
    """(N, 2) embeddings laid out so that close ones stay close; distances between groups mean nothing.

    van der Maaten, Hinton, "Visualizing Data using t-SNE", JMLR 2008, by scikit-learn, from principal components.

    Args:
        embeddings: (N, D), three images or more.
        perplexity: how many neighbours count as close; at most a third of N is taken.
        seed: of the layout.

    Raises:
        UserError: another shape, fewer images, or scikit-learn is not installed.
    """
    values = _checked(embeddings)
    if find_spec("sklearn") is None:
        raise UserError("t-SNE needs scikit-learn, which is not installed; install with: pip install scikit-learn")
    from sklearn.manifold import TSNE

    near = min(perplexity, max(1.0, (len(values) - 1) / 3))
    found = TSNE(2, perplexity=near, init="pca", random_state=seed).fit_transform(values.astype(np.float32))
    return np.asarray(found, dtype=np.float64)


def _checked(embeddings: ArrayLike) -> Floats:
    values = np.asarray(as_array(embeddings), dtype=np.float64)
    if values.ndim != 2 or len(values) < FEWEST_IMAGES or not values.shape[1]:
        raise UserError(f"a layout needs embeddings (N, D) of {FEWEST_IMAGES} images or more, got {values.shape}")
    return values
