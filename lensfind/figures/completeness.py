"""What a finder finds and misses: completeness, rare lenses, false positives by kind, agreement of finders.

Letters are sized for a figure shown 360 pixels wide, and for a column in print.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from lensfind.figures.style import COLOURS, DPI, legend_columns, literal, shortened

__all__ = ["agreement_matrix", "completeness", "completeness_map", "false_positive_rates", "rare_recall"]

Array = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]

_WIDTH = 4.8
"""Inches; in 360 pixels a letter of 8 points is 8 pixels high."""
_TEXT, _SMALL = 8.5, 7.5
_MARKERS = "osD^vPX<>*hd"
_GREY = "0.45"
_LETTERS, _NARROW = 84, 24
"""Letters in a line of a legend, and of a name beside an axis."""


def completeness(tables_by_network: Mapping[str, Mapping[str, Table]]) -> Figure:
    """Share of lenses found against each property, one panel each, with intervals.

    Grey bars behind are the numbers of lenses, the tallest as told above the panel. Points of several networks stand
    side by side in their bin. Outermost bins that are much wider than their neighbours are drawn cut short.

    Args:
        tables_by_network: ``{network: tables}`` of :func:`lensfind.evaluation.selection.selection_function`, on the
            same lenses; tables of pairs are left out.
    """
    networks = list(tables_by_network)
    names = [name for name in next(iter(tables_by_network.values()), {}) if "," not in name]
    columns = 2 if len(names) > 1 else 1
    rows = max(1, -(-len(names) // columns))
    figure = Figure((_WIDTH, 1.85 * rows + _legend_height(networks)), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, names, strict=False):
        for number, network in enumerate(networks):
            _line(ax, tables_by_network[network][name], number, networks)
        ax.set_ylim(-0.03, 1.03)
    for row in axes:
        row[0].set_ylabel("completeness", fontsize=_TEXT)
    if names and len(networks) > 1:
        _legend(figure, axes[0, 0])
    return figure


def completeness_map(table: Table) -> Figure:
    """Completeness against two properties: per cent in every cell, with the number of lenses below it; empty is white.

    Cells are drawn of one size, whatever their edges.

    Args:
        table: Of a pair, e.g. ``selection.tables["theta_e,arc_snr"]``.
    """
    across, up = (_edges(table, suffix) for suffix in ("", "_2"))
    shape = len(across) - 1, len(up) - 1
    share = np.ma.filled(np.ma.asarray(table["completeness"], np.float64), np.nan).reshape(shape)
    n = np.asarray(table["n"]).reshape(shape)
    figure = Figure((_WIDTH, min(0.9 + 0.42 * shape[1], 6.5)), dpi=DPI, layout="constrained")
    ax = figure.subplots()
    shown = ax.imshow(share.T, origin="lower", cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(*shape):
        if n[i, j]:
            colour = "white" if share[i, j] > 0.6 else "black"
            ax.text(i, j + 0.02, f"{100 * share[i, j]:.0f}", ha="center", va="bottom", fontsize=8.5, color=colour)
            ax.text(i, j - 0.05, f"{n[i, j]}", ha="center", va="top", fontsize=6.5, color=colour, alpha=0.85)
    for axis, edges in ((ax.xaxis, across), (ax.yaxis, up)):
        axis.set_ticks(np.arange(len(edges)) - 0.5, [f"{edge:g}" for edge in edges])
    labels = [literal(label) for label in table.meta["label"]]
    ax.set_xlabel(labels[0], fontsize=_TEXT)
    ax.set_ylabel(labels[1], fontsize=_TEXT)
    ax.tick_params(labelsize=_SMALL)
    bar = figure.colorbar(shown, ax=ax, format=FuncFormatter(lambda x, _: f"{100 * x:.0f}"), fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=_SMALL)
    bar.set_label("found [%]; below: lenses", fontsize=_TEXT)
    return figure


def rare_recall(rows_by_network: Mapping[str, Rows]) -> Figure:
    """Recall of each scenario, and beside it what is left of the differences in matched pairs.

    Args:
        rows_by_network: ``{network: rows}``, rows of :func:`lensfind.evaluation.rare.recall_row` with ``matched``, the
            result of :func:`lensfind.evaluation.rare.matched` or None.
    """
    networks = list(rows_by_network)
    scenarios = list(dict.fromkeys(row["scenario"] for rows in rows_by_network.values() for row in rows))
    paired = [
        name
        for name in scenarios
        if any(row["scenario"] == name and row.get("matched") for rows in rows_by_network.values() for row in rows)
    ]
    height = 0.16 * len(scenarios) + 0.14
    figure = Figure((_WIDTH, height * len(networks) + 1.1), dpi=DPI, layout="constrained")
    raw, matched = figure.subplots(1, 2, sharey=True)
    for place, network in enumerate(networks):
        for row in rows_by_network[network]:
            number = scenarios.index(row["scenario"])
            y = place + _dodge(number, len(scenarios))
            _dot(raw, y, row["recall"], row["lower"], row["upper"], number)
            pairs = row.get("matched")
            if pairs:
                _dot(matched, y, pairs["difference"], pairs["lower"], pairs["upper"], number)
            elif row["scenario"] in paired:
                matched.text(0, y, "too few pairs", fontsize=6.5, color=_GREY, ha="center", va="center")
    for number, name in enumerate(scenarios):
        label = shortened(name.replace("_", " "))
        raw.plot([], [], _MARKERS[number % len(_MARKERS)], ms=4, color=COLOURS[number % len(COLOURS)], label=label)
    raw.set_yticks(range(len(networks)), [shortened(name, _NARROW) for name in networks])
    _rows(raw, len(networks))
    _stripes(matched, len(networks))
    raw.set_xlim(-0.02, 1.02)
    raw.set_xlabel("recall, all lenses [%]", fontsize=_TEXT)
    matched.axvline(0, color="0.3", lw=1)
    far = max(0.1, *(1.05 * abs(x) for x in matched.get_xlim())) if paired else 0.1
    matched.set_xlim(-far, far)
    matched.set_xlabel("rare - single, matched\nin θ$_E$ and S/N [points]", fontsize=_TEXT)
    if not paired:
        matched.text(0.5, 0.5, "no matched pairs", transform=matched.transAxes, ha="center", fontsize=_TEXT)
    for ax in (raw, matched):
        _per_cent(ax)
    if scenarios:
        _legend(figure, raw)
    return figure


def false_positive_rates(rows_by_network: Mapping[str, Rows]) -> Figure:
    """Rate at which each kind of non-lens is taken for a lens, with intervals; the number of objects beside the kind.

    Args:
        rows_by_network: ``{network: rows}`` of :func:`lensfind.evaluation.mistakes.false_positives`; kinds stand in
            the order of their mean rate.
    """
    networks = list(rows_by_network)
    rates: dict[str, list[float]] = {}
    numbers: dict[str, int] = {}
    for rows in rows_by_network.values():
        for row in rows:
            rates.setdefault(row["kind"], []).append(row["rate"])
            numbers[row["kind"]] = row["n"]
    kinds = sorted(rates, key=lambda kind: (-np.mean(rates[kind]), kind))
    height = max(0.26, 0.075 * len(networks) + 0.06)
    figure = Figure(
        (_WIDTH, height * max(len(kinds), 1) + 0.6 + _legend_height(networks)), dpi=DPI, layout="constrained"
    )
    ax = figure.subplots()
    for number, network in enumerate(networks):
        for row in rows_by_network[network]:
            y = kinds.index(row["kind"]) + _dodge(number, len(networks))
            _dot(ax, y, row["rate"], row["lower"], row["upper"], number, small=len(networks) > 3)
        mark, colour = _MARKERS[number % len(_MARKERS)], COLOURS[number % len(COLOURS)]
        ax.plot([], [], mark, ms=4, color=colour, label=shortened(network))
    names = [shortened(kind.replace("_", " "), 40).replace(" (undet", "\n(undet") for kind in kinds]
    ax.set_yticks(range(len(kinds)), [f"{name} ({numbers[kind]:,})" for name, kind in zip(names, kinds, strict=True)])
    _rows(ax, len(kinds))
    ax.set_xlim(left=min(-0.005, -0.02 * ax.get_xlim()[1]))
    ax.set_xlabel("taken for lenses [%]", fontsize=_TEXT)
    _per_cent(ax)
    if len(networks) > 1:
        _legend(figure, ax)
    return figure


def agreement_matrix(agreement: Mapping[str, Any]) -> Figure:
    """Share of same decisions and, below, rank correlation of every two networks.

    Args:
        agreement: Of :func:`lensfind.evaluation.agreement.agreement`.
    """
    names = [shortened(name, _NARROW) for name in agreement["networks"]]
    figure = Figure((_WIDTH, 2 * (0.32 * len(names) + 0.8)), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1)
    same = 100 * np.asarray(agreement["same_decision"], dtype=np.float64)
    ranks = np.array([[np.nan if x is None else x for x in row] for row in agreement["rank_correlation"]], np.float64)
    for ax, values, title, form, least, most in (
        (upper, same, "same decision [% of objects]", ".0f", 50, 100),
        (lower, ranks, "rank correlation of the scores", ".2f", 0, 1),
    ):
        ax.imshow(values, cmap="Blues", vmin=least, vmax=most, aspect="auto")
        for i, j in np.ndindex(*values.shape):
            known = np.isfinite(values[i, j])
            dark = known and (values[i, j] - least) / (most - least) > 0.6
            text = format(values[i, j], form) if known else "–"
            ax.text(j, i, text, ha="center", va="center", fontsize=_SMALL, color="white" if dark else "black")
        ax.set_title(title, fontsize=_TEXT)
        ax.set_yticks(range(len(names)), names, fontsize=_SMALL)
    upper.set_xticks([])
    lower.set_xticks(range(len(names)), names, fontsize=_SMALL, rotation=45, ha="right", rotation_mode="anchor")
    return figure


def _edges(table: Table, suffix: str = "") -> Array:
    return np.unique(np.concatenate([table[f"low{suffix}"], table[f"high{suffix}"]]).astype(np.float64))


def _line(ax: Axes, table: Table, number: int, networks: Sequence[str]) -> None:
    """One network's points; the first draws the counts and the axis too."""
    log = bool(table.meta["log"][0])
    edges = _edges(table)
    at = np.log10(edges) if log else edges.copy()
    if len(at) > 3:
        at[0] = max(at[0], at[1] - 1.5 * (at[2] - at[1]))
        at[-1] = min(at[-1], at[-2] + 1.5 * (at[-2] - at[-3]))
    width = np.diff(at)
    if number == 0:
        n = np.asarray(table["n"], np.float64)
        ax.bar(at[:-1], 0.97 * n / max(n.max(), 1), width, align="edge", color="0.9", zorder=0)
        ax.set_title(f"bars: up to {n.max():,.0f} lenses", fontsize=6.5, color=_GREY, loc="right", pad=2)
        ax.set_xlabel(literal(table.meta["label"][0]), fontsize=_TEXT)
        ax.set_xlim(at[0], at[-1])
        if log:
            every = -(-(len(edges) - 2) // 5) if len(edges) > 3 else 1
            ax.xaxis.set_major_locator(FixedLocator((at[1:-1:every] if len(edges) > 3 else at).tolist()))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{10**x:.3g}"))
        else:
            ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        ax.tick_params(labelsize=_SMALL)
        ax.grid(axis="y", alpha=0.3)
    some = np.asarray(table["n"]) > 0
    x = (at[:-1] + width * (0.5 + _dodge(number, len(networks))))[some]
    share, lower, upper = (np.asarray(table[name], np.float64)[some] for name in ("completeness", "lower", "upper"))
    colour = COLOURS[number % len(COLOURS)]
    many = len(networks) > 1
    ax.vlines(x, lower, upper, color=colour, lw=0.7 if many else 1.2, alpha=0.7 if many else 1)
    if not many:
        ax.hlines(share, at[:-1][some], at[1:][some], color=colour, lw=1.2)
    style = "-" if number < len(COLOURS) else "--"
    marker = _MARKERS[number % len(_MARKERS)]
    size = 4.0 if len(networks) < 4 else 2.8
    label = shortened(networks[number])
    ax.plot(x, share, style if many else "", marker=marker, ms=size, lw=0.7, color=colour, label=label)


def _dot(ax: Axes, y: float, x: float | None, lower: float, upper: float, number: int, small: bool = False) -> None:
    if x is not None:
        colour = COLOURS[number % len(COLOURS)]
        ax.plot([lower, upper], [y, y], color=colour, lw=0.8 if small else 1.2, solid_capstyle="butt")
        ax.plot([x], [y], _MARKERS[number % len(_MARKERS)], ms=3 if small else 4, color=colour)


def _dodge(number: int, of: int) -> float:
    """Offset of one of several points that share a place of width 1."""
    return 0.0 if of == 1 else 0.7 * (number / (of - 1) - 0.5)


def _rows(ax: Axes, rows: int) -> None:
    ax.set_ylim(max(rows, 1) - 0.5, -0.5)
    _stripes(ax, rows)


def _stripes(ax: Axes, rows: int) -> None:
    for row in range(0, rows, 2):
        ax.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=0, lw=0)
    ax.grid(axis="x", alpha=0.3)
    ax.tick_params(labelsize=_SMALL)
    ax.tick_params(axis="y", length=0)


def _per_cent(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g}"))


def _legend_height(networks: Sequence[str]) -> float:
    columns = legend_columns(map(shortened, networks), _LETTERS, 3)
    return 0.2 * -(-len(networks) // columns) + 0.1 if len(networks) > 1 else 0.0


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    columns = legend_columns(labels, _LETTERS, 3)
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, fontsize=_SMALL, frameon=False, columnspacing=1.2
    )
