"""The app ``evaluate``: every question to every network on one pass over the data, then the files."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from lensfind.bands import BANDS
from lensfind.dashboard import finish, send_evaluation, wandb_logger
from lensfind.data import LensData
from lensfind.errors import LensfindError
from lensfind.evaluation.agreement import agreement
from lensfind.evaluation.calibration import read
from lensfind.evaluation.folder import versions, write_folder
from lensfind.evaluation.judges import Judge, Scored, appoint, check_calibration, check_threshold, needed, voices
from lensfind.evaluation.mistakes import false_positives
from lensfind.evaluation.predict import Predictions, predict
from lensfind.evaluation.predictions import FORMATS
from lensfind.evaluation.rare import matched, recall_row
from lensfind.evaluation.scores import checked_survey, reliability, scores
from lensfind.evaluation.selection import Selection, selection_function
from lensfind.evaluation.sensitivity import check_properties, choose_ids, sensitivity
from lensfind.finder import LensFinder
from lensfind.inputs import Network, rows_of, seen
from lensfind.simulation.make import simulated_store

__all__ = ["run_evaluation"]

RARE = ("single_lens", "compound_arc", "double_ring")


def run_evaluation(cfg: DictConfig, networks: Sequence[Network], open_data: Callable[[], LensData]) -> dict[str, Any]:
    """Answer what ``conf/evaluate.yaml`` asks, and write it into ``cfg.output_dir``.

    Args:
        cfg: ``conf/evaluate.yaml``, composed by Hydra.
        networks: On their device.
        open_data: Gives the data, set up; called once the settings have been checked.

    Returns:
        What stands in ``metrics.json``.

    Raises:
        LensfindError: A setting, or see the parts; before anything is scored where that can be known.
    """
    asked: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]
        for key in (
            "rows",
            "threshold",
            "calibration",
            "survey",
            "bootstrap",
            "selection",
            "sensitivity",
            "predictions",
        )
    }
    _check(asked, Path(cfg.output_dir))
    logger = wandb_logger(cfg)
    exit_code = 1
    try:
        data = open_data()
        content, every, selections = _answers(asked, cfg, networks, data)
        folder = Path(cfg.output_dir)
        pictures = write_folder(folder, content, every, selections, data, suffix=asked["predictions"])
        if logger is not None:
            send_evaluation(logger, content, {path.stem: path for path in pictures})
        exit_code = 0
    finally:
        if logger is not None:
            finish(logger, exit_code)
    return content


def _check(asked: Mapping[str, Any], folder: Path) -> None:
    """Refuse at once what would fail only after hours of scoring."""
    for key in ("survey", "bootstrap", "selection", "sensitivity"):
        if not isinstance(asked[key], Mapping):
            raise LensfindError(f"{key} with its keys", repr(asked[key]), f"Leave {key} out, or set {key}.KEY=VALUE.")
    survey, bootstrap, form = asked["survey"], asked["bootstrap"], str(asked["predictions"])
    checked_survey(survey["prevalence"], survey["n_objects"], survey["top"], bootstrap["resamples"], bootstrap["seed"])
    check_threshold(asked["threshold"])
    check_calibration(asked["calibration"])
    if f".{form}" not in FORMATS:
        raise LensfindError(f"predictions out of {', '.join(one[1:] for one in FORMATS)}", form, "Set predictions=csv.")
    if (folder / "checkpoints").is_dir():
        raise LensfindError(
            "a folder of its own for the evaluation", f"the run in {folder}", "Choose another: hydra.run.dir=DIR."
        )


def _answers(
    asked: Mapping[str, Any], cfg: DictConfig, networks: Sequence[Network], data: LensData
) -> tuple[dict[str, Any], list[Scored], dict[str, Selection]]:
    """The content of ``metrics.json``, and what the files beside it are made of."""
    rows = rows_of(asked["rows"], data)
    if not len(rows):
        raise LensfindError(
            f"rows of the split {asked['rows']}", f"none in {data.store.root}", "Choose rows=all or another split."
        )
    finders = [network.finder for network in networks]
    every_row = len(rows) == len(data.catalogue) and bool((np.diff(rows) == 1).all())
    catalogue = data.catalogue if every_row else data.catalogue[rows]  # a million rows are half a gigabyte
    lens = data.labels[rows] == 1
    lenses = catalogue[lens]
    if lens.any():  # a property that is not there is named before the scoring
        selection_function(lenses, np.zeros(len(lenses), dtype=np.bool_), **asked["selection"])
    probed = _probed(asked["sensitivity"], finders, data, rows)
    sets = _rare_sets(cfg, networks)
    apart = data.rows("val") if asked["rows"] in ("train", "test") else rows[:0]
    settings = {"threshold": asked["threshold"], "calibration": asked["calibration"]}
    for key, value in settings.items():
        needed(len(apart), key, value)
    for network in networks if asked["calibration"] == "stored" else ():
        read(network.path, network.sha256)
    validation = predict(finders, data.loader(apart), what="validation rows") if len(apart) else None
    prevalence, sha256 = asked["survey"]["prevalence"], data.store.sha256
    judges = appoint(networks, validation, prevalence=prevalence, data=sha256, **settings)
    found = predict(finders, data.loader(rows))
    every = _scored(judges, networks, found, catalogue)
    selections = (
        {one.judge.name: selection_function(lenses, one.found[lens], **asked["selection"]) for one in every}
        if lens.any()
        else {}
    )
    rare = _rare(sets, networks, judges, every)
    probe: dict[str, list[dict[str, Any]]] = {}
    if probed:
        named = {network.name: network.finder for network in networks}
        thresholds = {judge.name: judge.threshold for judge in judges}
        probe = sensitivity(named, data.store.root, probed, asked["sensitivity"]["properties"], thresholds)
    content = {
        "app": "evaluate",
        "data": _about(data, asked["rows"], rows, catalogue),
        "warnings": _warnings(networks, judges, data, rows),
        "survey": asked["survey"],
        "bootstrap": {**asked["bootstrap"], "level": 0.95},
        "networks": [
            _who(one.judge)
            | _measured(one, asked)
            | _completeness(selections.get(one.judge.name))
            | {"rare": rare[one.judge.name], "sensitivity": probe.get(one.judge.name, [])}
            for one in every
        ],
        "agreement": agreement(
            {one.judge.name: one.log_odds for one in every}, {one.judge.name: one.found for one in every}
        ),
        "properties": _properties(selections),
        "versions": versions(),
    }
    return content, every, selections


def _warnings(
    networks: Sequence[Network], judges: Sequence[Judge], data: LensData, rows: NDArray[np.int64]
) -> list[str]:
    """What makes the scores look better than they are: rows that a network, or its calibration, was fitted to."""
    warnings = []
    splits = seen(networks, data)
    for judge in judges:
        parts = splits[judge.name][rows] if judge.name in splits else np.empty(0, dtype="U1")
        trained = int((parts == "train").sum())
        if trained:
            warnings.append(f"{judge.name} was trained on {trained} of these objects: its scores are too good.")
        own = judge.calibration is not None and judge.calibration.data == data.store.sha256
        if own and (parts == "val").any():
            warnings.append(f"The calibration of {judge.name} was fitted on some of these objects.")
    return warnings


def _scored(judges: Sequence[Judge], networks: Sequence[Network], found: Predictions, catalogue: Table) -> list[Scored]:
    heard = voices(networks, found.log_odds)
    return [
        Scored(judge, odds, found.label, found.row, catalogue) for judge, (_, odds) in zip(judges, heard, strict=True)
    ]


def _who(judge: Judge) -> dict[str, Any]:
    network = judge.network
    finder = None if network is None else network.finder
    return {
        "name": judge.name,
        "checkpoint": None if network is None else str(network.path.resolve()),
        "sha256": None if network is None else network.sha256,
        "source": None if finder is None else finder.provenance.get("source"),
        "bands": None if finder is None else list(finder.bands),
        "n_parameters": None if finder is None else finder.n_parameters,
        "ensemble_of": list(judge.members) or None,
        "threshold": judge.threshold,
        "threshold_from": judge.threshold_from,
    }


def _measured(one: Scored, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Scores with intervals, reliability, false positives by kind, and the scores that calibration changes."""
    survey = asked["survey"]
    settings = {"prevalence": survey["prevalence"], "survey": survey["n_objects"], "top": survey["top"]}
    settings |= asked["bootstrap"]
    measured = scores(one.label, one.p_lens, one.judge.threshold, progress=True, **settings)
    calibration: dict[str, Any] | None = None
    fitted = one.judge.calibration
    if fitted is not None and one.p_calibrated is not None:
        after = scores(one.label, one.p_calibrated, only=("ece", "brier"), progress=True, **settings)
        calibration = {
            "method": fitted.method,
            "temperature": fitted.temperature,
            "offset": fitted.offset,
            "n": fitted.n,
            "n_lenses": fitted.n_lenses,
            "prevalence": fitted.prevalence,
            "stored": one.judge.calibrated_at,
            "metrics": {key: after.values[key] for key in ("ece", "brier")},
            "intervals": {key: after.intervals[key] for key in ("ece", "brier")},
            "reliability": reliability(one.label, one.p_calibrated),
        }
    return {
        "metrics": measured.values,
        "intervals": measured.intervals,
        "undefined": measured.undefined,
        "limits": measured.limits,
        "reliability": reliability(one.label, one.p_lens),
        "calibration": calibration,
        "false_positives": false_positives(one.catalogue, one.label, one.found),
    }


