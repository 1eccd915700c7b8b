"""Sensitivity probe: how the score moves when one property of a scene changes and the rest of it stays.

After Jacobs et al. 2022 (Astronomy and Computing, arXiv:2112.02479). The scenes are lenses of a simulated store, made
again by their addresses (:mod:`lensfind.simulation.vary`); all finders see the same stamps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from scipy.special import expit

from lensfind.bands import BANDS
from lensfind.errors import LensfindError
from lensfind.evaluation.bootstrap import wilson
from lensfind.finder import LensFinder
from lensfind.simulation.vary import PROPERTIES, Value, Variations, check_value, variations

__all__ = ["check_properties", "choose_ids", "sensitivity"]

Row = dict[str, Any]
Asked = Mapping[str, Sequence[Value]]
Scores = NDArray[np.float64]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f} stamps/s")


def choose_ids(catalogue: Table, n: int, seed: int = 0) -> list[int]:
    """``id`` of ``n`` lenses of a simulated catalogue, drawn without repetition; of all if there are not more.

    Args:
        catalogue: Rows to choose from, with ``id`` and ``label``.
        n: How many, at least 1.
        seed: Of the draw.

    Returns:
        Ascending ids.

    Raises:
        LensfindError: No lens among the rows, no such columns, or an impossible ``n``.
    """
    if type(n) is not int or n < 1:
        raise LensfindError("sensitivity.n of 1 or more lenses", repr(n), "Set sensitivity.n=24.")
    missing = {"id", "label"} - set(catalogue.colnames)
    if missing:
        raise LensfindError(
            "a catalogue with id and label", f"one without {' and '.join(sorted(missing))}", "Set sensitivity.n=0."
        )
    ids = np.asarray(catalogue["id"], dtype=np.int64)[np.asarray(catalogue["label"]) == 1]
    if not len(ids):
        raise LensfindError("lenses to probe", f"none in {len(catalogue)} rows", "Choose rows=all, or sensitivity.n=0.")
    return [int(i) for i in np.sort(np.random.default_rng(seed).permutation(ids)[:n])]


def sensitivity(
    finders: Mapping[str, LensFinder],
    root: str | Path,
    ids: Sequence[int],
    properties: Mapping[str, Sequence[Value] | None] | None = None,
    threshold: float | Mapping[str, float] = 0.5,
    *,
    progress: bool = True,
) -> dict[str, list[Row]]:
    """Score lenses of a simulated store with one property changed, for each property and value.

    Args:
        finders: By name; every stamp is rendered once for all.
        root: The store.
        ids: ``id`` of N lenses in it, see :func:`choose_ids`.
        properties: ``{name: values}`` out of :data:`lensfind.simulation.vary.PROPERTIES`; None for all of them, or as
            values, takes the usual ones. The unchanged value is always among them.
        threshold: A lens is found if P(lens) > threshold; one for all finders, or by name.
        progress: Show a bar with the rate.

    Returns:
        Per finder a row per property: ``property``, ``label``, ``unit``, ``reference`` (the unchanged value), ``n``
        (lenses), and lists over ``values``: ``p_median``, ``p_low``, ``p_high`` (16 and 84 %) of P(lens); ``recall``,
        ``recall_low``, ``recall_high`` (Wilson, 95 %); ``log_odds_median``; ``log_odds_change``, median over the lenses
        of each one's own change. Missing bands are those that any of the finders reads.

    Raises:
        LensfindError: No finder or lens, an object that is no lens, an impossible property or value, or what
            :func:`lensfind.simulation.vary.variations` raises.
    """
    asked = check_properties(properties, list(finders.values()))
    if not ids:
        raise LensfindError("lenses to probe", "none", "Set sensitivity.n=24, or 0 for none.")
    bands = [band for band in BANDS if any(band in finder.bands for finder in finders.values())]
    steps = [(name, value) for name, values in asked.items() for value in values]
    scores: dict[str, dict[tuple[str, Value], list[Scores]]] = {name: {step: [] for step in steps} for name in finders}
    columns = (TextColumn("sensitivity"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("sensitivity", total=len(ids) * len(steps))
        for some in variations(root, ids, bands):
            _check_lenses(some)
            unchanged = {name: _score(name, finder, some.unchanged.stamps) for name, finder in finders.items()}
            for step in steps:
                stamps = some.make(*step).stamps
                for name, finder in finders.items():
                    same = all(np.array_equal(stamps[band], some.unchanged.stamps[band]) for band in finder.bands)
                    scores[name][step].append(unchanged[name] if same else _score(name, finder, stamps))
                bar.advance(task, len(some.ids))
    return {
        name: [
            _row(
                key,
                values,
                np.stack([np.concatenate(scores[name][key, value]) for value in values]),
                threshold if isinstance(threshold, int | float) else threshold[name],
            )
            for key, values in asked.items()
        ]
        for name in finders
    }


def check_properties(properties: Mapping[str, Sequence[Value] | None] | None, finders: Sequence[LensFinder]) -> Asked:
    """Checked values of each property, the reference among them, in order; arguments of :func:`sensitivity`."""
    if not finders:
        raise LensfindError("one or more finders", "none", "Name one with checkpoint=PATH.")
    read = {band for finder in finders for band in finder.bands}
    asked: dict[str, Sequence[Value]] = {}
    for name, values in (dict.fromkeys(PROPERTIES) if properties is None else properties).items():
        check_value(name, PROPERTIES[name].reference if name in PROPERTIES else None)
        one = PROPERTIES[name]
        given = one.values if values is None else values
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise LensfindError(
                f"a list of values of {name}", repr(given), f"Set sensitivity.properties.{name}=[...], or =null."
            )
        checked = {one.reference, *(check_value(name, value) for value in given)}
        if isinstance(one.reference, str):
            asked[name] = [
                value for value in one.values if value in checked and (value == one.reference or value in read)
            ]
        else:
            asked[name] = sorted(checked, key=float)
    return asked


def _check_lenses(some: Variations) -> None:
    wrong = [i for i, label in zip(some.ids, some.catalogue["label"], strict=True) if label != 1]
    if wrong:
        raise LensfindError(
            "lenses to probe", f"object {wrong[0]}, which is none", "Choose ids of rows with label 1 (choose_ids)."
        )


def _score(name: str, finder: LensFinder, stamps: Mapping[str, NDArray[np.float32]]) -> Scores:
    log_odds = finder.log_odds(stamps).numpy()
    if not np.isfinite(log_odds).all():
        raise LensfindError("finite scores", f"NaN or infinite ones by {name}", "Check the checkpoint.")
    return np.asarray(log_odds)


def _row(name: str, values: Sequence[Value], log_odds: Scores, threshold: float) -> Row:
    """The row of one property from the log-odds (values, N)."""
    one, p = PROPERTIES[name], expit(log_odds)
    found = np.count_nonzero(p > threshold, axis=1)
    low, median, high = np.quantile(p, [0.16, 0.5, 0.84], axis=1)
    recall_low, recall_high = wilson(found, p.shape[1])
    change = log_odds - log_odds[list(values).index(one.reference)]
    lists = {
        "p_median": median,
        "p_low": low,
        "p_high": high,
        "recall": found / p.shape[1],
        "recall_low": recall_low,
        "recall_high": recall_high,
        "log_odds_median": np.median(log_odds, axis=1),
        "log_odds_change": np.median(change, axis=1),
    }
    head = {"property": name, "label": one.label, "unit": one.unit, "reference": one.reference, "n": p.shape[1]}
    return head | {"values": list(values)} | {key: value.tolist() for key, value in lists.items()}
