"""How the score moves when one property of a scene changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lensfind.figures.style import COLOURS, DPI, literal, shortened

__all__ = ["sensitivity"]

Rows = Sequence[Mapping[str, Any]]

_STYLES = ("-", "--", ":")
_COLUMNS = 2


def sensitivity(networks: Mapping[str, Rows]) -> Figure:
    """P(lens) against the value of each changed property, a panel each: a line per network, the median of the lenses.

    The dotted line marks the unchanged scenes. Of a single network the band holds 68 % of the lenses, and a dashed line
    is its recall at the threshold.

    Args:
        networks: ``{name: rows}`` of :func:`lensfind.evaluation.sensitivity.sensitivity`; not all need the same
            properties.
    """
    panels = list(dict.fromkeys(row["property"] for rows in networks.values() for row in rows))
    lines = -(-(len(panels) + 1) // _COLUMNS)  # the legend has a panel's place
    figure = Figure((5.6, 2.15 * lines), dpi=DPI, layout="constrained")
    axes = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, panel in zip(axes, panels, strict=False):
        found = {name: row for name, rows in networks.items() for row in rows if row["property"] == panel}
        for number, name in enumerate(networks):
            if name in found:
                _line(ax, found[name], number, name, len(networks))
        _axis(ax, next(iter(found.values())))
    handles, labels = axes[0].get_legend_handles_labels()
    if panels:
        title = f"median of {max(row['n'] for rows in networks.values() for row in rows)} lenses"
        axes[len(panels)].legend(
            handles, labels, loc="center", frameon=False, fontsize=8.5, title=title, title_fontsize=9
        )
    return figure


def _line(ax: Axes, row: Mapping[str, Any], number: int, name: str, networks: int) -> None:
    colour, style = COLOURS[number % len(COLOURS)], _STYLES[number // len(COLOURS) % len(_STYLES)]
    named = isinstance(row["reference"], str)
    x = np.asarray(range(len(row["values"])) if named else row["values"], dtype=np.float64)
    if named:
        x, style = x + 0.6 * ((number + 0.5) / networks - 0.5), "none"
    ax.plot(x, row["p_median"], ls=style, color=colour, marker="o", ms=3.5, lw=1.4, label=shortened(name))
    if networks > 1:
        return
    if named:
        low, high = (np.asarray(row[key]) for key in ("p_low", "p_high"))
        ax.vlines(x, low, high, color=colour, alpha=0.3, lw=6)
        ax.plot(x, row["recall"], "_", color="black", ms=12)
    else:
        ax.fill_between(x, row["p_low"], row["p_high"], color=colour, alpha=0.2, lw=0, label="68 % of them")
        ax.plot(x, row["recall"], "--", color="black", lw=1.2, label="recall")


def _axis(ax: Axes, row: Mapping[str, Any]) -> None:
    values, reference = row["values"], row["reference"]
    if isinstance(reference, str):
        ax.set_xticks(range(len(values)), [literal(value) for value in values])
        ax.axvline(values.index(reference) + 0.5, color="0.5", lw=1, ls=":")
        ax.set_xlim(-0.5, len(values) - 0.5)
    else:
        if row["unit"] == "times" and min(values) > 0:
            ax.set_xscale("log")
            ax.xaxis.set_minor_locator(NullLocator())
        shown = _thinned(values, reference, ax.get_xscale() == "log")
        ax.set_xticks(shown, [f"{value:g}" for value in shown])
        ax.axvline(reference, color="0.5", lw=1, ls=":")
    unit = {None: "", "times": ", times", "share": ", share"}.get(row["unit"], f" [{row['unit']}]")
    ax.set_xlabel(literal(f"{row['label']}{unit}"), fontsize=9)
    ax.set_ylabel("P(lens)", fontsize=9)
    ax.set_ylim(-0.03, 1.03)
    ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.tick_params(labelsize=8.5)
    ax.grid(alpha=0.3)


def _thinned(values: Sequence[float], reference: float, log: bool) -> list[float]:
    """The values whose labels have room: first the reference and the ends, then whatever is a tenth of the axis off."""
    place = np.log(values) if log else np.asarray(values, dtype=np.float64)
    shown: list[int] = []
    for i in (values.index(reference), 0, len(values) - 1, *range(len(values))):
        if all(abs(place[i] - place[other]) >= 0.11 * np.ptp(place) for other in shown if other != i):
            shown.append(i)
    return [values[i] for i in sorted(set(shown))]
