"""Segmenters: their outputs, their taps, their sizes against the papers' code, and the folder that keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from understudy import UserError, load_student
from understudy.core.stages import stages_of
from understudy.core.tap_shapes import shapes_of
from understudy.core.taps import TappedModel
from understudy.models import create_model, save_student
from understudy.models.segmentation.segmenter import Segmenter, backbone_of

PAPERS = Path(__file__).parents[3] / "shared/golden-dense/architectures-dense.json"
SMALL = "mobilenetv3_small_050"


def sizes(module: nn.Module, side: int = 64) -> dict[str, tuple[int, ...]]:
    with torch.no_grad():
        return {name: tuple(one.shape) for name, one in module.eval()(torch.zeros(1, 3, side, side)).items()}


@pytest.mark.parametrize(
    ("name", "logits", "aux"),
    [(f"deeplabv3:{SMALL}", 8, 8), (f"psp:{SMALL}", 8, 8), (f"fpn:{SMALL}", 16, None)],
)
def test_a_head_over_a_backbone_gives_logits_at_its_own_stride(name: str, logits: int, aux: int | None) -> None:
    network = create_model(name, num_classes=5, weights="none")
    found = sizes(network.module)
    assert found == {"logits": (1, 5, logits, logits), **({"aux": (1, 5, aux, aux)} if aux else {})}
    _, features = TappedModel(network.module, ["head", "stages", "output.logits"]).eval()(torch.zeros(1, 3, 64, 64))
    assert features["head"].shape[2:] == (logits, logits)
    assert [key for key in features if key.startswith("stages.")] == [f"stages.{i}" for i in range(5)]
    assert features["output.logits"].shape == (1, 5, logits, logits)


@pytest.mark.parametrize(
    ("row", "backbone", "head"),
    [
        ("hunto/DIST_KD: deeplabv3-resnet18", "resnet18", "deeplabv3"),
        ("hunto/DIST_KD: deeplabv3-resnet101", "resnet101", "deeplabv3"),
        ("hunto/DIST_KD: psp-resnet18", "resnet18", "psp"),
    ],
)
def test_the_papers_networks_have_as_many_parameters_as_theirs(row: str, backbone: str, head: str) -> None:
    if not PAPERS.is_file():
        pytest.skip("the sizes of the papers' networks are not there")
    expected = json.loads(PAPERS.read_text())[row]
    with torch.device("meta"):
        deep = {"stem_width": 64, "stem_type": "deep", "output_stride": 8}
        module = Segmenter(backbone_of(backbone, deep), head, 19)  # type: ignore[arg-type]
    counts = [sum(p.numel() for p in part.parameters()) for part in (module, module.aux_classifier)]
    assert counts == [expected["parameters"], expected["of which auxiliary head"]]


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvisions_segmenters_keep_their_keys_and_enlarge_nothing(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(f"torchvision:{name}", num_classes=5, weights="none")
    plain = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=5, **({} if "lraspp" in name else {"aux_loss": True})
    ).eval()
    plain.load_state_dict(network.module.state_dict())
    images = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        coarse, whole = network.module.eval()(images), plain(images)
    for ours, theirs in {"logits": "out", "aux": "aux"}.items():
        if ours in coarse:
            enlarged = nn.functional.interpolate(coarse[ours], (48, 64), mode="bilinear", align_corners=False)
            assert torch.equal(enlarged, whole[theirs])
    _, features = TappedModel(network.module, ["head", "stages"]).eval()(images)
    assert features["head"].shape[2:] == coarse["logits"].shape[2:]
    assert len(features) > 4


def test_a_saved_segmenter_is_read_again_and_takes_images_of_any_size(tmp_path: Path) -> None:
    network = create_model(f"deeplabv3:{SMALL}", num_classes=5, weights="none", kwargs={"width": 16, "aux": False})
    save_student(tmp_path, network)
    images = torch.rand(1, 3, 40, 56)
    again = load_student(tmp_path)
    with torch.no_grad():
        expected = network.prepared.eval()(images)["logits"]
        assert torch.equal(again(images)["logits"], expected)
    assert expected.shape == (1, 5, 5, 7)


def test_a_backbone_without_dilation_keeps_its_own_stride() -> None:
    network = create_model("deeplabv3:swin_tiny_patch4_window7_224", num_classes=3, weights="none", kwargs={"width": 8})
    assert network.kwargs == {"width": 8}
    assert isinstance(network.module, Segmenter)
    with pytest.raises(UserError, match=r"timm:swin_tiny\w+ gives no maps at stride 4: .*output_stride"):
        create_model("fpn:swin_tiny_patch4_window7_224", num_classes=3, weights="none", kwargs={"output_stride": 4})


def test_a_misspelt_backbone_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="psp has no model 'resnet81'; did you mean"):
        create_model("psp:resnet81", num_classes=3)


def test_a_segmenter_of_transformers_is_known_by_its_architecture(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tiny = {
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1] * 4,
        "num_attention_heads": [1] * 4,
        "decoder_hidden_size": 16,
    }
    kwargs = {"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"], **tiny}
    network = create_model("hf:segformer", num_classes=5, weights="none", kwargs=kwargs)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        logits = network.prepared.eval()(images)
        assert logits.shape == (2, 5, 16, 24)
        save_student(tmp_path, network)
        assert torch.equal(load_student(tmp_path)(images), logits)
    assert [stage.output for stage in stages_of(network.module)] == [f"segformer.stages.{n}" for n in range(4)]
    shapes = shapes_of(TappedModel(network.module, ["stages"]), network.prepare(images))
    assert [(shape.height, shape.width) for shape in shapes.values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]
