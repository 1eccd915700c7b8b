"""Calibration against a known temperature, scikit-learn and Bayes by hand; files that come back, or say why not."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lensfind import LensfindError
from lensfind.evaluation import scores
from lensfind.evaluation.calibration import Calibration, apply, fit, read, stored_at, to_prevalence, write


def draw(n: int, seed: int, temperature: float = 1.0, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and log-odds that are right once divided by ``temperature``: normal classes, 2 apart."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < share).astype(np.int64)
    return label, temperature * (2 * (rng.normal(size=n) + 2 * label) - 2 + logit(share))


@pytest.mark.parametrize("temperature", [0.3, 1, 4])
def test_recovers_a_known_temperature(temperature):
    found = fit(*draw(50_000, 1, temperature), checkpoint_sha256="ab", data="val of a set")
    assert found.temperature == pytest.approx(temperature, rel=0.02)
    assert (found.n, found.checkpoint_sha256, found.data) == (50_000, "ab", "val of a set")
    assert found.prevalence == pytest.approx(0.3, abs=0.01)
    label, odds = draw(300, 2, temperature)
    small = fit(label, odds)

    def loss(t: float, b: float) -> float:
        return -np.log(np.where(label == 1, expit(odds / t + b), expit(-odds / t - b))).mean()

    t, b = small.temperature, small.offset
    assert all(loss(t, b) < loss(t * f, b + d) for f, d in ((0.99, 0), (1.01, 0), (1, -0.01), (1, 0.01)))
    np.testing.assert_allclose(apply(small, odds), expit(odds / t + b))
    line = LogisticRegression(C=1e9, tol=1e-10).fit(odds[:, None], label)
    assert (1 / t, b) == pytest.approx((line.coef_[0, 0], line.intercept_[0]), rel=1e-4)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_carried_to_a_survey_from_a_network_trained_on_another_mix(method):
    """Exact log-odds of half lenses, fitted where a tenth are, then used where one in a hundred is."""
    rng = np.random.default_rng(8)

    def drawn(n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
        label = (np.arange(n) < share * n).astype(np.int64)
        return label, 2 * (rng.normal(size=n) + 2 * label) - 2

    label, odds = drawn(50_000, 0.1)
    found = fit(label, odds, method)
    assert found.prevalence == pytest.approx(0.1)
    assert apply(found, odds).mean() == pytest.approx(0.1, rel=1e-6 if method == "temperature" else 1e-3)
    if method == "temperature":
        assert (found.temperature, found.offset) == pytest.approx((1, logit(0.1)), abs=0.05)
    label, odds = drawn(500_000, 0.01)
    survey = to_prevalence(apply(found, odds), found.prevalence, 0.01)
    assert survey.mean() == pytest.approx(0.01, rel=0.04)
    assert scores(label, survey).values["ece"] < 0.001


@pytest.mark.parametrize("digits", [1, 16])
def test_isotonic_agrees_with_scikit_learn(digits):
    label, odds = draw(500, 3)
    odds = np.round(odds, digits)
    found = fit(label, odds, "isotonic")
    p = apply(found, odds)
    expected = IsotonicRegression().fit(odds, label).predict(odds)
    inner = (expected > 0) & (expected < 1)
    assert 0.3 < inner.mean() < 1
    np.testing.assert_allclose(p[inner], expected[inner], atol=1e-12)
    grid = apply(found, np.linspace(-50, 50, 10_001))
    assert (np.diff(grid) >= 0).all()
    assert 0 < grid[0] < 0.05  # no certainty where nothing but one class was seen
    assert 0.9 < grid[-1] < 1
    zero = expected == 0
    assert p[zero] == pytest.approx(min(0.5 / (zero.sum() + 1), expected[inner].min()))
    assert np.isfinite(logit(grid)).all()
    assert np.isnan(apply(found, [np.nan])).all()


def test_isotonic_of_classes_that_do_not_overlap():
    found = fit(np.repeat([0, 1], 20), np.arange(40.0), "isotonic")
    assert apply(found, [-9, 0, 19, 20, 99]) == pytest.approx([0.5 / 21, 0.5 / 21, 0.5 / 21, 20.5 / 21, 20.5 / 21])
    assert apply(found, 19.5) == pytest.approx(0.5)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_lowers_the_error_on_other_objects(method):
    found = fit(*draw(3000, 4, 3.0), method)
    label, odds = draw(3000, 5, 3.0)
    before, after = scores(label, expit(odds)).values, scores(label, apply(found, odds)).values
    assert after["ece"] < 0.6 * before["ece"]
    assert after["brier"] < before["brier"]
    assert after["auroc"] == pytest.approx(before["auroc"], abs=0.01 if method == "isotonic" else 1e-12)


def test_prevalence_is_corrected_as_bayes_says():
    # A test that calls 80 % of lenses and 10 % of others: P(lens | called) by counting 1,000 objects of each mix.
    at_half, at_tenth = 400 / (400 + 50), 80 / (80 + 90)
    assert to_prevalence(at_half, 0.5, 0.1) == pytest.approx(at_tenth)
    assert to_prevalence(at_tenth, 0.1, 0.5) == pytest.approx(at_half)
    assert to_prevalence([0, 0.3, 1], 0.3, 0.001) == pytest.approx([0, 0.001, 1])
    label, odds = draw(200_000, 6, share=0.5)
    rare = (label == 0) | (np.random.default_rng(0).random(label.size) < 0.02)
    p = to_prevalence(expit(odds[rare]), 0.5, label[rare].mean())
    assert scores(label[rare], p).values["ece"] < 0.002 < 0.1 < scores(label[rare], expit(odds[rare])).values["ece"]
    for prevalence in (0, 1, np.nan):
        with pytest.raises(LensfindError, match="survey.prevalence=5e-4"):
            to_prevalence([0.5], 0.5, prevalence)
    with pytest.raises(LensfindError, match="1 of 2 that are not"):
        to_prevalence([0.5, 1.5], 0.5, 0.1)


@pytest.mark.parametrize(
    ("label", "odds", "method", "message"),
    [
        ([0] * 50, np.arange(50), "temperature", "0 lenses and 50 non-lenses. Use more validation rows"),
        ([0] * 50 + [1] * 9, np.arange(59), "isotonic", "9 lenses"),
        ([0, 1], [1, np.inf], "isotonic", r"inf \(1 of 2 are not finite\). Take them from the logits"),
        ([0, 1], [1], "isotonic", "as many log-odds"),
        ([0, 3], [1, 2], "isotonic", "labels 0 or 1"),
        ([0, 1], [1, 2], "platt", "temperature, isotonic; got 'platt'"),
        ([0] * 20 + [1] * 20, np.arange(40) - 19.5, "temperature", "separate the classes perfectly"),
        ([0] * 20 + [1] * 20, np.arange(40) + 300, "temperature", "separate the classes perfectly"),
        ([0, 1] * 20, [3] * 40, "temperature", "tell nothing"),
        ([0] * 19 + [1, 0] + [1] * 19, np.arange(40) * 1e-4, "temperature", "hardly differ"),
        ([1] * 20 + [0] * 20, np.arange(40) - 19.5, "temperature", "rank lenses below non-lenses"),
    ],
)
def test_what_cannot_be_fitted(label, odds, method, message):
    with pytest.raises(LensfindError, match=message):
        fit(label, odds, method)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_written_beside_the_checkpoint_and_read_again(tmp_path, method):
    found = fit(*draw(400, 7), method, checkpoint_sha256="0123abcd" * 8, data="val of sets/a")
    checkpoint = tmp_path / "best.ckpt"
    path = write(found, checkpoint)
    assert path == tmp_path / "best.calibration.json" == stored_at(checkpoint)
    assert read(checkpoint, "0123abcd" * 8) == found
    with pytest.raises(
        LensfindError, match="one of another network, 0123abcdabcd|one of another network, 0123abcd0123"
    ):
        read(checkpoint, "f" * 64)


def test_missing_and_damaged_files(tmp_path):
    checkpoint = tmp_path / "best.ckpt"
    with pytest.raises(LensfindError, match="no such file. Fit it again"):
        read(checkpoint, "ab")
    path = write(fit(*draw(400, 7), checkpoint_sha256="ab"), checkpoint)
    good = json.loads(path.read_text())
    knots = {"method": "isotonic", "temperature": None, "offset": None, "log_odds": [0.0, 1.0], "p_lens": [0.2, 0.4]}
    path.write_text(json.dumps(good | knots))
    assert apply(read(checkpoint, "ab"), 0.5) == pytest.approx(0.3)
    for wrong in (
        {"version": 2},
        {"format": "other"},
        {"method": "platt"},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": "1"},
        {"offset": None},
        {"offset": float("inf")},
        {"offset": "1"},
        {"method": "isotonic", "temperature": None},
        knots | {"offset": 0.0},
        {"n_lenses": 0},
        {"n": 5},
        {"data": 3},
        {"checkpoint_sha256": None},
        knots | {"p_lens": [0.4, 0.2]},
        knots | {"p_lens": [0.0, 0.2]},
        knots | {"p_lens": [0.2, "x"]},
        knots | {"p_lens": [0.2]},
        knots | {"log_odds": [1.0, 1.0]},
        knots | {"log_odds": [0.0, float("inf")]},
        knots | {"log_odds": [], "p_lens": []},
    ):
        path.write_text(json.dumps(good | wrong))
        with pytest.raises(LensfindError, match="version 1 .* other keys or values. Fit it again"):
            read(checkpoint, "ab")
    for text in ("[]", "{}", "3"):
        path.write_text(text)
        with pytest.raises(LensfindError, match="other keys or values"):
            read(checkpoint, "ab")
    for content in (b"{", b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(LensfindError, match="a damaged file"):
            read(checkpoint, "ab")
    path.unlink()
    path.mkdir()
    with pytest.raises(LensfindError, match="is a directory"):
        read(checkpoint, "ab")


def test_a_folder_that_cannot_be_written(tmp_path):
    found = fit(*draw(400, 7))
    (tmp_path / "file").write_text("")
    with pytest.raises(LensfindError, match="Choose a folder that you may write to"):
        write(found, tmp_path / "file" / "best.ckpt")
    if os.geteuid():  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(LensfindError, match="permission denied"):
            write(found, tmp_path / "best.ckpt")


def test_impossible_calibrations_are_not_made():
    found = fit(*draw(400, 7))
    assert isinstance(found, Calibration)
    for wrong in (
        {"temperature": None},
        {"offset": None},
        {"method": "x"},
        {"n_lenses": 400},
        {"log_odds": (1.0,), "p_lens": (0.5,)},
    ):
        with pytest.raises(ValueError, match="no calibration"):
            replace(found, **wrong)
