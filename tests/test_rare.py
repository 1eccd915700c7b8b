"""Rare lenses against single ones: matching by hand, no effect, a confounded one and a true one."""

import math

import numpy as np
import pytest
from astropy.table import Table
from scipy.stats import ks_2samp

from lensfind import LensfindError
from lensfind.data import Store
from lensfind.evaluation.rare import (
    MIN_PAIRS,
    compare_pairs,
    detection_snr,
    effective_radius,
    match,
    matched,
    recall_row,
)


def catalogue(n: int, rng: np.random.Generator, fainter: float = 0.0) -> Table:
    """Lenses with radii and signals to noise; ``fainter`` in dex."""
    theta = 10 ** rng.normal(0.0, 0.12, n)
    return Table({"ein_area": math.pi * theta**2, "arc_snr": 10 ** rng.normal(1.7 - fainter, 0.15, n)})


def found(table: Table, rng: np.random.Generator, loss: float = 0.0) -> np.ndarray:
    """A finder that sees signal to noise and radius alone, and loses a share ``loss`` of what it would find."""
    log_odds = 6 * (np.log10(table["arc_snr"]) - 1.6) + 4 * np.log10(effective_radius(table))
    return rng.random(len(table)) < (1 - loss) / (1 + np.exp(-np.asarray(log_odds)))


def test_radius_and_signal_to_noise_by_hand():
    table = Table({"ein_area": [math.pi, 4 * math.pi], "arc_snr": [30.0, 30.0], "arc_snr_2": [40.0, np.nan]})
    np.testing.assert_allclose(effective_radius(table), [1, 2])
    np.testing.assert_allclose(detection_snr(table), [50, 30])
    with pytest.raises(LensfindError, match="column ein_area.*simulate.py"):
        effective_radius(Table({"id": [1]}))


def test_simulated_lenses_have_the_radius_of_their_area(store):
    """The area is counted on a grid of 160 cells, to 3 % of the radius; two masses or a shear change it little."""
    made = Store(store).catalogue
    single = made[(made["kind"] == "lens") & (made["label"] == 1)]
    ratio = effective_radius(single) / np.asarray(single["theta_e"])
    assert len(single) > 30
    assert abs(np.median(ratio) - 1) < 0.02
    assert np.abs(ratio - 1).max() < 0.1
    np.testing.assert_array_equal(detection_snr(single), single["arc_snr"])


def test_matching_by_hand():
    """Nearest first: (2, 0) takes its partner from (1, 0), which must take the next; (9, 9) and NaN get none."""
    rare = np.array([[1.0, 0], [2, 0], [9, 9], [np.nan, 0], [5, 5]])
    single = np.array([[2.4, 0], [2.1, 0], [0.0, 0], [5, 5], [5, 5]])
    left, right = match(rare, single, caliper=1.05)
    assert left.tolist() == [0, 1, 4]
    assert right[:2].tolist() == [2, 1]
    assert right[2] in (3, 4)
    assert {match(rare, single, caliper=1.05, seed=seed)[1][2] for seed in range(20)} == {3, 4}
    assert len({match(rare, single, caliper=1.05, seed=5)[1][2] for _ in range(5)}) == 1
    assert [len(side) for side in match(rare, single[:0])] == [0, 0]


def test_pairs_by_hand():
    """Ten discordant pairs, two of them for the rare lens: p = 2 (1 + 10 + 45) / 1024."""
    rare = np.array([True] * 30 + [True] * 2 + [False] * 8 + [False] * 10)
    single = np.array([True] * 30 + [False] * 2 + [True] * 8 + [False] * 10)
    result = compare_pairs(rare, single)
    assert result["p_value"] == pytest.approx(2 * 56 / 1024)
    assert result["difference"] == pytest.approx(-0.12)
    assert (result["recall"], result["recall_single"], result["n_pairs"]) == (0.64, 0.76, 50)
    up, down = 3 / 52, 9 / 52
    half = 1.959963985 * math.sqrt((up + down - (up - down) ** 2) / 52)
    assert (result["lower"], result["upper"]) == pytest.approx((up - down - half, up - down + half))


