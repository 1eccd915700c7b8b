"""What an evaluation leaves behind: files in a folder and a table on the screen."""

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lensfind import figures
from lensfind.errors import LensfindError
from lensfind.evaluation.scores import scores
from lensfind.files import write_file

__all__ = ["comparison", "print_table", "write_evaluation"]

_LOGGED = ("auroc", "average_precision", "f1", "precision", "recall", "accuracy")
"""Metrics that training logs too."""


def write_evaluation(
    folder: Path,
    *,
    ids: ArrayLike,
    label: ArrayLike,
    p_lens: ArrayLike,
    split: ArrayLike,
    provenance: Mapping[str, Any],
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Write ``predictions.csv``, ``roc.png``, ``pr.png`` and, last, ``metrics.json``; each appears whole or not at all.

    Args:
        folder: Made if it is not there.
        ids: (N,) catalogue ids.
        label: (N,) 0 or 1.
        p_lens: (N,) P(lens); the file keeps all its digits.
        split: (N,) train, val, test or unused.
        provenance: Plain values that stand at the top of ``metrics.json``, such as name, checkpoint, data and rows.
        threshold: See :func:`scores`.

    Returns:
        What stands in ``metrics.json``: the provenance, ``threshold``, ``n_objects``, ``n_lenses``, ``n_nonlenses``,
        ``metrics`` (null where undefined), ``undefined`` (the reasons) and ``versions``.

    Raises:
        LensfindError: See :func:`scores`; or the columns differ in length.
    """
    ids, truth, p, split = np.asarray(ids), np.asarray(label), np.asarray(p_lens, dtype=np.float64), np.asarray(split)
    if not len(ids) == len(truth) == len(p) == len(split):
        raise LensfindError(
            "one id, label, P(lens) and split per object",
            f"{len(ids)}, {len(truth)}, {len(p)} and {len(split)} of them",
            "Give arrays of one length.",
        )
    n_lenses = int(truth.sum())
    result = scores(truth, p, threshold)
    content = {
        **provenance,
        "threshold": float(threshold),
        "n_objects": len(truth),
        "n_lenses": n_lenses,
        "n_nonlenses": len(truth) - n_lenses,
        "metrics": {name: result.values[name] for name in _LOGGED},
        "undefined": {name: reason for name, reason in result.undefined.items() if name in _LOGGED},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("lensfind", "torch", "torchmetrics", "numpy")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    # tolist() gives Python floats, whose str() is the shortest text that reads back as the same number.
    columns = (ids.tolist(), truth.tolist(), p.tolist(), split.tolist())
    write_file(folder / "predictions.csv", _csv(("id", "label", "p_lens", "split"), zip(*columns, strict=True)))
    named = {str(provenance.get("name", "finder")): (truth, p)}
    write_file(folder / "roc.png", _png(figures.roc_curve(named)))
    write_file(folder / "pr.png", _png(figures.precision_recall_curve(named)))
    write_file(folder / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    return content


def comparison(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows of results as CSV, a column for every key in the order of first sight, nothing where undefined."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    write_file(path, _csv(keys, ([row.get(key) for key in keys] for row in rows)))


def print_table(rows: Sequence[Mapping[str, Any]], title: str | None = None, console: Console | None = None) -> None:
    """Print rows of results: a row per network, floats with four digits, an en dash where undefined."""
    table = Table(title=None if title is None else escape(title), title_justify="left", title_style="bold")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for key in keys:
        text = any(isinstance(row.get(key), str) for row in rows)
        table.add_column(escape(key.replace("_", " ")), justify="left" if text else "right")
    for row in rows:
        values = (row.get(key) for key in keys)
        table.add_row(*("–" if v is None else f"{v:.4f}" if isinstance(v, float) else escape(str(v)) for v in values))
    (console or Console()).print(table)


def _csv(header: Sequence[str], rows: Any) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
