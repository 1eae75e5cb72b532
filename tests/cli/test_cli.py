"""The commands on real images: what they print, and what they leave in the run folder."""

import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import timm
import torch
import yaml

from helpers.command_line import DIGITS, DIGITS_ALONE, FEW_DIGITS, OWN_CODE, RECIPE, TEACHER, done, refused, understudy
from helpers.images import write_parquet, write_tree
from understudy.methods import METHODS
from understudy.models import create_model, load_student, save_student
from understudy.recipes.schema import recipe_from

ALONE = ("--method", "alone", "--out")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run with a teacher that it trained itself, and what it printed."""
    folder = tmp_path_factory.mktemp("digits")
    with chdir(folder):
        said = done("train", *DIGITS, "--teacher", "cifar:resnet8", "--train-teacher", 8, "--method", "kd", "seeds=[0]")
    return folder / "runs/digits-kd-1", said


def results_of(run: Path) -> dict:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def test_a_run_says_what_it_found_and_where_its_page_is(digits_run: tuple[Path, str]) -> None:
    said = digits_run[1]
    for part in (
        r"data     digits: 10 classes, train 256, val 128 \(rows 256:384 of train\), 8 px",
        r"teacher  cifar:resnet8 .* val top-1 \d+\.\d %   random weights, then trained here for 8 epochs",
        r"student  cifar:resnet8 .* 1 row x 1 seed, 1 epoch",
        r"kd +kd \(Hinton 2014\), weight 0\.9; task 0\.1; joint \(sgd, lr 0\.05, momentum 0\.9\)",
        r"Page: runs/digits-kd-1/report\.html",
    ):
        assert re.search(part, said), said


def test_a_run_folder_explains_itself(digits_run: tuple[Path, str]) -> None:
    run = digits_run[0]
    names = {
        "checkpoints",
        "environment.json",
        "metrics.jsonl",
        "recipe.yaml",
        "report.html",
        "results.json",
        "threads.json",
    }
    names |= {"predictions.parquet", "predictions.safetensors"}
    names |= {"student", "students", "teacher", "timing.jsonl"}
    assert names == set(os.listdir(run)) - {"disagreements.parquet"}
    assert yaml.safe_load((run / "recipe.yaml").read_text())["method"][0]["temperature"] == 4.0
    assert "torch" in json.loads((run / "environment.json").read_text())["versions"]
    assert {json.loads(line)["kind"] for line in (run / "timing.jsonl").read_text().splitlines()} >= {"speed", "memory"}


def test_metrics_have_every_term_by_name_from_step_one(digits_run: tuple[Path, str]) -> None:
    lines = [json.loads(line) for line in (digits_run[0] / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line["row"] == "kd" and line["kind"] == "train")
    assert (first["step"], first["epoch"], first["seed"], set(first["terms"])) == (1, 1, 0, {"kd"})
    assert all(math.isfinite(first[key]) for key in ("task", "distill", "task_loss", "kl_to_teacher", "lr"))


def test_the_trained_teacher_is_kept_and_serves_as_weights(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    weights = digits_run[0] / "teacher"
    words = ("--teacher", "cifar:resnet8", "--teacher-weights", weights, "--method", "dist", "--out", tmp_path / "x")
    done("train", *DIGITS, *words)
    again, before = results_of(tmp_path / "x")["teacher"], results_of(digits_run[0])["teacher"]
    assert again["val"] == before["val"]
    assert again["starts_from"] == str(weights)


def test_students_of_a_class_tree_are_read_by_timm_with_their_label_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "pets", {"train/cat": 8, "train/dog": 8, "val/cat": 3, "val/dog": 3}, size=(40, 56))
    student = ("--student", "timm:mobilenetv3_small_050", "--student-weights", "none")
    settings = ("--epochs", 1, "data.image_size=32", "data.workers=0", "data.batch_size=8")
    teacher = ("--teacher", "cifar:resnet8", "--train-teacher", 1, "--allow-weak-teacher")
    said = done("train", *teacher, *student, "--data", "pets", "--method", "dist", "--update", "dot", *settings)
    assert "pets: 2 classes, train 16, val 6 (val folder), 32 px" in said
    assert "dist (Huang 2022), weight 2; task 1; dot (sgd, lr 0.05, momentum 0.9 -/+ 0.075)" in said
    run = tmp_path / "runs/pets-dist-dot-1"
    module = timm.create_model(f"local-dir:{run / 'student'}", pretrained=True)
    assert module.pretrained_cfg["label_names"] == ["cat", "dog"]
    with torch.no_grad():
        assert load_student(run)(torch.rand(2, 3, 50, 50)).shape == (2, 2)


def test_parquet_files_and_their_test_split_are_read_once_at_the_end(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("validation", 4), ("test", 6)):
        write_parquet(tmp_path / "pets" / f"{split}-00000-of-00001.parquet", [0, 1] * (count // 2))
    done("train", "--student", "cifar:resnet8", "--data", tmp_path / "pets", "--epochs", 1, *ALONE, tmp_path / "x")
    found = results_of(tmp_path / "x")
    assert (found["data"]["num_train"], found["data"]["num_val"], found["data"]["num_test"]) == (12, 4, 6)
    assert found["rows"][0]["seeds"][0]["test"]["scores"]["top1"] == pytest.approx(
        found["rows"][0]["summary"]["test"]["top1"]["mean"]
    )


def test_the_table_is_whole_where_no_terminal_limits_it(tmp_path: Path) -> None:
    pets = write_tree(tmp_path / "pets", {f"{split}/{name}": 4 for split in ("train", "test") for name in "ab"})
    assert "…" not in done("train", "--student", "cifar:resnet8", "--data", pets, "--epochs", 1, *ALONE, tmp_path / "x")


def test_method_none_trains_the_student_alone_without_a_teacher(tmp_path: Path) -> None:
    done("train", *DIGITS, "--method", "none", "--seeds", "5,3", "--out", tmp_path / "x")
    found = results_of(tmp_path / "x")
    assert (found["teacher"], [row["name"] for row in found["rows"]], found["seeds"]) == (None, ["alone"], [5, 3])
    assert [seed["seed"] for seed in found["rows"][0]["seeds"]] == [5, 3]


def test_own_factories_are_called_from_the_command_line_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("front_own.py").write_text(OWN_CODE)
    words = ("--data", "digits", *FEW_DIGITS[:2], "--epochs", 1, "--teacher", "cifar:resnet8", "--allow-weak-teacher")
    done("train", "--student", "front_own:net", *words, "--method", "kd", "--out", "x")
    assert "front_own:net, which is code outside understudy" in refused("export", "x", "--onnx", "x.onnx")
    assert "would run code from front_own" in refused("evaluate", "x")
    assert "x/student   val (128 images)   top-1 " in done("evaluate", "x", "--allow-code")


def test_own_factories_of_a_recipe_file_need_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("front_leave.py").write_text(OWN_CODE)
    Path("my.yaml").write_text(RECIPE.replace("cifar:resnet8, kwargs: {width: 0.25}", '"front_leave:net"'))
    assert "'front_leave:net' would run code from front_leave; allow that" in refused("check", "my.yaml")
    assert "front_leave" not in sys.modules
    assert "student  front_leave:net" in done("check", "my.yaml", "--allow-code")


def test_a_typed_factory_beside_a_recipes_named_model_needs_no_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("front_beside.py").write_text(OWN_CODE)
    Path("my.yaml").write_text(RECIPE)
    assert "teacher  front_beside:net" in done("check", "my.yaml", "--teacher", "front_beside:net")


@pytest.mark.parametrize("form", ["md", "csv", "latex"])
def test_compare_prints_only_the_table_where_a_format_is_asked_for(tmp_path: Path, form: str) -> None:
    said = understudy("compare", *DIGITS, *TEACHER, "--rows", "alone,kd+dot", "--format", form, "--out", tmp_path / "x")
    assert "data     digits: 10 classes" in said.err
    starts = {"md": "| row | top-1", "csv": "row,top1", "latex": "% needs \\usepackage{booktabs}"}
    assert said.out.startswith(starts[form])
    assert "digits: 10 classes" not in said.out
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(said.out)))
        assert [row["row"] for row in rows] == ["teacher", "alone", "kd+dot"]
        assert float(rows[1]["top1"]) == pytest.approx(
            results_of(tmp_path / "x")["rows"][0]["summary"]["scores"]["top1"]["mean"]
        )


def test_rows_of_a_compare_equal_train_of_the_same_row(tmp_path: Path) -> None:
    done("compare", *DIGITS, *TEACHER, "--rows", "alone,dist+dot", "--seeds", 2, "--out", tmp_path / "both")
    done("train", *DIGITS, *TEACHER, "--method", "dist", "--update", "dot", "--seeds", 2, "--out", tmp_path / "one")
    both, one = results_of(tmp_path / "both"), results_of(tmp_path / "one")
    assert both["rows"][1]["seeds"] == one["rows"][0]["seeds"]
    assert [(c["row"], c["against"], c["num_seeds"]) for c in both["comparisons"]] == [("dist+dot", "alone", 2)]


def test_evaluate_gives_the_runs_own_scores(digits_run: tuple[Path, str]) -> None:
    last = results_of(digits_run[0])["rows"][0]["seeds"][0]["last"]["scores"]
    said = done("evaluate", digits_run[0])
    assert f"val (128 images)   top-1 {last['top1']:.2f} %   top-5 {last['top5']:.2f} %" in said


def test_evaluate_of_its_own_data_keeps_to_the_images_it_was_not_trained_on(digits_run: tuple[Path, str]) -> None:
    of_its_own = done("evaluate", digits_run[0])
    assert "val (128 images)   top-1 " in of_its_own
    assert done("evaluate", digits_run[0], "--data", "digits") == of_its_own


def test_a_run_is_evaluated_after_the_weights_that_it_started_from_are_gone(tmp_path: Path) -> None:
    save_student(tmp_path / "w", create_model("cifar:resnet8", num_classes=10, weights="none", kwargs={"width": 0.25}))
    done("train", *DIGITS_ALONE, "--student-weights", tmp_path / "w", "--out", tmp_path / "x")
    (tmp_path / "w").rename(tmp_path / "moved")
    assert "top-1" in done("evaluate", tmp_path / "x")


def test_report_writes_the_page_anew_and_prints_the_table(digits_run: tuple[Path, str]) -> None:
    page = digits_run[0] / "report.html"
    page.unlink()
    assert "Page: " in done("report", digits_run[0])
    assert "<html" in page.read_text(encoding="utf-8")
    assert done("report", digits_run[0], "--format", "md").startswith("| row | top-1")


def test_export_agrees_and_prints_sizes_and_speeds_of_both(digits_run: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")
    said = done("export", digits_run[0], "--onnx", tmp_path / "digits.onnx").splitlines()
    difference = re.search(r"digits\.onnx +\d+\.\d MB +largest difference to torch (\S+) +\d+\.\d ms an image", said[0])
    assert difference
    assert float(difference[1]) <= 1e-4
    assert said[1] == "input    images (B,3,8,8), RGB in [0,1]; normalised inside; any B"
    for role, line in zip(("student", "teacher"), said[2:4], strict=True):
        assert re.fullmatch(rf"{role} +\d\.\d\d M parameters +\d+\.\d M MACs +\d+\.\d ms an image in torch", line)
    assert said[4] == "top-1    on val (128 images)"
    assert [line.split()[0] for line in said[-3:-1]] == ["torch", "digits.onnx"]
    assert (tmp_path / "digits.onnx").stat().st_size > 10_000


def test_check_does_everything_short_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = done("check", *DIGITS, *TEACHER, "--method", "projector")
    assert re.search(r"teacher  cifar:resnet8 .* val top-1", said)
    assert "taps student embedding 16, teacher embedding 64" in said
    assert re.search(r"about [\d,.]+ s an epoch, \d:\d\d:\d\d in all .*, \d+\.\d GiB", said)
    assert list(tmp_path.iterdir()) == []


def test_methods_are_listed_with_their_papers_and_described() -> None:
    said = done("methods").splitlines()
    assert [line.split()[0] for line in said] == ["none", *sorted(METHODS)]
    assert all(re.search(r" 20\d\d  ", line) for line in said[1:])
    page = done("methods", "kd")
    assert "`temperature` = 4.0" in page
    assert "Weights: task 0.1, this method 0.9" in page


def test_a_recipe_is_shown_resolved() -> None:
    shown = yaml.safe_load(done("recipes", "show", "digits/demo", "epochs=3"))
    assert (shown["epochs"], shown["data"]["root"], shown["update"]["momentum"]) == (3, "digits", 0.9)


def test_a_shown_recipe_ends_with_the_weights_that_a_method_brings_along() -> None:
    shown = done("recipes", "show", "cifar100/dist/resnet32x4-resnet8x4")
    assert yaml.safe_load(shown)["task_weight"] is None
    own = "# where null stands, the method's own: method.weight 2, method.warmup_epochs 0 (dist), task_weight 1"
    assert own in shown.splitlines()
    assert "# where null" not in done("recipes", "show", "cifar100/alone/vgg8")


def test_a_strategy_is_shown_as_it_is_and_laid_on_a_recipe_by_name() -> None:
    alone = yaml.safe_load(done("recipes", "show", "strategies/dot-imagenet"))
    assert (alone["update"]["delta"], alone["epochs"]) == (0.09, 100)
    assert "student" not in alone
    laid = yaml.safe_load(done("recipes", "show", "digits/demo", "strategies/dot-imagenet", "epochs=7"))
    assert (laid["update"]["delta"], laid["epochs"], laid["data"]["root"]) == (0.09, 7, "digits")
    assert recipe_from(laid).as_dict() == laid  # a file again


@contextmanager
def stopped_once(file: Path, number: int) -> Iterator[None]:
    """Send this process a signal as soon as `file` has content; outside a run the signal does nothing."""
    is_over = threading.Event()

    def send() -> None:
        while not (file.is_file() and file.stat().st_size) and not is_over.wait(0.001):
            pass
        os.kill(os.getpid(), number)

    before = signal.signal(number, lambda *_: None)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        is_over.set()
        sender.join()
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_to_the_results_of_an_uninterrupted_one(tmp_path: Path, number: int) -> None:
    words = ("train", *DIGITS, *TEACHER, "--method", "kd", "--update", "dot", "--epochs", 12, "log_every=1")
    with stopped_once(tmp_path / "x/metrics.jsonl", number):
        said = understudy(*words, "--out", tmp_path / "x")
    assert (said.code, said.out.count("Page:")) == (128 + number, 0)
    assert re.fullmatch(r"stopped after step \d+; the same command continues from here\n", said.err)
    assert "goes on in epoch" in done(*words, "--out", tmp_path / "x")
    done(*words, "--out", tmp_path / "whole")
    stopped, whole = results_of(tmp_path / "x"), results_of(tmp_path / "whole")
    assert stopped["rows"] == whole["rows"]
    assert (tmp_path / "x/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_the_program_ends_with_0_and_says_what_it_did() -> None:
    program = [sys.executable, "-m", "understudy", "methods", "dist"]
    found = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("# dist\n")


def test_the_program_ends_with_2_and_one_message_without_a_traceback() -> None:
    program = [sys.executable, "-m", "understudy", "train", "digits/demo", "method.temprature=2"]
    found = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == ("recipe digits/demo, 1 problem\n  method.temprature   unknown; did you mean temperature?\n")


@pytest.mark.slow
def test_the_demo_distils_digits_and_prints_what_to_try_next(tmp_path: Path) -> None:
    said = done("demo", "--out", tmp_path / "demo")
    for part in ("alone", "kd+dot", "dist+dot", "projector", "6 rows x 3 seeds", "Next: ", "--train-teacher 10"):
        assert part in said
    found = results_of(tmp_path / "demo")
    assert (found["teacher"]["val"]["scores"]["top1"] > 90, len(found["rows"])) == (True, 6)
    assert all(row["summary"]["scores"]["top1"]["n"] == 3 for row in found["rows"])
    assert (tmp_path / "demo/report.html").is_file()
