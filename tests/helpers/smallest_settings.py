"""The smallest settings under which every method can be trained: one entry each, or the suite fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Smallest:
    """Settings of a method, and what its data and networks must offer."""

    method: dict[str, Any] = field(default_factory=dict)  # of the method itself
    data: dict[str, Any] = field(default_factory=dict)  # laid on the recipe's data
    student: str = "cnn"  # one of STUDENTS
    by_teacher: dict[str, dict[str, Any]] = field(default_factory=dict)  # method settings for "cnn" or "vit"
    has_connectors: bool = False
    refuses: dict[str, str] = field(default_factory=dict)  # by teacher: what the refusal says, where it must refuse


SMALLEST: dict[str, Smallest] = {
    "ab": Smallest(has_connectors=True, refuses={"vit": "does not say where its preact_stages are"}),
    "at": Smallest(),
    "cat_kd": Smallest(refuses={"vit": "has no 'cam'"}),
    "cc": Smallest(has_connectors=True),
    "cirkd": Smallest(),
    "co_advise": Smallest(student="two tokens"),
    "crd": Smallest(method={"num_negatives": 16, "embedding_dim": 8}, has_connectors=True),
    "ctkd": Smallest(has_connectors=True),
    "cwd": Smallest(has_connectors=True),
    "deepkd": Smallest(),
    "deit": Smallest(student="tokens"),
    "dist": Smallest(),
    "dist_kl": Smallest(),
    "dist_rank": Smallest(),
    "dkd": Smallest(),
    "dsd": Smallest(method={"class_weight": 0}),
    "fgfi": Smallest(has_connectors=True, refuses=dict.fromkeys(("cnn", "vit"), "needs where objects are")),
    "fitnet": Smallest(has_connectors=True),
    "fsp": Smallest(has_connectors=True),
    "ft": Smallest(method={"stage": "paraphraser"}, has_connectors=True),
    "ickd": Smallest(has_connectors=True),
    "hsakd": Smallest(method={"stage": "together"}, data={"copies": "rotations"}, has_connectors=True),
    "ifvd": Smallest(refuses=dict.fromkeys(("cnn", "vit"), "needs the class of each pixel")),
    "kd": Smallest(),
    "itrd": Smallest(has_connectors=True),
    "kdsvd": Smallest(),
    "logit_std": Smallest(),
    "mlld": Smallest(data={"copies": "pairs"}),
    "minilm": Smallest(student="tokens", refuses={"cnn": "has no layer that gives queries, keys and values"}),
    "nkd": Smallest(),
    "nst": Smallest(),
    "ofa": Smallest(has_connectors=True),
    "ofd": Smallest(has_connectors=True, refuses={"vit": "does not say where its preact_stages are"}),
    "pad": Smallest(has_connectors=True),
    "pkt": Smallest(),
    "projector": Smallest(has_connectors=True),
    "projector_ensemble": Smallest(has_connectors=True),
    "reviewkd": Smallest(has_connectors=True),
    "rkd": Smallest(),
    "rld": Smallest(),
    "sdd": Smallest(refuses={"vit": "has no 'cam'"}),
    "simkd": Smallest(by_teacher={"vit": {"match": "embedding"}}, has_connectors=True),
    "simreg": Smallest(has_connectors=True),
    "skd": Smallest(method={"pixel_weight": 0}),
    "skd_streamlined": Smallest(),
    "sp": Smallest(),
    "spherical": Smallest(),
    "srrl": Smallest(has_connectors=True),
    "sskd": Smallest(method={"stage": "together"}, data={"copies": "rotations"}, has_connectors=True),
    "tfkd": Smallest(),
    "ttm": Smallest(),
    "uskd": Smallest(has_connectors=True),
    "vid": Smallest(has_connectors=True),
    "vkd": Smallest(has_connectors=True),
    "wttm": Smallest(),
}

# Methods that learn from one label an image, too: those that classification can be tested with.
OF_IMAGES = sorted(name for name, smallest in SMALLEST.items() if "cnn" not in smallest.refuses)
# And with one that attends, or with one or the other.
OF_ANY_IMAGES = sorted(name for name, smallest in SMALLEST.items() if not {"cnn", "vit"} <= smallest.refuses.keys())

# The teachers that the settings are for.
TEACHERS: dict[str, dict[str, Any]] = {
    "cnn": {"model": "cifar:resnet8", "kwargs": {"width": 0.5}, "weights": "none", "allow_weak": True},
    "vit": {
        "model": "timm:vit_tiny_patch16_224",
        "kwargs": {"patch_size": 2, "embed_dim": 24, "depth": 4, "num_heads": 2},
        "weights": "none",
        "allow_weak": True,
    },
}

STUDENTS: dict[str, dict[str, Any]] = {
    "cnn": {"model": "cifar:resnet8", "kwargs": {"width": 0.25}, "weights": "none"},
    "tokens": {
        "model": "timm:deit_tiny_distilled_patch16_224",
        "kwargs": {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2},
        "weights": "none",
    },
    "two tokens": {
        "model": "timm:deit_tiny_patch16_224",
        "kwargs": {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "tokens": 2},
        "weights": "none",
    },
}


def settings_of(method: str, teacher: str = "cnn") -> dict[str, Any]:
    """What a recipe says of the method: its name and its smallest settings under one of TEACHERS."""
    return {"name": method, **SMALLEST[method].method, **SMALLEST[method].by_teacher.get(teacher, {})}


def own_networks(method: str) -> dict[str, dict[str, Any]]:
    """What of a recipe's networks has to be others than two of convolutions for the method: "student", "teacher"."""
    smallest = SMALLEST[method]
    student = {} if smallest.student == "cnn" else {"student": STUDENTS[smallest.student]}
    return {**student, **({"teacher": TEACHERS["vit"]} if "cnn" in smallest.refuses else {})}
