"""Objects ranked by P(lens), and every metric as a function of the ranking, for the data and for resamples alike."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["BINS", "METRICS", "Ranking", "Setting", "in_bins", "purity", "rank", "survey_size"]

BINS = 15
"""Equal-width bins of P(lens) of the calibration error."""
_ROUNDING = 1e-12  # a share of a count, such as 0.9 * 10, may miss its whole number by rounding


@dataclass(frozen=True)
class Setting:
    """Where a metric is asked for.

    Attributes:
        threshold: Found is P(lens) > threshold.
        prevalence: Share of lenses among the objects of the survey.
        survey: Number of objects of the survey.
        top: Number of objects that people look at.
    """

    threshold: float = 0.5
    prevalence: float = 5e-4
    survey: int = 1_000_000
    top: int = 1000


@dataclass(frozen=True)
class Ranking:
    """Counts of objects by falling P(lens); objects of one P(lens) are one group, because nothing orders them.

    Attributes:
        p: (G,) float64, the distinct P(lens), falling.
        lenses: (R, G) int64, lenses of each group; a row for the data or for each resample. Every row has one sum.
        others: (R, G) int64, non-lenses of each group.
    """

    p: NDArray[np.float64]
    lenses: NDArray[np.int64]
    others: NDArray[np.int64]

    @cached_property
    def tp(self) -> NDArray[np.int64]:
        """(R, G + 1), lenses among the first 0, 1, ... G groups."""
        return _cumulated(self.lenses)

    @cached_property
    def fp(self) -> NDArray[np.int64]:
        """(R, G + 1), non-lenses among the first 0, 1, ... G groups."""
        return _cumulated(self.others)

    @cached_property
    def n_lenses(self) -> int:
        return int(self.tp[0, -1])

    @cached_property
    def n_others(self) -> int:
        return int(self.fp[0, -1])

    def found(self, threshold: float) -> int:
        """Number of groups with P(lens) > threshold."""
        return int(self.p.size - np.searchsorted(self.p[::-1], threshold, side="right"))


def rank(label: NDArray[np.int64], p_lens: NDArray[np.float64]) -> Ranking:
    """The ranking of labelled objects, (N,) each; R = 1."""
    values, group = np.unique(-p_lens, return_inverse=True)
    lenses = np.bincount(group[label == 1], minlength=len(values))
    return Ranking(-values, lenses[None], (np.bincount(group, minlength=len(values)) - lenses)[None])


def purity(tpr: ArrayLike, fpr: ArrayLike, prevalence: float) -> NDArray[np.float64]:
    """Share of lenses among what is found where a share ``prevalence`` of all objects are lenses (Bayes); NaN: 0/0."""
    true = prevalence * np.asarray(tpr, dtype=np.float64)
    found = true + (1 - prevalence) * np.asarray(fpr, dtype=np.float64)
    return _ratio(true, found)


def survey_size(r: Ranking, s: Setting) -> NDArray[np.float64]:
    """(R, G + 1), expected objects of the survey above each group; needs both classes."""
    size = r.tp * (s.survey * s.prevalence / r.n_lenses)
    size += r.fp * (s.survey * (1 - s.prevalence) / r.n_others)
    return np.asarray(size, dtype=np.float64)


def _cumulated(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.int64)
    np.cumsum(counts, axis=1, out=total[:, 1:])
    return total


def first_at(rising: NDArray[np.number], value: float) -> NDArray[np.intp]:
    """(R,), first column whose entry is at least ``value`` less rounding, in rows that never fall."""
    value *= 1 - _ROUNDING
    return np.array([np.searchsorted(row, value) for row in rising], dtype=np.intp)


def last_at(rising: NDArray[np.number], value: float) -> NDArray[np.intp]:
    """(R,), last column whose entry is at most ``value`` and rounding, in rows that never fall and start at 0."""
    value *= 1 + _ROUNDING
    return np.array([np.searchsorted(row, value, side="right") for row in rising], dtype=np.intp) - 1


def pure_until(r: Ranking, share: float, prevalence: float) -> NDArray[np.intp]:
    """(R,), the longest head of the ranking (in groups) that is at least so pure; 0 where there is none."""
    # purity >= share, times its denominators: at nothing found both sides are 0 and it holds.
    cost, gain = share * (1 - prevalence) / r.n_others, (1 - share) * prevalence / r.n_lenses * (1 + _ROUNDING)
    pure = r.fp * cost <= r.tp * gain
    return np.asarray(r.p.size - np.argmax(pure[:, ::-1], axis=1), dtype=np.intp)


def resolved_completeness(r: Ranking, share: float, prevalence: float) -> float:
    """Completeness from which on a purity ``share`` allows at least one of the non-lenses; may be above 1."""
    return share * (1 - prevalence) / (prevalence * (1 - share) * r.n_others)


def place_in_survey(r: Ranking, s: Setting, top: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """TPR and FPR (R,) among the first ``top`` objects of the survey; inside a group of ties the order is random."""
    tpr, fpr = np.empty(len(r.lenses)), np.empty(len(r.lenses))
    size = survey_size(r, s)
    for row, k in enumerate(np.minimum(first_at(size, top), r.p.size)):
        part = (top - size[row, k - 1]) / (size[row, k] - size[row, k - 1])
        tpr[row] = (r.tp[row, k - 1] + part * r.lenses[row, k - 1]) / r.n_lenses
        fpr[row] = (r.fp[row, k - 1] + part * r.others[row, k - 1]) / r.n_others
    return tpr, fpr


# Metrics: of a ranking and a setting -> (R,) float64, NaN where undefined.
Values = NDArray[np.float64]
Metric = Callable[[Ranking, Setting], Values]


def _nowhere(r: Ranking) -> Values:
    return np.full(len(r.lenses), np.nan)


def _ratio(above: NDArray[np.number], below: NDArray[np.number] | int) -> Values:
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    ratio = np.full(above.shape, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _at(table: NDArray[np.int64], column: NDArray[np.intp]) -> NDArray[np.int64]:
    return np.take_along_axis(table, column[:, None], axis=1)[:, 0]


def _dot(counts: NDArray[np.int64], weights: NDArray[np.float64]) -> Values:
    return np.asarray(np.einsum("rg,g->r", counts, weights))  # without BLAS, whose threads only get in the way here


def auroc(r: Ranking, _: Setting) -> Values:
    """Chance that a lens ranks above a non-lens, ties half."""
    pairs = 2 * r.n_lenses * r.n_others
    lost = 2 * np.einsum("rg,rg->r", r.lenses, r.fp[:, 1:]) - np.einsum("rg,rg->r", r.lenses, r.others)
    return _ratio(pairs - lost, pairs)


def average_precision(r: Ranking, _: Setting) -> Values:
    """Mean of the precision at every lens, a group of ties at its end; None without either class."""
    if not r.n_lenses or not r.n_others:
        return _nowhere(r)
    precision = r.tp[:, 1:] / np.maximum(r.tp[:, 1:] + r.fp[:, 1:], 1)
    return np.asarray(np.einsum("rg,rg->r", r.lenses, precision) / r.n_lenses)


def f1(r: Ranking, s: Setting) -> Values:
    k = r.found(s.threshold)
    return _ratio(2 * r.tp[:, k], r.tp[:, k] + r.fp[:, k] + r.n_lenses)


def precision(r: Ranking, s: Setting) -> Values:
    k = r.found(s.threshold)
    return _ratio(r.tp[:, k], r.tp[:, k] + r.fp[:, k])


def recall(r: Ranking, s: Setting) -> Values:
    return _ratio(r.tp[:, r.found(s.threshold)], r.n_lenses)


def accuracy(r: Ranking, s: Setting) -> Values:
    k = r.found(s.threshold)
    return _ratio(r.tp[:, k] + r.n_others - r.fp[:, k], r.n_lenses + r.n_others)


def survey_purity(r: Ranking, s: Setting) -> Values:
    """Of what is found, at the survey's prevalence; without false positives it is not known."""
    if not r.n_lenses or not r.n_others:
        return _nowhere(r)
    k = r.found(s.threshold)
    values = purity(r.tp[:, k] / r.n_lenses, r.fp[:, k] / r.n_others, s.prevalence)
    return np.where(r.fp[:, k] > 0, values, np.nan)


