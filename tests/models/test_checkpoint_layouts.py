"""Weights in the layouts that other tools write: the set of tensors that fits the network is taken, and said."""

import argparse
import collections
import datetime
import json
import pathlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.models import create_model, load_weights, read_state_dict
from understudy.models.weight_files import weights_digest
from understudy.utils.errors import UserError

NAME = "cifar:resnet8"
State = dict[str, Tensor]


def module_of(num_classes: int = 10, name: str = NAME) -> nn.Module:
    return create_model(name, num_classes=num_classes, weights="none").module


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(3)
    module = module_of()
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.fill_(7)
    return module.state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def shifted(state: State, by: float = 1.0) -> State:
    return {key: value + by if value.is_floating_point() else value.clone() for key, value in state.items()}


def loaded(content: object, folder: Path, key: str = "") -> tuple[State, str]:
    torch.save(content, folder / "a.pth")
    network = create_model(NAME, num_classes=10, weights=f"{folder / 'a.pth'}{key}")
    return network.module.state_dict(), network.starts_from


def is_same(found: State, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in found.items())


TAKEN_AWAY: dict[str, tuple[Callable[[State], object], str]] = {
    "plain": (lambda state: state, "a.pth"),
    "compiled": (lambda s: {"state_dict": under("_orig_mod.", s)}, "state_dict, prefix '_orig_mod.' taken away"),
    "compiled in DDP": (lambda s: under("module._orig_mod.", s), "prefix 'module._orig_mod.' taken away"),
    "mdistiller": (lambda s: {"model": under("module.student.", s)}, "model, prefix 'module.student.' taken away"),
    "lightning": (lambda s: {"state_dict": under("net.", s), "epoch": 1}, "state_dict, prefix 'net.' taken away"),
    "a name that nobody knows": (
        lambda s: {"best_of_run": {"weights": under("a.b.", s)}},
        "best_of_run.weights, prefix",
    ),
    "pytorch-cifar": (lambda s: {"net": under("module.", s), "acc": 93.0}, "net, prefix 'module.' taken away"),
    "the tutorial": (lambda s: {"model_state_dict": s, "optimizer_state_dict": {}, "epoch": 3}, "model_state_dict"),
    "a list of one": (lambda s: {"models": [s]}, "models.0"),
    "beside numbers": (lambda s: {**s, "epoch": 3, "best": 71.2}, "a.pth"),
    "thop": (lambda s: {**s, "total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)}, "a.pth"),
    "in two parts": (
        lambda s: {("head." if key.startswith("fc.") else "backbone.") + key: value for key, value in s.items()},
        "prefixes 'backbone.' and 'head.' taken away",
    ),
    "parameters": (lambda s: {"state_dict": {key: nn.Parameter(v, False) for key, v in s.items()}}, "state_dict"),
}


@pytest.mark.parametrize("what", TAKEN_AWAY)
def test_the_set_that_fits_is_loaded_and_named(tmp_path: Path, state: State, what: str) -> None:
    content, said = TAKEN_AWAY[what]
    found, starts_from = loaded(content(state), tmp_path)
    assert is_same(found, state)
    assert said in starts_from


def test_what_stands_beside_the_network_is_counted(tmp_path: Path, state: State) -> None:
    content = {"state_dict": {**under("model.", state), "criterion.weight": torch.ones(10)}}
    found, starts_from = loaded(content, tmp_path)
    assert is_same(found, state)
    assert starts_from == (
        "a.pth (state_dict, prefix 'model.' taken away, 1 other tensor left out, such as criterion.weight)"
    )


def test_batch_norms_of_old_files_that_count_no_batches_are_loaded(tmp_path: Path, state: State) -> None:
    found, _ = loaded({key: value for key, value in state.items() if "num_batches" not in key}, tmp_path)
    assert torch.equal(found["bn1.running_var"], state["bn1.running_var"])
    assert found["bn1.num_batches_tracked"] == 0


def test_any_other_missing_tensor_is_still_refused(tmp_path: Path, state: State) -> None:
    with pytest.raises(
        UserError, match=r"1 missing \(bn1.running_mean\), read as state_dict, prefix 'model.' taken away"
    ):
        loaded({"state_dict": under("model.", {k: v for k, v in state.items() if k != "bn1.running_mean"})}, tmp_path)


def test_a_buffer_that_the_network_makes_itself_is_no_fault(tmp_path: Path) -> None:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 10)
            self.register_buffer("grid", torch.ones(4), persistent=False)

    torch.save({**Grid().state_dict(), "grid": torch.zeros(4)}, tmp_path / "a.pt")
    load_weights(Grid(), tmp_path / "a.pt", name="Grid")
    torch.save({**Grid().state_dict(), "grid": torch.zeros(5)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"1 unexpected .grid."):
        load_weights(Grid(), tmp_path / "a.pt", name="Grid")


class TestAverages:
    @pytest.mark.parametrize(
        ("raw", "averaged", "prefix"),
        [
            ("state_dict", "state_dict_ema", ""),
            ("model", "model_ema", "module."),
            ("model", "ema", ""),
            ("state_dict", "swa_state", "module."),
        ],
    )
    def test_averaged_weights_are_taken_as_timm_takes_them(
        self, tmp_path: Path, state: State, raw: str, averaged: str, prefix: str
    ) -> None:
        average = shifted(state)
        content = {raw: state, averaged: {**under(prefix, average), "n_averaged": torch.tensor(9)}}
        found, starts_from = loaded(content, tmp_path)
        assert is_same(found, average)
        assert averaged in starts_from
        assert f"a.pth#{raw} would fit, too" in starts_from

    def test_a_key_names_the_others(self, tmp_path: Path, state: State) -> None:
        content = {"state_dict": state, "state_dict_ema": shifted(state)}
        found, starts_from = loaded(content, tmp_path, "#state_dict")
        assert is_same(found, state)
        assert starts_from == "a.pth (state_dict)"

    def test_prefixes_may_tell_them_apart(self, tmp_path: Path, state: State) -> None:
        content = {"state_dict": {**under("model.", state), **under("ema_model.module.", shifted(state))}}
        assert is_same(loaded(content, tmp_path)[0], shifted(state))
        assert is_same(loaded(content, tmp_path, "#model")[0], state)

    def test_an_average_that_does_not_fit_is_told_of(self, tmp_path: Path, state: State) -> None:
        shadow = {key: value for key, value in shifted(state).items() if "running" not in key}
        found, starts_from = loaded({"model": state, "ema": shadow}, tmp_path)
        assert is_same(found, state)
        assert "the averaged weights under ema do not fit (18 tensors)" in starts_from


class TestSeveral:
    def test_two_that_fit_are_asked_about(self, tmp_path: Path, state: State) -> None:
        content = {"model": {**under("student.", state), **under("teacher.", shifted(state))}}
        with pytest.raises(
            UserError, match=r"2 sets of tensors in it fit; say which: .*#model.student or .*#model.teach"
        ):
            loaded(content, tmp_path)
        assert is_same(loaded(content, tmp_path, "#model.teacher")[0], shifted(state))
        assert is_same(loaded(content, tmp_path, "#student")[0], state)

    def test_two_that_are_equal_are_one(self, tmp_path: Path, state: State) -> None:
        assert is_same(loaded({"model": state, "state_dict": shifted(state, 0.0)}, tmp_path)[0], state)

    def test_the_network_beside_another_one_is_found(self, tmp_path: Path, state: State) -> None:
        other = module_of(name="cifar:resnet14").state_dict()
        content = {"model": {**under("module.student.", state), **under("module.teacher.", other)}}
        assert is_same(loaded(content, tmp_path)[0], state)

    def test_one_of_the_right_classes_goes_before_one_with_a_new_classifier(self, tmp_path: Path, state: State) -> None:
        torch.save({"a_ema": module_of(4).state_dict(), "b": state}, tmp_path / "a.pth")
        network = create_model(NAME, num_classes=10, weights=tmp_path / "a.pth", new_head=True)
        assert is_same(network.module.state_dict(), state)

    def test_a_key_that_is_not_there_names_those_that_are(self, tmp_path: Path, state: State) -> None:
        with pytest.raises(UserError, match=r"there is no 'ema' in it, only net"):
            loaded({"net": state}, tmp_path, "#ema")

    def test_a_number_sign_may_be_part_of_a_name(self, tmp_path: Path, state: State) -> None:
        torch.save(state, tmp_path / "run#3.pth")
        assert is_same(create_model(NAME, num_classes=10, weights=tmp_path / "run#3.pth").module.state_dict(), state)


class TestMessages:
    def test_a_shared_prefix_is_named_where_nothing_fits(self, tmp_path: Path) -> None:
        other = create_model("torchvision:mobilenet_v2", num_classes=10, weights="none").module.state_dict()
        with pytest.raises(
            UserError, match=r"Every key in it has the prefix 'model\.', and without it none fits either"
        ):
            loaded({"state_dict": under("model.", other)}, tmp_path)

    def test_the_nearest_set_is_the_one_that_is_spoken_of(self, tmp_path: Path, state: State) -> None:
        wide = {**state, "conv1.weight": torch.zeros(16, 1, 3, 3)}
        with pytest.raises(
            UserError, match=r"1 of another shape \(conv1.weight: file 16x1x3x3, model 16x3x3x3\), read as net"
        ):
            loaded({"optimizer": {"state": {"a": torch.ones(3)}}, "net": wide}, tmp_path)

    def test_a_classifier_that_the_file_lacks_may_be_new(self, tmp_path: Path, state: State) -> None:
        torch.save({key: value for key, value in state.items() if "fc." not in key}, tmp_path / "a.pth")
        with pytest.raises(UserError, match=r"2 missing \(fc.weight, fc.bias\)"):
            create_model(NAME, num_classes=10, weights=tmp_path / "a.pth")
        network = create_model(NAME, num_classes=10, weights=tmp_path / "a.pth", new_head=True)
        assert torch.equal(network.module.conv1.weight, state["conv1.weight"])
        assert network.starts_from == "a.pth (without a classifier)"


class TestKinds:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions_become_float32(self, tmp_path: Path, state: State, dtype: torch.dtype) -> None:
        found, _ = loaded({key: v.to(dtype) if v.is_floating_point() else v for key, v in state.items()}, tmp_path)
        assert found["conv1.weight"].dtype == torch.float32
        assert torch.equal(found["conv1.weight"], state["conv1.weight"].to(dtype).float())

    @pytest.mark.parametrize("kind", ["int8", "float8", "quantised", "without storage"])
    def test_numbers_that_copying_would_falsify_are_refused(self, tmp_path: Path, state: State, kind: str) -> None:
        value = state["conv1.weight"]
        changed = {
            "int8": value.to(torch.int8),
            "float8": value.to(torch.float8_e4m3fn),
            "quantised": torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
            "without storage": value.to("meta"),
        }[kind]
        with pytest.raises(
            UserError, match=r"1 quantised or without values \(conv1.weight: .*before they were quantised"
        ):
            loaded({**state, "conv1.weight": changed}, tmp_path)


class TestWrappedNetworks:
    def test_a_plain_file_goes_into_a_wrapped_network(self, tmp_path: Path, state: State) -> None:
        torch.save({"model": state}, tmp_path / "a.pth")
        module = nn.DataParallel(module_of())
        said = load_weights(module, tmp_path / "a.pth", name="it")
        assert is_same(module.module.state_dict(), state)
        assert said == "model, prefix 'module.' put before"

    def test_names_that_are_the_networks_own_are_never_shortened(self, tmp_path: Path) -> None:
        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.module = nn.ModuleDict({"f": nn.Linear(5, 5)})
                self.f = nn.Linear(5, 5)

        first, second = Both(), Both()
        for save, file in ((torch.save, "a.pth"), (save_file, "a.safetensors")):
            save(first.state_dict(), tmp_path / file)
            assert load_weights(second, tmp_path / file, name="Both") == ""
            assert is_same(second.state_dict(), first.state_dict())


class TestWhatLiesBeside:
    @pytest.mark.parametrize(
        "beside",
        [
            np.float64(93.0),
            np.int64(3),
            np.arange(6.0).reshape(2, 3),
            np.array(["a", "b"]),
            pathlib.PurePosixPath("x/y"),
            pathlib.Path("x"),
            pathlib.PureWindowsPath("C:/x"),
            types.SimpleNamespace(a=1),
            argparse.Namespace(out=pathlib.Path("x"), when=datetime.datetime(2026, 1, 1), size=torch.Size([3])),
            collections.defaultdict(list, a=[1]),
            {"seen": {1, 2}, "how": torch.float16, "where": torch.device("cpu"), "z": 1j},
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_plain_values_beside_the_weights_are_read(self, tmp_path: Path, state: State, beside: object) -> None:
        assert is_same(loaded({"model": state, "args": beside}, tmp_path)[0], state)

    def test_numbers_that_older_numpy_wrote_are_read(self, tmp_path: Path, state: State) -> None:
        torch.save({"model": state, "acc": np.float64(1.0)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        written = (tmp_path / "a.pth").read_bytes()
        assert b"numpy._core.multiarray" in written
        (tmp_path / "a.pth").write_bytes(written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        assert is_same(create_model(NAME, num_classes=10, weights=tmp_path / "a.pth").module.state_dict(), state)

    def test_options_of_a_library_that_is_not_here_are_passed_over(
        self, tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library = types.ModuleType("yacs.config")
        monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        monkeypatch.setitem(sys.modules, "yacs.config", library)
        kind: Any = type("CfgNode", (dict,), {"__module__": "yacs.config"})
        library.CfgNode = kind
        options = kind(lr=0.1)
        options.frozen = True
        torch.save({"model": state, "cfg": options}, tmp_path / "a.pth")
        monkeypatch.undo()
        assert is_same(create_model(NAME, num_classes=10, weights=tmp_path / "a.pth").module.state_dict(), state)

    def test_a_whole_pickled_network_is_refused_by_its_class(self, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match=r"refused, since it holds more than tensors \(.*torch.save\(model.state_dict"
        ):
            loaded(module_of(), tmp_path)


class TestFiles:
    def test_weights_in_several_files_are_put_together(self, tmp_path: Path, state: State) -> None:
        names = list(state)
        shards = {"model-00001-of-00002.safetensors": names[:30], "model-00002-of-00002.safetensors": names[30:]}
        for shard, keys in shards.items():
            save_file({key: state[key] for key in keys}, tmp_path / shard)
        index = {"metadata": {}, "weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert is_same(create_model(NAME, num_classes=10, weights=tmp_path).module.state_dict(), state)
        before = weights_digest(tmp_path)
        save_file({key: state[key] + 1 for key in names[30:]}, tmp_path / "model-00002-of-00002.safetensors")
        assert weights_digest(tmp_path) != before
        (tmp_path / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(UserError, match=r"1 of its 2 files are not there \(model-00002"):
            create_model(NAME, num_classes=10, weights=tmp_path)

    @pytest.mark.parametrize("name", ["../secret.safetensors", 3])
    def test_an_index_names_files_beside_it_alone(self, tmp_path: Path, name: object) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match="which is no file beside it"):
            read_state_dict(tmp_path)

    @pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}'])
    def test_an_index_that_is_none_is_said_to_be_none(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(UserError, match="no index of weights"):
            read_state_dict(tmp_path)

    @pytest.mark.parametrize("name", ["a.pth", "model_v1.2", "best.pyth", "a.pkl"])
    def test_the_content_says_what_a_file_is(self, tmp_path: Path, state: State, name: str) -> None:
        save_file(state, tmp_path / name, metadata={"format": "pt", "note": "x"})
        assert is_same(create_model(NAME, num_classes=10, weights=tmp_path / name).module.state_dict(), state)
        torch.save({"model": state}, tmp_path / name)
        assert is_same(create_model(NAME, num_classes=10, weights=tmp_path / name).module.state_dict(), state)

    def test_the_home_folder_may_be_written_short(
        self, tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        torch.save(state, tmp_path / "x.pth")
        network = create_model(NAME, num_classes=10, weights="~/x.pth")
        assert is_same(network.module.state_dict(), state)
        assert network.starts_from == "x.pth"

    @pytest.mark.parametrize(
        ("weights", "text"),
        [
            ("https://example.org/a.pth", r"is an address \(https\), and weights are read from files; fetch it"),
            ("s3://bucket/a.pth", r"is an address \(s3\)"),
            ("hf:microsoft/resnet-18", "names a model, not a file; give that as the model"),
        ],
    )
    def test_what_is_no_path_is_named(self, weights: str, text: str) -> None:
        with pytest.raises(UserError, match=text):
            create_model(NAME, num_classes=10, weights=weights)

    def test_a_misspelt_file_names_the_one_beside_it(self, tmp_path: Path, state: State) -> None:
        torch.save(state, tmp_path / "teacher_best.pth")
        with pytest.raises(UserError, match=r"did you mean .*teacher_best.pth\?"):
            create_model(NAME, num_classes=10, weights=tmp_path / "teacher_bst.pth")

    def test_a_folder_of_files_names_them(self, tmp_path: Path, state: State) -> None:
        torch.save(state, tmp_path / "best.pth")
        with pytest.raises(UserError, match=r"it holds best.pth: name the file itself"):
            create_model(NAME, num_classes=10, weights=tmp_path)

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull fetches the weights"),
            (b"<!DOCTYPE html><html></html>", "it is a web page"),
        ],
    )
    def test_what_came_in_place_of_the_file_is_recognised(self, tmp_path: Path, content: bytes, text: str) -> None:
        for name in ("a.pth", "a.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=text):
                read_state_dict(tmp_path / name)

    def test_torchscript_says_how_its_tensors_are_had(self, tmp_path: Path) -> None:
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
        with pytest.raises(UserError, match=r"is TorchScript, which is code; save its tensors: "):
            read_state_dict(tmp_path / "a.pt")

    @pytest.mark.parametrize("is_zip", [True, False])
    def test_a_file_cut_short_anywhere_is_refused_in_words(self, tmp_path: Path, is_zip: bool) -> None:
        torch.save({"model": {"a": torch.ones(40)}}, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
        whole = (tmp_path / "a.pt").read_bytes()
        for share in range(1, 10):
            (tmp_path / "a.pt").write_bytes(whole[: len(whole) * share // 10])
            with pytest.raises(UserError, match=r"damaged, or no torch file|refused, since"):
                read_state_dict(tmp_path / "a.pt")
