"""Vision transformers that predict more than once: deit_conv, co_advise, and timm's own with distillation tokens."""

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from understudy.core.heads import gives_heads, head_names, named_heads, open_heads_
from understudy.core.taps import TappedModel
from understudy.models import create_model, load_student, save_student
from understudy.models.export import Subject, write
from understudy.models.export.onnx import Onnx
from understudy.models.network import Network
from understudy.utils.errors import UserError

torch.set_num_threads(1)

SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network(name: str = "timm:deit_tiny_patch16_224", num_classes: int = 5, **kwargs: int) -> Network:
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes, weights="none", image_size=16, kwargs={**SMALL, **kwargs})


def logits_of(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return module.eval()(IMAGES)


@pytest.mark.parametrize(("size", "expected"), [("tiny", 6_633_104), ("small", 23_797_520)])
def test_deit_conv_has_the_released_codes_parameters(size: str, expected: int) -> None:
    with torch.device("meta"):
        module = timm.create_model(f"understudy_deit_conv_{size}", num_classes=1000)
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


def test_the_second_token_of_deit_conv_is_the_mean_of_its_patches() -> None:
    module = network("understudy:deit_conv_tiny").module.eval()
    caught = {}
    module.blocks[0].register_forward_pre_hook(lambda _, inputs: caught.update(tokens=inputs[0]))
    module(IMAGES)
    patches = caught["tokens"][:, 2:] - module.pos_embed[:, 2:]
    assert torch.allclose(caught["tokens"][:, 1] - module.pos_embed[:, 1], patches.mean(dim=1), atol=1e-6)
    assert patches.shape == (2, 16, 24)


def test_co_advises_tokens_are_the_means_of_its_two_stems() -> None:
    module = network("understudy:co_advise_tiny").module.eval()
    caught = {}
    module.blocks[0].register_forward_pre_hook(lambda _, inputs: caught.update(tokens=inputs[0]))
    module(IMAGES)
    stem = module.patch_embed
    by_convolutions, by_involutions = (part(IMAGES).flatten(2).mT for part in (stem.proj, stem.involutions))
    class_token, *means = (caught["tokens"] - module.pos_embed)[:, :3].unbind(dim=1)
    assert torch.allclose(class_token, module.cls_token[0].expand(2, -1), atol=1e-6)
    for found, patches in zip(means, (by_convolutions, by_involutions), strict=True):
        assert torch.allclose(found, patches.mean(dim=1), atol=1e-6)
    assert torch.allclose((caught["tokens"] - module.pos_embed)[:, 3:], by_convolutions + by_involutions, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dynamic_img_size": True}, "co_advise_tiny: dynamic_img_size cannot be True"),
        ({"class_token": False}, "co_advise_tiny: class_token cannot be False"),
    ],
)
def test_what_co_advises_network_has_not_is_refused(given: dict[str, bool], said: str) -> None:
    with pytest.raises(UserError, match=said):
        network("understudy:co_advise_tiny", **given)


def test_a_stem_that_cannot_halve_its_patches_is_refused() -> None:
    with pytest.raises(UserError, match="patch_size must be even, got 3"):
        network("understudy:deit_conv_tiny", patch_size=3)


def test_one_token_makes_timms_own_distilled_network_bit_for_bit() -> None:
    ours = network(tokens=1).module
    timms = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, img_size=16, **SMALL)
    timms.load_state_dict(ours.state_dict())
    assert torch.equal(logits_of(ours), logits_of(timms))
    for module in (ours, timms):
        module.train()
        open_heads_(module)
    pair, named = timms(IMAGES), ours(IMAGES)
    assert named.keys() == named_heads(timms, pair).keys() == {"logits", "distilled"}
    assert torch.equal(named["logits"], pair[0])
    assert torch.equal(named["distilled"], pair[1])


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("timm:deit_tiny_patch16_224", {"tokens": 2}),
        ("timm:deit3_small_patch16_224", {"tokens": 1}),  # patches alone have positions
        ("timm:vit_tiny_patch16_224", {"tokens": 1, "reg_tokens": 2}),
        ("timm:vit_tiny_patch16_224", {"tokens": 3, "class_token": False, "global_pool": "avg"}),
        ("understudy:deit_conv_tiny", {}),
        ("understudy:co_advise_tiny", {}),
    ],
)
def test_heads_are_apart_in_training_and_their_mean_is_deployed(name: str, kwargs: dict[str, int]) -> None:
    module = network(name, **kwargs).module
    mean = logits_of(module)
    assert not gives_heads(module)
    open_heads_(module)
    assert torch.equal(logits_of(module), mean)
    found = module.train()(IMAGES)
    assert tuple(found) == head_names(module)
    assert len(found) == kwargs.get("tokens", 2 if "co_advise" in name else 1) + 1
    mean = logits_of(module)
    module.training = True  # of itself alone: batch norms as they are deployed
    assert torch.allclose(torch.stack([*module(IMAGES).values()]).mean(0), mean, atol=1e-6)


