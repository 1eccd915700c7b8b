"""The app ``evaluate``: every question to every network on one pass over the data, then the files."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lensfind.bands import BANDS
from lensfind.dashboard import finish, send_evaluation, wandb_logger
from lensfind.data import LensData
from lensfind.errors import LensfindError
from lensfind.evaluation.agreement import agreement
from lensfind.evaluation.folder import versions, write_folder
from lensfind.evaluation.judges import Judge, Scored, appoint, voices
from lensfind.evaluation.mistakes import false_positives
from lensfind.evaluation.predict import Predictions, predict
from lensfind.evaluation.predictions import FORMATS
from lensfind.evaluation.rare import matched, recall_row
from lensfind.evaluation.scores import checked_survey, reliability, scores
from lensfind.evaluation.selection import Selection, selection_function
from lensfind.evaluation.sensitivity import choose_ids, sensitivity
from lensfind.inputs import Network, rows_of

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
    _check(asked)
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


def _check(asked: Mapping[str, Any]) -> None:
    """Refuse at once what would fail only after hours of scoring."""
    survey, bootstrap, form = asked["survey"], asked["bootstrap"], str(asked["predictions"])
    checked_survey(survey["prevalence"], survey["n_objects"], survey["top"], bootstrap["resamples"], bootstrap["seed"])
    if f".{form}" not in FORMATS:
        raise LensfindError(f"predictions out of {', '.join(one[1:] for one in FORMATS)}", form, "Set predictions=csv.")


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
    apart = data.rows("val") if asked["rows"] in ("train", "test") else rows[:0]
    validation = predict(finders, data.loader(apart), what="validation rows") if len(apart) else None
    root = str(data.store.root)
    settings = {"threshold": asked["threshold"], "calibration": asked["calibration"]}
    judges = appoint(networks, validation, prevalence=asked["survey"]["prevalence"], data=root, **settings)
    found = predict(finders, data.loader(rows))
    every = _scored(judges, networks, found, data.catalogue[found.row])
    selections = {
        one.judge.name: selection_function(one.catalogue[one.lens], one.found[one.lens], **asked["selection"])
        for one in every
        if one.lens.any()
    }
    rare = _rare(cfg, networks, judges, every)
    probe = _probe(asked["sensitivity"], networks, judges, data, rows)
    content = {
        "app": "evaluate",
        "data": _about(data, asked["rows"], found),
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
    measured = scores(one.label, one.p_lens, one.judge.threshold, **settings)
    calibration: dict[str, Any] | None = None
    fitted = one.judge.calibration
    if fitted is not None and one.p_calibrated is not None:
        after = scores(one.label, one.p_calibrated, **settings)
        calibration = {
            "method": fitted.method,
            "temperature": fitted.temperature,
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


def _about(data: LensData, rows: str, found: Predictions) -> dict[str, Any]:
    manifest, kinds = data.store.manifest["made_by"], data.catalogue[found.row]
    lenses = int(found.label.sum())
    return {
        "root": str(data.store.root),
        "rows": rows,
        "n_objects": len(found.row),
        "n_lenses": lenses,
        "n_nonlenses": len(found.row) - lenses,
        "manifest_sha256": hashlib.sha256((data.store.root / "manifest.yaml").read_bytes()).hexdigest(),
        "made_by": {
            "app": manifest.get("app"),
            "scenario": (manifest.get("scenario") or {}).get("name"),
            "n": manifest.get("n"),
            "seed": manifest.get("seed"),
        },
        "kinds": dict(Counter(np.asarray(kinds["kind"]).astype(str).tolist())) if "kind" in kinds.colnames else {},
    }


def _rare(
    cfg: DictConfig, networks: Sequence[Network], judges: Sequence[Judge], every: Sequence[Scored]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of every judge: recall on each set of ``cfg.rare``, and matched with single lenses.

    Single lenses to match with are those of the set ``single_lens`` and those among the objects evaluated.
    """
    rows: dict[str, list[dict[str, Any]]] = {judge.name: [] for judge in judges}
    sets: dict[str, list[Scored]] = {}
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
        lenses = np.flatnonzero(data.labels == 1)
        if not len(lenses):
            raise LensfindError(
                f"lenses in the set {name}",
                f"none in {data.root}",
                f"Name another set, or leave it out: rare.{name}.n=0.",
            )
        found = predict([network.finder for network in networks], data.loader(lenses), what=name)
        sets[name] = _scored(judges, networks, found, data.catalogue[found.row])
    for name, scored in sets.items():
        for k, one in enumerate(scored):
            pair: dict[str, Any] | None = None
            why: str | None = "the set that the others are matched with"
            if name != "single_lens":
                singles = [_single(group[k]) for group in ([sets["single_lens"]] if "single_lens" in sets else [])]
                singles += [_single(every[k])] if "arc_snr" in every[k].catalogue.colnames else []
                singles = [single for single in singles if len(single[0])]
                why = "there are no single lenses to match with: set rare.single_lens.n too"
                if singles:
                    pool = vstack([table[["ein_area", "arc_snr", "arc_snr_2"]] for table, _ in singles])
                    pair, why = matched(one.catalogue, one.found, pool, np.concatenate([hits for _, hits in singles]))
            rows[one.judge.name].append(recall_row(name, one.found) | {"matched": pair, "why_not_matched": why})
    return rows


def _single(one: Scored) -> tuple[Table, Any]:
    """The single lenses among scored objects, and which of them are found."""
    there = one.lens & (np.asarray(one.catalogue["kind"]).astype(str) == "lens")
    return one.catalogue[there], one.found[there]


def _probe(
    asked: Mapping[str, Any], networks: Sequence[Network], judges: Sequence[Judge], data: LensData, rows: Any
) -> dict[str, list[dict[str, Any]]]:
    if not asked["n"]:
        return {}
    ids = choose_ids(data.catalogue[rows], asked["n"], asked["seed"])
    finders = {network.name: network.finder for network in networks}
    thresholds = {judge.name: judge.threshold for judge in judges}
    return sensitivity(finders, data.store.root, ids, asked["properties"], thresholds)
