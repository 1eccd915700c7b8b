"""Measure a finder: score objects, compute metrics, write and print them."""

from lensfind.evaluation.predict import predict
from lensfind.evaluation.report import comparison, print_table, write_evaluation
from lensfind.evaluation.scores import scores, undefined

__all__ = ["comparison", "predict", "print_table", "scores", "undefined", "write_evaluation"]
