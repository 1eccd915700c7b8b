"""Metrics of P(lens) against the truth: torchmetrics, as in training, but None where a metric has no meaning."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torchmetrics.functional import classification as metrics

from lensfind.errors import LensfindError

__all__ = ["scores", "undefined"]


def scores(label: ArrayLike, p_lens: ArrayLike, threshold: float = 0.5) -> dict[str, float | None]:
    """The metrics that a :class:`LensFinder` logs, here from arrays.

    Args:
        label: (N,), 1 = lens, 0 = non-lens.
        p_lens: (N,), P(lens) in [0, 1].
        threshold: An object counts as found if P(lens) > threshold (F1, precision, recall, accuracy).

    Returns:
        ``auroc``, ``average_precision``, ``f1``, ``precision``, ``recall``, ``accuracy``, each in [0, 1], or None where
        the metric is 0/0 or says nothing; :func:`undefined` gives the reasons. Training logs 0 there.

    Raises:
        LensfindError: Lengths differ, a label is not 0 or 1, or a probability or the threshold is not in [0, 1].

    Example:
        >>> scores([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])["auroc"]
        0.75
    """
    truth, p = _checked(label, p_lens, threshold)
    reasons = undefined(truth, p, threshold)
    target, preds = torch.from_numpy(truth), torch.from_numpy(p)
    functions: dict[str, Callable[[], torch.Tensor]] = {
        "auroc": lambda: metrics.binary_auroc(preds, target),
        "average_precision": lambda: metrics.binary_average_precision(preds, target),
        "f1": lambda: metrics.binary_f1_score(preds, target, threshold),
        "precision": lambda: metrics.binary_precision(preds, target, threshold),
        "recall": lambda: metrics.binary_recall(preds, target, threshold),
        "accuracy": lambda: metrics.binary_accuracy(preds, target, threshold),
    }
    return {name: None if name in reasons else float(function()) for name, function in functions.items()}


def undefined(label: ArrayLike, p_lens: ArrayLike, threshold: float = 0.5) -> dict[str, str]:
    """Why a metric of :func:`scores` is None: ``{metric: reason}``, empty if all are defined. Arguments as there."""
    truth, p = _checked(label, p_lens, threshold)
    lenses, found = int(truth.sum()), int((p > threshold).sum())
    reasons = {}
    if not len(truth):
        reasons["accuracy"] = "there are no objects"
    if lenses in (0, len(truth)):
        reason = f"both classes are needed; there are {lenses} lenses and {len(truth) - lenses} non-lenses"
        reasons |= {"auroc": reason, "average_precision": reason}
    if not lenses:
        reasons["recall"] = "there are no lenses"
    if not found:
        reasons["precision"] = f"no object has P(lens) > {threshold:g}"
    if not lenses and not found:
        reasons["f1"] = f"there are no lenses and no object has P(lens) > {threshold:g}"
    return reasons


def _checked(label: ArrayLike, p_lens: ArrayLike, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth, p = np.asarray(label), np.asarray(p_lens, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != p.shape or not np.isin(truth, (0, 1)).all():
        raise LensfindError(
            "labels 0 or 1 and as many probabilities",
            f"labels {truth.shape} out of {np.unique(truth)[:5].tolist()}, probabilities {p.shape}",
            "Give one label and one P(lens) per object.",
        )
    if not ((p >= 0) & (p <= 1)).all():  # false for NaN too
        raise LensfindError(
            "P(lens) in [0, 1]",
            f"{p[~((p >= 0) & (p <= 1))][0]}",
            "Give probabilities, not logits (finder.predict_proba).",
        )
    if not 0 <= threshold <= 1:
        raise LensfindError("a threshold on P(lens) in [0, 1]", repr(threshold), "Set threshold=0.5.")
    return truth.astype(np.int64), p
