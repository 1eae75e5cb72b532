"""The model card beside every student, and students sent to a hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from helpers.command_line import DIGITS, TEACHER, done, refused
from helpers.hub_server import Hub, hub_on_this_machine
from helpers.run_writer import write_run
from understudy.models.hub import hub_name
from understudy.report import read_results
from understudy.report.model_card import model_card


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards") / "run"
    done("compare", *TEACHER, *DIGITS, "--rows", "alone,kd", "--seeds", "2", "--out", folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_on_this_machine() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the hub's own store of large files
        yield hub


def test_every_student_of_a_run_has_a_card(run: Path) -> None:
    folders = [run / "student", *(run / "students").glob("*/seed*")]
    assert len(folders) == 5
    for folder in folders:
        data = ModelCard((folder / "README.md").read_text(encoding="utf-8")).data.to_dict()
        assert data["library_name"] == "understudy"
        assert data["pipeline_tag"] == "image-classification"
        assert {"image-classification", "understudy"} <= set(data["tags"])
        assert "license" not in data  # nobody gave one
        assert "datasets" not in data


def test_the_card_names_last_and_best_apart_with_seeds_teacher_and_interval(run: Path) -> None:
    results = read_results(run)
    row = results.row("kd")
    assert row is not None
    card = (run / "students/kd/seed1/README.md").read_text(encoding="utf-8")
    last, best = (row.seeds[1].last.scores["top1"], row.seeds[1].best.scores["top1"])
    assert f"| last epoch (1), validation images | {last:.1f} % |" in card
    assert f"| best epoch (1), chosen on the same images, so it flatters | {best:.1f} % |" in card
    assert "seeds 0, 1, mean ± standard deviation" in card
    assert "95 % interval" in card
    assert "teacher: cifar:resnet8" in card
    assert "name: kd" in card
    assert "seed: 1\n" in card
    assert "256 images to train on" in card
    assert "made with: understudy 0.1.0" in card


def test_the_code_of_a_card_loads_its_student(run: Path) -> None:
    card = (run / "student/README.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in card.split("```python\n")[1:]]
    assert len(blocks) == 2  # timm's way and understudy's
    for code in blocks:
        names: dict[str, object] = {}
        exec(code.replace("FOLDER", str(run / "student")), names)
        model = names["model"]
        assert isinstance(model, torch.nn.Module)
        assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_names_from_folders_are_no_markdown_and_no_front_matter(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path / "run", classes=["---\nlicense: mit", *"bcdefghi", "[x](y)<b>|"]))
    row = results.rows[1]
    card = ModelCard(model_card(results, row, row.seeds[0], environment={}, dataset="uoft-cs/cifar100"))
    assert card.data.to_dict().get("license") is None
    assert card.data.datasets == ["uoft-cs/cifar100"]
    assert r"\[x\](y)\<b\>\|" in card.text


def test_pretrained_weights_are_named_as_on_the_hub() -> None:
    assert hub_name("timm:resnet50.tv_in1k") == "timm/resnet50.tv_in1k"
    assert hub_name("cifar:resnet8") is None
    assert hub_name("hf:facebook/dinov2-small") == "facebook/dinov2-small"


def test_a_dry_run_lists_what_would_be_sent_and_asks_nobody(run: Path, hub: Hub) -> None:
    said = done("push", run, "--to", "ada/birds", "--dry-run")
    assert all(name in said for name in ("README.md", "config.json", "model.safetensors"))
    assert hub.asked == []


def test_a_student_is_sent_without_its_pickles(run: Path, hub: Hub, tmp_path: Path) -> None:
    student = tmp_path / "run" / "student"
    shutil.copytree(run / "student", student)
    (student / "optimizer.pt").write_bytes(b"a pickle")
    said = done("push", student.parent, "--to", "ada/birds", "--private", "--license", "apache-2.0")
    assert "left here: optimizer.pt" in said
    assert f"{hub.address}/ada/birds" in said
    assert hub.tokens == {"Bearer hf_of_nobody"}
    assert hub.made[0]["visibility"] == "private"
    assert set(hub.files) == {"README.md", "config.json", "model.safetensors"}
    assert hub.files["model.safetensors"] == (student / "model.safetensors").read_bytes()
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert 'timm.create_model("hf-hub:ada/birds", pretrained=True)' in card.text
    assert 'load_student(huggingface_hub.snapshot_download("ada/birds"))' in card.text
    assert load_file(student / "model.safetensors")


def test_a_student_from_before_cards_is_sent_with_one(run: Path, tmp_path: Path) -> None:
    older = tmp_path / "run"
    shutil.copytree(run, older)
    (older / "student/README.md").unlink()
    assert "README.md" in done("push", older, "--to", "ada/birds", "--dry-run")


def test_without_a_token_the_way_to_one_is_said(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "HF_TOKEN" in refused("push", run, "--to", "ada/birds")


def test_what_the_hub_refuses_is_said_in_its_words(run: Path, hub: Hub) -> None:
    hub.refusal = (403, "You have read but not write access")
    assert "You have read but not write access" in refused("push", run, "--to", "ada/birds")


def test_a_hub_that_is_not_there_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "cannot be reached" in refused("push", run, "--to", "ada/birds")


@pytest.mark.parametrize("name", ["birds", "ada/birds/big", "ada/bi rds", ""])
def test_names_that_the_hub_does_not_take_are_refused(run: Path, name: str) -> None:
    assert "USER/NAME" in refused("push", run, "--to", name, "--dry-run")


def test_a_folder_without_a_student_is_refused(tmp_path: Path) -> None:
    assert "holds no student" in refused("push", tmp_path, "--to", "ada/birds", "--dry-run")
