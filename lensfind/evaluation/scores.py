"""What a finder's P(lens) are worth: every metric with its interval, or the reason why the objects cannot tell it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensfind.errors import LensfindError
from lensfind.evaluation.bootstrap import ece_interval, interval, ratio_interval, resample, weighted_interval, wilson
from lensfind.evaluation.ranking import (
    BINS,
    METRICS,
    Ranking,
    Setting,
    first_at,
    place_in_survey,
    pure_until,
    rank,
    resolved_completeness,
)

__all__ = ["Interval", "Scores", "checked", "checked_survey", "reliability", "scores"]

Interval = tuple[float, float]
FEW, TOO_FEW = 10, 3
"""False positives below which a value is said to rest on few, and below which it gets no interval: percentiles of a
bootstrap then cover the truth less than 92 % of the time (76 % with one, measured on normal scores)."""
_CLOSED = ("f1", "precision", "recall", "accuracy", "purity")
"""Metrics of the two rates at a fixed threshold, whose intervals need no bootstrap."""


@dataclass(frozen=True)
class Scores:
    """Metrics of one finder on one set of objects.

    Attributes:
        values: By name (:data:`lensfind.evaluation.ranking.METRICS`); None where undefined.
        intervals: By name, low and high at 95 %; None where undefined, not resolved or not asked for.
        undefined: By name, why a value is None.
        limits: By name, what to bear in mind about a value or its missing interval.
    """

    values: dict[str, float | None]
    intervals: dict[str, Interval | None]
    undefined: dict[str, str]
    limits: dict[str, str]


def scores(
    label: ArrayLike,
    p_lens: ArrayLike,
    threshold: float = 0.5,
    *,
    prevalence: float = 5e-4,
    survey: int = 1_000_000,
    top: int = 1000,
    resamples: int = 0,
    seed: int = 0,
    only: Collection[str] | None = None,
    progress: bool = False,
) -> Scores:
    """Every metric of P(lens) against the truth.

    On the objects as they are: ``auroc``, ``average_precision`` and, for found = P(lens) > threshold, ``f1``,
    ``precision``, ``recall``, ``accuracy``; ``tpr0`` and ``tpr10``, the highest true positive rate with no and with
    fewer than ten false positives (Metcalf et al. 2019, A&A 625, A119); ``tpr_at_fpr_*``, the highest with no more than
    that false positive rate; ``ece`` (15 equal bins of P(lens), |mean P - share of lenses|, weighted by objects) and
    ``brier``. At the survey's prevalence pi, with purity = pi TPR / (pi TPR + (1 - pi) FPR): ``purity`` of the found,
    ``completeness_at_purity_*``, ``purity_at_completeness_*``, and ``lenses_in_top``, the expected number of lenses
    among the ``top`` highest P(lens) of ``survey`` objects.

    Intervals: recall is Wilson's; f1, precision, accuracy and purity follow from Wilson's of TPR and FPR (MOVER); ece
    has its own (:func:`lensfind.evaluation.bootstrap.ece_interval`), because noise raises it; the rest are percentiles
    of a stratified bootstrap (:func:`lensfind.evaluation.bootstrap.resample`), if they rest on at least three false
    positives.

    Args:
        label: (N,), 1 or True = lens, 0 or False = non-lens.
        p_lens: (N,), P(lens) in [0, 1].
        threshold: In [0, 1].
        prevalence: Share of lenses in the survey, between 0 and 1.
        survey: Objects of the survey.
        top: Objects that people look at.
        resamples: Of the bootstrap; 0 gives no intervals.
        seed: Of the bootstrap.
        only: Names of the metrics that are wanted; None for all.
        progress: Show a bar if the bootstrap takes longer than a moment.

    Returns:
        Values, intervals, reasons and notes, by the same names.

    Raises:
        LensfindError: Lengths differ, a label is not 0 or 1, a probability, the threshold or the prevalence is out of
            range or not finite, ``top`` is above ``survey``, or ``only`` names no metric.

    Example:
        >>> scores([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9]).values["auroc"]
        0.75
    """
    truth, p = checked(label, p_lens)
    if not 0 <= threshold <= 1:
        raise LensfindError("a threshold on P(lens) in [0, 1]", repr(threshold), "Set threshold=0.5.")
    checked_survey(prevalence, survey, top, resamples, seed)
    if unknown := sorted(set(only or ()) - set(METRICS)):
        raise LensfindError(f"metrics out of {', '.join(METRICS)}", ", ".join(unknown), "Set only=None for all.")
    names = [name for name in METRICS if only is None or name in only]
    ranking, setting = rank(truth, p), Setting(threshold, prevalence, survey, top)
    points = {name: float(METRICS[name](ranking, setting)[0]) for name in names}
    undefined = {name: _reason(name, ranking, setting) for name, value in points.items() if np.isnan(value)}
    values = {name: None if name in undefined else value for name, value in points.items()}
    limits = {name: note for name in names if name not in undefined and (note := _limit(name, ranking, setting))}
    intervals: dict[str, Interval | None] = dict.fromkeys(names)
    if resamples:
        known = [name for name in names if name not in undefined]
        drawn = [
            name
            for name in known
            if name not in (*_CLOSED, "ece") and _false_positives(name, ranking, setting) >= TOO_FEW
        ]
        samples = {name: [np.empty(0)] for name in drawn}
        for chunk in resample(ranking, resamples if drawn else 0, seed, progress=progress):
            for name in drawn:
                samples[name].append(METRICS[name](chunk, setting))
        intervals |= {name: interval(np.concatenate(samples[name])) for name in drawn}
        intervals |= {name: _at_threshold(name, ranking, setting) for name in known if name in _CLOSED}
        intervals |= {name: ece_interval(ranking, seed) for name in known if name == "ece"}
        for name in (n for n in drawn if intervals[n] is None):
            note = "no interval: undefined in more than 5 % of the resamples"
            limits[name] = f"{limits[name]}; {note}" if name in limits else note
    return Scores(values, intervals, undefined, limits)


def checked(label: ArrayLike, p_lens: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels int64 and P(lens) float64, (N,) each; errors as told in :func:`scores`."""
    truth, p = np.asarray(label), np.asarray(p_lens, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != p.shape or not np.isin(truth, (0, 1)).all():
        raise LensfindError(
            "labels 0 or 1 and as many probabilities",
            f"labels {truth.shape} out of {np.unique(truth)[:5].tolist()}, probabilities {p.shape}",
            "Give one label and one P(lens) per object.",
        )
    if wrong := int((~np.isfinite(p)).sum()):
        example = p[~np.isfinite(p)][0]
        raise LensfindError(
            "P(lens) in [0, 1]",
            f"{example} ({wrong} of {p.size} are not finite)",
            "Look for empty or broken stamps (python -m lensfind.data verify DIR) and score again.",
        )
    if wrong := int(((p < 0) | (p > 1)).sum()):
        raise LensfindError(
            "P(lens) in [0, 1]",
            f"{p[(p < 0) | (p > 1)][0]} ({wrong} of {p.size} are outside)",
            "Give probabilities, not logits (finder.predict_proba).",
        )
    return truth.astype(np.int64), p


def checked_survey(prevalence: float, survey: int, top: int = 1, resamples: int = 0, seed: int = 0) -> None:
    """Refuse a survey or a bootstrap that cannot be; errors as told in :func:`scores`."""
    if not _number(prevalence) or not 0 < prevalence < 1:  # true for NaN too
        raise LensfindError("a prevalence between 0 and 1", repr(prevalence), "Set survey.prevalence=5e-4.")
    if not _whole(survey, 1):
        raise LensfindError("a survey of at least one object", repr(survey), "Set survey.n_objects=1000000.")
    if not _number(top) or not 1 <= top <= survey:
        raise LensfindError(f"a top between 1 and the survey's {survey} objects", repr(top), "Set survey.top=1000.")
    if not _whole(resamples, 0):
        raise LensfindError("a number of resamples, 0 or more", repr(resamples), "Set bootstrap.resamples=1000.")
    if not _whole(seed, 0):
        raise LensfindError("a seed, 0 or more", repr(seed), "Set bootstrap.seed=0.")


def _number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _whole(value: Any, least: int) -> bool:
    """Whether this is a whole number (1e6 is one) of at least ``least``."""
    return _number(value) and value >= least and float(value).is_integer()


def reliability(label: ArrayLike, p_lens: ArrayLike, bins: int = BINS) -> list[dict[str, float | int]]:
    """How often what is called P(lens) is a lens: a row per bin (low, high] of P(lens) that holds an object.

    Returns:
        Rows of ``low``, ``high``, ``n``, ``p_mean``, ``share`` of lenses and its Wilson interval ``lower``, ``upper``.

    Raises:
        LensfindError: See :func:`scores`; or ``bins`` is not positive.
    """
    truth, p = checked(label, p_lens)
    if bins < 1:
        raise LensfindError("at least one bin", repr(bins), "Set bins=15.")
    edges = np.linspace(0, 1, bins + 1)
    number = np.searchsorted(edges[1:-1], p)
    n, lenses, total = (np.bincount(number, w, minlength=bins) for w in (None, truth, p))
    lower, upper = wilson(lenses, n)
    return [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "n": int(n[b]),
            "p_mean": float(total[b] / n[b]),
            "share": float(lenses[b] / n[b]),
            "lower": float(lower[b]),
            "upper": float(upper[b]),
        }
        for b in np.flatnonzero(n)
    ]


