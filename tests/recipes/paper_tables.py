"""The papers' tables, transcribed once, each cell with the recipe that trains it; of dense tasks in dense_tables.py.

A row is named as the folder of its recipes: kd-b1 is KD under DIST's strategy B1. Accuracies are percent, losses nats.
The order of numbers in a line is that of the printed table; `-` is a cell that the paper leaves empty.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CELLS", "Cell"]


@dataclass(frozen=True)
class Cell:
    """One number of a table, or the numbers of one run in it."""

    source: str  # paper and table, as a recipe names them
    recipe: str | None  # without "classification/"; None: one setting of a table that varies one
    scores: dict[str, float]  # by metric
    task_loss: float | None = None


def classified(
    source: str, recipe: str | None, top1: float, top5: float | None = None, task_loss: float | None = None
) -> Cell:
    """A cell of a table of accuracies, in percent."""
    return Cell(source, recipe, {"top1": top1} | ({} if top5 is None else {"top5": top5}), task_loss)


def row_by_row(source: str, data: str, folders: str, lines: dict[str, str]) -> list[Cell]:
    """A table with a line for each pair, "top-1 values" or "top-1 values / top-5 values", a column for each folder.

    Folders `alone...` are of the student alone, `teachers` of the teacher alone.
    """
    cells = []
    for pair, line in lines.items():
        first, _, second = line.partition("/")
        top1s = first.split()
        top5s = second.split() if second else ["-"] * len(top1s)
        for folder, top1, top5 in zip(folders.split(), top1s, top5s, strict=True):
            name = f"{data}/{folder}/{_name(folder, pair)}"
            cells.append(classified(source, name, float(top1), None if top5 == "-" else float(top5)))
    return cells


def _name(folder: str, pair: str) -> str:
    teacher, _, student = pair.partition("-")
    return teacher if folder == "teachers" else student if folder.startswith("alone") else pair


def varied(source: str, top1s: str) -> list[Cell]:
    """A table that varies one setting of one run."""
    return [classified(source, None, float(top1)) for top1 in top1s.split()]


# --- Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023 --------------------------------------------------

_DOT_COLUMNS = "teachers alone kd at crd dkd kd-dot crd-dot dkd-dot"
DOT_3A = row_by_row("DOT, table 3 (a)", "cifar100", _DOT_COLUMNS, {
    "resnet32x4-resnet8x4": "79.42 72.50 73.33 73.44 75.51 76.32 75.12 75.99 76.64"
                            "/ 94.58 92.72 93.00 93.06 93.92 93.94 93.46 94.09 94.03",
    "vgg13-vgg8": "74.64 70.36 72.98 71.43 73.94 74.68 73.77 74.21 74.86"
                  "/ 92.60 90.57 92.27 91.94 92.25 92.62 92.33 92.72 92.81",
    "resnet32x4-shufflenetv2": "79.42 71.82 74.45 72.73 75.65 77.07 75.55 76.64 77.41"
                               "/ 94.58 91.77 93.02 93.07 93.71 94.19 93.24 94.00 94.13",
})  # fmt: skip
DOT_3B = row_by_row("DOT, table 3 (b)", "tiny-imagenet", _DOT_COLUMNS, {
    "resnet18-mobilenetv2": "62.99 56.28 58.35 57.18 61.18 62.04 64.01 64.12 64.60"
                            "/ 83.36 80.32 82.07 81.52 83.13 84.12 84.30 84.43 85.38",
    "resnet18-shufflenetv2": "62.99 60.78 62.26 62.45 63.97 65.06 65.75 65.21 66.21"
                             "/ 83.36 82.49 83.79 83.51 84.70 85.31 85.51 85.13 86.16",
})  # fmt: skip
DOT_3C = row_by_row("DOT, table 3 (c)", "imagenet", "teachers alone kd at ofd crd dkd kd-dot dkd-dot", {
    "resnet34-resnet18": "73.31 69.75 71.03 70.69 70.81 71.17 71.70 71.72 72.03"
                         "/ 91.42 89.07 90.05 90.01 89.98 90.13 90.05 90.30 90.50",
    "resnet50-mobilenetv1": "76.16 68.87 70.50 69.56 71.25 71.37 72.05 73.09 73.33"
                            "/ 92.86 88.76 89.80 89.33 90.34 90.41 91.05 91.11 91.22",
})  # fmt: skip
DOT_6 = row_by_row("DOT, table 6", "cifar100", "kd kd-dot", {
    "wrn_40_2-wrn_16_2": "74.92 75.85",
    "wrn_40_2-wrn_40_1": "73.54 74.06",
    "resnet56-resnet20": "70.66 71.07",
    "resnet110-resnet20": "70.67 71.22",
    "resnet110-resnet32": "73.08 73.72",
    "resnet32x4-resnet8x4": "73.33 75.12",
    "vgg13-vgg8": "72.98 73.77",
})  # fmt: skip
DOT_7 = row_by_row("DOT, table 7", "cifar100", "kd kd-dot", {
    "vgg13-mobilenetv2": "67.37 68.21",
    "resnet50-mobilenetv2": "67.35 68.36",
    "resnet50-vgg8": "73.81 74.38",
    "resnet32x4-shufflenetv1": "74.07 74.58",
    "resnet32x4-shufflenetv2": "74.45 75.55",
    "wrn_40_2-shufflenetv1": "74.83 75.92",
})  # fmt: skip
DOT_8 = [
    classified("DOT, table 8", "cifar100/alone/resnet8x4", 72.50, task_loss=0.2379),
    classified("DOT, table 8", "cifar100/kd/resnet32x4-resnet8x4", 73.33, task_loss=0.3844),
    classified("DOT, table 8", None, 73.51, task_loss=0.3801),  # 270 epochs
    classified("DOT, table 8", None, 73.63, task_loss=0.3818),  # 300 epochs
]
DOT_VARIED = [
    *varied("DOT, table 1", "73.33 74.08 74.22 75.12 74.43"),  # delta 0 to 0.09
    *varied("DOT, table 1", "61.58 68.88 72.77 72.86 73.33"),  # -0.09 to 0
    *varied("DOT, table 2", "73.53 73.66 73.45 73.21 73.33"),  # momentum 0.81 to 0.9
    *varied("DOT, table 2", "73.33 73.16 73.14 68.75 37.19"),  # 0.9 to 0.99
    *varied("DOT, table 4", "73.33 73.56 73.49 73.23 73.19 75.12"),  # weight of the task loss 0.1 to 0.9, DOT
    *varied("DOT, table 5", "58.35 58.86 59.23 58.36 57.45 64.01"),
]

# --- Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022 (as its slides have it) ------------

DIST_2 = row_by_row("DIST, table 2", "imagenet", "teachers alone-b1 kd-b1 ofd-b1 crd srrl reviewkd dist", {
    "resnet34-resnet18": "73.31 69.76 70.66 71.08 71.17 71.73 71.61 72.07"
                         "/ - 89.08 89.88 90.07 90.13 90.60 90.51 90.42",
    "resnet50-mobilenetv1": "76.16 70.13 70.68 71.25 71.37 72.49 72.56 73.24"
                            "/ 92.86 89.49 90.30 90.34 90.41 90.92 91.00 91.12",
})  # fmt: skip
DIST_3 = row_by_row("DIST, table 3", "imagenet", "alone-b1 teachers kd-b1 dist", {
    "resnet34-resnet18": "69.76 73.31 71.21 72.07",
    "resnet50-resnet18": "69.76 76.13 71.35 72.12",
    "resnet101-resnet18": "69.76 77.37 71.09 72.08",
    "resnet152-resnet18": "69.76 78.31 71.12 72.24",
    "resnet50-resnet34": "73.31 76.13 74.73 75.06",
    "resnet101-resnet34": "73.31 77.37 74.89 75.36",
    "resnet152-resnet34": "73.31 78.31 74.87 75.42",
})  # fmt: skip
DIST_4 = [
    *row_by_row("DIST, table 4", "imagenet", "teachers alone-b2 kd-b2 rkd-b2 srrl-b2 dist-b2", {
        "resnet50_a1-resnet18": "80.1 73.4 72.6 72.9 71.2 74.5",
        "resnet50_a1-resnet34": "80.1 76.8 77.2 76.6 76.7 77.8",
        "resnet50_a1-mobilenetv2": "80.1 73.6 71.7 73.1 69.2 74.4",
        "resnet50_a1-efficientnet_b0": "80.1 78.0 77.4 77.5 77.3 78.6",
        "swin_large-resnet50": "86.3 78.5 80.0 78.9 78.6 80.2",
    }),
    *row_by_row("DIST, table 4", "imagenet", "teachers alone-b3 kd-b3 rkd-b3 srrl-b3 dist-b3", {
        "swin_large-swin_tiny": "86.3 81.3 81.5 81.2 81.5 82.3",
    }),
]  # fmt: skip
DIST_VARIED = [
    *varied("DIST, table of relations", "71.21 70.61 71.62 71.63 71.55 72.07"),
    *varied("DIST, table without task loss", "71.21 68.12 72.07 70.65"),
]
# Not in a table: the accuracies that the authors' repository gives for its configuration dist_cifar.yaml.
DIST_CIFAR = row_by_row("DIST, released configuration", "cifar100", "dist", {
    "wrn_40_2-wrn_40_1": "74.43",
    "resnet56-resnet20": "71.75",
    "resnet32x4-resnet8x4": "76.31",
    "resnet50-mobilenetv2": "68.66",
    "resnet32x4-shufflenetv1": "76.34",
    "resnet32x4-shufflenetv2": "77.35",
})  # fmt: skip

# --- Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024 -----------

_PAIRS = (
    "wrn_40_2-wrn_16_2 wrn_40_2-wrn_40_1 resnet56-resnet20 resnet32x4-resnet8x4 vgg13-mobilenetv2 "
    "resnet50-mobilenetv2 resnet50-vgg8 resnet32x4-shufflenetv1 resnet32x4-shufflenetv2 wrn_40_2-shufflenetv1"
)  # table 4's columns
_TABLE_4 = {
    "teachers": "76.46 76.46 73.44 79.63 75.38 79.10 79.10 79.63 79.63 76.46",
    "alone": "73.64 72.24 69.63 72.51 65.79 65.79 70.68 70.77 73.12 70.77",
    "kd": "74.92 73.54 70.66 73.33 67.37 67.35 73.81 74.07 74.45 74.83",
    "fitnet": "75.75 74.12 71.60 74.31 68.58 68.54 73.84 74.82 75.11 75.55",
    "at": "75.28 74.45 71.78 74.26 69.34 69.28 73.45 74.76 75.30 75.61",
    "crd": "76.04 75.52 71.68 75.90 68.49 70.32 74.42 75.46 75.72 75.96",
    "sskd": "76.04 76.13 71.49 76.20 71.53 72.57 75.76 78.44 78.61 77.40",
    "projector": "76.14 75.42 71.75 76.44 71.47 72.81 76.20 77.32 79.06 79.22",
    "kd-randaugment": "75.94 75.32 71.10 75.84 70.79 71.29 75.75 77.80 78.43 78.00",
    "crd-randaugment": "77.27 76.15 72.21 77.69 71.65 72.03 75.73 78.57 79.01 78.54",
    "dkd-randaugment": "74.96 75.89 70.95 77.52 72.01 73.30 76.88 79.71 80.08 77.86",
    "projector-randaugment": "77.61 76.04 72.25 78.37 72.82 73.51 77.08 78.99 79.86 78.79",
}
# DOT's table 3 (a) has numbers of its own for two pairs, under CRD's teachers: those keep the short name.
_UNDER_SSKDS_TEACHER = {
    f"{method}/{pair}": f"{method}-sskd-teacher/{pair}"
    for method in ("at", "crd")
    for pair in ("resnet32x4-resnet8x4", "resnet32x4-shufflenetv2")
}


def _table_4() -> list[Cell]:
    cells = []
    for folder, line in _TABLE_4.items():
        for pair, top1 in zip(_PAIRS.split(), line.split(), strict=True):
            name = f"{folder}/{_name(folder, pair)}"
            name = _UNDER_SSKDS_TEACHER.get(name, name)
            cells.append(classified("projector paper, table 4", f"cifar100/{name}", float(top1)))
    return cells


PROJECTOR_4 = _table_4()
PROJECTOR_5 = [
    classified("projector paper, table 5", f"imagenet/{recipe}", top1, top5)
    for recipe, top1, top5 in (
        ("teachers/regnety_160", 82.6, 96.4),
        ("alone-deit/deit_tiny", 72.2, 91.1),
        ("deit/regnety_160-deit_tiny_distilled", 74.5, 91.9),
        ("co_advise/regnety_040-co_advise_tiny", 74.9, None),
        ("uskd-deit/deit_tiny", 75.0, None),
        ("projector-deit-correlation/regnety_160-deit_conv_tiny", 77.2, 93.7),
        ("dist-b3/swin_large-swin_tiny", 82.3, None),
        ("alone-deit/deit_small", 79.8, 95.0),
        ("deit/regnety_160-deit_small_distilled", 81.2, 95.4),
        ("co_advise/regnety_040-co_advise_small", 82.0, None),
        ("uskd-deit/deit_small", 80.8, None),
        ("projector-deit-correlation/regnety_160-deit_conv_small", 82.1, 96.0),
    )
]
# Printed as errors, top-1 and top-5.
PROJECTOR_6 = [
    classified("projector paper, table 6", f"imagenet/{recipe}", round(100 - error1, 2), round(100 - error5, 2))
    for recipe, error1, error5 in (
        ("teachers/resnet34", 26.69, 8.58),
        ("alone/resnet18", 30.25, 10.93),
        ("at-torchdistill/resnet34-resnet18", 29.30, 10.00),
        ("kd-torchdistill/resnet34-resnet18", 29.34, 10.12),
        ("cc/resnet34-resnet18", 30.04, 10.83),
        ("crd-torchdistill/resnet34-resnet18", 28.62, 9.51),
        ("reviewkd/resnet34-resnet18", 28.39, 9.42),
        ("projector/resnet34-resnet18", 28.37, 9.41),
    )
]
PROJECTOR_VARIED = [
    *varied("projector paper, table 1", "50.89 54.13 64.48 52.91 54.65 64.23 55.63 59.08 65.52 56.09 59.28 67.95"),
    *varied("projector paper, table 2", "61.74 62.18 62.23 62.84 63.10 63.32 63.40"),
    *varied("projector paper, table 2", "65.52 66.69 66.61 67.10 67.72 68.51 67.69"),
    *varied("projector paper, table 3", "59.28 67.95 70.03 59.80 68.51 71.29"),
]

# --- Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, as the README of mdistiller has it -------------------

# Its eleventh pair is printed with a student (MobileNetV2) whose KD is that of ShuffleNetV2, and so left out.
DKD = row_by_row("DKD, mdistiller's README", "cifar100", "dkd", {
    "resnet56-resnet20": "71.97",
    "resnet110-resnet32": "74.11",
    "resnet32x4-resnet8x4": "76.32",
    "wrn_40_2-wrn_16_2": "76.23",
    "wrn_40_2-wrn_40_1": "74.81",
    "vgg13-vgg8": "74.68",
    "resnet32x4-shufflenetv1": "76.45",
    "wrn_40_2-shufflenetv1": "76.70",
    "vgg13-mobilenetv2": "69.71",
    "resnet50-mobilenetv2": "70.35",
})  # fmt: skip

# --- Tian et al., "Contrastive Representation Distillation", ICLR 2020: the teachers that the field shares -----------

CRD_TEACHERS = [
    *row_by_row("CRD, table 1", "cifar100", "teachers", {
        "wrn_40_2": "75.61", "resnet56": "72.34", "resnet110": "74.31", "resnet32x4": "79.42", "vgg13": "74.64",
    }),
    *row_by_row("CRD, table 2", "cifar100", "teachers", {"resnet50": "79.34"}),
]  # fmt: skip

# --- Rivals of recent years: what their READMEs print of the pairs whose settings they say ---------------------------

RIVALS = [
    *row_by_row("TTM's README", "cifar100", "ttm", {"vgg13-vgg8": "74.33"}),
    *row_by_row("Streamlined KD's README", "cifar100", "skd_streamlined", {"resnet32x4-resnet8x4": "78.33"}),
]

# --- Li et al., "Curriculum Temperature for Knowledge Distillation", AAAI 2023, as its README has it ------------------

CTKD = row_by_row("CTKD, its README", "cifar100", "ctkd", {
    "resnet56-resnet20": "71.19",
    "resnet110-resnet32": "73.52",
    "resnet110-resnet20": "70.99",
    "wrn_40_2-wrn_16_2": "75.45",
    "wrn_40_2-wrn_40_1": "73.93",
    "vgg13-vgg8": "73.52",
})  # fmt: skip

CELLS = [
    *DOT_3A, *DOT_3B, *DOT_3C, *DOT_6, *DOT_7, *DOT_8, *DOT_VARIED, *DIST_2, *DIST_3, *DIST_4, *DIST_VARIED,
    *DIST_CIFAR, *PROJECTOR_4, *PROJECTOR_5, *PROJECTOR_6, *PROJECTOR_VARIED, *DKD, *CTKD, *CRD_TEACHERS, *RIVALS,
]  # fmt: skip
