"""Seconds for bootstrap intervals: by one ranking of the objects, and the plain way, scikit-learn on drawn objects.

    python benchmarks/evaluate.py [objects] [resamples]

Both draw lenses and non-lenses with replacement from the same P(lens), in one process, in one run; what counts is the
ratio. Time is the processor's, so that other work on the machine does not count. The plain way computes six of the
nineteen metrics that the ranking gives, and is timed on a few resamples only.
"""

import sys
import time

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from lensfind.evaluation import scores
from lensfind.evaluation.ranking import METRICS

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


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