def _at_threshold(name: str, r: Ranking, s: Setting) -> Interval | None:
    """Interval of a metric that the two rates at the threshold decide; None if a class that it needs is missing."""
    k = r.found(s.threshold)
    tp, fp, n, m = int(r.tp[0, k]), int(r.fp[0, k]), r.n_lenses, r.n_others
    tpr, tnr = _rate(tp, n), _rate(m - fp, m)
    if name == "accuracy":
        return weighted_interval((n / (n + m), m / (n + m)), tpr, tnr)
    if not n:
        return None
    if name == "recall":
        return tpr[1:]
    if not m:
        return None
    value, low, high = _rate(fp, m)
    if name == "f1":  # 2 / (1 + (1 + m/n FPR) / TPR)
        low, high = ratio_interval((1 + m / n * value, 1 + m / n * low, 1 + m / n * high), tpr)
        return 2 / (1 + high), 2 / (1 + max(low, 1.0))
    odds = m / n if name == "precision" else (1 - s.prevalence) / s.prevalence
    low, high = ratio_interval((value, low, high), tpr)
    return 1 / (1 + odds * high), 1 / (1 + odds * low)


def _rate(found: int, n: int) -> tuple[float, float, float]:
    """Share with its Wilson interval; zeros where n is 0, which then has no weight."""
    low, high = wilson(found, n)
    return (found / n, float(low), float(high)) if n else (0.0, 0.0, 0.0)


