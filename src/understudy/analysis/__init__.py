"""Analysis is numbers only: tensors or arrays in, dataclasses out."""

from understudy.analysis.agreement import Outcomes, agreement, confusion, outcomes, per_class_accuracy
from understudy.analysis.intervals import Interval, Summary, paired_bootstrap, summary

__all__ = [
    "Interval",
    "Outcomes",
    "Summary",
    "agreement",
    "confusion",
    "outcomes",
    "paired_bootstrap",
    "per_class_accuracy",
    "summary",
]
