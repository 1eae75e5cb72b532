"""Analysis is numbers only: tensors, arrays or modules in, dataclasses out."""

from understudy.analysis.agreement import Outcomes, agreement, outcomes, per_class_accuracy
from understudy.analysis.calibration import Calibration, calibration, confusion, effective_classes
from understudy.analysis.conflict import Conflict, conflict, consistent_part, cosine
from understudy.analysis.curvature import Trace, hessian_trace, largest_eigenvalues
from understudy.analysis.equivariance import Equivariance, equivariance
from understudy.analysis.intervals import Interval, Summary, paired_bootstrap, summary
from understudy.analysis.landscape import Landscape, filter_normalised, landscape, random_direction
from understudy.analysis.projection import FixedPoint, decorrelation, fixed_point, spectrum
from understudy.analysis.relations import Relations, class_correlations, correlation_gap, relations
from understudy.analysis.similarity import CKA, linear_cka

__all__ = [
    "CKA",
    "Calibration",
    "Conflict",
    "Equivariance",
    "FixedPoint",
    "Interval",
    "Landscape",
    "Outcomes",
    "Relations",
    "Summary",
    "Trace",
    "agreement",
    "calibration",
    "class_correlations",
    "conflict",
    "confusion",
    "consistent_part",
    "correlation_gap",
    "cosine",
    "decorrelation",
    "effective_classes",
    "equivariance",
    "filter_normalised",
    "fixed_point",
    "hessian_trace",
    "landscape",
    "largest_eigenvalues",
    "linear_cka",
    "outcomes",
    "paired_bootstrap",
    "per_class_accuracy",
    "random_direction",
    "relations",
    "spectrum",
    "summary",
]
