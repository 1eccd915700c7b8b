"""Curves and tables of a network's quality: learning, ROC, precision and recall, confusion."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torchmetrics.functional import classification as metrics

from lensfind.figures.style import BLUE, COLOURS, DPI, ORANGE, RED, legend_columns, shortened

__all__ = ["Curves", "confusion_matrix", "learning_curves", "precision_recall_curve", "roc_curve"]

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""``{name: (label, p_lens)}``."""


def learning_curves(epochs: Sequence[Mapping[str, float]]) -> Figure:
    """Loss of training and validation, and AUROC and average precision of validation, over the epochs.

    Args:
        epochs: One mapping per epoch with ``epoch`` (counted from 0) and any of ``train/loss``, ``val/loss``,
            ``val/auroc``, ``val/average_precision``. The best epoch by ``val/loss`` is marked.
    """
    figure = Figure((8, 3), dpi=DPI, layout="constrained")
    loss, quality = figure.subplots(1, 2)
    lines = (
        (loss, "train/loss", "training", ORANGE, "--"),
        (loss, "val/loss", "validation", BLUE, "-"),
        (quality, "val/auroc", "AUROC", BLUE, "-"),
        (quality, "val/average_precision", "average precision", RED, "--"),
    )
    for ax, key, name, colour, style in lines:
        points = [(row["epoch"] + 1, row[key]) for row in epochs if key in row]
        if points:
            ax.plot(
                *zip(*points, strict=True), style, color=colour, label=name, marker=".", ms=4 if len(points) < 40 else 0
            )
    with_loss = [row for row in epochs if "val/loss" in row]
    if with_loss:
        best = min(with_loss, key=lambda row: row["val/loss"])
        for ax in (loss, quality):
            ax.axvline(best["epoch"] + 1, color="0.6", lw=1, ls=":", label=f"best epoch ({best['epoch'] + 1:.0f})")
    loss.set(xlabel="epoch", ylabel="weighted cross-entropy [nat]")
    quality.set(xlabel="epoch", ylabel="validation metric", ylim=(None, 1.01))
    for ax in (loss, quality):
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=8)
    return figure


def roc_curve(finders: Curves, log: bool = False) -> Figure:
    """True against false positive rate of one or more finders, with AUROC; ``{name: (label, p_lens)}``.

    With ``log`` the false positive rate is logarithmic, from one of the most numerous non-lenses.
    """
    figure, ax = _square()
    if log:
        least = 1 / max([2, *(int((np.asarray(label) == 0).sum()) for label, _ in finders.values())])
        ax.set(xscale="log", xlim=(least, 1), aspect="auto")
    chance = np.geomspace(least, 1, 100) if log else [0, 1]
    ax.plot(chance, chance, ":", color="0.6", label="chance")
    for number, (name, (label, p_lens)) in enumerate(finders.items()):
        target, preds, both = _tensors(label, p_lens)
        if both:
            fpr, tpr, _ = metrics.binary_roc(preds, target)
            name = f"{shortened(name)}: AUROC {metrics.binary_auroc(preds, target):.3f}"
            ax.plot(fpr, tpr, color=COLOURS[number % len(COLOURS)], label=name)
        else:
            ax.plot([], [], " ", label=f"{shortened(name)}: undefined, one class only")
    ax.set(xlabel="false positive rate", ylabel="true positive rate (completeness)")
    if log:  # the curves need the whole square
        figure.set_size_inches(4.6, 5.2)
        handles, labels = ax.get_legend_handles_labels()
        columns = legend_columns(labels, 72, 2)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    else:
        ax.legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def precision_recall_curve(finders: Curves) -> Figure:
    """Precision against recall of one or more finders, with average precision; ``{name: (label, p_lens)}``."""
    figure, ax = _square()
    for number, (name, (label, p_lens)) in enumerate(finders.items()):
        target, preds, both = _tensors(label, p_lens)
        colour = COLOURS[number % len(COLOURS)]
        if both:
            precision, recall, _ = metrics.binary_precision_recall_curve(preds, target)
            precision, recall = precision[recall > 0], recall[recall > 0]  # before the first lens there is no curve
            name = f"{shortened(name)}: AP {metrics.binary_average_precision(preds, target):.3f}"
            ax.plot(recall, precision, color=colour, label=name, drawstyle="steps-pre")
            ax.axhline(float(target.double().mean()), color=colour, ls=":", lw=1)
        else:
            ax.plot([], [], " ", label=f"{shortened(name)}: undefined, one class only")
    ax.plot([], [], ":", color="0.4", lw=1, label="chance (share of lenses)")
    ax.set(xlabel="recall (completeness)", ylabel="precision (purity)")
    ax.legend(loc="lower left", frameon=False, fontsize=8)
    return figure


def confusion_matrix(label: ArrayLike, p_lens: ArrayLike, threshold: float = 0.5) -> Figure:
    """Counts of truth (rows) against finding P(lens) > threshold (columns), shaded by the share of the row."""
    truth, found = np.asarray(label, dtype=np.int64), np.asarray(p_lens, dtype=np.float64) > threshold
    counts = np.array([[np.sum((truth == t) & (found == f)) for f in (False, True)] for t in (0, 1)])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure((3.6, 3.4), dpi=DPI, layout="constrained")
    ax = figure.subplots()
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for t, f in np.ndindex(2, 2):
        colour = "white" if share[t, f] > 0.5 else "black"
        ax.text(f, t, f"{counts[t, f]:,}\n{share[t, f]:.1%}", ha="center", va="center", color=colour)
    names = ["non-lens", "lens"]
    ax.set(xticks=[0, 1], yticks=[0, 1], xticklabels=names, yticklabels=names)
    ax.set(xlabel=f"found (threshold {threshold:g})", ylabel="truth")
    return figure


def _square() -> tuple[Figure, Axes]:
    figure = Figure((4.2, 4.2), dpi=DPI, layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.grid(alpha=0.3)
    return figure, ax


def _tensors(label: ArrayLike, p_lens: ArrayLike) -> tuple[torch.Tensor, torch.Tensor, bool]:
    target = torch.from_numpy(np.asarray(label, dtype=np.int64))
    return target, torch.from_numpy(np.asarray(p_lens, dtype=np.float64)), 0 < int(target.sum()) < len(target)