def tpr_with(false_positives: int) -> Metric:
    """Highest TPR with at most so many false positives (Metcalf et al. 2019 for 0 and 9)."""

    def metric(r: Ranking, _: Setting) -> Values:
        if r.n_others <= false_positives:  # every threshold would do
            return _nowhere(r)
        return _ratio(_at(r.tp, last_at(r.fp, false_positives)), r.n_lenses)

    return metric


def tpr_at_fpr(fpr: float) -> Metric:
    """Highest TPR with no more than this false positive rate, if it is at least one non-lens."""

    def metric(r: Ranking, _: Setting) -> Values:
        allowed = r.n_others * fpr
        if allowed * (1 + _ROUNDING) < 1:
            return _nowhere(r)
        return _ratio(_at(r.tp, last_at(r.fp, allowed)), r.n_lenses)

    return metric


def completeness_at_purity(share: float) -> Metric:
    """Highest TPR that leaves the found at least so pure; NaN where that allows less than one of the non-lenses."""

    def metric(r: Ranking, s: Setting) -> Values:
        if not r.n_lenses or not r.n_others:
            return _nowhere(r)
        values = _at(r.tp, pure_until(r, share, s.prevalence)) / r.n_lenses
        least = resolved_completeness(r, share, s.prevalence)
        return np.where(values >= least * (1 - _ROUNDING), values, np.nan)

    return metric


