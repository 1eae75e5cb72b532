"""Mask2Former and MaskFormer as teachers: their queries as logits at every place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.engine import run_recipe
from helpers.masks import masks_folder
from understudy import Recipe
from understudy.models import create_model
from understudy.models.segmentation.queries import semantic_logits
from understudy.report import read_results

SWIN = {
    "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
MASK2FORMER: dict[str, Any] = {
    "model_type": "mask2former", "architectures": ["Mask2FormerForUniversalSegmentation"], "backbone_config": SWIN,
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16, "encoder_layers": 1,
    "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16, "num_queries": 5,
}  # fmt: skip
MASKFORMER: dict[str, Any] = {
    "model_type": "maskformer", "architectures": ["MaskFormerForInstanceSegmentation"], "backbone_config": SWIN,
    "fpn_feature_size": 32, "mask_feature_size": 32,
    "decoder_config": {
        "model_type": "detr", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 5,
    },
}  # fmt: skip
both = pytest.mark.parametrize("tiny", [MASK2FORMER, MASKFORMER], ids=["mask2former", "maskformer"])


def test_logits_are_logarithms_of_shares_by_the_formula() -> None:
    torch.manual_seed(0)
    classes, masks = torch.randn(2, 3, 5, dtype=torch.float64), 2 * torch.randn(2, 3, 2, 3, dtype=torch.float64)
    found = semantic_logits(classes, masks)
    shares, seen = classes.softmax(-1), masks.sigmoid()
    for image in range(2):
        for row in range(2):
            for column in range(3):
                sums = torch.stack(
                    [sum(shares[image, q, c] * seen[image, q, row, column] for q in range(3)) for c in range(4)]
                )
                assert found[image, :, row, column].allclose((sums / sums.sum()).log())
    assert semantic_logits(torch.full((1, 1, 3), 0.0), torch.full((1, 1, 1, 1), -200.0)).isfinite().all()


@both
def test_its_classes_are_those_that_transformers_predicts(tiny: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = create_model("hf:tiny", num_classes=4, weights="none", kwargs=tiny)
    images = torch.randn(1, 3, 64, 96)
    module = network.module.eval()
    with torch.no_grad():
        ours = module(images)
        plain = getattr(transformers, tiny["architectures"][0]).forward(module, pixel_values=images)
    assert ours.shape == (1, 4, 16, 24)
    plain.masks_queries_logits = torch.nn.functional.interpolate(plain.masks_queries_logits, (384, 384))
    name = {"mask2former": "Mask2FormerImageProcessor", "maskformer": "MaskFormerImageProcessor"}[tiny["model_type"]]
    kind = getattr(transformers, f"{name}Pil", getattr(transformers, name))
    (said,) = kind().post_process_semantic_segmentation(plain)
    enlarged = semantic_logits(plain.class_queries_logits, plain.masks_queries_logits)
    assert torch.equal(enlarged.argmax(1)[0], said)


@pytest.mark.slow
@both
def test_a_student_learns_from_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    data = masks_folder(tmp_path / "data", side=64)
    recipe = Recipe.read(
        {
            "data": {"root": str(data), "batch_size": 3, "image_size": 64, "workers": 0},
            "teacher": {"model": "hf:tiny", "weights": "none", "kwargs": tiny, "allow_weak": True},
            "student": {"model": "deeplabv3:mobilenetv3_small_050", "kwargs": {"width": 8}, "weights": "none"},
            "rows": ["kd", {"name": "cwd", "method": {"name": "cwd", "student_stages": ["output.logits"],
                                       "teacher_stages": ["output.logits"]}}],
            "epochs": 1,
            "threads": 1,
        },
        what="the test's recipe",
    )  # fmt: skip
    results = read_results(run_recipe(recipe, tmp_path / "run").path)
    assert results.teacher is not None
    assert [row.name for row in results.rows] == ["kd", "cwd"]
