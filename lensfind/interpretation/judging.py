"""The page of ``faithfulness``: which lenses are judged, with which settings, and what it writes."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfind.errors import LensfindError
from lensfind.interpretation import drawing
from lensfind.interpretation.faithfulness import METHODS, Truth
from lensfind.interpretation.pages import NOTES, Session, judged_as

__all__ = ["faithfulness"]


def faithfulness(session: Session, name: str, method: partial[Any]) -> None:
    """The table, the figure, and a sentence per method."""
    settings = dict(method.keywords)
    number, localise = settings.pop("n", 8), settings.pop("localisation", None)
    for key, value, least in (("n", number, 1), ("seed", settings.get("seed", 0), 0)):
        if type(value) is not int or value < least:
            raise LensfindError(
                f"{key} of {least} or more", f"{key}={value!r}", f"Set method.faithfulness.{key}={least}."
            )
    if localise not in (True, False, None):
        raise LensfindError(
            "localisation to be true, false or null", repr(localise), "Set method.faithfulness.localisation=null."
        )
    has_masks = localise is not False and "MASK" in session.data.store.planes
    rows = _lenses(session, number, int(settings.get("seed", 0)), has_masks)
    truth = None if localise is False else _truth(session, rows, required=bool(localise))
    stamps = session.data.store.read(rows, session.finder.bands)
    own = _settings(session, settings.pop("settings", None) or {})
    verdicts = method.func(session.finder, stamps, truth, settings=own, **settings, progress=True)
    for verdict in verdicts:
        session.verdicts[judged_as(verdict.method, own.get(verdict.method, {}))] = verdict
    session.notes[name] = NOTES[name] + f" Over {len(rows)} lenses that the network finds.\n"
    if any(verdict.method == "occlusion" for verdict in verdicts):
        session.notes[name] += "The occlusion judged is not the one that is drawn: see the column settings.\n"
    session.notes[name] += "\n".join(verdict.sentence() for verdict in verdicts)
    session.table(name, name, [verdict.row() for verdict in verdicts])
    ids = np.asarray(session.data.catalogue["id"])[rows]
    caption = f"{len(rows)} lenses: {', '.join(map(str, ids))}."
    session.figure(name, name, drawing.judgement(verdicts), caption)
    for verdict in verdicts:
        session.say(verdict.sentence())


def _settings(session: Session, given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of every method: those it has in this run, and over them those that faithfulness was given.

    Towards a lens always, which is what the tests are about. Occlusion is judged with squares of its own: those of
    the paper cost thousands of maps of thousands of squares.
    """
    drawn = {
        key: {k: v for k, v in settings.items() if k != "target"}
        for key, settings in session.settings.items()
        if key in METHODS and key != "occlusion"
    }
    return {key: {**drawn.get(key, {}), **(given.get(key) or {})} for key in {**drawn, **given}}


def _lenses(session: Session, n: int, seed: int, localise: bool) -> NDArray[np.int64]:
    """Those of the ids asked for that are lenses with P(lens) > 0.5; without ids up to n such, drawn by the seed."""
    found = (session.labels == 1) & (session.p_lens > 0.5)
    chosen = session.rows[found] if session.asked else session.rows[:0]
    if session.asked and not found.all():
        left = ", ".join(str(number) for number in session.ids[~found])
        session.say(f"faithfulness: not judged, since no lenses with P(lens) > 0.5: {left}")
    pool = session.some[session.data.labels[session.some] == 1]
    for row in [] if session.asked else np.random.default_rng(seed).permutation(pool):
        if len(chosen) >= n:
            break
        if localise and not session.data.store.read([row], ["MASK"])["MASK"].any():
            continue
        stamp = session.data.store.read([row], session.finder.bands)
        if float(session.finder.predict_proba(stamp)[0]) > 0.5:
            chosen = np.append(chosen, row)
    if not len(chosen):
        raise LensfindError(
            f"lenses with P(lens) > 0.5 for {session.name} to explain",
            f"none in {session.data.store.root}",
            "Choose rows=all, other data, or another checkpoint.",
        )
    return np.asarray(chosen)


def _truth(session: Session, rows: NDArray[np.int64], *, required: bool) -> Truth | None:
    store = session.data.store
    if "MASK" not in store.planes:
        if required:
            raise LensfindError(
                "data with the simulator's truth plane MASK, for localisation on the arc",
                f"{store.root} with {', '.join(store.planes) or 'no planes'}",
                "Simulate such data (simulate.py scenario=twin), or set method.faithfulness.localisation=false.",
            )
        session.say(f"faithfulness: {store.root} has no plane MASK, so nothing is said about arcs and twins")
        return None
    masks = store.read(rows, ["MASK"])["MASK"] > 0
    return Truth(masks, _twins(session, rows))


def _twins(session: Session, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]] | None:
    """Stamps of the same lenses without their sources: same ``pair``, other label."""
    catalogue, twins = session.data.catalogue, []
    if "pair" in catalogue.colnames:
        pair = np.ma.filled(np.ma.asarray(catalogue["pair"]), -1)
        for row in rows:
            found = np.flatnonzero((pair == pair[row]) & (session.data.labels == 0) & (pair != -1))
            twins += found[:1].tolist()
    if len(twins) < len(rows):
        session.say(f"faithfulness: {len(twins)} of {len(rows)} lenses have a twin (column pair), so (d) is left out")
        return None
    return dict(session.data.store.read(twins, session.finder.bands))