def purity_at_completeness(share: float) -> Metric:
    """Purity of the shortest head of the ranking with this completeness; NaN without a false positive in it."""

    def metric(r: Ranking, s: Setting) -> Values:
        if not r.n_lenses or not r.n_others:
            return _nowhere(r)
        k = first_at(r.tp, share * r.n_lenses)
        true, false = _at(r.tp, k) / r.n_lenses, _at(r.fp, k) / r.n_others
        return np.where(false > 0, purity(true, false, s.prevalence), np.nan)

    return metric


def lenses_in_top(r: Ranking, s: Setting) -> Values:
    """Expected lenses among the first ``top`` of the survey; NaN where that takes less than one of the non-lenses."""
    if not r.n_lenses or not r.n_others:
        return _nowhere(r)
    tpr, fpr = place_in_survey(r, s, s.top)
    return np.where(fpr * r.n_others >= 1 - 1e-9, s.survey * s.prevalence * tpr, np.nan)


def in_bins(r: Ranking, of_lens: Values, of_other: Values) -> Values:
    """(R, BINS), sums over the objects of each bin (low, high] of P(lens), from the highest down.

    Args:
        r: With G groups.
        of_lens: (G,), what a lens of each group adds.
        of_other: (G,), what a non-lens adds.
    """
    ends = [r.found(edge) for edge in np.linspace(0, 1, BINS + 1)[-2:0:-1]]
    parts = [slice(start, end) for start, end in pairwise([0, *ends, r.p.size])]
    sums = [_dot(r.lenses[:, part], of_lens[part]) + _dot(r.others[:, part], of_other[part]) for part in parts]
    return np.stack(sums, axis=1)


def ece(r: Ranking, _: Setting) -> Values:
    """Expected calibration error of P(lens): |mean P - share of lenses|, over bins (low, high], by objects."""
    # The sum over a bin's objects of P - (1 if lens) is N times its weighted gap.
    return _ratio(np.abs(in_bins(r, r.p - 1, r.p)).sum(axis=1), r.n_lenses + r.n_others)


def brier(r: Ranking, _: Setting) -> Values:
    """Mean of (P - (1 if lens))^2."""
    return _ratio(_dot(r.lenses, (1 - r.p) ** 2) + _dot(r.others, r.p**2), r.n_lenses + r.n_others)


METRICS: dict[str, Metric] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "accuracy": accuracy,
    "tpr0": tpr_with(0),
    "tpr10": tpr_with(9),
    "tpr_at_fpr_1e-2": tpr_at_fpr(1e-2),
    "tpr_at_fpr_1e-3": tpr_at_fpr(1e-3),
    "tpr_at_fpr_1e-4": tpr_at_fpr(1e-4),
    "completeness_at_purity_0.5": completeness_at_purity(0.5),
    "completeness_at_purity_0.9": completeness_at_purity(0.9),
    "purity_at_completeness_0.5": purity_at_completeness(0.5),
    "purity_at_completeness_0.9": purity_at_completeness(0.9),
    "purity": survey_purity,
    "lenses_in_top": lenses_in_top,
    "ece": ece,
    "brier": brier,
}
"""Every metric by name."""
