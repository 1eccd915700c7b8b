"""Intervals: how often they hold the truth in repeated experiments whose truth is known, and closed forms by hand."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn import metrics as sklearn

from lensfind.evaluation import bootstrap, scores
from lensfind.evaluation.bootstrap import ece_interval, interval, ratio_interval, resample, weighted_interval, wilson
from lensfind.evaluation.ranking import METRICS, Ranking, Setting, rank
from lensfind.evaluation.scores import _at_threshold

LENSES, OTHERS, PREVALENCE, SURVEY, APART, STEEP = 200, 1000, 0.02, 100_000, 2.0, 2.0
"""The experiment: log-odds normal about 0 (non-lenses) and APART (lenses), made too sure by STEEP."""
TOP = int(SURVEY * (PREVALENCE * stats.norm.sf(stats.norm.isf(0.02) - APART) + (1 - PREVALENCE) * 0.02))


def experiment(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], [OTHERS, LENSES])
    return label, expit(STEEP * (rng.normal(size=label.size) + APART * (label - 0.5)))


def truth() -> dict[str, float]:
    """What a test set without end would give, in the same mix, by analysis or fine integration."""
    x = np.linspace(-8, 10, 200_001)
    tpr, fpr = stats.norm.sf(x - APART), stats.norm.sf(x)
    t, f = stats.norm.sf(-APART / 2), stats.norm.sf(APART / 2)
    share = LENSES / (LENSES + OTHERS)

    def pure(t: np.ndarray, f: np.ndarray, prevalence: float) -> np.ndarray:
        return prevalence * t / (prevalence * t + (1 - prevalence) * f)

    lens, other = share * -np.diff(tpr), (1 - share) * -np.diff(fpr)
    p = expit(STEEP * ((x[1:] + x[:-1]) / 2 - APART / 2))
    excess = np.bincount(np.minimum((p * 15).astype(int), 14), (lens + other) * p - lens)
    size = SURVEY * (PREVALENCE * tpr + (1 - PREVALENCE) * fpr)
    return {
        "auroc": stats.norm.cdf(APART / np.sqrt(2)),
        "average_precision": float((pure(tpr, fpr, share)[1:] * -np.diff(tpr)).sum()),
        "recall": t,
        "accuracy": share * t + (1 - share) * (1 - f),
        "precision": pure(t, f, share),
        "f1": 2 * share * t / (share * t + (1 - share) * f + share),
        "purity": pure(t, f, PREVALENCE),
        "tpr_at_fpr_1e-2": stats.norm.sf(stats.norm.isf(0.01) - APART),
        "purity_at_completeness_0.5": pure(0.5, stats.norm.sf(APART), PREVALENCE),
        "purity_at_completeness_0.9": pure(0.9, stats.norm.sf(APART + stats.norm.isf(0.9)), PREVALENCE),
        "lenses_in_top": SURVEY * PREVALENCE * np.interp(TOP, size[::-1], tpr[::-1]),
        "brier": float((lens * (1 - p) ** 2 + other * p**2).sum()),
        "ece": float(np.abs(excess).sum()),
    }


def test_95_of_100_intervals_hold_the_truth():
    true, trials = truth(), 120
    hits, values = dict.fromkeys(true, 0), {name: [] for name in true}
    for seed in range(trials):
        result = scores(
            *experiment(seed), prevalence=PREVALENCE, survey=SURVEY, top=TOP, resamples=200, seed=1000 + seed
        )
        for name, value in true.items():
            low, high = result.intervals[name]
            hits[name] += low <= value <= high
            values[name].append(result.values[name])
    covered = {name: count / trials for name, count in hits.items()}
    assert covered.pop("ece") >= 0.93  # its interval is meant to hold at least so often
    assert {name: share for name, share in covered.items() if not 0.91 <= share <= 0.99} == {}
    assert 0.93 < np.mean(list(covered.values())) < 0.97
    for name, value in true.items():  # so that wide intervals about a wrong value would not do
        assert np.median(values[name]) == pytest.approx(value, rel=0.06), name  # ratios of few are skewed


@pytest.mark.parametrize(
    ("n", "slope", "error", "width"),
    [
        *((500, 1, 0, 0.1), (5000, 1, 0, 0.03)),  # calibrated: ECE is 0.045 and 0.014 by noise alone
        *((500, 0.8, 0.0285, 0.1), (5000, 0.8, 0.0285, 0.04)),
        *((500, 0.3, 0.1643, 0.13), (5000, 0.3, 0.1643, 0.035)),
    ],
)
def test_calibration_error_is_held_where_noise_makes_it(n, slope, error, width):
    """P of beta(0.4, 0.4), whose shares of lenses are expit(slope logit P); percentiles held 0 % of the first."""
    grid = stats.beta.ppf((np.arange(50_000) + 0.5) / 50_000, 0.4, 0.4)
    gap = np.bincount(np.minimum((grid * 15).astype(int), 14), grid - expit(slope * logit(grid)))
    assert np.abs(gap).sum() / grid.size == pytest.approx(error, abs=2e-4)
    hits, widths, trials = 0, [], 150
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        p = rng.beta(0.4, 0.4, n)
        low, high = ece_interval(rank((rng.random(n) < expit(slope * logit(p))).astype(np.int64), p), seed)
        hits += low <= error <= high
        widths.append(high - low)
    assert hits / trials > 0.93
    assert np.mean(widths) < width


def test_calibration_error_of_certainties_and_of_one_bin():
    """All lenses at P = 0.7: the gap is 0.3 for sure, but a non-lens could have come."""
    low, high = ece_interval(rank(np.ones(100, dtype=np.int64), np.full(100, 0.7)))
    assert 0.15 < low < 0.3 < high < 0.45
    low, high = ece_interval(rank(np.zeros(1000, dtype=np.int64), np.full(1000, 1e-6)))
    assert low == 0
    assert 1e-6 < high < 3 / 1000
    assert ece_interval(rank(np.array([0]), np.array([1.0])))[1] == 1
    # One bin without noise to speak of: the normal interval of a mean.
    rng = np.random.default_rng(0)
    label = (rng.random(40_000) < 0.5).astype(np.int64)
    low, high = ece_interval(rank(label, np.full(label.size, 0.9)))
    assert ((low + high) / 2, high - low) == pytest.approx((0.9 - label.mean(), 2 * 1.96 * 0.5 / 200), rel=0.06)


@pytest.mark.parametrize(("patience", "shown"), [(0.0, True), (60.0, False)])
def test_a_long_bootstrap_shows_how_far_it_is(monkeypatch, capsys, patience, shown):
    monkeypatch.setattr(bootstrap, "_MOMENT", patience)
    label, p = experiment(0)
    quiet = scores(label, p, resamples=30)
    assert capsys.readouterr().out == ""
    assert scores(label, p, resamples=30, progress=True) == quiet
    printed = capsys.readouterr().out
    assert ("30/30" in printed) == shown
    assert (printed == "") != shown


@pytest.mark.parametrize(("tpr", "fpr"), [(0.95, 0.02), (0.6, 0.1), (0.99, 0.4)])
def test_closed_forms_cover_small_counts_exactly(tpr, fpr):
    """No simulation: every outcome of 20 lenses and 40 non-lenses, weighted by its chance, all found included."""
    n, m, prevalence = 20, 40, 0.01
    true = {
        "recall": tpr,
        "accuracy": (n * tpr + m * (1 - fpr)) / (n + m),
        "precision": n * tpr / (n * tpr + m * fpr),
        "f1": 2 * n * tpr / (n * tpr + m * fpr + n),
        "purity": prevalence * tpr / (prevalence * tpr + (1 - prevalence) * fpr),
    }
    covered, setting = dict.fromkeys(true, 0.0), Setting(prevalence=prevalence)
    for tp, fp in np.ndindex(n + 1, m + 1):
        chance = stats.binom.pmf(tp, n, tpr) * stats.binom.pmf(fp, m, fpr)
        if chance < 1e-6:
            continue
        r = Ranking(np.array([0.9, 0.1]), np.array([[tp, n - tp]]), np.array([[fp, m - fp]]))
        for name, value in true.items():
            low, high = _at_threshold(name, r, setting)
            assert 0 <= low < high <= 1 + 1e-12
            covered[name] += chance * (low <= value <= high)
    assert min(covered.values()) > 0.9, covered  # counts are coarse
    assert np.mean(list(covered.values())) > 0.92


def test_all_found_is_not_certain():
    result = scores([0] * 30 + [1] * 10, [0.1] * 30 + [0.9] * 10, resamples=100)
    for name in ("recall", "precision", "accuracy", "f1"):
        assert result.values[name] == 1
        assert 0.6 < result.intervals[name][0] < 0.99, name
        assert result.intervals[name][1] == pytest.approx(1)
    assert result.intervals["recall"][0] == pytest.approx(10 / (10 + 3.8415), abs=1e-4)  # Wilson: n / (n + z^2)


def test_intervals_by_hand():
    # Donner & Zou's limits are where |a - R b| = hypot(gap of a, R gap of b); here with round numbers.
    low, high = ratio_interval((0.4, 0.3, 0.6), (0.5, 0.3, 0.7))
    assert 0.4 - low * 0.5 == pytest.approx(np.hypot(0.1, low * 0.2))
    assert high * 0.5 - 0.4 == pytest.approx(np.hypot(0.2, high * 0.2))
    assert ratio_interval((0.0, 0.0, 0.1), (0.5, 0.3, 0.7))[0] == 0
    assert ratio_interval((0.4, 0.3, 0.6), (0.0, 0.0, 0.2))[1] == np.inf
    assert ratio_interval((0.0, 0.0, 0.1), (0.0, 0.0, 0.1)) == (0, np.inf)
    assert weighted_interval((0.5, 0.5), (0.6, 0.3, 0.8), (0.8, 0.4, 0.9)) == pytest.approx(
        (0.7 - 0.25, 0.7 + 0.5 * np.hypot(0.2, 0.1))
    )
    low, high = wilson([0, 5, 0], [10, 10, 0])
    assert low == pytest.approx([0, 0.2366, 0], abs=1e-4)
    assert high == pytest.approx([0.2775, 0.7634, 1], abs=1e-4)


def test_percentiles():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.arange(1001.0), 0.5) == pytest.approx((250, 750))
    half = np.where(np.arange(1000) < 49, np.nan, 7.0)
    assert interval(half) == (7, 7)
    assert interval(np.where(np.arange(1000) < 51, np.nan, 7.0)) is None
    assert interval([]) is None
    assert interval([np.nan]) is None


@pytest.mark.parametrize("digits", [1, 16])
def test_a_resample_is_a_draw_with_replacement(digits):
    """Each resample, told out as objects, has scikit-learn's metrics; classes keep their numbers; means come back."""
    rng = np.random.default_rng(3)
    label, p = np.repeat([0, 1], [70, 30]), np.round(rng.random(100), digits)
    data, lenses = rank(label, p), []
    for number, chunk in enumerate(resample(data, 300, seed=5, memory=1e6)):
        lenses.append(chunk.lenses)
        for row in range(10 if number < 3 else 0):
            y = np.repeat(np.tile([1, 0], chunk.p.size), np.stack([chunk.lenses[row], chunk.others[row]], 1).ravel())
            s = np.repeat(chunk.p, chunk.lenses[row] + chunk.others[row])
            assert (y.sum(), len(y)) == (30, 100)
            one = Ranking(chunk.p, chunk.lenses[row : row + 1], chunk.others[row : row + 1])
            assert METRICS["auroc"](one, Setting())[0] == pytest.approx(sklearn.roc_auc_score(y, s))
            ap = sklearn.average_precision_score(y, s)
            assert METRICS["average_precision"](one, Setting())[0] == pytest.approx(ap)
            for name in ("auroc", "average_precision", "lenses_in_top", "ece"):  # rows do not mix
                metric = METRICS[name]
                assert metric(chunk, Setting())[row] == pytest.approx(metric(one, Setting())[0], nan_ok=True)
    counts = np.concatenate(lenses)
    assert len(counts) == 300
    # Binomial(30, c/30) per group: mean c, variance c (1 - c/30).
    c = data.lenses[0]
    np.testing.assert_allclose(counts.mean(0), c, atol=5 * np.sqrt(c.max() / 300))
    assert counts.var(0).sum() == pytest.approx((c * (1 - c / 30)).sum(), rel=0.1)


def test_seed_decides_and_chunks_do_not():
    label, p = experiment(0)
    data = rank(label, p)

    def drawn(seed: int, memory: float) -> np.ndarray:
        return np.concatenate([np.stack([c.lenses, c.others], 1) for c in resample(data, 20, seed, memory)])

    np.testing.assert_array_equal(drawn(1, 1), drawn(1, 1e9))
    assert (drawn(1, 1e9) != drawn(2, 1e9)).any()
    assert scores(label, p, resamples=20, seed=4) == scores(label, p, resamples=20, seed=4)
    assert scores(label, p, resamples=20, seed=4).intervals != scores(label, p, resamples=20, seed=5).intervals
    assert next(resample(rank(np.array([0]), np.array([0.5])), 2)).others.tolist() == [[1], [1]]


def test_a_million_rows_in_bounded_memory():
    rng = np.random.default_rng(0)
    p = rng.random(1_000_000)
    data = rank((rng.random(p.size) < 0.3 * p).astype(np.int64), p)
    tracemalloc.start()
    for chunk in resample(data, 2):
        for metric in METRICS.values():
            assert metric(chunk, Setting(prevalence=0.1)).shape == (1,)
        del chunk
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
