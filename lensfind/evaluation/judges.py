"""Judges: networks and their ensembles, each with a threshold and, on request, a calibration, both of validation rows.

What is chosen here is chosen on validation rows, never on those that are evaluated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import expit

from lensfind.errors import LensfindError
from lensfind.evaluation.agreement import ensembles
from lensfind.evaluation.calibration import METHODS, Calibration, apply, fit, read, stored_at, write
from lensfind.evaluation.predict import Predictions
from lensfind.evaluation.threshold import choose_threshold
from lensfind.inputs import Network

__all__ = ["Judge", "Scored", "appoint", "check_calibration", "check_threshold", "needed", "voices"]

DEFAULT = 0.5


@dataclass(frozen=True)
class Judge:
    """A network or an ensemble.

    Attributes:
        name: Unique.
        network: None for an ensemble.
        members: Names of an ensemble's networks; empty for a network.
        threshold: Found is P(lens) > threshold.
        threshold_from: Where the threshold comes from, in words.
        calibration: Of ``log_odds``; None where none was asked for.
        calibrated_at: File of the calibration.
    """

    name: str
    network: Network | None
    members: tuple[str, ...]
    threshold: float
    threshold_from: str
    calibration: Calibration | None = None
    calibrated_at: str | None = None


@dataclass(frozen=True)
class Scored:
    """What a judge says of N objects: ``log_odds``, ``label``, ``row`` (N,), and their ``catalogue``, N rows."""

    judge: Judge
    log_odds: NDArray[np.float64]
    label: NDArray[np.int64]
    row: NDArray[np.int64]
    catalogue: Table

    @cached_property
    def p_lens(self) -> NDArray[np.float64]:
        """P(lens), (N,)."""
        return np.asarray(expit(self.log_odds))

    @cached_property
    def found(self) -> NDArray[np.bool_]:
        """P(lens) above the threshold, (N,)."""
        return np.asarray(self.p_lens > self.judge.threshold)

    @property
    def lens(self) -> NDArray[np.bool_]:
        """Lenses by their label, (N,)."""
        return np.asarray(self.label == 1)

    @cached_property
    def p_calibrated(self) -> NDArray[np.float64] | None:
        """P(lens) by the judge's calibration, (N,); None without one."""
        return None if self.judge.calibration is None else apply(self.judge.calibration, self.log_odds)


def voices(networks: Sequence[Network], log_odds: NDArray[np.float64]) -> list[tuple[str, NDArray[np.float64]]]:
    """Name and log-odds (N,) of each network, then, of two or more, of their ensembles.

    Args:
        networks: K.
        log_odds: (K, N).
    """
    own = [(network.name, scores) for network, scores in zip(networks, log_odds, strict=True)]
    return own + ([(name, odds) for name, (_, odds) in ensembles(log_odds).items()] if len(own) > 1 else [])


def appoint(
    networks: Sequence[Network],
    validation: Predictions | None,
    *,
    threshold: Any = None,
    calibration: str | None = None,
    prevalence: float = 5e-4,
    data: str = "",
) -> list[Judge]:
    """One judge per voice of :func:`voices`.

    Args:
        networks: K.
        validation: Their scores of the validation rows, if there are any apart from the rows to evaluate.
        threshold: A number; ``"f1"``, ``{"fpr": x}`` or ``{"purity": x, ...}`` (:func:`choose_threshold`); None takes
            f1 where there are validation rows with both classes, else 0.5.
        calibration: ``"temperature"`` or ``"isotonic"`` fits one and writes it beside each checkpoint; ``"stored"``
            reads it there; None has none. Ensembles, which have no checkpoint, get none.
        prevalence: Of the survey, at which a purity is asked for.
        data: Names the validation rows in the stored calibration.

    Raises:
        LensfindError: A choice or fit needs validation rows and there are none; or see the parts.
    """
    check_threshold(threshold)
    check_calibration(calibration)
    n = 0 if validation is None else len(validation.label)
    needed(n, "threshold", threshold)
    needed(n, "calibration", calibration)
    judges = []
    spoken = voices(networks, np.zeros((len(networks), 0)) if validation is None else validation.log_odds)
    for k, (name, log_odds) in enumerate(spoken):
        network = networks[k] if k < len(networks) else None
        chosen, source = _threshold(threshold, validation, log_odds, prevalence)
        fitted, place = None, None
        if network is not None and calibration == "stored":
            fitted, place = read(network.path, network.sha256), str(stored_at(network.path))
        elif network is not None and calibration is not None:
            assert validation is not None
            try:
                fitted = fit(validation.label, log_odds, calibration, checkpoint_sha256=network.sha256, data=data)
            except LensfindError as error:
                expected, got, do = error.args
                raise LensfindError(f"{expected} for {name}", got, do) from error
            place = str(_store(fitted, network.path))
        members = () if network is not None else tuple(one.name for one in networks)
        judges.append(Judge(name, network, members, chosen, source, fitted, place))
    return judges


