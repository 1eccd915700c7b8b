"""The folder that evaluate.py leaves: predictions, the selection function, pictures, the report, metrics.json last."""

import json
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from lensfind import figures
from lensfind.data import LensData
from lensfind.evaluation.calibration import to_prevalence
from lensfind.evaluation.judges import Scored
from lensfind.evaluation.mistakes import worst
from lensfind.evaluation.page import write_report
from lensfind.evaluation.predictions import Predicted, write_predictions
from lensfind.evaluation.report import print_table
from lensfind.evaluation.selection import Selection, write_selection
from lensfind.evaluation.summary import answers, best_first
from lensfind.evaluation.survey import purity_completeness, survey_curve
from lensfind.files import whole_file, write_file
from lensfind.page import Entry

__all__ = ["versions", "write_folder"]

console = Console(soft_wrap=True)
MISTAKES = 16
"""Of each sort in a mosaic."""
FIELD = 12.0
"""Side in arcsec of what a mosaic shows: arcs lie within, and neighbours do not matter so much."""
BANDS_OF = 200
"""Resamples, at most, behind the band of a curve, which nobody reads to the last digit."""


def versions() -> dict[str, str]:
    """Of Python and of the packages that the numbers depend on."""
    packages = ("lensfind", "torch", "numpy", "scipy", "astropy")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def write_folder(
    folder: Path,
    content: dict[str, Any],
    every: Sequence[Scored],
    selections: Mapping[str, Selection],
    data: LensData,
    suffix: str,
) -> list[Path]:
    """Write the files, each whole or not at all, and print where they are.

    Args:
        folder: Made if it is not there.
        content: Of ``metrics.json``; gets ``command`` and ``files``.
        every: What each judge says.
        selections: Per judge.
        data: That was scored.
        suffix: Of the predictions: csv, fits, ecsv or parquet.

    Returns:
        The pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in ("metrics.json", "report.html"):  # a folder without them is not finished, whoever wrote the rest
        (folder / old).unlink(missing_ok=True)
    content["command"] = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    files = [folder / f"predictions.{suffix}"]
    _predictions(files[0], content, every, data)
    for one in every:
        if one.judge.name in selections:
            files.append(folder / _named("completeness", one, every, "fits"))
            write_selection(
                files[-1],
                selections[one.judge.name],
                network=one.judge.name,
                threshold=one.judge.threshold,
                checkpoint=None if one.judge.network is None else one.judge.network.sha256,
            )
    entries = _pictures(folder, content, every, selections, data)
    content["files"] = [path.name for path in (*files, *(entry.path for entry in entries), folder / "report.html")]
    write_report(folder / "report.html", content, entries)
    write_file(folder / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    _say(folder, content)
    return [entry.path for entry in entries]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60] or "network"


def _named(stem: str, one: Scored, every: Sequence[Scored], suffix: str) -> str:
    """``stem.suffix``, or with the network's name where there are several."""
    if len(every) == 1:
        return f"{stem}.{suffix}"
    slugs = [_slug(other.judge.name) for other in every]
    place = [other is one for other in every].index(True)
    number = "" if slugs.count(slugs[place]) == 1 else f"-{place + 1}"
    return f"{stem}_{slugs[place]}{number}.{suffix}"


def _predictions(path: Path, content: Mapping[str, Any], every: Sequence[Scored], data: LensData) -> None:
    columns = {}
    for one in every:
        survey = None
        if one.p_calibrated is not None and one.judge.calibration is not None:
            survey = to_prevalence(one.p_calibrated, one.judge.calibration.prevalence, content["survey"]["prevalence"])
        columns[one.judge.name] = Predicted(one.p_lens, one.judge.threshold, one.log_odds, one.p_calibrated, survey)
    write_predictions(path, every[0].catalogue, every[0].label, data.splits[every[0].row], columns)


