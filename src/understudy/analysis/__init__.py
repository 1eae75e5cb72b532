"""Analysis is numbers only: tensors or arrays in, dataclasses out."""

from understudy.analysis.agreement import Outcomes, agreement, outcomes, per_class_accuracy
from understudy.analysis.intervals import Interval, Summary, paired_bootstrap, summary

__all__ = [
    "Interval",
    "Outcomes",
    "Summary",
    "agreement",
    "outcomes",
    "paired_bootstrap",
    "per_class_accuracy",
    "summary",
]
