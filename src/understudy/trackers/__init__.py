"""Trackers: who keeps the lines that a run measures, one file each."""

from understudy.trackers.base import TRACKERS, Tracker

__all__ = ["TRACKERS", "Tracker"]
