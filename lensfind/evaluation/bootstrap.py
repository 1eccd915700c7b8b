"""Confidence intervals: stratified bootstrap of a ranking, and closed forms for shares at a fixed threshold.

Percentile intervals of resamples are known to fail for extremes (a resample's highest non-lens is never above the
data's own, so TPR0 gets none) and for the calibration error, which noise only ever raises, in a resample once more.
"""

from collections.abc import Iterator
from time import monotonic

import numpy as np
from astropy.stats import binom_conf_interval
from numpy.typing import ArrayLike, NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lensfind.evaluation.ranking import BINS, Ranking, in_bins

__all__ = ["LEVEL", "ece_interval", "interval", "ratio_interval", "resample", "weighted_interval", "wilson"]

LEVEL = 0.95
_MOST_UNDEFINED = 0.05
_ARRAYS = 8
"""Arrays of a ranking's size, 8 bytes per entry, alive at once while a chunk is measured."""
_MOMENT = 2.0
"""Seconds that a bootstrap may take before it shows how far it is."""
_DRAWS, _SURE = 4_000, 3.0
"""Draws of the noise of the calibration error; standard deviations from which the sign of a bin's gap is known."""


def resample(
    ranking: Ranking, resamples: int, seed: int = 0, memory: float = 4e6, *, progress: bool = False
) -> Iterator[Ranking]:
    """Bootstrap resamples of a ranking, in chunks: lenses and non-lenses each drawn anew with replacement.

    The numbers of both classes stay, since a test set's mix is chosen, not observed. Which resamples come depends on
    the seed alone, not on the chunks.

    Args:
        ranking: Of the data, R = 1.
        resamples: In all.
        seed: Of ``np.random.default_rng``.
        memory: Bytes that a chunk and the work on it may take; at least one resample of G groups (64 G bytes) is made.
            The default keeps a chunk in the processor's cache.
        progress: Show a bar, if it takes longer than a moment.

    Yields:
        Rankings of R resamples with the groups of the data.
    """
    rng = np.random.default_rng(seed)
    groups = ranking.p.size
    of_lens, of_other = (np.repeat(np.arange(groups), counts[0]) for counts in (ranking.lenses, ranking.others))
    chunk = max(1, int(memory // (8 * _ARRAYS * max(groups, 1))))
    bar = Progress(TextColumn("bootstrap"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    task, began = bar.add_task("bootstrap", total=resamples), monotonic()
    try:
        for start in range(0, resamples, chunk):
            rows = min(chunk, resamples - start)
            lenses, others = (np.empty((rows, groups), dtype=np.int64) for _ in range(2))
            for row in range(rows):
                for counts, of in ((lenses, of_lens), (others, of_other)):
                    drawn = rng.integers(0, max(len(of), 1), len(of), dtype=np.int32)  # half the time of 64 bits
                    counts[row] = np.bincount(of[drawn], minlength=groups)
            yield Ranking(ranking.p, lenses, others)
            bar.advance(task, rows)
            if progress and not bar.live.is_started and monotonic() - began > _MOMENT:
                bar.start()
    finally:
        if bar.live.is_started:  # else it would print an empty line
            bar.stop()


def interval(samples: ArrayLike, level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of a metric's values in resamples.

    Args:
        samples: (R,), NaN where a resample leaves the metric undefined.
        level: Share of the resamples inside.

    Returns:
        Low and high, or None if there are no resamples or more than 5 % are undefined.
    """
    samples = np.asarray(samples, dtype=np.float64)
    known = samples[~np.isnan(samples)]
    if not known.size or known.size < (1 - _MOST_UNDEFINED) * samples.size:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ece_interval(ranking: Ranking, seed: int = 0) -> tuple[float, float]:
    """Interval of the calibration error, honest also where P(lens) is calibrated and the error is nothing but noise.

    The error is the sum over bins of |S|/N, where S is a bin's sum of P - (1 if lens): its truth m plus normal noise z.
    Where |S| is above three standard deviations the sign of m is known and |S| is wrong by +-z; elsewhere it is too
    large by at most |z|, and at the mean never too small (Jensen), hence wrong by at least +-z. The two limits are
    2.5 % quantiles of these sums, drawn from the noise of objects that come one by one, cov = diag(sum of
    (P - (1 if lens))^2) - S S^T / N. The variance of a bin is not taken below that of calibrated P, nor below one
    object's (a bin without a lens still may get one). Holds the truth in 95 to 100 of 100 experiments; needs no
    resamples.

    Args:
        ranking: Of the data, R = 1, not empty.
        seed: Of the draws.
    """
    p, n = ranking.p, ranking.n_lenses + ranking.n_others
    gap, spread, least, held = (
        in_bins(ranking, lens, other)[0]
        for lens, other in (
            (p - 1, p),
            ((p - 1) ** 2, p**2),
            (p * (1 - p), p * (1 - p)),
            (np.ones_like(p), np.ones_like(p)),
        )
    )
    variance = np.maximum(np.maximum(spread, least), np.minimum(held / 4, 1))
    covariance = np.diag(variance) - np.outer(gap, gap) / n
    noise = np.random.default_rng(seed).multivariate_normal(np.zeros(BINS), covariance, _DRAWS)
    signed = np.where(gap < 0, -1, 1) * noise
    too_large = np.where(np.abs(gap) > _SURE * np.sqrt(variance), signed, np.abs(noise)).sum(axis=1)
    error, tail = np.abs(gap).sum(), (1 + LEVEL) / 2
    low, high = error - np.quantile(too_large, tail), error + np.quantile(signed.sum(axis=1), tail)
    return max(float(low) / n, 0.0), min(float(high) / n, 1.0)


def wilson(found: ArrayLike, n: ArrayLike, level: float = LEVEL) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval of found/n, element by element, each like ``n``; [0, 1] where n is 0 and nothing is known."""
    found, n = np.broadcast_arrays(np.asarray(found), np.asarray(n))
    low, high = np.zeros(n.shape), np.ones(n.shape)
    some = n > 0
    if some.any():
        low[some], high[some] = binom_conf_interval(found[some], n[some], level, interval="wilson")
    return low, high


def ratio_interval(above: tuple[float, float, float], below: tuple[float, float, float]) -> tuple[float, float]:
    """Interval of the ratio of two independent estimates by recovery of their variances from their own intervals.

    MOVER-R of Donner & Zou 2012 (Stat. Methods Med. Res. 21, 347), eq. 9, in the form that needs no case for a zero.

    Args:
        above: Estimate, low and high, none negative.
        below: The same of the denominator.

    Returns:
        Low and high; high is infinite if the denominator may be zero.
    """
    (a, a_low, a_high), (b, b_low, b_high) = above, below
    # Each limit is the root R of |a - R b| = hypot(own side of a, R * other side of b), a quadratic.
    constant, square = a_low * (2 * a - a_low), b_high * (2 * b - b_high)
    divisor = a * b + np.sqrt(max((a * b) ** 2 - constant * square, 0.0))
    low = constant / divisor if divisor > 0 else 0.0
    constant, square = a_high * (2 * a - a_high), b_low * (2 * b - b_low)
    high = (a * b + np.sqrt(max((a * b) ** 2 - constant * square, 0.0))) / square if square > 0 else np.inf
    return float(low), float(high)


def weighted_interval(
    weights: tuple[float, float], first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float]:
    """Interval of a weighted sum of two independent estimates (estimate, low, high), weights >= 0: MOVER, as above."""
    parts = [(w * v, w * (v - low), w * (high - v)) for w, (v, low, high) in zip(weights, (first, second), strict=True)]
    value, below, above = (np.array(column) for column in zip(*parts, strict=True))
    return float(value.sum() - np.hypot(*below)), float(value.sum() + np.hypot(*above))
