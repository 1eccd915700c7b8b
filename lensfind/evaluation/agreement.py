"""Several networks on the same objects: how far they agree, and what they say together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit, logsumexp
from scipy.stats import rankdata

from lensfind.errors import LensfindError

__all__ = ["agreement", "ensembles"]

Array = NDArray[np.float64]


def agreement(log_odds: Mapping[str, ArrayLike], found: Mapping[str, ArrayLike]) -> dict[str, Any] | None:
    """Share of same decisions and Spearman's rank correlation of every two networks.

    Args:
        log_odds: Per network (N,), the log-odds of P(lens), which rank objects where P(lens) saturates.
        found: Per network (N,) bool, P(lens) above its own threshold.

    Returns:
        ``networks`` (K names), ``same_decision`` and ``rank_correlation`` (K lists of K). The correlation is None where
        a network gives all objects the same score. None for fewer than two networks or no objects.

    Raises:
        LensfindError: Lengths differ, or a score is NaN.
    """
    names = list(log_odds)
    if len(names) < 2 or not len(np.asarray(log_odds[names[0]])):
        return None
    scores = _together([log_odds[name] for name in names])
    hits = np.stack([np.asarray(found[name], dtype=np.float64) for name in names])
    n = hits.shape[1]
    both = hits @ hits.T
    count = hits.sum(axis=1)
    same = (n - count[:, None] - count[None, :] + 2 * both) / n
    ranks = np.stack([rankdata(row) for row in scores])
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=1))
    flat = length == 0
    ranks /= np.where(flat, 1.0, length)[:, None]
    correlation = np.clip(ranks @ ranks.T, -1, 1)
    return {
        "networks": names,
        "same_decision": same.tolist(),
        "rank_correlation": [
            [None if flat[i] or flat[j] else 1.0 if i == j else float(correlation[i, j]) for j in range(len(names))]
            for i in range(len(names))
        ],
    }


def ensembles(log_odds: ArrayLike) -> dict[str, tuple[Array, Array]]:
    """P(lens) of K networks together, two ways.

    The mean of the probabilities is the chance of a lens if one of the networks, nobody knows which, is right; the mean
    of the log-odds is their logarithmic opinion pool, in which one that is very sure outweighs the others.

    Args:
        log_odds: (K, N), finite.

    Returns:
        ``{"mean of probabilities": (p, log_odds), "mean of log-odds": (p, log_odds)}``, (N,) float64 each. The log-odds
        are exact where P(lens) is 0 or 1 in floating point: of the probabilities' mean they are the difference of
        log mean P and log mean (1 - P), each a log-sum-exp.

    Raises:
        LensfindError: No network, or log-odds that are not finite.
    """
    scores = np.asarray(log_odds, dtype=np.float64)
    if scores.ndim != 2 or not len(scores) or not np.isfinite(scores).all():
        raise LensfindError(
            "finite log-odds (networks, objects) of at least one network",
            f"shape {scores.shape}, {int((~np.isfinite(scores)).sum())} of them not finite",
            "Give one row per network, as predictions hold it.",
        )
    mixed = logsumexp(log_expit(scores), axis=0) - logsumexp(log_expit(-scores), axis=0)
    pooled = scores.mean(axis=0)
    return {"mean of probabilities": (expit(mixed), mixed), "mean of log-odds": (expit(pooled), pooled)}


def _together(scores: list[ArrayLike]) -> Array:
    arrays = [np.asarray(score, dtype=np.float64) for score in scores]
    if len({array.shape for array in arrays}) != 1 or any(np.isnan(array).any() for array in arrays):
        raise LensfindError(
            "scores of the same objects from every network, none of them NaN",
            ", ".join(f"{array.shape} with {int(np.isnan(array).sum())} NaN" for array in arrays),
            "Score all networks on the same rows.",
        )
    return np.stack(arrays)
