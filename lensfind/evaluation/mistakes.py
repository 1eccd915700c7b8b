"""Mistakes: which kinds of object pass for lenses, and which mistakes a finder is surest of."""

from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from lensfind.errors import LensfindError
from lensfind.evaluation.selection import shares

__all__ = ["LENS_KINDS", "UNDETECTABLE", "false_positives", "worst"]

LENS_KINDS = ("lens", "compound_arc", "double_ring")
"""Kinds that are lenses by nature; with label 0 they failed the rule for detectable ones."""
UNDETECTABLE = " (undetectable)"
"""Follows the kind's name in the row of such lenses: to find them is no mistake of the same sort."""


def false_positives(catalogue: Table, label: ArrayLike, found: ArrayLike, level: float = 0.95) -> list[dict[str, Any]]:
    """Rate at which each kind of non-lens is taken for a lens.

    Args:
        catalogue: N rows; its column ``kind`` tells the kinds. Without one all are of the kind "non-lens".
        label: (N,) of 0 and 1.
        found: (N,) bool, P(lens) above the threshold.
        level: Of the Wilson intervals.

    Returns:
        Rows ``kind``, ``n``, ``n_found``, ``rate``, ``lower``, ``upper`` of the kinds with label 0, the highest rate
        first; empty without non-lenses. Lenses by nature that the label's rule calls undetectable have their own rows.

    Raises:
        LensfindError: The lengths differ.
    """
    truth, hits = np.asarray(label), np.asarray(found, dtype=np.bool_)
    if not truth.shape == hits.shape == (len(catalogue),):
        raise LensfindError(
            f"a label and True or False for each of {len(catalogue)} objects",
            f"{truth.shape} and {hits.shape}",
            "Give the label and p_lens > threshold of the catalogue's rows.",
        )
    negative = truth == 0
    kinds = (
        np.asarray(catalogue["kind"]).astype(str) if "kind" in catalogue.colnames else np.full(len(truth), "non-lens")
    )
    names, at = np.unique(kinds[negative], return_inverse=True)
    n = np.bincount(at, minlength=len(names))
    n_found = np.bincount(at, weights=hits[negative], minlength=len(names)).astype(np.int64)
    rate, lower, upper = shares(n_found, n, level)
    rows = [
        {
            "kind": f"{name}{UNDETECTABLE}" if name in LENS_KINDS else str(name),
            "n": int(n[k]),
            "n_found": int(n_found[k]),
            "rate": float(rate[k]),
            "lower": float(lower[k]),
            "upper": float(upper[k]),
        }
        for k, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: (-row["rate"], row["kind"]))


def worst(
    label: ArrayLike, p_lens: ArrayLike, n: int, *, threshold: float = 0.5, log_odds: ArrayLike | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the mistakes that a finder is surest of.

    Args:
        label: (N,) of 0 and 1.
        p_lens: (N,), P(lens).
        n: At most so many of each.
        threshold: An object is found if P(lens) is above.
        log_odds: (N,), ranks objects whose P(lens) saturates at 0 or 1.

    Returns:
        Non-lenses that are found, the most confident first, and lenses that are not, the most confidently missed first;
        equal scores in the order of the rows. Each (n,) or shorter.
    """
    truth, p = np.asarray(label), np.asarray(p_lens, dtype=np.float64)
    score = p if log_odds is None else np.asarray(log_odds, dtype=np.float64)
    taken = np.flatnonzero((truth == 0) & (p > threshold))
    missed = np.flatnonzero((truth == 1) & ~(p > threshold))
    return (
        taken[np.argsort(-score[taken], kind="stable")][:n],
        missed[np.argsort(score[missed], kind="stable")][:n],
    )
