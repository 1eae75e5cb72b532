"""Data: images by number, divided, augmented as a function of (seed, view, copy, index), and batched."""

from understudy.data.augment.config import Augment, CropFlip, MixConfig, NoAugment, ResizedCrop, RotateFlip
from understudy.data.augment.crops import augment_for
from understudy.data.config import DataConfig
from understudy.data.loaders.factory import (
    EvalLoader,
    PlainLoader,
    TrainLoader,
    eval_loader,
    from_plain_loader,
    train_loader,
)
from understudy.data.loaders.plan import Share
from understudy.data.sources.base import Source, TensorSource
from understudy.data.sources.decoding import BadImageError
from understudy.data.splits import DataSplits, open_data
from understudy.data.torch_datasets.dataset import dataset_source, dataset_splits
from understudy.utils.hashing import hashed, hashed_tensor

__all__ = [
    "Augment",
    "BadImageError",
    "CropFlip",
    "DataConfig",
    "DataSplits",
    "EvalLoader",
    "MixConfig",
    "NoAugment",
    "PlainLoader",
    "ResizedCrop",
    "RotateFlip",
    "Share",
    "Source",
    "TensorSource",
    "TrainLoader",
    "augment_for",
    "dataset_source",
    "dataset_splits",
    "eval_loader",
    "from_plain_loader",
    "hashed",
    "hashed_tensor",
    "open_data",
    "train_loader",
]
