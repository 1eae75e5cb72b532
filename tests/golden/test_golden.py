"""Every golden case of the methods we answer, against the numbers of the official implementations."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from answers import ANSWERS
from cases import ABSENT, load, methods_stored, paths_of, problem, reference_is_finite_in_float32

for module in sorted(Path(__file__).parent.glob("answers_*.py")):
    import_module(module.stem)  # registers its answers


def cases() -> list[object]:
    """Every case in both dtypes; its id says where the reference itself breaks down."""
    found: list[object] = []
    for method in ANSWERS:
        for path in paths_of(method):
            for dtype in (torch.float64, torch.float32):
                name = f"{method}/{path.name}-{str(dtype).removeprefix('torch.')}"
                if dtype == torch.float32 and not reference_is_finite_in_float32(path):
                    name += "-reference_is_not_finite"
                found.append(pytest.param(path, dtype, id=name))
    return found or [pytest.param(None, None, id="absent", marks=pytest.mark.skip(ABSENT))]


@pytest.mark.parametrize(("path", "dtype"), cases())
def test_loss_parts_and_gradients_agree_with_the_reference(path: Path, dtype: torch.dtype) -> None:
    case, answer = load(path, dtype), ANSWERS[path.parent.name]

    parts = answer.compute(case)

    found = {name if name == "loss" else f"out.{name}": value for name, value in parts.items()}
    if "loss" in case.expected:
        found |= case.gradients(parts["loss"])
    stored = {name for name in case.expected if not name.startswith(answer.not_ours)}
    assert stored <= found.keys(), f"not answered: {sorted(stored - found.keys())}"
    problems = [problem(name, found[name], case, dtype) for name in sorted(stored)]
    assert not any(problems), "\n".join(text for text in problems if text)


def test_every_reference_case_is_answered_or_left_out_with_a_reason() -> None:
    stored = methods_stored()
    if not stored:
        pytest.skip(ABSENT)
    here = Path(__file__).parent
    left_out = set(re.findall(r"^- (\w+): ", (here / "left_out.md").read_text(encoding="utf-8"), re.MULTILINE))
    elsewhere = {"dot", "ema_warmup", "mixup_cutmix", "rmsprop_tf"}  # tests/optim, test_timm_golden.py
    known = ANSWERS.keys() | left_out | elsewhere

    assert [method for method in stored if method not in known] == []
    assert left_out.isdisjoint(ANSWERS)
