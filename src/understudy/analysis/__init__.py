"""Analysis is numbers only: tensors, arrays or modules in, dataclasses out."""

from understudy.analysis.agreement import Outcomes, agreement, outcomes, per_class_accuracy
from understudy.analysis.calibration import Calibration, calibration, confusion, effective_classes, reliability
from understudy.analysis.conflict import Conflict, conflict, consistent_part, cosine
from understudy.analysis.curvature import Trace, hessian_trace, largest_eigenvalues
from understudy.analysis.embeddings import principal_components, tsne
from understudy.analysis.equivariance import Equivariance, equivariance
from understudy.analysis.fidelity import Fidelity, fidelity
from understudy.analysis.intervals import Interval, Summary, paired_bootstrap, summary
from understudy.analysis.landscape import (
    Landscape,
    filter_normalised,
    landscape,
    losses_at,
    random_direction,
    sharpness,
)
from understudy.analysis.projection import FixedPoint, decorrelation, fixed_point, spectrum
from understudy.analysis.relations import Relations, class_correlations, correlation_gap, relations
from understudy.analysis.similarity import CKA, linear_cka
from understudy.analysis.toy import Toy, toy, toy_optimum

__all__ = [
    "CKA",
    "Calibration",
    "Conflict",
    "Equivariance",
    "Fidelity",
    "FixedPoint",
    "Interval",
    "Landscape",
    "Outcomes",
    "Relations",
    "Summary",
    "Toy",
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
    "fidelity",
    "filter_normalised",
    "fixed_point",
    "hessian_trace",
    "landscape",
    "largest_eigenvalues",
    "linear_cka",
    "losses_at",
    "outcomes",
    "paired_bootstrap",
    "per_class_accuracy",
    "principal_components",
    "random_direction",
    "relations",
    "reliability",
    "sharpness",
    "spectrum",
    "summary",
    "toy",
    "toy_optimum",
    "tsne",
]
