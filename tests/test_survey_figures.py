"""Figures of a survey's worth, by the numbers behind the lines."""

import io

import numpy as np
import pytest

from lensfind import figures
from lensfind.evaluation import purity_completeness, reliability, survey_curve

NINE = [f"network {number}" for number in range(9)]


def draw(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.arange(n) % 2
    return label, 1 / (1 + np.exp(-(rng.normal(size=n) + 3 * label - 1.5)))


def line(ax, name):
    return next(line for line in ax.lines if line.get_label() == name)


def test_yield_shows_what_is_resolved_and_what_is_not():
    curve = survey_curve(*draw(), prevalence=0.01, survey=10_000, resamples=20)
    figure = figures.survey_yield(dict.fromkeys(NINE, curve))
    ax = figure.axes[0]
    known = line(ax, "network 0")
    r = curve["resolved"]
    np.testing.assert_array_equal(known.get_ydata()[r], curve["lenses"][r])
    assert np.isnan(known.get_ydata()[~r]).all()
    dotted = next(x for x in ax.lines if x.get_linestyle() == ":")
    np.testing.assert_array_equal(dotted.get_ydata()[~r], curve["lenses"][~r])
    assert line(ax, "ideal").get_ydata()[-1] == pytest.approx(100)
    assert line(ax, "random").get_ydata()[[0, -1]] == pytest.approx([0.01, 100])
    assert ax.get_xscale() == "log"
    assert "of 100" in ax.get_ylabel()
    assert len({line(ax, name).get_color() for name in NINE}) == 9  # all told apart
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {*NINE, "ideal", "random"}


def test_purity_falls_back_to_its_bound():
    curve = purity_completeness(*draw(), prevalence=0.01, resamples=20)
    ax = figures.purity_completeness({"a": curve}, 0.01).axes[0]
    r = curve["resolved"]
    np.testing.assert_array_equal(line(ax, "a").get_ydata()[r], curve["purity"][r])
    dotted = next(x for x in ax.lines if x.get_linestyle() == ":")
    np.testing.assert_array_equal(dotted.get_ydata()[~r], curve["purity_low"][~r])
    banded = r & np.isfinite(curve["purity_high"])
    assert 0 < banded.sum() < r.sum()  # the line stays where there is no band yet
    assert min(ax.collections[0].get_paths()[0].vertices[:, 0]) == curve["completeness"][banded][0]
    assert list(line(ax, "random").get_ydata()) == [0.01, 0.01]


def test_reliability_draws_every_bin_with_its_interval():
    rows = reliability([0, 0, 1, 1, 1], [0.1, 0.11, 0.12, 0.9, 0.95])
    upper, lower = figures.reliability_curve({"a": rows}).axes
    np.testing.assert_allclose(line(upper, "a").get_xydata(), [(row["p_mean"], row["share"]) for row in rows])
    bars = next(c for c in upper.collections).get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [(row["lower"], row["upper"]) for row in rows])
    assert lower.get_ylabel() == "objects"


def test_logarithmic_roc_starts_at_one_non_lens():
    ax = figures.roc_curve({"a": draw()}, log=True).axes[0]
    assert ax.get_xscale() == "log"
    assert ax.get_xlim() == pytest.approx((1e-3, 1))


def test_nothing_to_draw_is_an_empty_figure():
    label, p = draw(20)
    for figure in (
        figures.survey_yield({}),
        figures.purity_completeness({}),
        figures.reliability_curve({}),
        figures.reliability_curve({"none": []}),
        figures.survey_yield({"few": survey_curve(label, p)}),
        figures.purity_completeness({"few": purity_completeness([0, 1], [0.1, 0.9])}, 5e-4),
        figures.roc_curve({}, log=True),
    ):
        figure.savefig(io.BytesIO(), format="png")
