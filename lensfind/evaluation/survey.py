"""What a finder yields in a survey: lenses found against candidates inspected, purity against completeness."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensfind.errors import LensfindError
from lensfind.evaluation.bootstrap import interval, resample
from lensfind.evaluation.ranking import Ranking, Setting, purity, rank, survey_size
from lensfind.evaluation.scores import TOO_FEW, checked, checked_survey

__all__ = ["Curve", "purity_completeness", "survey_curve"]

Curve = dict[str, NDArray[np.float64] | NDArray[np.bool_]]
_RESOLVED = 1 - 1e-9


def survey_curve(
    label: ArrayLike,
    p_lens: ArrayLike,
    *,
    prevalence: float = 5e-4,
    survey: int = 1_000_000,
    resamples: int = 0,
    seed: int = 0,
    points: int = 200,
) -> Curve:
    """Expected lenses among the candidates of highest P(lens), from the first to the whole survey.

    Args:
        label: (N,), 0 or 1, both present.
        p_lens: (N,), P(lens) in [0, 1].
        prevalence: Share of lenses in the survey.
        survey: Objects of the survey.
        resamples: Of the stratified bootstrap behind the intervals; 0 gives NaN.
        seed: Of the bootstrap.
        points: Of the curve.

    Returns:
        Arrays (points,): ``candidates`` (1 to ``survey``, even in the logarithm); ``lenses``, ``purity``,
        ``completeness`` and the 95 % interval of each (``lenses_low``, ``lenses_high`` and so on; NaN where
        :func:`lensfind.evaluation.scores.scores` gives none: below three false positives); ``resolved`` (bool), whether
        the false positive rate there is at least one of the non-lenses. Before that the values stand for no false
        positives at all and are too good to believe.

    Raises:
        LensfindError: See :func:`lensfind.evaluation.scores.scores`; or a class is missing.
    """
    ranking = _both(label, p_lens, prevalence, survey, resamples, seed)
    setting = Setting(prevalence=prevalence, survey=survey)
    candidates = np.geomspace(1, survey, points)
    true = prevalence * survey
    lenses, false = (row[0] for row in _yield(ranking, setting, candidates))
    resolved = false >= _RESOLVED
    samples = []
    for chunk in resample(ranking, resamples, seed):
        drawn, wrong = _yield(chunk, setting, candidates)
        samples.append(np.where(wrong >= _RESOLVED, drawn, np.nan))
    low, high = _band(samples, false)
    return {
        "candidates": candidates,
        "resolved": resolved,
        **_three("lenses", lenses, low, high, 1),
        **_three("purity", lenses, low, high, 1 / candidates),
        **_three("completeness", lenses, low, high, 1 / true),
    }


def purity_completeness(
    label: ArrayLike,
    p_lens: ArrayLike,
    *,
    prevalence: float = 5e-4,
    resamples: int = 0,
    seed: int = 0,
    points: int = 100,
) -> Curve:
    """Purity at each completeness, at the survey's prevalence. Arguments and errors as in :func:`survey_curve`.

    Returns:
        Arrays (points,): ``completeness`` (0.01 to 1 if points is 100), ``purity``, ``purity_low``, ``purity_high``,
        ``resolved`` (bool), whether a false positive was found there. Where not, ``purity`` and ``purity_high`` are NaN
        and ``purity_low`` is the 95 % bound of a false positive rate below 3 / N; where they are fewer than three,
        both limits are NaN.
    """
    ranking = _both(label, p_lens, prevalence, 1, resamples, seed)
    completeness = np.arange(1, points + 1) / points
    wanted = completeness * ranking.n_lenses * (1 - 1e-12)
    true, false = _heads(ranking, wanted)
    resolved = false[0] > 0
    values = purity(true, false, prevalence)
    samples = []
    for chunk in resample(ranking, resamples, seed):
        found, wrong = _heads(chunk, wanted)
        samples.append(np.where(wrong > 0, purity(found, wrong, prevalence), np.nan))
    low, high = _band(samples, false[0] * ranking.n_others)
    bound = purity(true[0], np.full(points, min(3 / ranking.n_others, 1.0)), prevalence)
    return {
        "completeness": completeness,
        "resolved": resolved,
        "purity": np.where(resolved, values[0], np.nan),
        "purity_low": np.where(resolved, low, bound),
        "purity_high": np.where(resolved, high, np.nan),
    }


def _both(label: ArrayLike, p_lens: ArrayLike, prevalence: float, survey: int, resamples: int, seed: int) -> Ranking:
    truth, p = checked(label, p_lens)
    checked_survey(prevalence, survey, 1, resamples, seed)
    ranking = rank(truth, p)
    if not ranking.n_lenses or not ranking.n_others:
        raise LensfindError(
            "lenses and non-lenses for a curve",
            f"{ranking.n_lenses} lenses and {ranking.n_others} non-lenses",
            "Choose rows with both classes (rows=all).",
        )
    return ranking


def _yield(r: Ranking, s: Setting, candidates: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(R, points), expected lenses among so many candidates of the survey, and on how many non-lenses that rests."""
    size, lens = survey_size(r, s), s.survey * s.prevalence / r.n_lenses
    lenses = np.stack([np.interp(candidates, size[row], lens * r.tp[row]) for row in range(len(size))])
    # Candidates that are not lenses are false positives: their number is the false positive rate.
    return lenses, (candidates - lenses) / (s.survey * (1 - s.prevalence)) * r.n_others


def _heads(r: Ranking, wanted: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """TPR and FPR (R, points) of the shortest heads of the ranking that hold so many lenses."""
    head = np.stack([np.searchsorted(row, wanted) for row in r.tp])
    return np.take_along_axis(r.tp, head, 1) / r.n_lenses, np.take_along_axis(r.fp, head, 1) / r.n_others


def _band(
    samples: list[NDArray[np.float64]], false: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile interval of curves at every point; NaN by the rules of single metrics (too few false positives)."""
    limits = np.full((2, len(false)), np.nan)
    values = np.concatenate([np.empty((0, len(false))), *samples])
    for point in np.flatnonzero(false >= TOO_FEW * _RESOLVED):
        limits[:, point] = interval(values[:, point]) or np.nan
    return limits[0], limits[1]


def _three(
    name: str,
    value: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    factor: float | NDArray[np.float64],
) -> Curve:
    return {name: value * factor, f"{name}_low": low * factor, f"{name}_high": high * factor}
