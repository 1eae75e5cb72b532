"""Masks that an exported segmenter makes of pictures, as FILE-mask.png: python onnx_masks.py student.onnx IMAGE..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
classes, shorter = json.loads(about["classes"]), json.loads(about.get("shorter_side", "null"))
for file in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    scale = shorter / min(image.size) if shorter else 1  # null: pictures are shown as they are
    shown = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    pixels = np.asarray(shown, np.float32).transpose(2, 0, 1)[None] / 255  # mean and std are within
    logits = session.run(["logits"], {"images": pixels})[0][0]  # (C,h,w), at the student's own stride
    enlarged = [np.asarray(Image.fromarray(one).resize(image.size, Image.Resampling.BILINEAR)) for one in logits]
    mask = np.argmax(enlarged, axis=0).astype(np.uint8)
    Image.fromarray(mask).save(Path(file).with_name(f"{Path(file).stem}-mask.png"))
    most = np.bincount(mask.ravel(), minlength=len(classes))
    print(f"{file}: {classes[most.argmax()]} {100 * most.max() / mask.size:.1f} % of its pixels")
