"""The scores of networks for every object that a loader gives, in one pass over the data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from scipy.special import expit
from torch.utils.data import DataLoader

from lensfind.errors import LensfindError
from lensfind.finder import LensFinder, Stamps

__all__ = ["Predictions", "predict"]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0  # a single batch has no speed of its own
        return Text(f"{rate:.0f} objects/s")


@dataclass(frozen=True)
class Predictions:
    """``row`` (N,) int64 of the catalogue; ``label`` (N,) int64; ``log_odds`` (K, N) float64 of K finders."""

    row: NDArray[np.int64]
    label: NDArray[np.int64]
    log_odds: NDArray[np.float64]

    @property
    def p_lens(self) -> NDArray[np.float64]:
        """P(lens), (K, N)."""
        return np.asarray(expit(self.log_odds))


@torch.no_grad()
def predict(
    finders: Sequence[LensFinder], loader: Iterable[Mapping[str, Any]], *, what: str = "scoring", progress: bool = True
) -> Predictions:
    """Score the objects of a loader, batch by batch, on the finders' devices and without dropout.

    What stays in memory is (2 + K) numbers per object and one batch: a million objects are 24 MB for one finder.

    Args:
        finders: K of any kind; left in the modes they came in.
        loader: Batches of :class:`lensfind.data.LensData` with all their bands, e.g. ``data.loader(rows)``.
        what: Stands before the progress bar.
        progress: Show the bar, with the rate.

    Returns:
        The scores in the loader's order.

    Raises:
        LensfindError: The loader is empty; a score is not finite; or see :meth:`LensFinder.preprocess`.
    """
    rows, labels, scores = [], [], []
    total = len(loader.dataset) if isinstance(loader, DataLoader) else None  # type: ignore[arg-type]
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(what, total=total)
        for batch in loader:
            rows.append(np.asarray(batch["row"], dtype=np.int64))
            scores.append(np.stack([_finite(finder, batch["stamps"], rows[-1]) for finder in finders]))
            labels.append(np.asarray(batch["label"], dtype=np.int64))
            bar.advance(task, len(rows[-1]))
    if not rows:
        raise LensfindError("objects to score", "none", "Choose rows=all, or data that have such rows.")
    return Predictions(np.concatenate(rows), np.concatenate(labels), np.concatenate(scores, axis=1))


def _finite(finder: LensFinder, stamps: Stamps, row: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-odds of one batch; wrong ones are told at once, not after hours."""
    log_odds: NDArray[np.float64] = finder.log_odds(stamps).numpy()
    bad = ~np.isfinite(log_odds)
    if bad.any():
        raise LensfindError(
            "finite scores",
            f"{int(bad.sum())} that are NaN or infinite, the first by {finder.name} for row {row[bad][0]}",
            "The weights overflow on these stamps: check the checkpoint, and the data with python -m lensfind.data "
            "verify DIR.",
        )
    return log_odds
