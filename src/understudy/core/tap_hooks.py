"""Hooks that catch what goes into and comes out of modules, for the length of a pass.

What a hook is given is the tensor itself, into which the network may write later (`out += shortcut`). Autograd's
version counter tells; what has moved by the end of a pass is kept as a copy of that moment from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Catcher", "place"]


class Catcher:
    """What was caught in a pass, by the name of the place: a module's path, or "path:input" for what it is given.

    Attributes:
        caught: values of the pass, in the order in which the network came to them last.
        overwritten: names at which the network writes into what it gave; a copy is kept of these.
    """

    def __init__(self) -> None:
        self.caught: dict[str, Any] = {}
        self.overwritten: set[str] = set()
        self._has_looked = False  # whether a pass has shown what is overwritten
        self._versions: dict[str, tuple[Tensor, int]] = {}

    def note(self, name: str, value: Any) -> None:
        """Keep what a module gives or is given; of several in a tuple, the first."""
        value = value[0] if isinstance(value, tuple) and value else value
        self.caught.pop(name, None)
        self._versions.pop(name, None)
        if isinstance(value, Tensor):
            if torch.compiler.is_compiling():  # no versions there: to be on the safe side until a pass has shown them
                value = value.clone() if name in self.overwritten or not self._has_looked else value
            elif name in self.overwritten or value.is_inference():
                value = value.clone()
            else:
                self._versions[name] = value, value._version
        self.caught[name] = value

    def released(self) -> tuple[dict[str, Any], set[str]]:
        """What the pass left, and the names of what was written into since; nothing of it is kept here."""
        moved = {name for name, (value, version) in self._versions.items() if value._version != version}
        caught, self.caught, self._versions, self._has_looked = self.caught, {}, {}, True
        return caught, moved


class _Hook:
    """A hook at one place. A class rather than a closure, so that a network that has one can be pickled."""

    def __init__(self, catcher: Catcher, name: str) -> None:
        self.catcher, self.name = catcher, name

    def __call__(self, _: nn.Module, inputs: Any, *output: Any) -> None:
        self.catcher.note(self.name, output[0] if output else inputs)


def place(module: nn.Module, places: Mapping[str, str] | Iterable[str], catcher: Catcher) -> list[RemovableHandle]:
    """Hooks that tell `catcher` what passes; whoever places them takes them away.

    Args:
        module: the network.
        places: paths, or paths by the name under which the value is kept; "path:input" means what it is given.
        catcher: is told.
    """
    named = places if isinstance(places, Mapping) else {path: path for path in places}
    handles = []
    for name, where in named.items():
        path, _, side = where.partition(":")
        target, hook = module.get_submodule(path), _Hook(catcher, name)
        handles.append(
            target.register_forward_pre_hook(hook) if side == "input" else target.register_forward_hook(hook)
        )
    return handles
