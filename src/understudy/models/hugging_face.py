"""Networks of Hugging Face's transformers: hf:NAME from the hub, hf:FOLDER from disk.

They keep the names of transformers' own classes for their parts (taps) and weights (state dict); only forward is
another: it takes images alone and returns logits alone.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor, nn

from understudy.core.image_size import ImageSize, height_and_width, size_from, size_of, size_text, squares_note
from understudy.models.blueprint import Blueprint, Normalisation, stated_size
from understudy.models.hf_detectors import (
    found_by_queries,
    is_detector,
    processor_of,
    with_published_columns,
    without_heads,
)
from understudy.models.hub import WeightsUnavailableError, first_line, hub_within_reach, quiet_libraries
from understudy.models.segmentation.queries import QUERY_SEGMENTERS, semantic_logits
from understudy.utils.errors import UserError, unknown_name

__all__ = ["folder_files", "hf_blueprint", "hf_class_names"]

# What a configuration says of the file that it came from, or of labels, which the data decides.
_NOT_SETTINGS = {"transformers_version", "dtype", "id2label", "label2id"}


def hf_blueprint(name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]) -> Blueprint:
    """An image classifier of transformers', a segmenter or a detector, by its name on the hub or by its folder.

    It is a segmenter where its configuration's `architectures` say "...ForSemanticSegmentation", as that of SegFormer's
    fine-tuned weights does, or Mask2Former, a detector where "...ForObjectDetection"; for others, `kwargs` may say so.
    Both take images of any size.

    Where its configuration names an image size, images are resized to that, and `image_size` builds it for another.
    Settings in `kwargs` replace those of the published configuration; with a `model_type` among them they are the
    whole of it, and nothing is looked for anywhere.

    Raises:
        UserError: transformers is not installed, no such model, one that is no image classifier, or one whose
            images cannot be prepared by a mean and a std.
    """
    library = _transformers()
    if name.startswith("timm/") and not _is_folder(name):  # known before anything is fetched
        raise UserError(f"hf:{name} is one of timm's networks; write timm:{name.removeprefix('timm/')}")
    published, processor = ({}, None) if "model_type" in kwargs else _published(library, name)
    config = _config(library, name, published | dict(kwargs))
    normalisation, crop_size = _as_it_does(processor, name) if processor is not None else (None, None)
    config.num_labels = num_classes
    if "model_type" not in kwargs:  # a whole configuration is there to be changed
        image_size = stated_size(f"hf:{name}", kwargs, "image_size", image_size)
    own_size = None if _is_dense(config) else _own_size(config)
    if image_size and own_size:
        _resize(config, image_size)
    return Blueprint(
        build=partial(_random, library, name, config),
        pretrained=None if "model_type" in kwargs else partial(_pretrained, library, name, config),
        normalisation=normalisation,
        prefers=None if _is_dense(config) else own_size or crop_size,
        resize_to=None if _is_dense(config) else (image_size or own_size) if own_size else image_size,
        kwargs=_settings(config) | ({"architectures": config.architectures} if _is_dense(config) else {}),
    )


def hf_class_names(name: str) -> list[str]:
    """What the configuration of a model on the hub calls its classes, in order.

    Raises:
        UserError: transformers is not installed, or no such model.
    """
    library = _transformers()
    try:
        with _within_reach(name), _no_progress_bars(library):
            numbered = library.AutoConfig.from_pretrained(_place(name), trust_remote_code=False).id2label
    except WeightsUnavailableError as reason:
        raise UserError(f"hf:{name}: its classes' names cannot be had: {reason}; give their numbers") from reason
    return [str(numbered[number]) for number in sorted(numbered)]


def folder_files(
    module: nn.Module,
    label_names: Sequence[str] | None,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: ImageSize,
    crop_share: float,
) -> dict[str, dict[str, Any]]:
    """What a folder needs beside the weights, so that transformers reads the network too: JSON by file name.

    Args:
        module: as `hf_blueprint` builds it.
        label_names: one for each class, in order; None: their numbers.
        mean: per channel, in [0,1] units; None: nothing is normalised.
        std: likewise.
        image_size: of what the network is given.
        crop_share: side of the centre crop as a share of the resized shorter side.
    """
    config: Any = module.config
    height, width = height_and_width(image_size)
    named = {} if label_names is None else {"id2label": dict(enumerate(label_names))}
    processor = {
        "image_processor_type": "CLIPImageProcessor",  # resize, centre crop, rescale, normalise: nothing else
        "do_convert_rgb": True,
        "do_resize": True,
        # As this network's own evaluation does with images of the size's shape; it has no rule for other shapes.
        "size": {"shortest_edge": round(min(height, width) / crop_share)},
        "resample": int(Image.Resampling.BILINEAR),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": mean is not None,
        "image_mean": mean,
        "image_std": std,
    }
    settings = _settings(config) | {
        "architectures": [getattr(module, "architecture", type(module).__name__)],
        "id2label": config.id2label,
    }
    own = processor_of(module, mean, std)
    return {"config.json": settings | named, "preprocessor_config.json": processor if own is None else own}


class _LogitsAlone:
    """Stands before a class of transformers': (B,3,H,W) images to (B,C) logits."""

    def forward(self, images: Tensor) -> Tensor:
        output: Any = super().forward(pixel_values=images, return_dict=True)  # type: ignore[misc]
        if hasattr(output, "masks_queries_logits"):
            return semantic_logits(output.class_queries_logits, output.masks_queries_logits)
        return output.logits  # type: ignore[no-any-return]


