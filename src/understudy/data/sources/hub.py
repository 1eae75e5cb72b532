"""Data sets of the Hugging Face library: from the hub by name, or from a folder that save_to_disk wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.data.sources.boxed_tables import found_in_box_tables, wanted_of_boxes
from understudy.data.sources.columns import Columns, are_masks, columns_of
from understudy.data.sources.found import Found, SplitName, split_name
from understudy.data.sources.parquet import found_in_tables
from understudy.data.sources.readers import Reader
from understudy.utils.errors import UserError

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["HUB", "is_saved_by_datasets", "loaded_from_hub", "read_hub", "splits_by_name"]

HUB = "hf:"  # marks a name on the hub: hf:uoft-cs/cifar100, or hf:NAME:CONFIGURATION


def is_saved_by_datasets(root: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    is_one_split = (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    return is_one_split or (root / "dataset_dict.json").is_file()


def read_hub(root: str, config: DataConfig) -> Found:
    """The splits train, validation and test of a data set; it is downloaded once, into the library's own cache.

    Args:
        root: hf:NAME, hf:NAME:CONFIGURATION, or a folder that `datasets` reads.
        config: names the two columns; see `read_parquet`, and of boxes `found_in_box_tables`.

    Raises:
        UserError: no such data set, no train split, or what `read_parquet` raises.
    """
    wanted = Columns(config.image_column, config.label_column)
    tables: dict[SplitName, tuple[Any, Columns]] = {}
    boxed: dict[SplitName, tuple[Any, Columns]] = {}
    for split, dataset in splits_by_name(loaded_from_hub(root, streaming=False), root).items():
        stored = dataset.flatten_indices() if dataset._indices is not None else dataset  # after select() or shuffle()
        schema = stored.features.arrow_schema
        if (of_boxes := wanted_of_boxes(schema, wanted, root)) is not None:
            boxed[split] = stored.data.table.replace_schema_metadata(schema.metadata), of_boxes
            continue
        columns = columns_of(schema, wanted, root, masks=True)
        names = [columns.image, columns.label]
        tables[split] = stored.data.table.replace_schema_metadata(schema.metadata).select(names), columns
    if "train" in boxed:
        return found_in_box_tables(boxed, name=_name(root), folder=Path(root), applies_exif=config.exif_rotation)
    return found_in_tables(tables, config, name=_name(root), folder=Path(root))


def loaded_from_hub(root: str, *, streaming: bool) -> Any:
    """What `datasets` makes of a root: a data set, or one for each split.

    Raises:
        UserError: with the library's reason.
    """
    import datasets

    path = Path(root).expanduser()
    try:
        if is_saved_by_datasets(path):
            saved = datasets.load_from_disk(str(path))
            return saved if not streaming else _streamed(saved)
        name, _, configuration = root.removeprefix(HUB).partition(":")
        where = name if root.startswith(HUB) else str(path)
        return datasets.load_dataset(where, configuration or None, streaming=streaming)
    except (OSError, ValueError, RuntimeError) as error:  # no such name, no network, no files that it knows
        reason = " ".join(str(error).split())
        raise UserError(f"data.root: {root} cannot be had by the datasets library: {reason}") from None


def splits_by_name(loaded: Any, root: str) -> dict[SplitName, Any]:
    """The splits that are called train, validation or test; a data set without splits is train.

    Raises:
        UserError: none is train.
    """
    if not isinstance(loaded, dict):
        return {"train": loaded}
    splits = {split: loaded[name] for name in loaded if (split := split_name(str(name)))}
    if "train" not in splits:
        raise UserError(f"data.root: {root} has no train split; it has: {', '.join(map(str, loaded))}")
    return splits


def _streamed(saved: Any) -> Any:
    if isinstance(saved, dict):
        return {name: split.to_iterable_dataset() for name, split in saved.items()}
    return saved.to_iterable_dataset()


def _name(root: str) -> str:
    return root.removeprefix(HUB).rstrip("/").split("/")[-1]


class _Hub(Reader, name="hub"):
    """Data sets of the Hugging Face library."""

    asked = 5
    takes_names = True

    @classmethod
    def is_name(cls, root: str) -> bool:
        """Whether it is hf:NAME."""
        return root.startswith(HUB)

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """See `is_saved_by_datasets`."""
        return is_saved_by_datasets(root)

    @classmethod
    def task_of(cls, root: Path, config: DataConfig) -> str:
        """By the columns of what was saved; of a name on the hub nothing is known before it is downloaded."""
        if not is_saved_by_datasets(root):
            return cls.task
        schema = splits_by_name(loaded_from_hub(str(root), streaming=False), str(root))["train"].features.arrow_schema
        wanted = Columns(config.image_column, config.label_column)
        if wanted_of_boxes(schema, wanted, str(root)) is not None:
            return "detection"
        return "segmentation" if are_masks(schema, columns_of(schema, wanted, str(root), masks=True)) else cls.task

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_hub`."""
        return read_hub(str(root), config)
