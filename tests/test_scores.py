"""Every metric against scikit-learn, by hand and where it has no meaning; thresholds; reliability; survey curves."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from lensfind import LensfindError
from lensfind.evaluation import choose_threshold, purity_completeness, reliability, scores, survey_curve
from lensfind.evaluation.ranking import METRICS
from lensfind.finder import _metrics

NAMES = {
    *("auroc", "average_precision", "f1", "precision", "recall", "accuracy", "tpr0", "tpr10"),
    *("tpr_at_fpr_1e-2", "tpr_at_fpr_1e-3", "tpr_at_fpr_1e-4"),
    *("completeness_at_purity_0.5", "completeness_at_purity_0.9"),
    *("purity_at_completeness_0.5", "purity_at_completeness_0.9"),
    *("purity", "lenses_in_top", "ece", "brier"),
}


def draw(n: int = 500, seed: int = 0, digits: int = 2, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that know something; few digits make ties."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < share).astype(np.int64)
    label[:2] = 0, 1
    return label, np.round(1 / (1 + np.exp(-(rng.normal(size=n) + 2 * label - 1))), digits)


def by_hand(label: np.ndarray, p: np.ndarray, threshold: float, prevalence: float, survey: int, top: int) -> dict:
    """All metrics by looking at every threshold in turn; None where undefined."""
    others = (1 - label).sum()
    points = [(0.0, 0.0), *(((p >= t)[label == 1].mean(), (p >= t)[label == 0].mean()) for t in np.unique(p)[::-1])]

    def pure(t: float, f: float) -> float:
        return prevalence * t / (prevalence * t + (1 - prevalence) * f) if t or f else 1.0

    found = p > threshold
    result = {
        "auroc": sklearn.roc_auc_score(label, p),
        "average_precision": sklearn.average_precision_score(label, p),
        "f1": sklearn.f1_score(label, found),
        "precision": sklearn.precision_score(label, found) if found.any() else None,
        "recall": sklearn.recall_score(label, found),
        "accuracy": sklearn.accuracy_score(label, found),
        "brier": sklearn.brier_score_loss(label, p),
        "tpr0": max(t for t, f in points if f == 0),
        "tpr10": max(t for t, f in points if round(f * others) < 10) if others >= 10 else None,
    }
    for power in (2, 3, 4):
        enough = others >= 10**power
        best = max(t for t, f in points if round(f * others) <= others / 10**power)
        result[f"tpr_at_fpr_1e-{power}"] = best if enough else None
    for share in (0.5, 0.9):
        t = max(t for t, f in points if pure(t, f) >= share - 1e-9)
        needed = prevalence * t * (1 - share) / (share * (1 - prevalence))
        result[f"completeness_at_purity_{share}"] = t if needed * others >= 1 - 1e-9 else None
        t, f = next((t, f) for t, f in points if t >= share - 1e-9)
        result[f"purity_at_completeness_{share}"] = pure(t, f) if f else None
    t, f = found[label == 1].mean(), found[label == 0].mean()
    result["purity"] = pure(t, f) if f else None
    for (t0, f0), (t1, f1) in pairwise(points):
        size0, size1 = (survey * (prevalence * t + (1 - prevalence) * f) for t, f in ((t0, f0), (t1, f1)))
        if size0 < top <= size1 * (1 + 1e-12):
            part = (top - size0) / (size1 - size0)
            enough = (f0 + part * (f1 - f0)) * others >= 1 - 1e-9
            result["lenses_in_top"] = survey * prevalence * (t0 + part * (t1 - t0)) if enough else None
    number = np.maximum(np.ceil(p * 15 - 1e-12), 1)
    gaps = [abs((p[number == b] - label[number == b]).sum()) for b in range(1, 16)]
    return result | {"ece": sum(gaps) / len(p)}


@pytest.mark.parametrize(
    ("n", "seed", "digits", "prevalence", "threshold"),
    [
        (500, 0, 2, 5e-4, 0.5),
        (500, 1, 16, 0.02, 0.31),
        (3000, 2, 3, 0.05, 0.9),
        (40, 3, 1, 0.3, 0.5),
        (3, 4, 1, 0.5, 0),
    ],
)
def test_every_metric_by_hand_and_scikit_learn(n, seed, digits, prevalence, threshold):
    label, p = draw(n, seed, digits)
    result = scores(label, p, threshold, prevalence=prevalence, survey=100_000, top=3000)
    expected = by_hand(label, p, threshold, prevalence, 100_000, 3000)
    assert set(result.values) == set(expected) == NAMES == set(METRICS)
    for name, value in expected.items():
        assert result.values[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name
    assert set(result.undefined) == {name for name, value in expected.items() if value is None}
    assert set(result.intervals.values()) == {None}


def test_most_metrics_are_defined_somewhere():
    """Otherwise the comparison above would be one of Nones."""
    label, p = draw(30_000, 5, 16)
    result = scores(label, p, prevalence=0.05, survey=100_000, top=3000)
    assert result.undefined == {}
    expected = by_hand(label[:3000], p[:3000], 0.5, 0.05, 100_000, 3000)
    assert sum(value is not None for value in expected.values()) >= 17


def test_by_hand_and_as_logged_in_training():
    label, p_lens = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.5, 0.7, 0.4, 0.9])
    expected = {"auroc": 4 / 6, "f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.6}
    expected |= {"average_precision": 0.5 * 1 + 0.5 * 2 / 4, "tpr0": 0.5}
    expected["brier"] = (0.01 + 0.25 + 0.49 + 0.36 + 0.01) / 5
    expected["ece"] = (0.1 + 0.5 + 0.7 + 0.6 + 0.1) / 5  # each alone in its bin
    values = scores(label, p_lens).values
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    logged = _metrics("test")
    logged.update(torch.from_numpy(p_lens), torch.from_numpy(label))
    logged = {key.removeprefix("test/"): float(v) for key, v in logged.compute().items()}
    assert {name: values[name] for name in logged} == pytest.approx(logged)


def test_saturated_scores_stay_ranked():
    """P(lens) so close to 1 that float32 would tie them."""
    assert scores([0, 0, 1, 1], [1 - 4e-12, 1 - 3e-12, 1 - 2e-12, 1 - 1e-12]).values["auroc"] == 1
    assert scores([False, True], [0.2, 0.7]).values["recall"] == 1


@pytest.mark.parametrize(
    ("label", "p_lens", "defined"),
    [
        ([0, 0], [0.1, 0.2], {"accuracy", "ece", "brier"}),
        ([0, 0], [0.1, 0.9], {"accuracy", "ece", "brier", "precision", "f1"}),
        ([1, 1], [0.6, 0.9], {"accuracy", "ece", "brier", "precision", "f1", "recall"}),
        ([1], [0.6], {"accuracy", "ece", "brier", "precision", "f1", "recall"}),
        ([0, 1], [0.1, 0.2], {"accuracy", "ece", "brier", "auroc", "average_precision", "recall", "f1", "tpr0"}),
        ([], [], set()),
    ],
)
def test_undefined_is_none_with_a_reason(label, p_lens, defined):
    result = scores(label, p_lens, resamples=20)
    assert {key for key, value in result.values.items() if value is not None} == defined
    assert set(result.undefined) == NAMES - defined
    assert all(len(reason) > 10 for reason in result.undefined.values())
    assert all(result.intervals[name] is None for name in result.undefined)
    values = [*result.values.values(), *(x for pair in result.intervals.values() if pair for x in pair)]
    assert not any(value is not None and np.isnan(value) for value in values)


def test_what_the_negatives_cannot_resolve_is_said_in_numbers():
    label = np.repeat([0, 1], [1500, 500])
    p = np.linspace(0, 1, 2000)  # every lens above every non-lens
    result = scores(label, p, 0.8, resamples=50)
    assert "below 0.00067; at least 10000 would" in result.undefined["tpr_at_fpr_1e-4"]
    # At pi = 5e-4 a purity of 0.9 leaves pi / 9 / (1 - pi) = 5.6e-5 to the non-lenses, even if all lenses are found.
    assert "rate of 5.6e-05" in result.undefined["completeness_at_purity_0.9"]
    assert "at least 17991 would" in result.undefined["completeness_at_purity_0.9"]
    # Half the lenses and none of 1500: 3/1500 = 0.002 bounds the rate, so purity > 2.5e-4 / (2.5e-4 + 0.9995 * 0.002).
    assert "above 0.111" in result.undefined["purity_at_completeness_0.5"]
    assert "above 0.167" in result.undefined["purity"]  # 0.8 of the lenses
    # All 500 lenses, then 500 of 999,500: more than a false positive rate of 1/1500 would need, but not less.
    assert "at least 1999 would" in result.undefined["lenses_in_top"]
    assert result.limits["tpr_at_fpr_1e-3"] == "rests on 1 false positive of 1500 non-lenses, too few for an interval"
    assert result.intervals["tpr_at_fpr_1e-3"] is None
    assert "one highest non-lens" in result.limits["tpr0"]
    assert result.values["tpr0"] == 1
    assert result.intervals["tpr0"] is None


def test_a_tie_at_the_top_is_shared():
    """One group of all objects: whoever is looked at first is a random object."""
    values = scores([0] * 80 + [1] * 20, [0.7] * 100, prevalence=0.01, survey=10_000, top=1000).values
    assert values["lenses_in_top"] == pytest.approx(10)
    assert (values["auroc"], values["average_precision"], values["tpr0"]) == (0.5, 0.2, 0)
    assert values["purity_at_completeness_0.5"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("label", "p_lens", "more", "message"),
    [
        ([0, 1], [0.1], {}, "as many probabilities"),
        ([0, 2], [0.1, 0.2], {}, "labels 0 or 1"),
        ([0, 1], [0.1, 3.0], {}, r"got 3.0 \(1 of 2 are outside\). Give probabilities, not logits"),
        ([0, 1], [np.nan, np.nan], {}, r"got nan \(2 of 2 are not finite\)"),
        ([0, 1], [np.inf, 0.5], {}, r"got inf \(1 of 2 are not finite\)"),
        ([0, 1], [0.1, 0.2], {"threshold": 1.5}, "threshold"),
        ([0, 1], [0.1, 0.2], {"threshold": np.nan}, "threshold"),
        ([0, 1], [0.1, 0.2], {"prevalence": 0}, "between 0 and 1; got 0. Set survey.prevalence=5e-4."),
        ([0, 1], [0.1, 0.2], {"prevalence": np.nan}, "prevalence"),
        ([0, 1], [0.1, 0.2], {"top": 11, "survey": 10}, "top between 1 and the survey's 10 objects; got 11"),
        ([0, 1], [0.1, 0.2], {"resamples": -1}, "resamples"),
        ([0, 1], [0.1, 0.2], {"seed": -1}, "seed"),
    ],
)
def test_bad_input(label, p_lens, more, message):
    with pytest.raises(LensfindError, match=message):
        scores(label, p_lens, **more)


def test_reliability_is_that_of_scikit_learn_and_adds_up_to_the_error():
    label, p = draw(2000, 7, 2)
    p[:3] = 0, 1, 1 / 15  # the edges
    rows = reliability(label, p)
    share, mean = calibration_curve(label, p, n_bins=15)
    np.testing.assert_allclose([row["share"] for row in rows], share)
    np.testing.assert_allclose([row["p_mean"] for row in rows], mean)
    assert sum(row["n"] for row in rows) == 2000
    ece = sum(row["n"] * abs(row["share"] - row["p_mean"]) for row in rows) / 2000
    assert scores(label, p).values["ece"] == pytest.approx(ece)
    assert all(row["low"] <= row["p_mean"] <= row["high"] for row in rows)
    assert all(0 <= row["lower"] < row["share"] + 1e-12 and row["share"] - 1e-12 < row["upper"] <= 1 for row in rows)
    # Wilson for 0 of 4: upper is z^2 / (n + z^2).
    assert reliability([0] * 4, [0.5] * 4)[0]["upper"] == pytest.approx(3.8415 / 7.8415, abs=1e-4)
    assert reliability([], []) == []


@pytest.mark.parametrize("digits", [1, 2, 16])
@pytest.mark.parametrize("goal", ["f1", {"fpr": 0.1}, {"purity": 0.3, "prevalence": 0.1}])
def test_no_other_threshold_does_better(goal, digits):
    label, p = draw(800, 11, digits)
    threshold = choose_threshold(label, p, goal)
    assert threshold not in p

    def reached(t: float) -> float:
        tpr, fpr = (p > t)[label == 1].mean(), (p > t)[label == 0].mean()
        if goal == "f1":
            return 2 * label[p > t].sum() / (label.sum() + (p > t).sum())
        if "fpr" in goal:
            return tpr if fpr <= 0.1 else -1
        return tpr if 0.1 * tpr >= 0.3 * (0.1 * tpr + 0.9 * fpr) else -1

    assert reached(threshold) == max(reached(t) for t in [0, *p])
    assert reached(threshold) > 0


def test_threshold_parts_neighbours_half_way():
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], "f1") == pytest.approx(0.4)
    assert choose_threshold([0, 1, 1], [0.8, 0.6, 0.4], "f1") == pytest.approx(0.2)  # everything
    assert choose_threshold([0, 1], [0.0, 1e-9], "f1") == pytest.approx(5e-10)
    assert choose_threshold([0, 1], [1 - 2**-53, 1.0], "f1") == 1 - 2**-53  # nothing lies between these floats


@pytest.mark.parametrize(
    ("label", "p", "goal", "message"),
    [
        ([1, 1], [0.1, 0.2], "f1", "2 lenses and 0 non-lenses"),
        ([0, 1], [0.1, 0.2], "F2", "threshold={fpr: 1e-3}"),
        ([0, 1], [0.1, 0.2], {"fpr": 2.0}, "numbers between 0 and 1"),
        ([0, 1], [0.1, 0.2], {"purity": 0.5}, "numbers between 0 and 1"),
        ([0, 0, 1], [0.1, 0.2, 0.3], {"fpr": 1e-3}, "at least 1000 non-lenses .* got 2. Use more validation rows"),
        ([0, 0, 1], [0.1, 0.8, 0.3], {"fpr": 0.5}, None),
        ([1, 0, 0], [0.1, 0.8, 0.9], {"fpr": 0.5}, "a non-lens ranks above every lens"),
        ([0, 0, 1], [0.1, 0.8, 0.9], {"purity": 0.9, "prevalence": 1e-3}, "which resolve none below 0.5"),
        ([0, 1], [0.3, 0.0], "f1", "or every lens has P"),
    ],
)
def test_goals_out_of_reach(label, p, goal, message):
    if message is None:
        assert 0.1 < choose_threshold(label, p, goal) < 0.3
        return
    with pytest.raises(LensfindError, match=message):
        choose_threshold(label, p, goal)


def test_survey_curve_is_the_metric_at_every_top():
    label, p = draw(3000, 13, 3)
    curve = survey_curve(label, p, prevalence=0.01, survey=10_000, resamples=50, points=30)
    for candidates, lenses, resolved in zip(curve["candidates"], curve["lenses"], curve["resolved"], strict=True):
        top = scores(label, p, prevalence=0.01, survey=10_000, top=candidates).values["lenses_in_top"]
        assert resolved == (top is not None)
        assert top is None or lenses == pytest.approx(top)
    assert (curve["candidates"][0], curve["candidates"][-1]) == pytest.approx((1, 10_000))
    assert curve["lenses"][-1] == pytest.approx(100)
    assert curve["completeness"][-1] == pytest.approx(1)
    np.testing.assert_allclose(curve["purity"], curve["lenses"] / curve["candidates"])
    r = curve["resolved"]
    assert 5 < r.sum() < 30
    inside = (curve["lenses_low"] <= curve["lenses"]) & (curve["lenses"] <= curve["lenses_high"])
    assert inside[r & np.isfinite(curve["lenses_low"])].mean() > 0.9
    assert np.isnan(curve["lenses_low"][~r]).all()
    few = 0
    for k in np.flatnonzero(r):  # the band is the interval of the metric
        top = scores(label, p, prevalence=0.01, survey=10_000, top=curve["candidates"][k], resamples=50)
        band = top.intervals["lenses_in_top"] or (np.nan, np.nan)
        assert [curve["lenses_low"][k], curve["lenses_high"][k]] == pytest.approx(band, nan_ok=True)
        few += np.isnan(band).any()
    assert 0 < few < r.sum() / 2
    assert np.isnan(survey_curve(label, p)["purity_low"]).all()
    with pytest.raises(LensfindError, match="0 lenses and 2 non-lenses"):
        survey_curve([0, 0], [0.1, 0.2])


def test_purity_completeness_is_the_metric_at_every_completeness():
    label, p = draw(3000, 14, 16)
    curve = purity_completeness(label, p, prevalence=0.01, resamples=50)
    result = scores(label, p, prevalence=0.01, resamples=50)
    values = result.values
    assert curve["completeness"][[49, 89]].tolist() == [0.5, 0.9]
    assert curve["purity"][[49, 89]] == pytest.approx(
        [values["purity_at_completeness_0.5"], values["purity_at_completeness_0.9"]]
    )
    r = curve["resolved"]
    assert not r[0]
    assert r[-1]
    assert np.isnan(curve["purity"][~r]).all()
    # One lens in a hundred found and no false positive: 3 / N bounds the rate.
    t, bound = np.ceil(label.sum() / 100) / label.sum(), 3 / (label == 0).sum()
    assert curve["purity_low"][0] == pytest.approx(0.01 * t / (0.01 * t + 0.99 * bound))
    band = np.stack([curve["purity_low"], curve["purity_high"]], axis=1)
    for k, name in ((49, "0.5"), (89, "0.9")):
        assert tuple(band[k]) == result.intervals[f"purity_at_completeness_{name}"]
    wanted = np.arange(1, 101) * label.sum() / 100
    false = np.array([(p[label == 0] >= np.sort(p[label == 1])[::-1][int(np.ceil(x)) - 1]).sum() for x in wanted])
    assert np.isnan(band[(false > 0) & (false < 3)]).all()
    assert ((false > 0) & (false < 3)).any()
    assert np.isfinite(band[false > 8]).all()
    known = r & np.isfinite(band).all(axis=1)
    assert (band[known, 0] <= curve["purity"][known] + 1e-12).mean() > 0.95


def test_a_resample_without_false_positives_is_not_pure():
    """Three false positives above the middle lens: one resample in twenty has none, and none of them says 100 %."""
    label = np.repeat([1, 0, 1, 0], [50, 3, 50, 997])
    curve = purity_completeness(label, np.linspace(1, 0, label.size), prevalence=0.01, resamples=300, points=4)
    high = curve["purity_high"]
    assert np.isnan(high[:2]).all()
    assert np.isnan(high[2]) or high[2] < 0.9  # one false positive: 0.0075 / (0.0075 + 0.99 / 1000) = 0.88


def test_only_what_is_wanted():
    label, p = draw()
    every = scores(label, p, resamples=20)
    some = scores(label, p, resamples=20, only=("brier", "ece", "recall", "tpr_at_fpr_1e-4"))
    for part in ("values", "intervals"):
        assert getattr(some, part) == {name: getattr(every, part)[name] for name in some.values}
    assert list(some.values) == ["recall", "tpr_at_fpr_1e-4", "ece", "brier"]
    assert set(some.undefined) == {"tpr_at_fpr_1e-4"}
    assert scores(label, p, only=()).values == {}
    with pytest.raises(LensfindError, match="metrics out of auroc, .*; got area. Set only=None"):
        scores(label, p, only={"area", "ece"})
