"""Configurations of transformers' detectors with queries that are small enough for a test."""

from __future__ import annotations

from typing import Any

__all__ = ["CONFIGS", "DETR", "RT_DETR"]

BODY = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "embedding_size": 8, "layer_type": "basic"}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
DETR: dict[str, Any] = {
    "model_type": "detr",
    "architectures": ["DetrForObjectDetection"],
    "backbone_config": {"model_type": "resnet", **BODY, "out_features": ["stage4"]},
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 12,
    **HEADS,
}
RT_DETR: dict[str, Any] = {
    "model_type": "rt_detr",
    "architectures": ["RTDetrForObjectDetection"],
    "backbone_config": {"model_type": "rt_detr_resnet", **BODY, "out_features": ["stage2", "stage3", "stage4"]},
    "encoder_in_channels": [8, 16, 16],
    "encoder_hidden_dim": 16,
    "d_model": 16,
    "decoder_in_channels": [16, 16, 16],
    "num_queries": 12,
    "decoder_layers": 2,
    "num_denoising": 4,
    **HEADS,
}
CONFIGS = {
    "detr": DETR,
    "rt_detr": RT_DETR,
    "rt_detr_v2": {**RT_DETR, "model_type": "rt_detr_v2", "architectures": ["RTDetrV2ForObjectDetection"]},
    "d_fine": {**RT_DETR, "model_type": "d_fine", "architectures": ["DFineForObjectDetection"]},
}