def check_calibration(calibration: Any) -> None:
    """Refuse another word than ``temperature``, ``isotonic``, ``stored`` and None."""
    if calibration not in (None, "stored", *METHODS):
        raise LensfindError(
            f"calibration out of {', '.join(METHODS)}, stored, or null", repr(calibration), "Set calibration=null."
        )


def check_threshold(threshold: Any) -> None:
    """Refuse what is neither a number in [0, 1] nor a goal."""
    if (
        threshold is None
        or threshold == "f1"
        or (isinstance(threshold, Mapping) and set(threshold) & {"fpr", "purity"})
    ):
        return
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not number or not 0 <= threshold <= 1:
        raise LensfindError(
            "threshold as a number from 0 to 1, f1, {fpr: x}, {purity: x}, or null",
            repr(threshold),
            "Set threshold=0.5.",
        )


def needed(validation: int, key: str, value: Any) -> None:
    """Refuse a choice or fit that needs validation rows where there are none.

    Args:
        validation: Number of validation rows apart from the rows to evaluate.
        key: ``"threshold"`` or ``"calibration"``.
        value: What it is set to.
    """
    free = (None, "stored") if key == "calibration" else (None,)
    if not validation and value not in free and not (key == "threshold" and isinstance(value, int | float)):
        raise LensfindError(
            f"validation rows for {key}={value}, apart from the rows to evaluate",
            "none",
            "Evaluate rows=test of data with a split (split=fraction), or set "
            + ("calibration=stored." if key == "calibration" else "threshold=0.5."),
        )


def _threshold(
    asked: Any, validation: Predictions | None, log_odds: NDArray[np.float64], prevalence: float
) -> tuple[float, str]:
    """The threshold of one voice, and where it comes from."""
    if isinstance(asked, int | float) and not isinstance(asked, bool):
        return float(asked), "given"
    if asked is None and (validation is None or not 0 < validation.label.sum() < len(validation.label)):
        return DEFAULT, "the usual 0.5: there are no validation rows of both classes to choose it on"
    goal: str | Mapping[str, float] = "f1" if asked is None else asked
    assert validation is not None
    if isinstance(goal, Mapping) and "purity" in goal:
        goal = {"prevalence": prevalence} | dict(goal)
    named = ", ".join(f"{k} {v:g}" for k, v in goal.items()) if isinstance(goal, Mapping) else "highest F1"
    return choose_threshold(
        validation.label, expit(log_odds), goal
    ), f"{named} on {len(validation.label)} validation rows"


def _store(calibration: Calibration, checkpoint: Path) -> Path:
    try:
        return write(calibration, checkpoint)
    except LensfindError as error:
        expected, got, _ = error.args
        raise LensfindError(
            f"to store the calibration beside {checkpoint} ({expected})",
            got,
            "Copy the checkpoint to a folder that you may write to, or set calibration=null.",
        ) from error
