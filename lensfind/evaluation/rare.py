"""Rare lenses: are compound arcs and double rings missed more than single lenses that are as easy to see?

Raw recalls of two scenarios compare populations as much as configurations: rings of other sizes, arcs of other
brightness. So each rare lens is paired with a single lens of the same Einstein radius and the same signal to noise, and
the pairs are compared. Wilde et al. 2022 say that their networks do not select against compound lenses; that is tested.
"""

import math
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.stats import binomtest, norm

from lensfind.errors import LensfindError
from lensfind.evaluation.selection import shares

__all__ = ["MIN_PAIRS", "compare_pairs", "detection_snr", "effective_radius", "match", "matched", "recall_row"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

MIN_PAIRS = 20
"""With fewer no claim is made: even 5 lost of 20 would be in doubt."""


def effective_radius(catalogue: Table) -> Array:
    """Radius in arcsec of the circle of the area within the critical curve, sqrt(ein_area / pi), (N,).

    One measure for every kind: for a single isothermal ellipsoid it is theta_e, behind two deflectors it holds both
    masses. For a double ring it is that of the nearer source.
    """
    return np.asarray(np.sqrt(_column(catalogue, "ein_area") / np.pi))


def detection_snr(catalogue: Table) -> Array:
    """Signal to noise in VIS of all lensed light, (N,): ``arc_snr``, in quadrature with ``arc_snr_2`` of a double ring.

    The two rings are at different radii; measured in different pixels their signals to noise add in quadrature, which
    is what a finder that uses both can reach. Where the rings overlap it is a little too high.
    """
    first = _column(catalogue, "arc_snr")
    if "arc_snr_2" not in catalogue.colnames:
        return first
    return np.hypot(first, np.nan_to_num(_column(catalogue, "arc_snr_2")))


def recall_row(scenario: str, found: ArrayLike, level: float = 0.95) -> dict[str, Any]:
    """``scenario``, ``n``, ``n_found``, ``recall``, ``lower``, ``upper`` (Wilson; None if there are no lenses).

    Args:
        scenario: Name of the set.
        found: (N,) bool for its lenses.
    """
    hits = np.asarray(found, dtype=np.bool_)
    n, k = len(hits), int(hits.sum())
    values = [None if np.isnan(value) else float(value) for value in shares(k, n, level)]
    return {"scenario": scenario, "n": n, "n_found": k} | dict(zip(("recall", "lower", "upper"), values, strict=True))


def matched(
    rare_catalogue: Table,
    rare_found: ArrayLike,
    single_catalogue: Table,
    single_found: ArrayLike,
    *,
    seed: int = 0,
    caliper: float = 0.05,
    level: float = 0.95,
) -> tuple[dict[str, Any] | None, str | None]:
    """Recall of rare and of single lenses matched in Einstein radius and signal to noise.

    Args:
        rare_catalogue: The rare scenario's lenses (label 1), with ``ein_area``, ``arc_snr``[, ``arc_snr_2``].
        rare_found: (N,) bool.
        single_catalogue: Lenses of ``single_lens``, same columns.
        single_found: (M,) bool, at the same threshold.
        seed: Breaks ties between equally near partners.
        caliper: Greatest distance of partners, dex, in the plane of log theta_E and log S/N.
        level: Of interval and test.

    Returns:
        (result, None), or (None, reason) with fewer than :data:`MIN_PAIRS` pairs. The result has what
        :func:`compare_pairs` gives and ``n_rare``, ``n_single``, ``caliper``, ``balance``: for ``theta_e`` [arcsec] and
        ``snr`` the standardised mean difference in log (rare - single) before and after matching (after it, below 0.1
        counts as balanced), the Kolmogorov-Smirnov distance of the pairs, and the medians of all rare lenses and of the
        paired ones. The claim is about lenses like the paired ones alone: where most find no partner, as double rings
        that outshine every single lens, give more single lenses.

    Raises:
        LensfindError: A column is missing, or the lengths differ.
    """
    hits = [np.asarray(found, dtype=np.bool_) for found in (rare_found, single_found)]
    for table, found in zip((rare_catalogue, single_catalogue), hits, strict=True):
        if found.shape != (len(table),):
            raise LensfindError(
                f"one True or False for each of {len(table)} lenses", f"{found.shape}", "Give p_lens > threshold."
            )
    with np.errstate(divide="ignore", invalid="ignore"):
        rare, single = (
            np.log10(np.column_stack([effective_radius(table), detection_snr(table)]))
            for table in (rare_catalogue, single_catalogue)
        )
    left, right = match(rare, single, caliper=caliper, seed=seed)
    if len(left) < MIN_PAIRS:
        reason = (
            f"{len(left)} of {len(rare)} lenses have one of {len(single)} single lenses of the same theta_E and S/N "
            f"(within {caliper:g} dex); at least {MIN_PAIRS} pairs are needed"
        )
        return None, reason
    result = compare_pairs(hits[0][left], hits[1][right], level)
    balance = {
        name: {
            "before": _standardised(rare[:, k], single[:, k]),
            "after": _standardised(rare[left, k], single[right, k]),
            "ks": _ks(rare[left, k], single[right, k]),
            "median_rare": float(10 ** np.nanmedian(rare[:, k])),
            "median_matched": float(10 ** np.median(rare[left, k])),
        }
        for k, name in enumerate(("theta_e", "snr"))
    }
    more = {"n_rare": len(rare), "n_single": len(single), "caliper": caliper, "balance": balance}
    return result | more, None


def match(rare: Array, single: Array, *, caliper: float = 0.05, seed: int = 0) -> tuple[Index, Index]:
    """One-to-one pairs of nearest points without replacement: nearest pairs first, none farther than ``caliper``.

    Args:
        rare: (N, 2) points; those that are not finite get no partner.
        single: (M, 2) points.
        caliper: Greatest Euclidean distance.
        seed: Order of equally near pairs.

    Returns:
        Positions in ``rare`` and in ``single``, (P,) each, sorted by the first.
    """
    left = np.flatnonzero(np.isfinite(rare).all(axis=1))
    right = np.flatnonzero(np.isfinite(single).all(axis=1))
    empty = np.empty(0, dtype=np.int64)
    if not len(left) or not len(right):
        return empty, empty
    trees = cKDTree(rare[left]), cKDTree(single[right])
    near = trees[0].sparse_distance_matrix(trees[1], caliper, output_type="ndarray")
    # A random tie-breaker for each pair, drawn in an order that does not depend on the tree.
    near = near[np.lexsort((near["j"], near["i"]))]
    order = np.lexsort((np.random.default_rng(seed).random(len(near)), near["v"]))
    free = np.ones(len(left), dtype=np.bool_), np.ones(len(right), dtype=np.bool_)
    pairs = []
    for i, j in zip(near["i"][order].tolist(), near["j"][order].tolist(), strict=True):
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = False
            pairs.append((i, j))
    if not pairs:
        return empty, empty
    first, second = np.array(sorted(pairs), dtype=np.int64).T
    return left[first], right[second]


def compare_pairs(rare: ArrayLike, single: ArrayLike, level: float = 0.95) -> dict[str, Any]:
    """Two finding rates over pairs.

    The p-value is McNemar's exact one: of pairs of which one is found, the rare lens is it in half, if nothing selects.
    The interval of the difference is Wald's with Laplace's one pair more in each discordant cell (Bonett & Price 2012,
    J. Educ. Behav. Stat. 37, 479), which stays honest where no pair is discordant.

    Args:
        rare: (P,) bool, P at least 1.
        single: (P,) bool, their partners.
        level: Of the interval; the verdict calls 1 - level significant.

    Returns:
        ``n_pairs``, ``recall``, ``recall_single``, ``difference`` (recall - recall_single), ``lower``, ``upper``,
        ``p_value`` (two-sided), ``verdict`` (a plain sentence without full stop).
    """
    a, b = np.asarray(rare, dtype=np.bool_), np.asarray(single, dtype=np.bool_)
    n, more, less = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p_value = float(binomtest(more, more + less).pvalue) if more + less else 1.0
    difference = (more - less) / n
    up, down = (more + 1) / (n + 2), (less + 1) / (n + 2)
    half = float(norm.ppf(0.5 + level / 2)) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    lower, upper = max(up - down - half, -1.0), min(up - down + half, 1.0)
    return {
        "n_pairs": n,
        "recall": float(a.mean()),
        "recall_single": float(b.mean()),
        "difference": difference,
        "lower": lower,
        "upper": upper,
        "p_value": p_value,
        "verdict": _verdict(difference, lower, upper, p_value, level),
    }


def _verdict(difference: float, lower: float, upper: float, p_value: float, level: float) -> str:
    sure = f"{100 * level:g} %"
    points = f"{abs(100 * difference):.0f} point{'' if round(abs(100 * difference)) == 1 else 's'}"
    if p_value < 1 - level and difference < 0:
        # The exact test may be surer than the interval; then a loss of nothing stands in it.
        return f"selects against them: finds {points} fewer ({sure}: {max(-100 * upper, 0):.0f} to {-100 * lower:.0f})"
    if p_value < 1 - level:
        return (
            f"no selection against them: finds {points} more ({sure}: {max(100 * lower, 0):.0f} to {100 * upper:.0f})"
        )
    excluded = f"a loss of more than {math.ceil(max(-100 * lower, 0)):.0f} points is excluded at {sure}"
    if upper < 0:
        return f"undecided (p = {p_value:.2g}): finds {points} fewer; {excluded}"
    return f"no sign of selection against them; {excluded}"


def _column(catalogue: Table, name: str) -> Array:
    if name not in catalogue.colnames:
        raise LensfindError(
            f"a catalogue with the column {name}, to match lenses in detectability",
            f"the columns {', '.join(catalogue.colnames)}",
            "Evaluate on sets that python simulate.py scenario=single_lens (compound_arc, double_ring) has made.",
        )
    return np.asarray(np.ma.filled(np.ma.asarray(catalogue[name]).astype(np.float64), np.nan), dtype=np.float64)


def _standardised(a: Array, b: Array) -> float | None:
    """Mean difference in units of the pooled standard deviation; None without spread."""
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if len(a) < 2 or len(b) < 2:
        return None
    spread = math.sqrt((float(a.var(ddof=1)) + float(b.var(ddof=1))) / 2)
    return float(a.mean() - b.mean()) / spread if spread else None


def _ks(a: Array, b: Array) -> float:
    both = np.concatenate([a, b])
    below = (np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (a, b))
    return float(np.abs(next(below) - next(below)).max())
