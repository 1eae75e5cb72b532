"""What an exported student says of pictures: python onnx_predict.py student.onnx IMAGE..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) < 3:
    sys.exit(__doc__)
session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
if "size" not in about:
    sys.exit("this file is of no classifier: onnx_boxes.py is for detectors, onnx_masks.py for segmenters")
classes, (height, width), crop = (json.loads(about[name]) for name in ("classes", "size", "crop"))
for file in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    least = round(width / crop), round(height / crop)  # that the image is scaled to cover; of it the centre is seen
    scale = max(least[0] / image.width, least[1] / image.height)
    size = [max(shortest, int(side * scale)) for shortest, side in zip(least, image.size, strict=True)]
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255  # (H,W,3) in [0,1]
    logits = session.run(["logits"], {"images": pixels.transpose(2, 0, 1)[None]})[0][0]  # mean and std are within
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{file}: {classes[shares.argmax()]} {100 * shares.max():.1f} %")
