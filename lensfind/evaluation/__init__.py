"""Measure a finder: score objects, compute metrics, write and print them."""

from lensfind.evaluation.predict import predict
from lensfind.evaluation.report import comparison, print_table, write_evaluation
from lensfind.evaluation.scores import Scores, reliability, scores
from lensfind.evaluation.survey import purity_completeness, survey_curve
from lensfind.evaluation.threshold import choose_threshold

__all__ = [
    "Scores",
    "choose_threshold",
    "comparison",
    "predict",
    "print_table",
    "purity_completeness",
    "reliability",
    "scores",
    "survey_curve",
    "write_evaluation",
]
