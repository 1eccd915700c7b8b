"""Every figure. Functions of arrays that return a matplotlib ``Figure``; none shows or saves anything.

``Figure`` without pyplot: no window, no global list of figures, safe in threads.
"""

from lensfind.figures.catalogue import distributions
from lensfind.figures.completeness import (
    agreement_matrix,
    completeness,
    completeness_map,
    false_positive_rates,
    rare_recall,
)
from lensfind.figures.curves import confusion_matrix, learning_curves, precision_recall_curve, roc_curve
from lensfind.figures.sensitivity import sensitivity
from lensfind.figures.stamps import composite, mosaic, occlusion, planes
from lensfind.figures.survey import purity_completeness, reliability_curve, survey_yield

__all__ = [
    "agreement_matrix",
    "completeness",
    "completeness_map",
    "composite",
    "confusion_matrix",
    "distributions",
    "false_positive_rates",
    "learning_curves",
    "mosaic",
    "occlusion",
    "planes",
    "precision_recall_curve",
    "purity_completeness",
    "rare_recall",
    "reliability_curve",
    "roc_curve",
    "sensitivity",
    "survey_yield",
]
