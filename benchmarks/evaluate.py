"""Seconds for bootstrap intervals: by one ranking of the objects, and the plain way, scikit-learn on drawn objects.

    python benchmarks/evaluate.py [objects] [resamples]
    python benchmarks/evaluate.py million    # everything that evaluate.py does with a million scores: seconds, memory

Both draw lenses and non-lenses with replacement from the same P(lens), in one process, in one run; what counts is the
ratio. Time is the processor's, so that other work on the machine does not count. The plain way computes six of the
nineteen metrics that the ranking gives, and is timed on a few resamples only.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from lensfind.evaluation import purity_completeness, scores, survey_curve
from lensfind.evaluation.predictions import Predicted, write_predictions
from lensfind.evaluation.ranking import METRICS
from lensfind.evaluation.selection import selection_function
from lensfind.simulation.columns import COLUMNS

PLAIN = 5
"""Resamples of the plain way."""


def plain(label: NDArray[np.int64], p: NDArray[np.float64], resamples: int) -> NDArray[np.float64]:
    """(resamples, 6) metrics."""
    rng = np.random.default_rng(0)
    classes = [np.flatnonzero(label == value) for value in (0, 1)]
    rows = []
    for _ in range(resamples):
        drawn = np.concatenate([rng.choice(rows_of, rows_of.size) for rows_of in classes])
        y, s = label[drawn], p[drawn]
        fpr, tpr, _ = sklearn.roc_curve(y, s)
        rows.append(
            [
                sklearn.roc_auc_score(y, s),
                sklearn.average_precision_score(y, s),
                sklearn.brier_score_loss(y, s),
                *(tpr[fpr <= limit].max() for limit in (1e-2, 1e-3, 1e-4)),
            ]
        )
    return np.array(rows)


def main(n: int, resamples: int) -> None:
    rng = np.random.default_rng(1)
    label = np.arange(n) % 2
    p = 1 / (1 + np.exp(-(rng.normal(size=n) + 3 * label - 1.5)))
    scores(label[:1000], p[:1000], resamples=10)  # imports and the like
    start = time.process_time()
    result = scores(label, p, resamples=resamples)
    fast = (time.process_time() - start) / resamples
    start = time.process_time()
    slow = plain(label, p, PLAIN)
    each = (time.process_time() - start) / PLAIN
    low, high = result.intervals["auroc"] or (np.nan, np.nan)
    assert high > slow[:, 0].min()
    assert low < slow[:, 0].max()
    print(f"{n} objects, {resamples} resamples")
    print(f"one ranking, {len(METRICS)} metrics: {1e3 * fast:8.2f} ms a resample, {fast * resamples:.1f} s in all")
    print(f"scikit-learn, 6 metrics: {1e3 * each:8.2f} ms a resample")
    print(f"ratio:                   {each / fast:8.1f}")


def million(n: int = 1_000_000) -> None:
    """Scores with intervals, curves, selection function and predictions, with the columns of a simulated set."""
    rng = np.random.default_rng(1)
    catalogue = Table({"id": np.arange(n), "kind": rng.choice(["lens", "ring"], n), "label": np.arange(n) % 2})
    for name, (kind, unit, _) in COLUMNS.items():
        if name not in catalogue.colnames:
            catalogue[name] = rng.gamma(2.0, 10.0, n).astype(kind)
            catalogue[name].unit = unit
    label = np.asarray(catalogue["label"])
    odds = rng.normal(size=n) + 3 * label - 1.5
    p = 1 / (1 + np.exp(-odds))
    print(f"{n} objects, {len(catalogue.colnames)} columns: {_peak():.0f} MB before anything is done")
    with tempfile.TemporaryDirectory() as folder:
        for name, work in {
            "scores, 1,000 resamples": lambda: scores(label, p, resamples=1000),
            "ece and brier only": lambda: scores(label, p, resamples=1000, only=("ece", "brier")),
            "survey curve, 200 resamples": lambda: survey_curve(label, p, resamples=200),
            "purity curve, 200 resamples": lambda: purity_completeness(label, p, resamples=200),
            "selection function": lambda: selection_function(catalogue[label == 1], p[label == 1] > 0.5),
            "predictions.csv": lambda: write_predictions(
                Path(folder) / "predictions.csv", catalogue, label, np.full(n, "test"), {"a": Predicted(p, 0.5, odds)}
            ),
        }.items():
            start = time.perf_counter()
            work()
            print(f"{name:30} {time.perf_counter() - start:7.1f} s, peak {_peak():.0f} MB", flush=True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__" and sys.argv[1:] == ["million"]:
    million()
elif __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