def _pictures(
    folder: Path,
    content: Mapping[str, Any],
    every: Sequence[Scored],
    selections: Mapping[str, Selection],
    data: LensData,
) -> list[Entry]:
    """Every figure as PNG, in the order of the report."""
    entries: list[Entry] = []

    def add(section: str, name: str, figure: Figure, caption: str) -> None:
        with whole_file(folder / name) as file:
            figure.savefig(file, format="png")
        entries.append(Entry(section, folder / name, caption))

    networks = {network["name"]: network for network in content["networks"]}
    curves = {one.judge.name: (one.label, one.p_lens) for one in every}
    survey, seed = content["survey"], content["bootstrap"]["seed"]
    few = min(content["bootstrap"]["resamples"], BANDS_OF)
    label = every[0].label
    if 0 < label.sum() < len(label):
        pi, size = survey["prevalence"], survey["n_objects"]
        found = {
            name: survey_curve(*pair, prevalence=pi, survey=size, resamples=few, seed=seed)
            for name, pair in curves.items()
        }
        add("scores", "survey.png", figures.survey_yield(found), "Lenses among the first candidates of the survey.")
        pure = {
            name: purity_completeness(*pair, prevalence=pi, resamples=few, seed=seed) for name, pair in curves.items()
        }
        add("scores", "purity.png", figures.purity_completeness(pure, pi), "Purity in the survey at each completeness.")
    add("scores", "roc.png", figures.roc_curve(curves, log=True), "ROC curve.")
    add("scores", "pr.png", figures.precision_recall_curve(curves), "Precision and recall on the test set's own mix.")
    if selections:
        tables = {name: selection.tables for name, selection in selections.items()}
        caption = "Completeness against each property; grey: numbers of lenses."
        add("completeness", "completeness.png", figures.completeness(tables), caption)
        best = str(best_first(content)[0][0]["name"])
        for pair, table in tables[best].items():
            if "," in pair:
                name = f"completeness_{pair.replace(',', '_')}.png"
                add("completeness", name, figures.completeness_map(table), f"{best}: per cent found, and lenses.")
    rare = {name: network["rare"] for name, network in networks.items() if network["rare"]}
    if rare:
        add("rare", "rare.png", figures.rare_recall(rare), "Recall as it is, and in matched pairs.")
    probe = {name: network["sensitivity"] for name, network in networks.items() if network["sensitivity"]}
    if probe:
        caption = "Score against one changed property; the dotted line is the unchanged scene."
        add("sensitivity", "sensitivity.png", figures.sensitivity(probe), caption)
    rates = {name: network["false_positives"] for name, network in networks.items() if network["false_positives"]}
    if rates:
        caption = "Share of each kind of non-lens that passes for a lens."
        add("false_positives", "false_positives.png", figures.false_positive_rates(rates), caption)
    for one in every:
        mosaic = _mistakes(one, data)
        if mosaic is not None:
            caption = f"{one.judge.name}: the most confident mistakes, with P(lens)."
            add("false_positives", _named("mistakes", one, every, "png"), mosaic, caption)
    reliable = {name: network["reliability"] for name, network in networks.items()}
    for name, network in networks.items():
        if network["calibration"]:
            reliable[f"{name}, calibrated"] = network["calibration"]["reliability"]
    add("calibration", "reliability.png", figures.reliability_curve(reliable), "Share of lenses against P(lens).")
    if content["agreement"]:
        add("agreement", "agreement.png", figures.agreement_matrix(content["agreement"]), "Agreement of every two.")
    return entries


def _mistakes(one: Scored, data: LensData) -> Figure | None:
    """Mosaic of non-lenses that are found and of lenses that are missed; None if there are neither."""
    taken, missed = worst(one.label, one.p_lens, MISTAKES, threshold=one.judge.threshold, log_odds=one.log_odds)
    shown = np.concatenate([taken, missed])
    if not len(shown):
        return None
    kinds = one.catalogue["kind"] if "kind" in one.catalogue.colnames else np.where(one.lens, "lens", "non-lens")
    marks = ["no lens" if one.label[i] == 0 else "missed" for i in shown]
    titles = [f"{mark}: {kinds[i]}\n{one.p_lens[i]:.3g}" for mark, i in zip(marks, shown, strict=True)]
    return figures.mosaic(data.store.read(one.row[shown], data.store.bands), titles, field=FIELD)


def _say(folder: Path, content: Mapping[str, Any]) -> None:
    names = {"auroc": "AUROC", "average_precision": "AP", "f1": "F1", "precision": "prec.", "recall": "recall"}
    names["lenses_in_top"] = f"in first {content['survey']['top']:,}"
    rows = [
        {"network": one["name"], "found >": one["threshold"]}
        | {title: one["metrics"][key] for key, title in names.items()}
        for one in content["networks"]
    ]
    data = content["data"]
    print_table(rows, title=f"{data['n_objects']} objects ({data['rows']} rows), {data['n_lenses']} lenses")
    for number, answer in enumerate(answers(content), 1):
        console.print(f"{number}. {answer.question} {answer.lead}", markup=False)
    for warning in content["warnings"]:
        console.print(f"Warning: {warning}", markup=False)
    console.print(f"Results: {folder} (metrics.json with intervals, {', '.join(content['files'])})", markup=False)
    console.print(f"Report: {folder / 'report.html'}", markup=False)