def _false_positives(name: str, r: Ranking, s: Setting) -> int:
    """On how many false positives a defined value rests; FEW if on enough or not on them."""
    kind, _, number = name.rpartition("_")
    fp: float = FEW
    if name == "tpr0":
        fp = 0
    elif kind == "tpr_at_fpr":
        fp = r.n_others * float(number)
    elif kind == "completeness_at_purity":
        fp = r.fp[0, pure_until(r, float(number), s.prevalence)[0]]
    elif kind == "purity_at_completeness":
        fp = r.fp[0, first_at(r.tp, float(number) * r.n_lenses)[0]]
    elif name == "purity":
        fp = r.fp[0, r.found(s.threshold)]
    elif name == "lenses_in_top":
        fp = place_in_survey(r, s, s.top)[1][0] * r.n_others
    return min(int(fp * (1 + 1e-9)), FEW)


def _limit(name: str, r: Ranking, s: Setting) -> str | None:
    """What to bear in mind about a defined value."""
    if name == "tpr0":
        return (
            "rests on the one highest non-lens, so it falls as a test set grows; no interval: no resample has a "
            "non-lens above that one"
        )
    fp = _false_positives(name, r, s)
    if fp >= FEW:
        return None
    note = f"rests on {fp} false positive{'s' * (fp != 1)} of {r.n_others} non-lenses"
    return note if fp >= TOO_FEW or name in _CLOSED else f"{note}, too few for an interval"


def _reason(name: str, r: Ranking, s: Setting) -> str:
    """Why the metric is undefined."""
    lenses, others, k = r.n_lenses, r.n_others, r.found(s.threshold)
    nothing_found = f"no object has P(lens) > {s.threshold:g}"
    if not lenses and not others:
        return "there are no objects"
    if name == "precision":
        return nothing_found
    if name == "f1":
        return f"there are no lenses and {nothing_found}"
    if name == "recall" or (not lenses and name.startswith("tpr")):
        return "there are no lenses"
    if not lenses or not others:
        return f"both classes are needed; there are {lenses} lenses and {others} non-lenses"
    if name in ("tpr0", "tpr10"):
        return f"there are only {others} non-lenses, so every threshold has fewer than ten false positives"
    kind, _, number = name.rpartition("_")
    if kind == "tpr_at_fpr":
        return _unresolved(float(number), others)
    if kind == "completeness_at_purity":
        least = resolved_completeness(r, float(number), s.prevalence)
        allowed = 1 / (least * others)  # the false positive rate that this purity leaves to a completeness of 1
        if least >= 1:
            return _unresolved(allowed, others)
        tpr = max(int(r.tp[0, pure_until(r, float(number), s.prevalence)[0]]), 1) / lenses
        return f"it is below {least:.3g}, where {_unresolved(allowed * tpr, others)}"
    if name == "purity" and not r.tp[0, k] + r.fp[0, k]:
        return nothing_found
    if name == "purity" or kind == "purity_at_completeness":
        head = k if name == "purity" else first_at(r.tp, float(number) * lenses)[0]
        tpr = r.tp[0, head] / lenses
        bound = s.prevalence * tpr / (s.prevalence * tpr + (1 - s.prevalence) * min(3 / others, 1))
        return (
            f"no false positive among {others} non-lenses says only that the false positive rate is below "
            f"{3 / others:.2g} (95 %), so the purity is above {bound:.3g}"
        )
    return _unresolved(float(place_in_survey(r, s, s.top)[1][0]), others)


def _unresolved(fpr: float, others: int) -> str:
    resolves = f"{others} non-lenses resolve no false positive rate below {1 / others:.2g}"
    if not fpr:
        return f"there it is 0, and {resolves}; more non-lenses would tell"
    return (
        f"it takes a false positive rate of {fpr:.2g}, and {resolves}; at least {np.ceil((1 - 1e-9) / fpr):.0f} would"
    )
