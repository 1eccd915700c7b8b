"""What a finder is worth to a survey: reliability, lenses against candidates inspected, purity against completeness."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from lensfind.figures.style import COLOURS, DPI, legend_columns, shortened

__all__ = ["purity_completeness", "reliability_curve", "survey_yield"]

Arrays = Mapping[str, NDArray[Any]]
_IDEAL: dict[str, Any] = {"color": "0.45", "ls": "--", "lw": 1}
_RANDOM = _IDEAL | {"ls": (0, (1.5, 1.5))}


def reliability_curve(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Share of lenses against P(lens), with 95 % intervals, and below it how many objects each bin holds.

    Args:
        rows: Per finder, the rows of :func:`lensfind.evaluation.reliability`.
    """
    figure = Figure((4.6, 5.6), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], label="calibrated", **_IDEAL)
    shift = 0.012 / max(len(rows), 1)  # so that bars of several finders stand side by side
    for number, (name, bins) in enumerate(rows.items()):
        colour = COLOURS[number % len(COLOURS)]
        p, share, low, high = (
            np.array([row[key] for row in bins], dtype=np.float64) for key in ("p_mean", "share", "lower", "upper")
        )
        upper.plot(p, share, ".-", color=colour, lw=1.2, ms=5, label=shortened(name))
        upper.vlines(p + shift * (number - (len(rows) - 1) / 2), low, high, color=colour, lw=1, alpha=0.5)
        edges = [row["low"] for row in bins] + [bins[-1]["high"]] if bins else [0.0, 1.0]
        lower.stairs([row["n"] for row in bins] if bins else [np.nan], edges, color=colour, lw=1)
    upper.set(ylabel="share of lenses", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    lower.set(xlabel="P(lens)", ylabel="objects", yscale="log" if any(rows.values()) else "linear")
    lower.yaxis.set_minor_formatter(NullFormatter())
    for ax in (upper, lower):
        ax.grid(alpha=0.3)
    _legend(figure, upper)
    return figure


def survey_yield(curves: Mapping[str, Arrays]) -> Figure:
    """Lenses found against candidates inspected, with 95 % bands; dotted where the non-lenses do not resolve it.

    The band starts at three false positives.

    Args:
        curves: Per finder, the curve of :func:`lensfind.evaluation.survey_curve`, all of one survey.
    """
    figure, ax = _figure()
    total, survey = 1.0, 10.0
    for number, (name, curve) in enumerate(curves.items()):
        total, survey = float(curve["lenses"][-1]), float(curve["candidates"][-1])
        _curve(ax, curve, "candidates", "lenses", number, name, len(curves))
    grid = np.geomspace(1, survey, 200)
    if curves:
        ax.plot(grid, np.minimum(grid, total), label="ideal", **_IDEAL)
        ax.plot(grid, grid * total / survey, label="random", **_RANDOM)
    ax.set(xscale="log", xlim=(1, survey), ylim=(0, 1.03 * total))
    ax.set(xlabel="candidates inspected, best first", ylabel=f"lenses found of {total:,.0f}")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    share = ax.secondary_yaxis("right", functions=(partial(np.multiply, 1 / total), partial(np.multiply, total)))
    share.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(figure, ax)
    return figure


def purity_completeness(curves: Mapping[str, Arrays], prevalence: float | None = None) -> Figure:
    """Purity (logarithmic) against completeness, with 95 % bands from three false positives on.

    Dotted where no false positive was found: there the line is the least purity that the non-lenses allow at 95 %.

    Args:
        curves: Per finder, the curve of :func:`lensfind.evaluation.purity_completeness`.
        prevalence: Of the survey; drawn as the purity of a random choice.
    """
    figure, ax = _figure()
    lowest = prevalence or 1.0
    for number, (name, curve) in enumerate(curves.items()):
        shown = dict(curve) | {"purity": np.where(curve["resolved"], curve["purity"], curve["purity_low"])}
        _curve(ax, shown, "completeness", "purity", number, name, len(curves))
        lowest = min(lowest, float(np.nanmin(shown["purity"])))
    if prevalence is not None:
        ax.axhline(prevalence, label="random", **_RANDOM)
    ax.set(xlim=(0, 1), ylim=(min(0.7 * lowest, 0.5), 1.1), yscale="log")
    ax.set(xlabel="completeness", ylabel="purity")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}%"))
    _legend(figure, ax)
    return figure


def _figure() -> tuple[Figure, Axes]:
    figure = Figure((4.6, 4.8), dpi=DPI, layout="constrained")
    ax = figure.subplots()
    ax.grid(alpha=0.3)
    return figure, ax


def _curve(ax: Axes, curve: Arrays, x: str, y: str, number: int, name: str, of: int) -> None:
    """Solid with a band where resolved, dotted where not; the dots go on to the first resolved point."""
    colour = COLOURS[number % len(COLOURS)]
    resolved = np.asarray(curve["resolved"], dtype=bool)
    known = np.where(resolved, curve[y], np.nan)
    # A point is dotted if it or a neighbour is unresolved, so that the two parts meet.
    beside = ~resolved | ~np.append(resolved[1:], True) | ~np.append(True, resolved[:-1])
    style = "-" if number < len(COLOURS) else "--"
    ax.plot(curve[x], known, style, color=colour, lw=1.5, label=shortened(name))
    ax.plot(curve[x], np.where(beside, curve[y], np.nan), ":", color=colour, lw=1.2)
    ax.fill_between(
        curve[x],
        np.where(resolved, curve[f"{y}_low"], np.nan),
        np.where(resolved, curve[f"{y}_high"], np.nan),
        color=colour,
        alpha=0.25 if of <= 3 else 0.1,
        lw=0,
    )


def _legend(figure: Figure, ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        handles, labels = ax.get_legend_handles_labels()
        columns = legend_columns(labels, 72, 3)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
