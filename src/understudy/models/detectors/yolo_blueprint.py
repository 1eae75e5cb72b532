"""How ultralytics:NAME is built: a name of that package's, a configuration of one's own, or a checkpoint of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.models.blueprint import Blueprint
from understudy.models.detectors.yolo import YoloDetector
from understudy.models.detectors.yolo_package import GAINS, config_named, network_in, network_of, refuse_code_in
from understudy.models.hub import WeightsUnavailableError, first_line, url_within_reach
from understudy.utils.errors import UserError, unknown_name

__all__ = ["is_file_of_yolo", "yolo_blueprint"]

_RELEASES = "https://github.com/ultralytics/assets/releases"


def is_file_of_yolo(name: str) -> bool:
    """Whether a name is of a file: a checkpoint, which may run code as it is read, or a configuration of one's own."""
    return name.endswith(".pt") or Path(name).name != name or Path(name).is_file()


def yolo_blueprint(name: str, num_classes: int, kwargs: Mapping[str, Any]) -> Blueprint:
    """A YOLO of the package's. Any size works; images are RGB in [0,1].

    Args:
        name: as that package has it, "yolov5m" or "yolov5m.yaml", or a file, "FOLDER/mine.yaml" or "FOLDER/best.pt".
        num_classes: C.
        kwargs: "box", "cls" and "dfl" weigh the parts of its loss; "cfg" is a whole configuration, in place of that of
            the name, which then is not looked for.

    Raises:
        UserError: the package is not there, no such model, or arguments that it does not have.
    """
    unknown = sorted(set(kwargs) - {"cfg", *GAINS})
    if unknown:
        raise UserError(f"ultralytics:{name}: argument {unknown[0]!r} is {unknown_name(unknown[0], ['cfg', *GAINS])}")
    gains = {key: float(kwargs[key]) for key in GAINS if key in kwargs}
    config, published = kwargs.get("cfg"), None
    if config is None and is_file_of_yolo(name) and not Path(name).expanduser().is_file():
        raise UserError(f"ultralytics:{name}: there is no such file; a model of the package's is named as yolov5m is")
    if config is None and name.endswith(".pt"):
        published = _checkpoint(name)
        config = copy.deepcopy(getattr(published, "yaml", None))
    config = config_named(name) if config is None else config
    if not isinstance(config, Mapping) or "backbone" not in config:
        raise UserError(f"ultralytics:{name}: cfg must be a configuration of that package, with a backbone and a head")
    refuse_code_in(config, name)
    is_looked_for = not is_file_of_yolo(name) and "cfg" not in kwargs

    def built() -> nn.Module:
        try:
            network = network_of(config, num_classes, gains)
        except UserError:
            raise
        except Exception as error:  # a configuration may fail in any way
            raise UserError(f"ultralytics:{name} cannot be built: {first_line(error)}") from error
        return YoloDetector(network, num_classes)

    def pretrained() -> nn.Module:
        return with_weights_of(built(), _fetched(name) if published is None else published)

    return Blueprint(
        build=built,
        pretrained=pretrained if is_looked_for or published is not None else None,
        normalisation=((0.0,) * 3, (1.0,) * 3),
        prefers=None,
        resize_to=None,
        kwargs=dict(kwargs) if is_looked_for else {**kwargs, "cfg": dict(config)},
    )


def with_weights_of(module: nn.Module, published: nn.Module) -> nn.Module:
    """The module with another one's weights, but for those of another shape: the head's, of other classes."""
    own, theirs = module.state_dict(), published.float().state_dict()
    if absent := sorted(own.keys() - theirs.keys()):  # they would stay random
        raise WeightsUnavailableError(f"{', '.join(absent[:3])} are not among them")
    fitting = {key: value for key, value in theirs.items() if key in own and value.shape == own[key].shape}
    module.load_state_dict(own | fitting)
    return module


def _checkpoint(name: str) -> nn.Module:
    try:
        return network_in(Path(name).expanduser())
    except UserError:
        raise
    except Exception as error:  # a pickle of anything
        raise UserError(f"ultralytics:{name}: the package cannot read that file: {first_line(error)}") from error


def _fetched(name: str) -> nn.Module:
    """The published network of a name."""
    bare = name.removesuffix(".yaml")
    file = f"{bare}u.pt" if bare.startswith(("yolov3", "yolov5")) and not bare.endswith("u") else f"{bare}.pt"
    url_within_reach(f"{_RELEASES}/{file}")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return network_in(folder / file)
    except UserError as error:
        raise WeightsUnavailableError(first_line(error)) from error
    except Exception as error:  # the download, or what came
        raise WeightsUnavailableError(first_line(error)) from error
