"""Distributions of catalogue quantities."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lensfind.figures.style import COLOURS, literal, shortened

__all__ = ["Line", "distributions"]

Line = tuple[float, float, str]
"""(value, half width, name): a figure of the literature to hold a histogram against."""


def distributions(panels: Mapping[str, tuple[Mapping[str, ArrayLike], Sequence[Line]]]) -> Figure:
    """Histograms, one panel each: ``{axis label: ({name: values}, lines)}``; values that are not finite are left out.

    ``lines`` stand as dotted lines with a grey band of their half width.
    """
    columns = 4
    rows = -(-len(panels) // columns)
    figure = Figure((3.1 * columns, 2.5 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (label, (series, lines)) in zip(axes.flat, panels.items(), strict=False):
        finite = {name: np.asarray(v, np.float64)[np.isfinite(np.asarray(v, np.float64))] for name, v in series.items()}
        together = np.concatenate([np.empty(0), *finite.values()])
        if len(together):
            low, high = np.quantile(together, [0.002, 0.998])
            edges = np.linspace(low, high if high > low else low + 1, 31)
            for number, (name, values) in enumerate(finite.items()):
                if len(values):
                    named = f"{shortened(name)}: {np.median(values):.3g} ({len(values)})"
                    ax.hist(
                        values,
                        edges,
                        histtype="step",
                        weights=np.full(len(values), 1 / len(values)),
                        color=COLOURS[number],
                        label=named,
                        lw=1.3,
                    )
        for value, half, name in lines:
            ax.axvline(value, color="0.4", ls=":", lw=1.2, label=shortened(name))
            if half:
                ax.axvspan(value - half, value + half, color="0.92", zorder=0)
        ax.set(xlabel=literal(label), yticks=[])
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=6, frameon=False)
    figure.suptitle("median (number) of each", fontsize=8)
    return figure
