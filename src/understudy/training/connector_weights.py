"""What a run's methods have learnt: what of it an update moves, and method.safetensors for a second run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from understudy.methods import Method
from understudy.training.loss import labels_of
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path

__all__ = ["FILE_NAME", "load_connectors", "parameters_of", "save_connectors"]

FILE_NAME = "method.safetensors"


def parameters_of(model: nn.Module, methods: Iterable[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that an update moves: the student's and every connector's."""
    named = list(model.named_parameters())
    for number, method in enumerate(methods):
        named += [(f"connectors.{number}.{name}", parameter) for name, parameter in method.named_parameters()]
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def save_connectors(folder: Path, methods: Sequence[Method]) -> None:
    """Write parameters and buffers of all methods, under "METHOD.KEY"; nothing where there are none."""
    state = {
        f"{label}.{key}": tensor.detach().cpu().clone().contiguous()
        for label, method in zip(labels_of(methods), methods, strict=True)
        for key, tensor in method.state_dict().items()
    }
    if state:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / FILE_NAME)


def load_connectors(method: Method, path: str | Path) -> None:
    """Put in place what another run of the same method has learnt; what only one of the two has is left alone.

    Args:
        method: changed in place.
        path: a method.safetensors, a student/ folder, or a run's folder.

    Raises:
        UserError: no such file, nothing in it for this method, or tensors of other shapes.
    """
    file = _found(given_path(path, what="method.init_from"))
    try:
        stored = load_file(file)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:  # or a kind torch does not know
        raise UserError(f"method.init_from: {file} cannot be read: {error}") from None
    prefix, own = f"{method.name}.", method.state_dict()
    state = {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}
    shared = {key: tensor for key, tensor in state.items() if key in own}
    if not shared:
        there = sorted({key.partition(".")[0] for key in stored})
        raise UserError(f"method.init_from: {file} holds nothing for {method.name!r}, only for {', '.join(there)}")
    for key, tensor in shared.items():
        if tensor.shape != own[key].shape:
            raise UserError(
                f"method.init_from: {file} was made with other networks: {key} is {tuple(tensor.shape)} there and "
                f"{tuple(own[key].shape)} here"
            )
    method.load_state_dict(shared, strict=False)


def _found(path: Path) -> Path:
    candidates = [path, path / FILE_NAME, path / "student" / FILE_NAME]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"method.init_from: there is no {FILE_NAME} at {path}; give a run that trained the method")
