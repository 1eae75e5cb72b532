"""Heads of a student that are taught apart: opened where a method names them, refused where it could not be."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from understudy.core.batch import IMAGES, MAIN
from understudy.core.heads import DISTILLED_HEAD, MEAN, head_names, open_heads_
from understudy.methods.base import MethodConfig
from understudy.utils.errors import UserError, unknown_name

__all__ = ["open_taught_heads_"]


def open_taught_heads_(network: nn.Module, methods: Sequence[MethodConfig], *, name: str) -> None:
    """Let a network give each head's logits in training where a method reads one that is not the class token's.

    Where none does, it learns as it did before: by the mean of its heads, which is also what is deployed.

    Args:
        network: of the student.
        methods: what is distilled.
        name: what messages call the student.

    Raises:
        UserError: a method that names a distillation token's head of a network that has none of that name, a head that
            nobody teaches, or a method that deploys something else than the heads' mean.
    """
    heads = head_names(network)
    read = {head: config for config in methods for head in config.method.reads(config)}
    for head, config in read.items():
        if head.startswith(DISTILLED_HEAD) and head not in heads:
            raise UserError(
                f"method {config.method.name!r} teaches the head {head!r} of a distillation token, and {name} has "
                f"{_listed(heads)}; take a student with such tokens ({_students_with(head)}), or set method.on=main"
            )
    known = (*heads, MEAN, MAIN, IMAGES)
    for head, config in read.items():
        if len(heads) > 1 and head not in known:
            raise UserError(
                f"method {config.method.name!r} names {head!r} in method.on, which is {unknown_name(head, known)}"
            )
    if not set(read) & {*heads[1:], MEAN}:
        return
    untaught = [head for head in heads[1:] if head not in read and MEAN not in read]
    if untaught:
        raise UserError(
            f"{name} deploys the mean of its heads {', '.join(heads)}, and no method teaches {', '.join(untaught)}; "
            f"name every one in method.on, such as {{{', '.join(f'{head}: 1' for head in heads[1:])}}}"
        )
    deploying = [config.method.name for config in methods if config.method.deploys_more()]
    if deploying:
        raise UserError(
            f"{name} deploys the mean of its heads {', '.join(heads)}, and method {deploying[0]!r} deploys a "
            "classifier of its own; leave one of the two out"
        )
    open_heads_(network)


def _students_with(head: str) -> str:
    """Networks that have a head of this name, in words."""
    number = head.removeprefix(DISTILLED_HEAD)
    tokens = int(number) if number.isdigit() else 1
    known = {
        1: "timm:deit_tiny_distilled_patch16_224, understudy:deit_conv_tiny, or ",
        2: "understudy:co_advise_tiny, or ",
    }
    return f"{known.get(tokens, '')}one of timm's vision transformers with student.kwargs.tokens={tokens}"


def _listed(heads: Sequence[str]) -> str:
    return "one head" if len(heads) == 1 else f"the heads {', '.join(heads)}"
