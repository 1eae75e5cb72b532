"""Students on disk: the folder format of timm or of transformers, plus what it takes to rebuild all others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import ConfigDict, Field
from safetensors.torch import save_file
from torch import nn

from understudy.core.config import Config
from understudy.core.image_size import ImageSize, height_and_width
from understudy.core.passes import left_as_it_was
from understudy.models.class_names import names_in_config
from understudy.models.create import create_model
from understudy.models.hugging_face import folder_files
from understudy.models.names import OWN_PREFIXES, may_run_code
from understudy.models.network import Network, Prepare
from understudy.models.weights import MisfitError, load_weights, read_config
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path

__all__ = ["load_student", "load_student_network", "save_student"]

_FROM_TIMM = ("fixed_input_size", "pool_size", "first_conv", "classifier")


class _About(Config):
    """What config.json says for `load_student`; it may come from anywhere."""

    model_config = ConfigDict(extra="ignore")

    name: str
    num_classes: int = Field(ge=1)
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    resize_to: ImageSize | None
    crop_share: float = Field(default=1.0, gt=0, le=1)
    kwargs: dict[str, Any]
    channels: int = Field(default=3, gt=0)  # of the images; other than 3 only where the network came from Python


def save_student(
    folder: str | Path,
    network: Network,
    label_names: Sequence[str] | None = None,
    *,
    image_size: ImageSize | None = None,
    crop_share: float = 1.0,
) -> None:
    """Write config.json and model.safetensors, each whole or not at all.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` reads timm's and the cifar networks (those after
    `import understudy`), transformers' `from_pretrained(FOLDER)` those of hf (with a preprocessor_config.json beside
    them), `load_student` all.

    Args:
        folder: made where it is missing; other files in it are left alone.
        network: whose `module` holds the weights to keep (`dataclasses.replace` puts others in; a module that its
            name does not build goes in as `network_of(module, ...)`).
        label_names: one for each class, in order.
        image_size: of the images it was trained on, to which `load_student` resizes all others; None:
            any size goes in as it comes, unless the network resizes by itself.
        crop_share: sides of the centre crop that it was evaluated on, as a share of what images were scaled to cover.

    Raises:
        UserError: label names that are not as many as classes.
    """
    if label_names is not None and len(label_names) != network.num_classes:
        raise UserError(
            f"{len(label_names)} label names for the {network.num_classes} classes of {network.name}; give one for each"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = _files(network, label_names, image_size, crop_share)
    # Cloned, since safetensors refuses tied weights; contiguous, since it refuses channels_last.
    state = {key: value.detach().cpu().clone().contiguous() for key, value in network.module.state_dict().items()}
    with TemporaryDirectory(dir=folder, prefix=".saving-") as half_way:
        save_file(state, Path(half_way) / "model.safetensors", metadata={"format": "pt"})
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (Path(half_way) / name).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        for file in sorted(Path(half_way).iterdir()):
            # Replacing also replaces a link, instead of writing to where it points.
            os.replace(file, folder / file.name)


def load_student(
    folder: str | Path, *, prepared: bool = True, module: nn.Module | None = None, allow_code: bool = False
) -> nn.Module:
    """The network that `save_student` wrote, in eval mode; its attribute `classes` has their names, None without any.

    Args:
        folder: a run's student/ folder, or the run's own.
        prepared: True: it takes images in [0,1], (B,3,H,W), and normalises them itself; those of another size than it
            was trained on are resized and cut as its evaluation did (antialiased; the centre of photographs). A folder
            from before sizes were kept (`resize_to` is null in its config.json) leaves images as they come: resize
            them yourself. A plain network that does neither comes as it is, under its own keys. False: the plain
            network, as it was trained.
        module: for a network that was handed over in Python: one that is built alike; its weights are replaced.
        allow_code: let config.json name a factory in your own code, which is then imported and called.

    Raises:
        UserError: no student there, code that is not allowed, or weights that do not fit.
    """
    network = load_student_network(folder, module=module, allow_code=allow_code)
    takes_images = not prepared or network.prepare.does_nothing
    found = (network.module if takes_images else network.prepared).eval()
    if not hasattr(found, "classes") or isinstance(
        vars(found).get("classes", 0), tuple | None
    ):  # a class may have its own
        found.classes = network.classes  # type: ignore[assignment]
    return found


def load_student_network(folder: str | Path, *, module: nn.Module | None = None, allow_code: bool = False) -> Network:
    """As `load_student`, but with its name, normalisation, number of classes and their names."""
    folder = _student_folder(folder)
    about = _about(folder)
    network = _loaded(folder, about, module, allow_code=allow_code)
    names = names_in_config(read_config(folder))
    known = names is not None and len(names) == network.num_classes
    return replace(network, classes=tuple(name for name, *_ in names or ()) if known else None)


def _loaded(folder: Path, about: Mapping[str, Any], module: nn.Module | None, *, allow_code: bool) -> Network:
    """The network with its weights."""
    if module is None and ":" not in about["name"]:
        raise UserError(
            f"{folder} holds the weights of a {about['name']} that was handed over in Python; build one and pass it: "
            f"load_student({str(folder)!r}, module={about['name']}(...))"
        )
    if module is not None:
        _load_own_weights(module, folder, about)
        return _network(module, about, starts_from=str(folder))
    if not allow_code and may_run_code(about["name"], about["kwargs"]):
        raise UserError(
            f"{folder} names {about['name']}, which is code outside understudy: building it would run code from "
            f"{about['name'].partition(':')[0]}; where you trust it, --allow-code, or "
            f"load_student({str(folder)!r}, allow_code=True)"
        )
    network = create_model(
        about["name"],
        num_classes=about["num_classes"],
        weights=folder,
        image_size=about["resize_to"],
        allow_code=allow_code,
        kwargs=about["kwargs"],
    )
    network.prepare.crop_share = about["crop_share"]
    return network


def _load_own_weights(module: nn.Module, folder: Path, about: Mapping[str, Any]) -> None:
    """Load the folder's weights, if need be after a pass in which the module registers what it had not yet."""
    try:
        load_weights(module, folder, name=about["name"])
    except MisfitError:
        before = module.state_dict().keys()
        images = torch.zeros(2, about["channels"], *height_and_width(about["resize_to"] or 224))
        with suppress(Exception), left_as_it_was(module):  # a network of someone else's may raise anything
            module(images)
        if module.state_dict().keys() == before:
            raise
        load_weights(module, folder, name=about["name"])


def _network(module: nn.Module, about: Mapping[str, Any], starts_from: str) -> Network:
    return Network(
        name=about["name"],
        module=module,
        prepare=Prepare(
            about["mean"],
            about["std"],
            size=about["resize_to"],
            crop_share=about["crop_share"],
            channels=about["channels"],
        ),
        input_size=about["resize_to"],
        num_classes=about["num_classes"],
        starts_from=starts_from,
        kwargs=about["kwargs"],
    )


def _student_folder(folder: str | Path) -> Path:
    given = given_path(folder, what="student")
    within = given / "student"
    return within if not (given / "config.json").is_file() and (within / "config.json").is_file() else given


def _about(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    about = config.get("understudy")
    if about is None and "architecture" in config:
        raise UserError(
            f"{folder} is a model folder that understudy did not write; "
            f"timm.create_model('local-dir:{folder}', pretrained=True) reads it"
        )
    if about is None and "model_type" in config:
        raise UserError(f"{folder} is a model folder that understudy did not write; as a network it is hf:{folder}")
    wanted = {"name", "num_classes", "mean", "std", "resize_to", "kwargs"}
    if not isinstance(about, dict) or not wanted <= set(about):
        raise UserError(f"{folder} holds no student (config.json and model.safetensors); give a run's student/ folder")
    return _About.read(about, what=f"{folder / 'config.json'}, understudy").model_dump()


def _files(
    network: Network, label_names: Sequence[str] | None, image_size: ImageSize | None, crop_share: float
) -> dict[str, dict[str, Any]]:
    """What describes the network, as JSON by file name, with a group of our own that other readers pass over."""
    about = {
        "name": network.name,
        "num_classes": network.num_classes,
        "mean": network.mean,
        "std": network.std,
        "resize_to": network.prepare.size or image_size,
        "crop_share": crop_share,
        "kwargs": dict(network.kwargs),
        **({} if network.prepare.channels == 3 else {"channels": network.prepare.channels}),
    }
    image_size = image_size or network.input_size
    if network.name.startswith("hf:"):
        files = folder_files(
            network.module,
            label_names,
            mean=network.mean,
            std=network.std,
            image_size=network.prepare.size or image_size or 224,
            crop_share=crop_share,
        )
    else:
        files = {"config.json": _timm_config(network, label_names, image_size, crop_share)}
    return files | {"config.json": files["config.json"] | {"understudy": about}}


def _timm_config(
    network: Network, label_names: Sequence[str] | None, image_size: ImageSize | None, crop_share: float
) -> dict[str, Any]:
    """timm's config.json."""
    source, _, rest = network.name.partition(":")
    own = {source: f"{prefix}{rest}" for source, prefix in OWN_PREFIXES.items()}
    is_timms = "tokens" not in network.kwargs  # which timm does not know of
    architecture = {"timm": rest.partition(".")[0] if is_timms else network.name, **own}.get(source, network.name)
    of_timm = getattr(network.module, "pretrained_cfg", None) or {}
    channels = network.prepare.channels
    pretrained_cfg = {key: of_timm[key] for key in _FROM_TIMM if key in of_timm} | {
        "input_size": [channels, *height_and_width(image_size or 224)],
        "mean": network.mean or [0.0] * channels,
        "std": network.std or [1.0] * channels,
        "num_classes": network.num_classes,
        # As it was evaluated, so that timm's own transform gives the accuracy that was reported.
        "interpolation": "bilinear",
        "crop_pct": crop_share,
        "crop_mode": "center",
    }
    return {
        "architecture": architecture,
        "num_classes": network.num_classes,
        **({"num_features": network.module.num_features} if hasattr(network.module, "num_features") else {}),
        **({"label_names": list(label_names)} if label_names is not None else {}),
        **({"model_args": dict(network.kwargs)} if network.kwargs else {}),
        "pretrained_cfg": pretrained_cfg,
    }