def test_no_discordant_pair_proves_little():
    result = compare_pairs(np.ones(20), np.ones(20))
    assert result["p_value"] == 1
    assert result["lower"] < -0.1 < 0 < result["upper"]
    assert "a loss of more than 13 points is excluded at 95 %" in result["verdict"]


def test_without_an_effect_the_test_is_calm():
    """About 95 of 100 intervals hold zero, and the exact test errs in no more than 5 of 100."""
    rng = np.random.default_rng(0)
    held, wrong, runs = 0, 0, 150
    for _ in range(runs):
        rare, single = catalogue(150, rng), catalogue(400, rng)
        result, reason = matched(rare, found(rare, rng), single, found(single, rng))
        assert reason is None
        held += result["lower"] <= 0 <= result["upper"]
        wrong += result["p_value"] < 0.05
    assert 0.90 <= held / runs <= 1
    assert wrong / runs <= 0.09


def test_fainter_rare_lenses_are_not_a_selection():
    rng = np.random.default_rng(1)
    rare, single = catalogue(1500, rng, fainter=0.15), catalogue(3000, rng)
    hits = found(rare, rng), found(single, rng)
    assert hits[1].mean() - hits[0].mean() > 0.1
    result, _ = matched(rare, hits[0], single, hits[1])
    assert result["lower"] <= 0 <= result["upper"]
    assert result["verdict"].startswith("no sign of selection against them; a loss of more than ")
    assert result["balance"]["snr"]["before"] < -0.8
    assert abs(result["balance"]["snr"]["after"]) < 0.05
    assert result["balance"]["snr"]["ks"] < 0.06
    assert result["n_pairs"] > 1000
    again, _ = matched(rare, hits[0], single, hits[1])
    assert again == result


def test_a_true_selection_is_found():
    rng = np.random.default_rng(2)
    rare, single = catalogue(1500, rng, fainter=0.1), catalogue(3000, rng)
    result, _ = matched(rare, found(rare, rng, loss=0.2), single, found(single, rng))
    assert result["p_value"] < 1e-3
    assert result["upper"] < 0
    assert result["verdict"].startswith("selects against them: finds ")
    better, _ = matched(rare, found(rare, rng), single, found(single, rng, loss=0.2))
    assert better["verdict"].startswith("no selection against them: finds ")


def test_too_few_pairs_are_told():
    rng = np.random.default_rng(3)
    rare, single = catalogue(MIN_PAIRS - 1, rng), catalogue(500, rng)
    result, reason = matched(rare, found(rare, rng), single, found(single, rng))
    assert result is None
    assert f"at least {MIN_PAIRS} pairs" in reason
    with pytest.raises(LensfindError, match="each of 500 lenses"):
        matched(rare, found(rare, rng), single, [True])


def test_balance_agrees_with_scipy():
    rng = np.random.default_rng(4)
    rare, single = catalogue(200, rng, 0.05), catalogue(400, rng)
    result, _ = matched(rare, found(rare, rng), single, found(single, rng), seed=1)
    points = [np.log10(np.column_stack([effective_radius(table), detection_snr(table)])) for table in (rare, single)]
    left, right = match(*points, seed=1)
    assert (np.hypot(*(points[0][left] - points[1][right]).T) <= 0.05).all()
    assert len(set(right.tolist())) == len(right)
    assert result["balance"]["snr"]["ks"] == pytest.approx(ks_2samp(points[0][left, 1], points[1][right, 1]).statistic)


def test_recall_rows():
    row = recall_row("double_ring", [True, False, True, True])
    assert (row["n"], row["n_found"], row["recall"]) == (4, 3, 0.75)
    assert row["lower"] < 0.75 < row["upper"]
    assert recall_row("double_ring", []) == {
        "scenario": "double_ring",
        "n": 0,
        "n_found": 0,
        "recall": None,
        "lower": None,
        "upper": None,
    }
