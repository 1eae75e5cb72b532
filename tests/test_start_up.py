"""What starts without waiting for what it does not need: `import understudy`, and the command line's help."""

from __future__ import annotations

import ast
import os
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import understudy as us

SOURCES = Path(us.__file__).parent
LATE = (  # imported where they are used: each costs a tenth of a second or more, or comes with an extra
    "datasets", "jinja2", "matplotlib", "mlflow", "onnx", "onnxruntime", "onnxscript", "pandas", "pyarrow", "scipy",
    "sklearn", "tensorboard", "torchmetrics", "trackio", "transformers", "wandb",
)  # fmt: skip
LISTED = "; import sys; print('modules:', *sorted({name.partition('.')[0] for name in sys.modules}))"


def modules_after(code: str) -> set[str]:
    """The packages that a fresh interpreter has imported after some code."""
    done = subprocess.run([sys.executable, "-c", code + LISTED], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("modules:")[2].split())


def after_command(*words: str) -> set[str]:
    """The packages that a fresh interpreter has imported after a command."""
    command = f"understudy.cli.main({list(words)})"
    return modules_after(f"import contextlib, understudy.cli\nwith contextlib.suppress(SystemExit): {command}\n0")


def processor_seconds(code: str) -> float:
    """What a fresh interpreter takes for some code, which may keep what it compiles, as installed packages have it."""
    keeping = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=keeping)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_importing_understudy_imports_no_torch_before_a_name_is_asked_for() -> None:
    assert not {"torch", "torchvision", "timm", "numpy", *LATE} & modules_after(
        "import understudy, understudy.core.config"
    )


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("compare", "--help"), ("recipes", "show", "--help")])
def test_help_and_version_answer_without_torch(words: tuple[str, ...]) -> None:
    assert not {"torch", "torchvision", "timm", "numpy", *LATE} & after_command(*words)


@pytest.mark.parametrize(
    "words", [("train", "--bogus", "1"), ("compare", "--epochs", "many"), ("settings", "--help"), ("bogus",)]
)
def test_what_cannot_be_parsed_is_refused_without_torch(words: tuple[str, ...]) -> None:
    assert not {"torch", "torchvision", "timm", "numpy", *LATE} & after_command(*words)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--bogus"]])
def test_help_and_refusals_take_less_than_a_second_of_processor_time(words: list[str]) -> None:
    command = f"import contextlib, understudy.cli\nwith contextlib.suppress(SystemExit): understudy.cli.main({words})"
    processor_seconds(command)
    assert min(processor_seconds(command) for _ in range(3)) < 1.0


def test_no_module_imports_at_its_top_what_few_need() -> None:
    tops = [
        (path.relative_to(SOURCES).as_posix(), name.partition(".")[0])
        for path in SOURCES.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    drawing = "report/figures/"  # imported by the page once it is written
    assert [
        (file, name) for file, name in tops if name in LATE and not (name == "matplotlib" and file.startswith(drawing))
    ] == []


@pytest.mark.slow
def test_all_public_names_together_import_nothing_that_few_need() -> None:
    here = modules_after("from understudy import *; import understudy.cli.commands")
    brought = modules_after("import torch, torchvision, timm")  # timm imports wandb where it is installed
    assert not (here - brought) & set(LATE)
    assert {"torch", "timm"} <= here


@pytest.mark.slow
def test_all_public_names_cost_little_more_than_torch_torchvision_and_timm() -> None:
    # Without the collector, whose one pass over all objects of torch takes as long as these imports, wherever it falls.
    ours, theirs = (
        f"import gc; gc.disable(); {one}" for one in ("from understudy import *", "import torch, torchvision, timm")
    )
    processor_seconds(ours)
    ratios = [processor_seconds(ours) / processor_seconds(theirs) for _ in range(3)]
    assert statistics.median(ratios) < 1.15, ratios


def test_every_public_name_is_there_and_listed() -> None:
    assert set(us.__all__) <= set(dir(us))
    assert all(getattr(us, name) is not None for name in us.__all__)
    star: dict[str, object] = {}
    exec("from understudy import *", star)
    assert set(us.__all__) <= set(star)


def test_the_public_names_are_those_that_are_imported_for_type_checkers() -> None:
    tree = ast.parse((SOURCES / "api" / "public.py").read_text(encoding="utf-8"))
    imported = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(us.__all__)


def test_modules_are_attributes_without_an_import_of_their_own_and_what_is_not_there_is_said() -> None:
    assert us.report.read_results.__module__ == "understudy.results.reading"
    with pytest.raises(AttributeError, match=re.escape("module 'understudy' has no attribute 'distil'")):
        us.distil  # noqa: B018
    assert not hasattr(us, "__wrapped__")


@pytest.mark.slow
@pytest.mark.parametrize("order", ["understudy, timm", "timm, understudy"])
def test_timm_knows_our_networks_whichever_is_imported_first(order: str) -> None:
    code = f"import {order}; assert timm.is_model('cifar_resnet8'); assert type(timm.__loader__).__module__[0] != 'u'"
    assert "understudy" in modules_after(code)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["optim.ema", "data.augment.policies", "data.augment.crops", "teachers.fold_batch_norm", "optim.joint"]
)
def test_a_module_that_imports_timm_may_be_the_first_to_do_so(module: str) -> None:
    code = f"import understudy.{module}, timm; assert timm.is_model('cifar_resnet8')"
    assert "timm" in modules_after(code)
