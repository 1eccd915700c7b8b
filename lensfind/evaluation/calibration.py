"""Calibration: P(lens) that mean what they say, fitted on validation, kept beside the checkpoint."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, log_expit

from lensfind.errors import LensfindError
from lensfind.files import write_file

__all__ = ["METHODS", "Calibration", "apply", "fit", "read", "stored_at", "to_prevalence", "write"]

METHODS = ("temperature", "isotonic")
FEWEST = 10
"""Lenses, and non-lenses, below which nothing is fitted."""
_RANGE = (0.01, 100.0)
"""Temperatures that are looked for."""
_FORMAT = "lensfind-calibration"


@dataclass(frozen=True)
class Calibration:
    """A monotone map of log-odds to P(lens), and on what it was fitted.

    Attributes:
        method: ``"temperature"`` or ``"isotonic"``.
        temperature: P = 1 / (1 + exp(-log_odds / temperature - offset)); None for isotonic.
        offset: Shift of the log-odds from the mix of lenses and non-lenses that the network was trained on to that of
            the fit; None for isotonic.
        log_odds: Knots of the isotonic map, rising; empty for temperature.
        p_lens: P(lens) at the knots, never falling, inside (0, 1); straight between, level outside.
        n: Objects of the fit.
        n_lenses: Lenses among them.
        checkpoint_sha256: Of the network whose log-odds it maps.
        data: On what it was fitted, for people.
    """

    method: str
    temperature: float | None
    offset: float | None
    log_odds: tuple[float, ...]
    p_lens: tuple[float, ...]
    n: int
    n_lenses: int
    checkpoint_sha256: str
    data: str

    @property
    def prevalence(self) -> float:
        """Share of lenses in the fit, which the calibrated P(lens) assume; see :func:`to_prevalence`."""
        return self.n_lenses / self.n

    def __post_init__(self) -> None:
        """Raise ValueError if the values cannot be a calibration."""
        knots, p = np.asarray(self.log_odds, dtype=np.float64), np.asarray(self.p_lens, dtype=np.float64)
        if self.method == "temperature":
            good = self.temperature is not None and 0 < self.temperature < np.inf and not len(knots) and not len(p)
            good = good and self.offset is not None and bool(np.isfinite(self.offset))
        else:
            good = self.method == "isotonic" and self.temperature is None and self.offset is None
            good = good and len(knots) == len(p) > 0
            good = good and bool(np.isfinite(knots).all() and (np.diff(knots) > 0).all())
            good = good and bool(((p > 0) & (p < 1)).all() and (np.diff(p) >= 0).all())
        if not good or not 0 < self.n_lenses < self.n:
            raise ValueError(f"no calibration by {self.method}")


def fit(
    label: ArrayLike, log_odds: ArrayLike, method: str = "temperature", *, checkpoint_sha256: str = "", data: str = ""
) -> Calibration:
    """The map of log-odds to P(lens) that suits these objects best, meant to be those of the validation split.

    Temperature (Guo et al. 2017, arXiv:1706.04599, sec. 4.2): the divisor of the log-odds with the least negative
    log-likelihood, and in the same likelihood an offset (so that it is Platt's 1999 scaling with a rising line): a
    divisor alone cannot change the prior of training into that of these objects, which mean P(lens) then equals. It
    keeps the ranking. Isotonic (Zadrozny & Elkan 2002): the least-squares rising step function, its
    steps joined by straight lines in log-odds; it can mend any shape but ties what it levels. Shares of 0 and 1 are
    drawn in by half an object of the step, (lenses + 1/2) / (n + 1), since no validation set shows a certainty and
    log-odds must stay finite.

    Args:
        label: (N,), 0 or 1; at least ten of each.
        log_odds: (N,), finite log-odds of a lens.
        method: ``"temperature"`` or ``"isotonic"``.
        checkpoint_sha256: Of the network.
        data: On what it is fitted, for people.

    Raises:
        LensfindError: The method is unknown, lengths differ, labels are not 0 or 1, log-odds are not finite, there are
            fewer than ten of a class, or no temperature from 0.01 to 100 fits.
    """
    truth, odds = np.asarray(label), np.asarray(log_odds, dtype=np.float64)
    if method not in METHODS:
        raise LensfindError(f"a calibration out of {', '.join(METHODS)}", repr(method), "Set calibration=temperature.")
    if truth.ndim != 1 or truth.shape != odds.shape or not np.isin(truth, (0, 1)).all():
        raise LensfindError(
            "labels 0 or 1 and as many log-odds",
            f"labels {truth.shape} out of {np.unique(truth)[:5].tolist()}, log-odds {odds.shape}",
            "Give one label and one log-odds per object.",
        )
    if wrong := int((~np.isfinite(odds)).sum()):
        raise LensfindError(
            "finite log-odds",
            f"{odds[~np.isfinite(odds)][0]} ({wrong} of {odds.size} are not finite)",
            "Take them from the logits, not from P(lens) of 0 or 1 (lensfind.evaluation.predict).",
        )
    truth = truth.astype(np.float64)
    n_lenses = int(truth.sum())
    if min(n_lenses, truth.size - n_lenses) < FEWEST:
        raise LensfindError(
            f"at least {FEWEST} lenses and {FEWEST} non-lenses to calibrate on",
            f"{n_lenses} lenses and {truth.size - n_lenses} non-lenses",
            "Use more validation rows, or go without (calibration=null).",
        )
    temperature, offset, knots, p = None, None, np.empty(0), np.empty(0)
    if method == "temperature":
        temperature, offset = _temperature(truth, odds)
    else:
        knots, p = _isotonic(truth, odds)
    steps = tuple(knots.tolist()), tuple(p.tolist())
    return Calibration(method, temperature, offset, *steps, truth.size, n_lenses, checkpoint_sha256, data)


def apply(calibration: Calibration, log_odds: ArrayLike) -> NDArray[np.float64]:
    """Calibrated P(lens) of log-odds of any shape; NaN stays NaN."""
    odds = np.asarray(log_odds, dtype=np.float64)
    if calibration.temperature is not None and calibration.offset is not None:
        return np.asarray(expit(odds / calibration.temperature + calibration.offset))
    return np.asarray(np.interp(odds, calibration.log_odds, calibration.p_lens), dtype=np.float64)


def to_prevalence(p_lens: ArrayLike, from_prevalence: float, to_prevalence: float) -> NDArray[np.float64]:
    """Calibrated P(lens) where lenses are rarer or commoner than where it was calibrated; the ranking stays.

    Saerens, Latinne & Decaestecker 2002 (Neural Comput. 14, 21), eq. 4. It holds if lenses look like lenses and
    non-lenses like non-lenses in both places: only their numbers may differ.

    Args:
        p_lens: Any shape, in [0, 1].
        from_prevalence: Share of lenses that ``p_lens`` assumes (:attr:`Calibration.prevalence`).
        to_prevalence: Share of lenses in the survey.

    Raises:
        LensfindError: A prevalence is not between 0 and 1, or a P(lens) not in [0, 1].
    """
    for prevalence in (from_prevalence, to_prevalence):
        if not 0 < prevalence < 1:
            raise LensfindError("a prevalence between 0 and 1", repr(prevalence), "Set survey.prevalence=5e-4.")
    p = np.asarray(p_lens, dtype=np.float64)
    if wrong := int((~((p >= 0) & (p <= 1))).sum()):
        raise LensfindError(
            "P(lens) in [0, 1]", f"{wrong} of {p.size} that are not", "Give calibrated probabilities, not log-odds."
        )
    lens = p * (to_prevalence / from_prevalence)
    return np.asarray(lens / (lens + (1 - p) * ((1 - to_prevalence) / (1 - from_prevalence))), dtype=np.float64)


def stored_at(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint stands: ``best.calibration.json`` beside ``best.ckpt``."""
    return checkpoint.with_name(f"{checkpoint.stem}.calibration.json")


def write(calibration: Calibration, checkpoint: Path) -> Path:
    """Write a calibration beside its checkpoint, whole or not at all.

    Returns:
        The file, :func:`stored_at`.

    Raises:
        LensfindError: The folder cannot be written or the disk is full.
    """
    path = stored_at(checkpoint)
    content = {"format": _FORMAT, "version": 1, **asdict(calibration)}
    write_file(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path


def read(checkpoint: Path, sha256: str) -> Calibration:
    """The calibration beside a checkpoint.

    Args:
        checkpoint: The network's file.
        sha256: Its hash, which the calibration must name.

    Raises:
        LensfindError: There is none, it is damaged, or it belongs to another network.
    """
    path = stored_at(checkpoint)
    again = "Fit it again (calibration=temperature) on the validation split."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LensfindError(f"a calibration at {path}", "no such file", again) from error
    except OSError as error:
        got = str(error.strerror or error).lower()
        raise LensfindError(f"to read {path}", got, "Make it readable for you.") from error
    except ValueError as error:  # neither JSON nor UTF-8
        raise LensfindError(f"a calibration in JSON at {path}", f"a damaged file ({error})", again) from error
    found = _parsed(content)
    if found is None:
        raise LensfindError(f"a {_FORMAT} of version 1 at {path}", "other keys or values", again)
    if found.checkpoint_sha256 != sha256:
        raise LensfindError(
            f"a calibration of {checkpoint.name} with sha256 {sha256[:12]}",
            f"one of another network, {found.checkpoint_sha256[:12] or 'unnamed'}",
            again,
        )
    return found


def _parsed(content: Any) -> Calibration | None:
    """A calibration out of JSON, None if it is none."""
    match content:
        case {
            "format": "lensfind-calibration",
            "version": 1,
            "method": str(method),
            "temperature": (float() | int() | None) as temperature,
            "offset": (float() | int() | None) as offset,
            "log_odds": list(log_odds),
            "p_lens": list(p_lens),
            "n": int(n),
            "n_lenses": int(n_lenses),
            "checkpoint_sha256": str(sha256),
            "data": str(data),
        } if all(isinstance(value, float | int) for value in (*log_odds, *p_lens)):
            try:
                steps = tuple(log_odds), tuple(p_lens)
                return Calibration(method, temperature, offset, *steps, n, n_lenses, sha256, data)
            except (ValueError, OverflowError):
                return None
    return None


def _temperature(truth: NDArray[np.float64], odds: NDArray[np.float64]) -> tuple[float, float]:
    """Temperature and offset of the highest likelihood."""
    if odds.min() < odds.max() and odds[truth == 1].min() >= odds[truth == 0].max():
        raise _unfit(odds, "separate the classes perfectly")
    centre, width = float(odds.mean()), float(odds.std()) or 1.0
    x, sign = (odds - centre) / width, 2 * truth - 1

    def loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = line[0] * x + line[1]
        wrong = expit(logit) - truth
        return -log_expit(sign * logit).mean(), np.array([(wrong * x).mean(), wrong.mean()])

    def curvature(line: NDArray[np.float64]) -> NDArray[np.float64]:
        p = expit(line[0] * x + line[1])
        weight = p * (1 - p)
        cross = (weight * x).mean()
        return np.array([[(weight * x * x).mean(), cross], [cross, weight.mean()]])

    best = minimize(loss, np.zeros(2), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-8})
    slope = float(best.x[0]) / width
    if not slope * _RANGE[1] > 1:
        raise _unfit(odds, "tell nothing, or rank lenses below non-lenses")
    if not slope * _RANGE[0] < 1:
        raise _unfit(odds, "hardly differ, or separate the classes almost perfectly")
    return 1 / slope, float(best.x[1]) - slope * centre


def _unfit(odds: NDArray[np.float64], why: str) -> LensfindError:
    return LensfindError(
        f"a best temperature between {_RANGE[0]:g} and {_RANGE[1]:g}",
        f"none: the log-odds of these {len(odds)} objects {why}",
        "Use more validation rows, or calibration=isotonic.",
    )


def _isotonic(truth: NDArray[np.float64], odds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, group = np.unique(odds, return_inverse=True)
    n = np.bincount(group).astype(np.float64)
    result = isotonic_regression(np.bincount(group, truth) / n, weights=n)
    starts, ends = result.blocks[:-1], result.blocks[1:] - 1
    size = result.weights
    share = np.clip(result.x[starts], 0.5 / (size + 1), (size + 0.5) / (size + 1))
    # Clipping by the size of the step may turn two neighbours round: the outer one yields.
    inner = (result.x[starts] > 0) & (result.x[starts] < 1)
    if inner.any():
        share = np.where(result.x[starts] == 0, np.minimum(share, share[inner].min()), share)
        share = np.where(result.x[starts] == 1, np.maximum(share, share[inner].max()), share)
    # Each step has a knot at either end (one, if it is a single value); between steps the line is straight.
    ends = ends[values[ends] > values[starts]]
    at = np.concatenate([starts, ends])
    order = np.argsort(at, kind="stable")
    step = np.searchsorted(starts, at[order], side="right") - 1
    return values[at[order]], share[step]
