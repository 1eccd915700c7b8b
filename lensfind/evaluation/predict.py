"""P(lens) of every object that a loader gives."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.data import DataLoader

from lensfind.errors import LensfindError
from lensfind.finder import LensFinder

__all__ = ["predict"]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f} objects/s")


@torch.no_grad()
def predict(
    finder: LensFinder, loader: Iterable[Mapping[str, Any]], progress: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Score the objects of a loader, batch by batch, on the finder's device and without dropout.

    Args:
        finder: Any finder; left in the mode it came in.
        loader: Batches of :class:`lensfind.data.LensData`, e.g. ``data.loader(rows)``.
        progress: Show a progress bar with the rate.

    Returns:
        Catalogue row, label and P(lens), each (N,), in the loader's order.

    Raises:
        LensfindError: The loader is empty; or see :meth:`LensFinder.preprocess`.
    """
    rows, labels, p_lens = [], [], []
    total = len(loader.dataset) if isinstance(loader, DataLoader) else None  # type: ignore[arg-type]
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    training = finder.training
    finder.eval()
    try:
        with Progress(*columns, disable=not progress) as bar:
            task = bar.add_task("scoring", total=total)
            for batch in loader:
                p_lens.append(finder.predict_proba(batch["stamps"]).numpy())
                rows.append(np.asarray(batch["row"], dtype=np.int64))
                labels.append(np.asarray(batch["label"], dtype=np.int64))
                bar.advance(task, len(rows[-1]))
    finally:
        finder.train(training)
    if not rows:
        raise LensfindError("objects to score", "none", "Choose rows=all, or data that have such rows.")
    return np.concatenate(rows), np.concatenate(labels), np.concatenate(p_lens)
