"""Weights from files: what is read, and what is said where they do not fit."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.models import create_model, load_weights, read_state_dict
from understudy.utils.errors import UserError

NAME = "cifar:resnet8"


def module_of(num_classes: int = 10) -> nn.Module:
    return create_model(NAME, num_classes=num_classes, weights="none").module


@pytest.fixture
def state() -> dict[str, Tensor]:
    return module_of().state_dict()


def is_same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_safetensors_and_torch_files_are_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    for file in ("a.safetensors", "a.pth"):
        network = create_model(NAME, num_classes=10, weights=tmp_path / file)
        assert is_same(network.module, state)
        assert network.starts_from == file


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_nested_states_of_data_parallel_training_are_read(tmp_path: Path, state: dict[str, Tensor], key: str) -> None:
    torch.save({key: {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, tmp_path / "a.pt")
    module = module_of()
    load_weights(module, tmp_path / "a.pt", name=NAME)
    assert is_same(module, state)


def test_a_file_without_an_ending_is_read_as_torch_wrote_it(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"model": state}, tmp_path / "student_best")
    assert is_same(create_model(NAME, num_classes=10, weights=tmp_path / "student_best").module, state)


def test_command_line_options_beside_the_weights_are_passed_over(tmp_path: Path, state: dict[str, Tensor]) -> None:
    options = argparse.Namespace(model="resnet8", lr_decay_epochs=[150, 180, 210])
    torch.save({"opt": options, "model": state}, tmp_path / "resnet8_last.pth")
    assert is_same(create_model(NAME, num_classes=10, weights=tmp_path / "resnet8_last.pth").module, state)


def test_options_that_would_run_code_are_still_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    options = argparse.Namespace(harm=_Harmful(tmp_path / "it-ran"))
    torch.save({"opt": options, "model": state}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="refused, since it holds more than tensors"):
        read_state_dict(tmp_path / "a.pt")
    assert not (tmp_path / "it-ran").exists()


class _Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, is_zip: bool) -> None:
    file, marker = tmp_path / "a.pt", tmp_path / "it-ran"
    if is_zip:
        torch.save({"model": _Harmful(marker)}, file)
    else:
        file.write_bytes(pickle.dumps({"model": _Harmful(marker)}))
    with pytest.raises(UserError, match=r"refused, since it holds more than tensors.*save its tensors alone"):
        read_state_dict(file)
    assert not marker.exists()


def test_another_architecture_is_named_by_its_keys(tmp_path: Path) -> None:
    torch.save(create_model("cifar:resnet14", num_classes=10, weights="none").module.state_dict(), tmp_path / "a.pt")
    with pytest.raises(UserError) as error:
        create_model(NAME, num_classes=10, weights=tmp_path / "a.pt")
    text = str(error.value)
    assert "36 unexpected (layer1.1.conv1.weight, layer1.1.bn1.weight, layer1.1.bn1.bias, ...)" in text
    assert "missing" not in text
    assert text.endswith("Are they of another architecture?")


def test_missing_and_misshapen_keys_are_named_with_their_shapes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    del state["bn1.weight"], state["bn1.bias"]
    state["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError) as error:
        create_model(NAME, num_classes=10, weights=tmp_path / "a.safetensors")
    assert "2 missing (bn1.weight, bn1.bias)" in str(error.value)
    assert "1 of another shape (conv1.weight: file 16x1x3x3, model 16x3x3x3)" in str(error.value)


def test_a_file_of_other_classes_is_refused_unless_the_head_may_be_new(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"fc.weight: file 10x64, model 4x64.*Only the classifier differs"):
        create_model(NAME, num_classes=4, weights=tmp_path / "a.safetensors")
    network = create_model(NAME, num_classes=4, weights=tmp_path / "a.safetensors", new_head=True)
    assert torch.equal(network.module.conv1.weight, state["conv1.weight"])
    assert network.module.fc.weight.shape == (4, 64)


def test_a_head_that_fits_is_taken_even_where_it_might_be_new(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors")
    network = create_model(NAME, num_classes=10, weights=tmp_path / "a.safetensors", new_head=True)
    assert torch.equal(network.module.fc.weight, state["fc.weight"])


def test_both_heads_of_a_distilled_transformer_may_be_new(tmp_path: Path) -> None:
    name = "timm:deit_tiny_distilled_patch16_224"
    kwargs = {"depth": 1}
    made = create_model(name, num_classes=10, weights="none", image_size=32, kwargs=kwargs)
    save_file(made.module.state_dict(), tmp_path / "a.safetensors")
    network = create_model(
        name, num_classes=4, weights=tmp_path / "a.safetensors", image_size=32, kwargs=kwargs, new_head=True
    )
    assert torch.equal(network.module.dist_token, made.module.dist_token)


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("a.safetensors", b"nonsense", r"a.safetensors': damaged, or no safetensors file"),
        ("a.pt", b"", "damaged, or no torch file"),
        ("README", b"hello", "damaged, or no torch file"),
        ("a.txt", b"hello", r"\.txt is no kind of weights file; give .safetensors, .pt or .pth"),
    ],
)
def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, file: str, content: bytes, text: str) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=text):
        read_state_dict(tmp_path / file)


def test_a_file_without_a_state_dict_says_how_to_write_one(tmp_path: Path) -> None:
    torch.save({"model": 3, "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"no state dict in it .*torch.save\(model.state_dict\(\), FILE\)"):
        read_state_dict(tmp_path / "a.pt")


def test_a_word_that_is_no_file_names_the_nearest_word() -> None:
    with pytest.raises(UserError, match=r"'pretraned': there is no such file.*did you mean pretrained\?"):
        create_model(NAME, num_classes=10, weights="pretraned")


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder has none of model.safetensors"):
        create_model(NAME, num_classes=10, weights=tmp_path)
