"""Networks beside each other and together, against scipy and exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import spearmanr

from lensfind import LensfindError
from lensfind.evaluation.agreement import agreement, ensembles


def test_agreement_with_scipy_and_by_counting():
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(3, 400)) + rng.normal(size=400), 1)  # with ties
    cuts = [0.0, 0.5, -0.5]
    names = ["a", "b", "c"]
    found = {name: row > cut for name, row, cut in zip(names, scores, cuts, strict=True)}
    result = agreement(dict(zip(names, scores, strict=True)), found)
    assert result["networks"] == names
    np.testing.assert_allclose(result["rank_correlation"], spearmanr(scores, axis=1).statistic, atol=1e-12)
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            assert result["same_decision"][i][j] == pytest.approx((found[one] == found[other]).mean())


def test_a_constant_score_has_no_ranks():
    result = agreement({"a": [1, 2, 3], "b": [0, 0, 0]}, {"a": [False, True, True], "b": [True, True, True]})
    assert result["rank_correlation"] == [[1.0, None], [None, None]]
    assert result["same_decision"][0][1] == pytest.approx(2 / 3)


def test_one_network_agrees_with_nobody():
    assert agreement({"a": [1, 2]}, {"a": [True, False]}) is None
    assert agreement({"a": [], "b": []}, {"a": [], "b": []}) is None


@pytest.mark.parametrize("other", [[1.0, np.nan], [1.0, 2.0, 3.0]])
def test_scores_that_do_not_belong_together(other):
    with pytest.raises(LensfindError, match="same objects"):
        agreement({"a": [1.0, 2.0], "b": other}, {"a": [True, True], "b": [True] * len(other)})


def test_ensembles_of_moderate_scores():
    scores = np.random.default_rng(1).normal(0, 3, (4, 100))
    both = ensembles(scores)
    p, log_odds = both["mean of probabilities"]
    np.testing.assert_allclose(p, expit(scores).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(log_odds, np.log(p / (1 - p)), atol=1e-9)
    p, log_odds = both["mean of log-odds"]
    np.testing.assert_allclose(log_odds, scores.mean(axis=0))
    np.testing.assert_allclose(p, expit(scores.mean(axis=0)))


def test_ensembles_are_exact_where_probabilities_saturate():
    """Half of P = 1 - e^-60 and 1 - e^-50: 1 - P = (e^-60 + e^-50) / 2, lost in P itself."""
    expected = np.log(2) - np.log(np.exp(-60) + np.exp(-50))
    _, log_odds = ensembles([[60.0, -60.0, 800.0], [50.0, -50.0, 800.0]])["mean of probabilities"]
    np.testing.assert_allclose(log_odds, [expected, -expected, 800.0], rtol=1e-14)
    p, log_odds = ensembles([[800.0], [-800.0]])["mean of probabilities"]
    assert (p[0], log_odds[0]) == (0.5, 0.0)
    exact = (Fraction(1, 4) + Fraction(3, 4) + Fraction(1, 2)) / 3
    p, _ = ensembles([[-np.log(3)], [np.log(3)], [0.0]])["mean of probabilities"]
    assert p[0] == pytest.approx(float(exact), abs=1e-15)


def test_ensemble_of_one_is_itself():
    scores = np.array([[-700.0, -3.0, 0.0, 2.0, 40.0, 700.0]])
    for _, log_odds in ensembles(scores).values():
        np.testing.assert_allclose(log_odds, scores[0], atol=1e-14)


@pytest.mark.parametrize("bad", [[[np.nan]], [[np.inf]], np.empty((0, 3)), [1.0, 2.0]])
def test_scores_without_meaning(bad):
    with pytest.raises(LensfindError, match="finite log-odds"):
        ensembles(bad)