def _logits_alone(model: nn.Module) -> nn.Module:
    """The same object with another forward: a wrapper around it would put a prefix before every name."""
    kind = type(model)
    # The same name and module: transformers finds by them what a class can record.
    model.__class__ = type(kind.__name__, (_LogitsAlone, kind), {"__module__": kind.__module__})
    return model.train()


def _is_segmenter(config: Any) -> bool:
    """Whether the network that is meant gives a class for every pixel, by the name of its class."""
    names = [str(name) for name in config.architectures or ()]
    return any(name.endswith("ForSemanticSegmentation") or name in QUERY_SEGMENTERS for name in names)


def _is_dense(config: Any) -> bool:
    return _is_segmenter(config) or is_detector(config)


def _class_of(library: Any, config: Any) -> Any:
    """Of transformers, what builds the kind of network that is meant."""
    if is_detector(config):
        return library.AutoModelForObjectDetection
    wanted = "AutoModelForSemanticSegmentation" if _is_segmenter(config) else "AutoModelForImageClassification"
    if any(name in QUERY_SEGMENTERS for name in config.architectures or ()):
        wanted = "AutoModelForUniversalSegmentation"
    return getattr(library, wanted)


def _adapted(made: nn.Module, config: Any, columns: Sequence[int] | None = None) -> nn.Module:
    """A network of transformers' as this package runs it."""
    return found_by_queries(made, columns) if is_detector(config) else _logits_alone(made)


def _random(library: Any, name: str, config: Any) -> nn.Module:
    try:
        with quiet_libraries():
            made = _class_of(library, config).from_config(
                copy.deepcopy(config), dtype=torch.float32, trust_remote_code=False
            )
    except Exception as error:  # settings that contradict each other fail in any way
        kind = (
            "a detector" if is_detector(config) else "a segmenter" if _is_segmenter(config) else "an image classifier"
        )
        raise UserError(
            f"hf:{name} cannot be built as {kind}: {type(error).__name__}: {first_line(error)}"
            f"{squares_note(getattr(_sized(config), 'image_size', None))}"
        ) from error
    return _adapted(made, config)


def _pretrained(library: Any, name: str, config: Any) -> nn.Module:
    """The published weights, with a new classifier where the class count differs or none was published."""
    with _within_reach(name), _no_progress_bars(library):
        config, columns = with_published_columns(library, _place(name), config)
        loaded, report = _class_of(library, config).from_pretrained(
            _place(name),
            config=copy.deepcopy(config),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,  # as `build` has it, whatever the file was saved in
            trust_remote_code=False,
        )
    own = f"{loaded.base_model_prefix}."  # what is not under it is the classifier
    absent = sorted(key for key in report["missing_keys"] if key.startswith(own))
    misshapen = sorted(key for key, *_ in report["mismatched_keys"] if key.startswith(own))
    misshapen = without_heads(misshapen) if is_detector(config) else misshapen
    if absent or misshapen:
        # transformers would draw these at random and go on.
        what = "are of another shape for this image size and these settings" if misshapen else "are not among them"
        raise WeightsUnavailableError(f"{', '.join((misshapen or absent)[:3])} {what}")
    return _adapted(loaded, config, columns)


def _published(library: Any, name: str) -> tuple[dict[str, Any], Any]:
    """Settings of its configuration, and its image processor, or None where it has none."""
    try:
        with _within_reach(name), _no_progress_bars(library):
            config = library.AutoConfig.from_pretrained(_place(name), trust_remote_code=False)
            return _settings(config), _processor(library, name)
    except WeightsUnavailableError as reason:
        raise UserError(
            f"hf:{name} cannot be had: {reason}. Give the name of an image classifier on the hub (hf:OWNER/NAME) or a "
            "folder with its config.json; one that brings code of its own goes in as module.path:factory"
        ) from reason


def _processor(library: Any, name: str) -> Any:
    try:
        return library.AutoImageProcessor.from_pretrained(_place(name), trust_remote_code=False)
    except (OSError, ValueError):
        if constants.HF_HUB_OFFLINE and not _is_folder(name):
            raise  # it may have one: another normalisation than its own would go unnoticed
        return None


