"""Figures of what is found and missed, by the numbers that they draw."""

import io

import numpy as np
import pytest
from astropy.table import Table
from matplotlib.text import Text

from lensfind import figures
from lensfind.evaluation.agreement import agreement
from lensfind.evaluation.mistakes import false_positives
from lensfind.evaluation.rare import recall_row
from lensfind.evaluation.selection import selection_function
from lensfind.figures.style import LONGEST, legend_columns, shortened

DOLLARS = "x$a_$"  # as a formula: a syntax error
LONG = "ou200-vis_learning_rate-0.0001_batch_size-500_seed-12"
NAMES = [f"network {number}" for number in range(10)]


@pytest.fixture(scope="module")
def selection():
    """500 lenses whose completeness grows with theta_E."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(0.5, 2.5, 500)
    table = Table({"theta_e": theta, "arc_snr": 10 ** rng.uniform(1.3, 2.5, 500), "label": np.ones(500, np.int64)})
    table["theta_e"].unit = "arcsec"
    return selection_function(table, rng.random(500) < (theta - 0.3) / 2.2)


def drawn(ax, name):
    return next(line for line in ax.lines if line.get_label() == name)


def test_completeness_draws_the_table(selection):
    figure = figures.completeness(dict.fromkeys(NAMES, selection.tables))
    ax = figure.axes[0]
    assert "Einstein radius" in ax.get_xlabel()
    table = selection.tables["theta_e"]
    np.testing.assert_array_equal(drawn(ax, "network 0").get_ydata(), table["completeness"][table["n"] > 0])
    assert sum(bar.get_height() == pytest.approx(0.97) for bar in ax.patches) >= 1  # the fullest bin
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(NAMES)
    points = np.array([drawn(ax, name).get_xdata()[0] for name in NAMES])
    assert (np.diff(points) > 0).all()  # side by side, in one bin
    assert table["low"][0] < points[0]
    assert points[-1] < table["high"][0]


def every_figure(name, selection):
    """Figures in which ``name`` is that of a network, of a kind, of a scenario, of a property and of an object."""
    label, p = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9])
    tables = {key: table.copy() for key, table in selection.tables.items()}
    for table in tables.values():
        table.meta["label"] = [name] * len(table.meta["label"])
    pairs = {"n_pairs": 40, "recall": 0.5, "recall_single": 0.8, "difference": -0.3, "lower": -0.5, "upper": -0.1}
    rare = [recall_row(name, np.arange(50) < 40) | {"matched": pairs}]
    wrong = [{"kind": name, "n": 10, "n_found": 2, "rate": 0.2, "lower": 0.1, "upper": 0.4}]
    share = np.eye(2).tolist()
    shifted = {"property": "x", "label": name, "unit": name, "n": 3}
    shifted |= {key: [0.1, 0.5] for key in ("p_median", "p_low", "p_high", "recall")}
    probe = [shifted | {"reference": 1.0, "values": [1.0, 2.0]}]
    named = [shifted | {"reference": name, "values": [name, "other"], "property": "y"}]
    stamps = {"VIS": np.random.default_rng(0).normal(size=(2, 200, 200)).astype(np.float32)}
    return {
        "completeness": figures.completeness({name: tables, "b": tables}),
        "completeness_map": figures.completeness_map(tables["theta_e,arc_snr"]),
        "rare_recall": figures.rare_recall({name: rare, "b": rare}),
        "false_positive_rates": figures.false_positive_rates({name: wrong, "b": wrong}),
        "agreement_matrix": figures.agreement_matrix(
            {"networks": [name, "b"], "same_decision": share, "rank_correlation": share}
        ),
        "roc_curve": figures.roc_curve({name: (label, p), f"{name}2": (label[:1], p[:1])}, log=True),
        "precision_recall_curve": figures.precision_recall_curve({name: (label, p), f"{name}2": (label[:1], p[:1])}),
        "sensitivity": figures.sensitivity({name: probe + named}),
        "distributions": figures.distributions({name: ({name: np.arange(9.0)}, [(3.0, 1.0, name)])}),
        "mosaic": figures.mosaic(stamps, [name, name]),
        "planes": figures.planes(stamps, [name, name]),
        "occlusion": figures.occlusion(np.zeros((200, 200)), np.zeros((20, 20)), 0.5, name),
    }


def test_names_with_dollars_are_written_as_they_are(selection):
    """A formula would raise a syntax error."""
    for figure_name, figure in every_figure(DOLLARS, selection).items():
        figure.savefig(io.BytesIO(), format="png")
        texts = [text for text in figure.findobj(Text) if "x" in text.get_text() and "$" in text.get_text()]
        assert texts, figure_name
        for text in texts:
            if "θ" not in text.get_text():
                drawn, formula = text._preprocess_math(text.get_text())
                assert "x$a $" in drawn.replace("_", " "), figure_name
                assert not formula, figure_name


def test_names_that_begin_with_a_line_stand_in_the_legend(selection):
    """Matplotlib leaves them out."""
    found = every_figure("_x", selection)
    for name in ("completeness", "false_positive_rates", "roc_curve"):
        assert any("_x" in text.get_text() for text in found[name].legends[0].get_texts()), name


def test_long_names_lose_their_middle(selection):
    assert shortened(LONG) == "ou200-vis_learning…500_seed-12"
    assert shortened("n" * LONGEST) == "n" * LONGEST
    assert legend_columns(["short", "names"], 84, 3) == 3
    assert legend_columns([shortened(LONG)] * 2, 84, 3) == 2
    assert legend_columns(["n" * 90], 84, 3) == 1
    found = every_figure(LONG, selection)
    for name in ("completeness", "rare_recall", "false_positive_rates", "roc_curve"):
        figure = found[name]
        figure.savefig(io.BytesIO(), format="png")
        texts = figure.legends[0].get_texts()
        assert any("…" in text.get_text() for text in texts), name
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= 0, name
            assert box.x1 <= figure.bbox.width, name
    for name in ("precision_recall_curve", "sensitivity"):
        legends = [ax.get_legend() for ax in found[name].axes if ax.get_legend()]
        assert any("…" in text.get_text() for legend in legends for text in legend.get_texts()), name


def test_map_writes_per_cent_and_numbers(selection):
    table = selection.tables["theta_e,arc_snr"]
    ax = figures.completeness_map(table).axes[0]
    written = sorted(text.get_text() for text in ax.texts)
    some = table[table["n"] > 0]
    cells = [f"{100 * row['completeness']:.0f}" for row in some] + [str(row["n"]) for row in some]
    assert written == sorted(cells)


def test_rare_recall_draws_both_comparisons():
    pairs = {"n_pairs": 40, "recall": 0.5, "recall_single": 0.8, "difference": -0.3, "lower": -0.5, "upper": -0.1}
    rows = [
        recall_row("single_lens", np.arange(50) < 40) | {"matched": None},
        recall_row("double_ring", np.arange(50) < 20) | {"matched": pairs},
    ]
    figure = figures.rare_recall({"a": rows, "b": rows})
    raw, matched = figure.axes
    marks = [line.get_xdata()[0] for line in raw.lines if len(line.get_xdata()) == 1]
    assert marks == [0.8, 0.4, 0.8, 0.4]
    marks = [line.get_xdata()[0] for line in matched.lines if len(line.get_xdata()) == 1]
    assert marks == [-0.3, -0.3]
    assert [label.get_text() for label in raw.get_yticklabels()] == ["a", "b"]
    assert "no matched pairs" in figures.rare_recall({"a": rows[:1]}).axes[1].texts[0].get_text()


def test_false_positive_rates_stand_in_order():
    kinds = Table({"kind": ["ring"] * 10 + ["star"] * 10})
    rows = false_positives(kinds, np.zeros(20, np.int64), np.arange(20) % 10 < np.repeat([2, 7], 10))
    ax = figures.false_positive_rates({"a": rows}).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["star (10)", "ring (10)"]
    marks = {line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1}
    assert marks == {0: 0.7, 1: 0.2}


def test_agreement_writes_every_pair():
    odds = {"a": np.array([-2.0, -1, 1, 2]), "b": np.array([-2.0, 1, -1, 2])}
    figure = figures.agreement_matrix(agreement(odds, {name: one > 0 for name, one in odds.items()}))
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "50", "50", "100"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["1.00", "0.80", "0.80", "1.00"]


@pytest.mark.parametrize("name", ["completeness", "rare_recall", "false_positive_rates"])
def test_nothing_to_draw_is_drawn(name):
    figure = getattr(figures, name)({})
    figure.savefig(io.BytesIO(), format="png")
