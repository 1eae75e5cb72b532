"""The papers' tables of segmentation and detection, transcribed once; each cell with the recipe that trains it.

Scores are percent. What a repository's README or an issue says is named as a table: "CIRKD, Cityscapes".
"""

from __future__ import annotations

from paper_tables import Cell

__all__ = ["DENSE_CELLS"]


def mious(source: str, data: str, lines: dict[str, str]) -> list[Cell]:
    """Lines "ROW score, ROW score" by pair; `alone` is of the student, `teachers` of the teacher."""
    cells = []
    for pair, line in lines.items():
        for word in line.split(", "):
            row, score = word.split()
            teacher, _, student = pair.partition("-")
            name = {"alone": student, "teachers": teacher}.get(row, pair)
            cells.append(Cell(source, f"segmentation/{data}/{row}/{name}", {"miou": float(score)}))
    return cells


def found(source: str, lines: dict[str, str]) -> list[Cell]:
    """Lines "AP" or "AP AP50" by recipe on COCO."""
    cells = []
    for recipe, line in lines.items():
        scores = dict(zip(("ap", "ap50"), map(float, line.split()), strict=False))
        cells.append(Cell(source, f"detection/coco/{recipe}", scores))
    return cells


# --- Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR 2022: its README ----

CIRKD = [
    *mious("CIRKD, Cityscapes", "cityscapes", {
        "deeplabv3_resnet101-deeplabv3_resnet18":
            "teachers 78.07, alone 74.21, skd 75.42, ifvd 75.59, cwd 75.55, dsd 74.81, cirkd 76.38",
        "deeplabv3_resnet101-deeplabv3_mobilenetv2":
            "alone 73.12, skd 73.82, ifvd 73.50, cwd 74.66, dsd 74.11, cirkd 75.42",
        "deeplabv3_resnet101-psp_resnet18": "alone 72.55, cirkd 74.73",
        "segformer_b4-segformer_b0":
            "teachers 81.23, alone 75.58, skd 76.43, ifvd 76.30, cwd 74.80, dsd 76.62, cirkd 76.92",
    }),
    *mious("CIRKD, Pascal VOC", "voc", {
        "deeplabv3_resnet101-deeplabv3_resnet18": "teachers 77.67, alone 73.21, cirkd 74.50",
        "deeplabv3_resnet101-psp_resnet18": "alone 73.33, cirkd 74.78",
    }),
    *mious("CIRKD, ADE20K", "ade20k", {
        "deeplabv3_resnet101-deeplabv3_resnet18": "teachers 42.70, alone 33.91, cirkd 35.41",
    }),
    *mious("CIRKD, issue 5", "cityscapes", {"deeplabv3_resnet101-deeplabv3_resnet18": "alone 76.21, kd 76.61"}),
]  # fmt: skip

# --- Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022: its README, its paper -------------

DIST_MASKS = [
    *mious("DIST, Cityscapes", "cityscapes", {
        "deeplabv3_resnet101-deeplabv3_resnet18": "dist 77.10",
        "deeplabv3_resnet101-psp_resnet18": "dist 76.31",
    }),
    *mious("DIST, issue 8", "cityscapes", {"deeplabv3_resnet101-deeplabv3_resnet18": "alone 76.31, dist 77.54"}),
]  # fmt: skip
_FASTER, _RETINA = "fasterrcnn_resnext101-fasterrcnn_resnet50", "retinanet_resnext101-retinanet_resnet50"
DIST_BOXES = found("DIST, COCO", {
    f"dist/{_FASTER}": "40.4", f"dist-mimic/{_FASTER}": "41.8",
    f"dist/{_RETINA}": "39.8", f"dist-mimic/{_RETINA}": "40.1",
})  # fmt: skip
MASKD_BOXES = found("MasKD, COCO", {
    "alone-2x/fasterrcnn_resnet50": "38.4", "alone-2x/retinanet_resnet50": "37.4",
    "teachers/cascade_rcnn_resnext101": "45.6", "teachers/retinanet_resnext101": "41.0",
})  # fmt: skip

# --- Detectors of ReviewKD's protocol: the projector paper's table 8, which copies ReviewKD's; DKD's table on COCO ----

_MV2 = "fasterrcnn_resnet50-fasterrcnn_mobilenetv2"
PROJECTOR_8 = found("projector paper, table 8", {
    "teachers/fasterrcnn_resnet50": "40.22 61.02",
    "alone/fasterrcnn_mobilenetv2": "29.47 48.87",
    f"kd/{_MV2}": "30.13 50.28",
    f"fitnet/{_MV2}": "30.20 49.80",
    f"fgfi/{_MV2}": "31.16 50.68",
    f"reviewkd/{_MV2}": "33.71 53.15",
    f"projector/{_MV2}": "32.92 52.96",
    # Printed with the two columns' headings swapped: 45.4 and 37.4 are the mAP that YOLOv5's authors give.
    "teachers/yolov5m": "45.4 64.1",
    "alone/yolov5s": "37.4 56.8",
    "projector/yolov5m-yolov5s": "37.5 57.3",
})  # fmt: skip
DKD_BOXES = found("DKD, COCO", {
    f"dkd/{_MV2}": "32.34", f"dkd-reviewkd/{_MV2}": "34.35",
    "dkd/fasterrcnn_resnet101-fasterrcnn_resnet18": "35.05",
    "dkd-reviewkd/fasterrcnn_resnet101-fasterrcnn_resnet18": "37.01",
    "dkd/fasterrcnn_resnet101-fasterrcnn_resnet50": "39.25",
    "dkd-reviewkd/fasterrcnn_resnet101-fasterrcnn_resnet50": "40.65",
})  # fmt: skip

DENSE_CELLS = [*CIRKD, *DIST_MASKS, *DIST_BOXES, *MASKD_BOXES, *PROJECTOR_8, *DKD_BOXES]