def _completeness(selection: Selection | None) -> dict[str, Any]:
    if selection is None:
        return {"selection": {"properties": [], "missing": {}}, "completeness": {}}
    tables = {name: selection.tables[name] for name in selection.properties}
    return {
        "selection": {"properties": list(tables), "missing": selection.missing},
        "completeness": {
            name: [
                {key: None if np.ma.is_masked(row[key]) else row[key].item() for key in table.colnames} for row in table
            ]
            for name, table in tables.items()
        },
    }


def _properties(selections: Mapping[str, Selection]) -> dict[str, Any]:
    """Label and unit of every property that completeness was counted against."""
    tables = {
        name: table for one in selections.values() for name, table in one.tables.items() if name in one.properties
    }
    return {
        name: {"label": table.meta["label"][0], "unit": str(table["low"].unit or "") or None}
        for name, table in tables.items()
    }


def _about(data: LensData, rows: str, chosen: NDArray[np.int64], catalogue: Table) -> dict[str, Any]:
    made_by, lenses = data.store.manifest["made_by"], int(data.labels[chosen].sum())
    scenario = made_by.get("scenario")
    return {
        "root": str(data.store.root),
        "rows": rows,
        "n_objects": len(chosen),
        "n_lenses": lenses,
        "n_nonlenses": len(chosen) - lenses,
        "manifest_sha256": data.store.sha256,
        "made_by": {
            "app": made_by.get("app"),
            "scenario": scenario.get("name") if isinstance(scenario, Mapping) else scenario,
            "n": made_by.get("n"),
            "seed": made_by.get("seed"),
        },
        "kinds": dict(Counter(np.asarray(catalogue["kind"]).astype(str).tolist()))
        if "kind" in catalogue.colnames
        else {},
    }


