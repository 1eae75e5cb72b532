"""Everything that a bank's rows depend on, taken from a recipe and its data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from understudy.core.image_size import ImageSize
from understudy.data import DataSplits, augment_for
from understudy.data.augment.boxes import box_rendering, common_canvas
from understudy.data.augment.config import AugmentParts
from understudy.data.augment.crops import second_augment_for
from understudy.data.sources.base import Source, identity_of, images_in_memory
from understudy.data.sources.boxed import size_of_boxed
from understudy.data.sources.decoding import BadImageError
from understudy.models import Network
from understudy.models.weight_files import split_weights, weights_digest
from understudy.recipes.schema import Recipe
from understudy.utils.errors import UserError
from understudy.utils.hashing import fingerprint
from understudy.utils.machine import describe_environment
from understudy.utils.seeding import globally_seeded

__all__ = ["bank_key", "split_identity", "versions_here"]

NUM_PROBED = 16  # images of a split that its identity is taken from in any case, beside all labels
CHUNK = 4096  # images that are copied at once
_OF_TRAINING = ("rows", "aux_weight")  # settings of segmentation that change nothing of what a teacher says
AUGMENTING = ("understudy", "torch", "torchvision", "timm")  # what pixels and outputs hang on


def bank_key(
    recipe: Recipe,
    data: DataSplits,
    *,
    image_size: ImageSize,
    student: Network,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that a teacher's outputs depend on but the seed, as far as it is known without that network.

    Args:
        recipe: with that teacher alone.
        data: that are banked.
        image_size: of the student's images.
        student: whose normalisation some transforms depend on.
        beside: what is to be said of a teacher that stands beside others.
    """
    augment, second = augment_for(recipe.data, data.train), second_augment_for(recipe.data, data.train)
    # What is erased is filled with noise about the student's mean.
    has_parts = any(isinstance(one, AugmentParts) and one.has_parts for one in (augment, second))
    filled = {"mean": student.mean, "std": student.std} if has_parts else {}
    splits = {"train": data.train, "val": data.val} | ({} if data.test is None else {"test": data.test})
    identities = {
        source: split_identity(source) for source in splits.values()
    }  # val and test are one under data.val: test
    # Who is mixed with whom hangs on who stands in the same batch.
    mix = recipe.data.mix
    mixed = {} if mix is None else {"mix": mix.model_dump(mode="json"), "mixed_in_batches_of": recipe.data.batch_size}
    repeats = recipe.data.repeats  # decides which samples a view shows at all
    key = {
        "teacher": _of_teacher(recipe) | dict(beside or {}),
        "images": {
            "augment": augment.model_dump(mode="json"),
            "copies": recipe.data.copies,
            "size": image_size,
            "in_memory": data.native_size,  # these are augmented in whole batches, with other draws than in workers
            **({} if second is None else {"second_augment": second.model_dump(mode="json")}),
            **filled,
            **_of_masks(recipe, data, student),
            **_of_boxes(recipe, data),
            **mixed,
            **({} if repeats == 1 else {"repeats": repeats}),
            **({"decode": "gpu"} if recipe.data.decode == "gpu" else {}),
            **({"augment_on": "device"} if recipe.data.augment_on == "device" else {}),
            **({} if data.greys is None else {"greys": data.greys}),
            **({"exif_rotation": True} if data.num_rotated else {}),  # banks of before were made of none that is turned
        },
        "data": {"classes": len(data.classes), **{name: identities[source] for name, source in splits.items()}},
        "precision": recipe.precision,
    }
    plain: dict[str, Any] = json.loads(json.dumps(key))  # tuples as they come back from a file
    return plain


def _of_teacher(recipe: Recipe) -> dict[str, Any]:
    """Its settings, and what tells its weights."""
    teacher = recipe.teacher
    assert teacher is not None, "a recipe with a bank has a teacher"
    digest = _digest_of_weights(teacher.weights)
    return {
        "model": teacher.model,
        "weights": teacher.weights,
        "kwargs": teacher.kwargs,
        **({"first_seed": recipe.seeds[0]} if teacher.weights == "none" else {}),
        **({} if digest is None else {"sha256": digest}),
        **_set_in_it(teacher.weights),
        **({} if teacher.classes is None else {"classes": teacher.classes}),
        **({} if teacher.image_size is None else {"image_size": teacher.image_size}),
    }


def _of_masks(recipe: Recipe, data: DataSplits, student: Network) -> dict[str, Any]:
    """What windows of images with masks are made by, and the teacher's masks of whole images are scored by."""
    if data.window is None or data.have_boxes:
        return {}
    told = recipe.segmentation.model_dump(mode="json", exclude=set(_OF_TRAINING))
    return {"shorter_side": recipe.data.shorter_side, "padded_with": student.mean, "evaluation": told}


def _of_boxes(recipe: Recipe, data: DataSplits) -> dict[str, Any]:
    """At what sizes images with boxes are shown, and what decides how far they are padded: all images, or a batch."""
    if not data.have_boxes:
        return {}
    config, rendering = recipe.data, box_rendering(recipe.data)
    canvas = common_canvas((size_of_boxed(data.train, i) for i in range(len(data.train))), rendering)
    of_batches = {"padded_in_batches_of": config.batch_size, "aspect_groups": config.aspect_groups}
    return {
        "shorter_sides": rendering.shorter_sides,
        "longer_side": rendering.longer_side,
        **(of_batches if canvas is None else {"padded_to": canvas}),
    }


def _digest_of_weights(weights: str | None) -> str | None:
    """SHA-256 of the teacher's file of weights, if they are one and it is there; it is not unpickled."""
    if weights in (None, "pretrained", "none"):
        return None
    with suppress(UserError, OSError):
        return weights_digest(weights)
    return None


def _set_in_it(weights: str | None) -> dict[str, str]:
    """The KEY of "FILE#KEY", which the digest of the file does not tell."""
    key = split_weights(weights)[1] if weights else None
    return {} if key is None else {"set": key}


def split_identity(source: Source, *, num_probed: int = NUM_PROBED) -> dict[str, Any]:
    """Number of images, all labels, the pixels of a few images, and of all what is quickly had.

    Args:
        source: of N images.
        num_probed: images whose pixels are read in any case, evenly spread.
    """
    places = sorted({i * (len(source) - 1) // (num_probed - 1) for i in range(num_probed)})
    pixels = {}
    for place in places:
        with suppress(BadImageError), globally_seeded(place):  # a data set's own transform may draw
            pixels[str(place)] = source.image(place)
    images = images_in_memory(source)
    if images is not None:
        # 50,000 images of 32 pixels take 0.1 s; in one piece, 0.6 s and as much memory again.
        chunks = torch.split(images, CHUNK)
        of_all = {"all_pixels": fingerprint({str(i): chunk for i, chunk in enumerate(chunks)})}
    else:
        of_all = _all_files(source)
    return {
        "images": len(source),
        "labels": fingerprint({"labels": source.labels}),
        "pixels": fingerprint(pixels),
        **of_all,
    }


def _all_files(source: Source) -> dict[str, str]:
    """Of what tells each image, such as name and size of its file; {} where some source does not say. 100,000: 1 s."""
    digest = hashlib.sha256()
    for i in range(len(source)):
        identity = identity_of(source, i)
        if identity is None:
            return {}
        digest.update(identity)
    return {"all_files": digest.hexdigest()[:16]}


def versions_here() -> dict[str, str | None]:
    """Of the packages that draw a view, render it and look at it."""
    versions = describe_environment()["versions"]
    return {name: versions[name] for name in AUGMENTING}
