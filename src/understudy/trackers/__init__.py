"""Trackers: who keeps the lines that a run measures, one file each."""