def _probed(
    asked: Mapping[str, Any], finders: Sequence[LensFinder], data: LensData, rows: NDArray[np.int64]
) -> list[int]:
    """Ids of the lenses to make again; empty if none are asked for."""
    if asked["n"] == 0:
        return []
    check_properties(asked["properties"], finders)
    ids = choose_ids(data.store.catalogue[["id", "label"]][rows], asked["n"], asked["seed"])
    simulated_store(data.store.root, ids)
    return ids


def _rare_sets(cfg: DictConfig, networks: Sequence[Network]) -> dict[str, LensData]:
    """The sets of ``cfg.rare`` that are asked for, made and opened."""
    sets = {}
    for name in RARE:
        settings: dict[str, Any] = OmegaConf.to_container(cfg.rare[name], resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        if settings["n"] == 0 and settings["root"] is None:
            continue
        bands = [band for band in BANDS if any(band in network.finder.bands for network in networks)]
        if settings["n"] == 0:
            data = LensData(settings["root"], bands, split={"kind": "none"}, batch_size=settings["batch_size"])
        else:
            data = instantiate(settings, bands=bands, split={"kind": "none"}, _convert_="all")
        data.prepare_data()
        data.setup("test")
        if not (data.labels == 1).any():
            raise LensfindError(
                f"lenses in the set {name}", f"none in {data.root}", f"Name another set, or set rare.{name}.n=0."
            )
        sets[name] = data
    return sets


def _rare(
    sets: Mapping[str, LensData], networks: Sequence[Network], judges: Sequence[Judge], every: Sequence[Scored]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of every judge: recall on each set, and matched with single lenses.

    Single lenses to match with are those of the set ``single_lens`` and those among the objects evaluated.
    """
    scored: dict[str, list[Scored]] = {}
    for name, data in sets.items():
        found = predict(
            [network.finder for network in networks], data.loader(np.flatnonzero(data.labels == 1)), what=name
        )
        scored[name] = _scored(judges, networks, found, data.catalogue[found.row])
    rows: dict[str, list[dict[str, Any]]] = {judge.name: [] for judge in judges}
    for name, group in scored.items():
        for k, one in enumerate(group):
            pair: dict[str, Any] | None = None
            why: str | None = "the set that the others are matched with"
            if name != "single_lens":
                singles = [scored["single_lens"][k]] if "single_lens" in scored else []
                pair, why = _pairs(one, [*singles, *_single(every[k])])
            rows[one.judge.name].append(recall_row(name, one.found) | {"matched": pair, "why_not_matched": why})
    return rows


MATCHED = ("ein_area", "arc_snr")
"""Columns without which nothing can be matched."""


def _pairs(rare: Scored, singles: Sequence[Scored]) -> tuple[dict[str, Any] | None, str | None]:
    lacking = [name for name in MATCHED if name not in rare.catalogue.colnames]
    if lacking:
        return None, f"the set has no column {', '.join(lacking)}"
    if not singles:
        return None, "there are no single lenses to match with: set rare.single_lens.n too"
    tables = [one.catalogue[[c for c in (*MATCHED, "arc_snr_2") if c in one.catalogue.colnames]] for one in singles]
    pool = vstack(tables, metadata_conflicts="silent")
    return matched(rare.catalogue, rare.found, pool, np.concatenate([one.found for one in singles]))


def _single(one: Scored) -> list[Scored]:
    """The single lenses among the objects evaluated, if their catalogue tells."""
    if not {"kind", *MATCHED} <= set(one.catalogue.colnames):
        return []
    there = np.flatnonzero(one.lens & (np.asarray(one.catalogue["kind"]).astype(str) == "lens"))
    columns = [name for name in (*MATCHED, "arc_snr_2") if name in one.catalogue.colnames]
    some = Scored(one.judge, one.log_odds[there], one.label[there], one.row[there], one.catalogue[columns][there])
    return [some] if len(there) else []
