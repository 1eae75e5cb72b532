"""What an exported detector finds on pictures, the five surest: python onnx_boxes.py student.onnx IMAGE..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
classes, (height, width), longer = (json.loads(about[name]) for name in ("classes", "canvas", "longer_side"))
shorter = json.loads(
    about.get("shorter_side", "null")
)  # null: as they are, if not too large
for file in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    scale = min(shorter / min(image.size) if shorter else 1, longer / max(image.size))
    scale = min(scale, width / image.width, height / image.height)
    size = [max(1, round(side * scale)) for side in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    canvas = np.zeros((1, 3, height, width), np.float32)  # the picture lies at its top left; mean and std are within
    canvas[0, :, : size[1], : size[0]] = pixels.transpose(2, 0, 1)
    boxes, labels, scores = session.run(["boxes", "labels", "scores"], {"images": canvas})
    boxes = (boxes * ([image.width / size[0], image.height / size[1]] * 2)).clip(0, [*image.size, *image.size])
    for box, label, score in list(zip(boxes, labels, scores, strict=True))[:5]:  # the surest first
        print(f"{file}: {classes[label]} {100 * score:.1f} % at {' '.join(f'{corner:.1f}' for corner in box)}")