def test_patches_are_tapped_without_the_tokens() -> None:
    model = TappedModel(network(tokens=2).module, ["stages"])
    _, features = model(IMAGES)
    assert [tuple(feature.shape) for feature in features.values()] == [(2, 24, 4, 4)] * 2


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("timm:deit_tiny_patch16_224", {"tokens": 2}),
        ("understudy:deit_conv_tiny", {}),
        ("understudy:co_advise_tiny", {}),
    ],
)
def test_a_saved_student_gives_the_same_logits(name: str, kwargs: dict[str, int], tmp_path: Path) -> None:
    made = network(name, **kwargs)
    save_student(tmp_path, made)
    assert torch.equal(logits_of(load_student(tmp_path)), logits_of(made.prepared))


def test_weights_for_other_classes_leave_every_head_as_it_was(tmp_path: Path) -> None:
    save_student(tmp_path, network(tokens=2, num_classes=7))
    torch.manual_seed(1)
    found = create_model(
        "timm:deit_tiny_patch16_224",
        num_classes=5,
        weights=tmp_path,
        image_size=16,
        new_head=True,
        kwargs={**SMALL, "tokens": 2},
    )
    assert all(head.out_features == 5 for head in found.module.get_classifier())


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("timm:deit_tiny_patch16_224", {"tokens": 1}),
        ("timm:deit_tiny_distilled_patch16_224", {}),
        ("understudy:deit_conv_tiny", {}),
    ],
)
def test_a_grid_that_does_not_divide_is_refused_in_words(name: str, kwargs: dict[str, int]) -> None:
    with pytest.raises(UserError, match="patches of 6x6 pixels make no grid of images of 16x16; set patch_size"):
        network(name, **{**kwargs, "patch_size": 6})


def test_heads_can_be_replaced() -> None:
    module = network(tokens=2).module
    module.reset_classifier(3)
    assert logits_of(module).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "tokens", "said"),
    [
        ("timm:deit_tiny_distilled_patch16_224", 1, "has distillation tokens of its own"),
        ("understudy:deit_conv_tiny", 1, "^understudy:deit_conv_tiny has distillation tokens of its own"),
        ("cifar:resnet8", 1, "^cifar:resnet8 is a CifarResNet, and distillation tokens go into timm's plain"),
        ("torchvision:vit_b_16", 1, "takes no distillation tokens; leave out tokens, or take one of timm's"),
        ("timm:resnet18", 1, "is a ResNet, and distillation tokens go into timm's plain VisionTransformer"),
        ("timm:deit_tiny_patch16_224", 0, "tokens must be a whole number from 1 to 8, got 0"),
        ("timm:deit_tiny_patch16_224", "two", "tokens must be a whole number from 1 to 8, got 'two'"),
    ],
)
def test_tokens_that_cannot_be_given_are_refused_in_words(name: str, tokens: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        create_model(name, num_classes=5, weights="none", kwargs={"tokens": tokens})


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs pip install 'understudy[export]'")
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("timm:deit_tiny_patch16_224", {"tokens": 2}),
        ("understudy:deit_conv_tiny", {}),
        ("understudy:co_advise_tiny", {}),
    ],
)
def test_the_onnx_file_holds_the_mean_of_the_heads(name: str, kwargs: dict[str, int], tmp_path: Path) -> None:
    module = network(name, **kwargs).module
    open_heads_(module)
    report = write(Subject(module, 16), tmp_path / "student.onnx", Onnx())
    assert report.largest_difference < 1e-4
