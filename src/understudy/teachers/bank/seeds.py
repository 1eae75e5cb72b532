"""SeededBanks: one bank for each seed of a run, all of one teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from understudy.teachers.bank.store import Manifest
from understudy.teachers.bank.teacher import BankTeacher
from understudy.teachers.base import KeptScores, RunTeacher
from understudy.utils.errors import UserError
from understudy.utils.text import plural

__all__ = ["SeededBanks"]


class SeededBanks(RunTeacher):
    """The banks of a run's seeds: each has its own augmentation, and so its own rows.

    Args:
        banks: by seed, at least one.
        path: the folder that holds them, as people named it.
    """

    looks_at_images = False

    def __init__(self, banks: Mapping[int, BankTeacher], *, path: str) -> None:
        self._banks = dict(banks)
        self.path = path
        self._fewest = min(banks.values(), key=lambda bank: bank.manifest.num_views)
        self.name = self._fewest.name

    @property
    def first(self) -> BankTeacher:
        """That of the first seed; of the teacher all of them say the same."""
        return next(iter(self._banks.values()))

    @property
    def num_views(self) -> int:
        """Views that every seed shows."""
        return min(bank.num_views for bank in self._banks.values())

    @property
    def origin(self) -> str:
        """Where the teacher's weights came from, and where its outputs come from now."""
        return self.first.origin

    def for_seed(self, seed: int) -> BankTeacher:
        """The bank of a seed."""
        return self._banks[seed]

    def facts(self) -> dict[str, Any]:
        """Of the network that was looked at when the banks were made."""
        return self.first.facts()

    def num_outputs(self, sample: Tensor) -> int:
        """How many logits the network gave."""
        return self.first.num_classes

    def kept_scores(self) -> Mapping[str, KeptScores]:
        """What the network reached when the banks were made."""
        return self.first.kept_scores()

    def limit_views(self, num_views: int | None) -> int:
        """Show the first so many views alone: more may have been added since a run began.

        Args:
            num_views: None: as many as every seed has.

        Returns:
            How many views every seed has.

        Raises:
            UserError: a seed has fewer.
        """
        there = self._fewest.manifest.num_views
        if num_views is not None and there < num_views:
            raise UserError(
                f"{self.name} has {plural(there, 'view')}, and this run began with {num_views}; add the others "
                f"(`understudy bank RECIPE --views {num_views} --out {self.path}`), or begin the run anew"
            )
        for bank in self._banks.values():
            bank.limit_views(there if num_views is None else num_views)
        return there

    @property
    def manifests(self) -> dict[int, Manifest]:
        """What each bank is a bank of, by seed."""
        return {seed: bank.manifest for seed, bank in self._banks.items()}