def _config(library: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """The configuration of these settings, in which whatever follows from others follows from these."""
    kinds = library.models.auto.configuration_auto.CONFIG_MAPPING
    kind = str(settings["model_type"])
    if kind == "timm_wrapper":
        raise UserError(
            f"hf:{name} is one of timm's networks; write timm:{settings.get('architecture') or 'NAME'}, and give a "
            "folder as its weights"
        )
    if kind not in kinds:
        raise UserError(f"hf:{name}: model_type {kind!r} is {unknown_name(kind, kinds)}")
    plain = library.AutoConfig.for_model(kind)
    for key in settings:
        if not hasattr(plain, key):
            raise UserError(f"hf:{name} cannot be built with {key}: it is {unknown_name(key, plain.to_dict())}")
    try:
        # None, a default, is one that transformers cannot iterate over where a kind has two classifiers (levit).
        with quiet_libraries():  # a backbone that its own folder names is called unknown there
            return library.AutoConfig.for_model(**{"architectures": [], **settings})
    except Exception as error:  # of many kinds, for a value of a wrong kind
        raise UserError(f"hf:{name} cannot be built with these settings: {' '.join(str(error).split())}") from error


def _settings(config: Any) -> dict[str, Any]:
    """All that rebuilds the network, but for its number of classes."""
    # What is no field follows from those that are, or is a leftover that its class never reads.
    fields = {field.name for field in dataclasses.fields(config)} - _NOT_SETTINGS
    given = config.to_diff_dict() | {"model_type": config.model_type}
    return {key: value for key, value in given.items() if key in fields or key == "model_type"}


def _as_it_does(processor: Any, name: str) -> tuple[Normalisation, ImageSize]:
    """Mean and std in [0,1] units, and size, of what an image processor makes of an image."""
    black, white, red = (_processed(processor, colour) for colour in ("black", "white", "red"))
    pixels = [made[:, made.shape[1] // 2, made.shape[2] // 2].double() for made in (black, white, red)]
    if not torch.allclose(pixels[2], torch.stack([pixels[1][0], *pixels[0][1:]])):
        raise UserError(
            f"hf:{name} wants other channels than red, green, blue; take the same network from timm:, "
            "or wrap it in a factory of your own: module.path:factory"
        )
    # Read off the result, since settings alone do not tell: some rescale to [-1,1], some normalise twice.
    std = 1 / (pixels[1] - pixels[0])
    return (_rounded(-pixels[0] * std), _rounded(std)), size_of(black.shape)


def _processed(processor: Any, colour: str) -> Tensor:
    """(3,S,S) of an image that is one colour all over."""
    made: Tensor = processor(images=Image.new("RGB", (256, 256), colour), return_tensors="pt")["pixel_values"][0]
    return made


def _rounded(values: Tensor) -> tuple[float, ...]:
    # Six digits are what float32 leaves of them, and more than most state.
    return tuple(round(float(value), 6) for value in values)


def _own_size(config: Any) -> ImageSize | None:
    """The image size that a configuration names; None where it names none."""
    size = getattr(_sized(config), "image_size", None)
    try:
        return None if size is None else size_from(size)
    except ValueError as error:
        raise UserError(f"hf: the image_size of a configuration {error}") from None


def _resize(config: Any, size: ImageSize) -> None:
    sized = _sized(config)
    is_pair = isinstance(size, tuple) or isinstance(sized.image_size, list | tuple)
    try:
        sized.image_size = list(height_and_width(size)) if is_pair else size
    except Exception as error:  # some kinds check what they are given, each in its own way
        raise UserError(
            f"a {sized.model_type} cannot be built for {size_text(size)} pixels ({first_line(error)}); give one number"
        ) from error


def _sized(config: Any) -> Any:
    """The part of a configuration that names the image size: of those for text and images, the one for images."""
    return config if hasattr(config, "image_size") else getattr(config, "vision_config", config)


@contextmanager
def _within_reach(name: str) -> Iterator[None]:
    """As `hub_within_reach`, but a folder is read without asking whether the hub answers."""
    if not _is_folder(name):
        with hub_within_reach():
            yield
        return
    try:
        with quiet_libraries():
            yield
    except Exception as error:
        raise WeightsUnavailableError(first_line(error)) from error


@contextmanager
def _no_progress_bars(library: Any) -> Iterator[None]:
    settings = library.utils.logging
    was_on = settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            settings.enable_progress_bar()


def _place(name: str) -> str:
    return str(Path(name).expanduser()) if _is_folder(name) else name


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()


def _transformers() -> Any:
    # By name: an import statement would make the type checker read the whole library, where it is installed.
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"networks of hf: need transformers ({first_line(error)}); install it with: pip install 'understudy[hf]'"
        ) from None
