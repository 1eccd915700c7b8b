"""The report of an evaluation: one page that opens from disk, with the answers on top and every score below."""

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensfind.evaluation.summary import answers, best_first, kinds_of_lenses, number, one_in, percent, plain, simulated
from lensfind.files import write_file
from lensfind.page import Entry, figure, page, paragraphs, table

__all__ = ["SECTIONS", "write_report"]

Content = Mapping[str, Any]

SECTIONS: Mapping[str, tuple[str, str]] = {
    "scores": (
        "Ranking and survey",
        "Every curve belongs to one network. In a ROC curve the upper left corner is perfect; what matters for a survey"
        " is its left end, where few non-lenses pass. In the curve of completeness against purity the upper right"
        " corner is perfect, and the purity is that of the survey's prevalence, not of the test set.",
    ),
    "completeness": (
        "Which lenses are found",
        "The share of lenses found at the threshold, in bins of one property; bars are intervals. A flat line means"
        " that the property does not matter. Properties go together (bright sources are often near), so a slope is not"
        " yet a cause.",
    ),
    "rare": (
        "Rare lenses",
        "Recall at the same threshold on sets of one configuration each: as they are, and in pairs of a rare and a"
        " single lens that agree in Einstein radius and signal to noise. Only the pairs tell whether the configuration"
        " itself matters.",
    ),
    "sensitivity": (
        "What moves the score",
        "The same scenes simulated again with one property changed and all else kept. The line is the median score and"
        " the band holds most scenes; the dotted line marks the unchanged scene.",
    ),
    "false_positives": (
        "What is taken for a lens",
        "The share of each kind of non-lens above the threshold, and the most confident mistakes.",
    ),
    "calibration": (
        "Calibration",
        "Whether an object with a score of 0.8 is a lens in eight cases of ten. On the diagonal the scores are"
        " probabilities; below it the network is too sure. It holds for the test set's share of lenses: for the survey"
        " take the column p_survey of the predictions, where it is given.",
    ),
    "agreement": (
        "Agreement between networks",
        "The share of objects on which two networks decide alike at their thresholds, and the rank correlation of their"
        " scores. Networks that disagree have something to tell each other; an ensemble makes use of it.",
    ),
}
"""Headings and how to read what stands there, by the ``section`` of the pictures; others come last."""

_METRICS = {
    "auroc": ("AUROC", "chance that a lens scores above a non-lens; 0.5 is blind"),
    "average_precision": ("Average precision", "mean purity over all completenesses, at the test set's mix"),
    "f1": ("F1", "harmonic mean of precision and recall at the threshold, at the test set's mix"),
    "precision": ("Precision", "lenses among what is found, at the test set's mix"),
    "recall": ("Recall", "share of lenses found at the threshold"),
    "accuracy": ("Accuracy", "right decisions, at the test set's mix"),
    "tpr0": ("TPR0", "share of lenses above the highest non-lens"),
    "tpr10": ("TPR10", "share of lenses above the tenth non-lens"),
    "tpr_at_fpr_1e-2": ("TPR at FPR 1e-2", "share of lenses found when one non-lens in 100 passes"),
    "tpr_at_fpr_1e-3": ("TPR at FPR 1e-3", "when one in 1,000 passes"),
    "tpr_at_fpr_1e-4": ("TPR at FPR 1e-4", "when one in 10,000 passes"),
    "completeness_at_purity_0.5": ("Completeness at purity 50 %", "in the survey"),
    "completeness_at_purity_0.9": ("Completeness at purity 90 %", "in the survey"),
    "purity_at_completeness_0.5": ("Purity at completeness 50 %", "in the survey"),
    "purity_at_completeness_0.9": ("Purity at completeness 90 %", "in the survey"),
    "purity": ("Purity at the threshold", "in the survey"),
    "lenses_in_top": ("Lenses in the first {top:,}", "expected in the survey"),
    "ece": ("Calibration error (ECE)", "mean distance between score and share of lenses; 0 is best"),
    "brier": ("Brier score", "mean square of score minus truth; 0 is best"),
}
_GLANCE = (
    "lenses_in_top",
    "completeness_at_purity_0.5",
    "completeness_at_purity_0.9",
    "recall",
    "purity",
    "tpr_at_fpr_1e-3",
    "auroc",
    "f1",
)


def write_report(path: Path, content: Mapping[str, Any], pictures: Sequence[Entry] = ()) -> None:
    """Write ``report.html``: whole or not at all, with every picture inside and nothing asked of a network.

    Args:
        path: Of the page.
        content: What stands in ``metrics.json``. Beyond its fixed keys: ``properties`` {name: {label, unit}} and, per
            network, ``completeness`` {property: [{low, high, n, n_found, completeness, lower, upper}]}; ``command``, a
            text. Text in it may hold anything; it is escaped.
        pictures: PNG or GIF files under the keys of :data:`SECTIONS`; another ``section`` becomes a heading of its own.

    Raises:
        LensfindError: A picture is not there or of another format; the disk is full.
    """
    order, criterion = best_first(content)
    names = list(dict.fromkeys([*SECTIONS, *(picture.section for picture in pictures)]))
    parts: list[tuple[str, str]] = []  # heading and HTML
    if len(order) > 1:
        parts.append(("All networks at a glance", _glance(content, order, criterion)))
    for name in names:
        heading, note = SECTIONS.get(name, (name, ""))
        body = "".join(figure(picture) for picture in pictures if picture.section == name)
        body += "".join(make(content, order) for make in _TABLES.get(name, ()))
        if body:
            parts.append((heading, paragraphs(note) + body))
    parts.append(("All scores", _scores(content, order)))
    parts.append(("Where this comes from", _provenance(content, order)))
    several = len(order) > 1
    title = f"{len(order)} networks compared" if several else f"{order[0]['name']}: what it finds and what it misses"
    nav = "".join(f'<a href="#s{k}">{html.escape(heading)}</a>' for k, (heading, _) in enumerate(parts))
    warnings = "".join(f'<p class="warning">{html.escape(line)}</p>' for line in content.get("warnings") or ())
    pieces = [
        f"<header><h1>{html.escape(title)}</h1>{paragraphs(_subtitle(content, order))}{warnings}</header>",
        f'<nav aria-label="Contents"><a href="#answers">Five answers</a>{nav}</nav>',
        f'<main><section id="answers"><h2>Five answers</h2>{_answers(content, criterion)}</section>',
        *(
            f'<section id="s{k}"><h2>{html.escape(heading)}</h2>{inner}</section>'
            for k, (heading, inner) in enumerate(parts)
        ),
        "</main>",
    ]
    write_file(path, page(title, pieces))


def _subtitle(content: Content, order: Sequence[Content]) -> str:
    data, survey = content["data"], content["survey"]
    made = "simulated" if simulated(content) else "given"
    what = f"{len(order)} networks" if len(order) > 1 else f"The network {order[0]['name']}"
    return (
        f"{what}, measured on {data['n_objects']:,} {made} objects ({data['n_lenses']:,} lenses,"
        f" {data['n_nonlenses']:,} non-lenses; rows: {data['rows']}) and carried over to a survey of"
        f" {survey['n_objects']:,} objects in which {one_in(survey['prevalence'])} is a lens. Brackets hold"
        f" {100 * content['bootstrap']['level']:g} % intervals."
    )


def _answers(content: Content, criterion: str) -> str:
    parts = []
    if len(content["networks"]) > 1:
        parts.append(paragraphs(f"Networks are ordered by {criterion}, the best first; answers are the best one's."))
    for k, answer in enumerate(answers(content), 1):
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in answer.lines)
        parts.append(
            f'<div class="answer"><h3>{k}. {html.escape(answer.question)}</h3>'
            f'<p class="lead">{html.escape(answer.lead)}</p>'
            + paragraphs("\n".join(answer.sentences))
            + (f"<ul>{lines}</ul>" if lines else "")
            + "</div>"
        )
    return "".join(parts).replace(" %", "\u00a0%")  # a number stays with its sign


def _label(content: Content, name: str) -> str:
    label = _METRICS.get(name, (name.replace("_", " "), ""))[0]
    return label.format(top=content["survey"]["top"])


def _interval(name: str, interval: Sequence[float] | None) -> str:
    return f"[{number(name, interval[0])}, {number(name, interval[1])}]" if interval else "no interval"


def _glance(content: Content, order: Sequence[Content], criterion: str) -> str:
    kinds = list(dict.fromkeys(row["scenario"] for n in order for row in n.get("rare") or ()))
    rows = []
    for network in order:
        cells = [
            "–" if (x := network["metrics"].get(name)) is None
            else f"{number(name, x)}\n{_interval(name, network['intervals'].get(name))}"
            for name in _GLANCE
        ]  # fmt: skip
        recalls = {row["scenario"]: row for row in network.get("rare") or ()}
        cells += [_recall(recalls.get(kind)) for kind in kinds]
        rows.append([str(network["name"]), *cells])
    header = [
        "network",
        *(_label(content, name) for name in _GLANCE),
        *(f"Recall, {kinds_of_lenses(k)}" for k in kinds),
    ]
    note = f"Best first by {criterion}. A dash: not defined here; the reason stands under All scores."
    return table(header, rows, "Main scores with intervals") + paragraphs(note)


def _recall(row: Content | None) -> str:
    if row is None or row["recall"] is None:
        return "–"
    return f"{percent(row['recall'])}\n{_ends(row)}"


def _ends(row: Content) -> str:
    return f"[{percent(row['lower'])}, {percent(row['upper'])}]" if row.get("lower") is not None else "no interval"


def _completeness(content: Content, order: Sequence[Content]) -> str:
    best, parts = order[0], []
    properties = content.get("properties") or {}
    for name, bins in (best.get("completeness") or {}).items():
        about = properties.get(name, {})
        label, unit = about.get("label") or name, about.get("unit") or ""
        rows = [
            [
                f"{plain(row['low'])} to {plain(row['high'])}",
                f"{row['n']:,}",
                f"{row['n_found']:,}",
                "–" if row["completeness"] is None else f"{percent(row['completeness'])}\n{_ends(row)}",
            ]
            for row in bins
        ]
        header = [f"{name}{f' ({unit})' if unit else ''}", "lenses", "found", "completeness"]
        parts.append(f'<div class="side">{table(header, rows, label)}</div>')
    missing = (best.get("selection") or {}).get("missing") or []
    note = f"Not in the catalogue: {', '.join(missing)}." if missing else ""
    if parts and len(order) > 1:
        note = f"Tables of {best['name']}; those of the others are in the files beside this page. {note}"
    return paragraphs(note) + "".join(parts) if parts or note else ""


def _rare(content: Content, order: Sequence[Content]) -> str:
    rows = []
    for network in order:
        for row in network.get("rare") or ():
            pairs = row.get("matched")
            difference = (
                f"{100 * pairs['difference']:+.1f}\n[{100 * pairs['lower']:+.1f}, {100 * pairs['upper']:+.1f}]"
                if pairs
                else "–"
            )
            text = pairs["verdict"] if pairs else row.get("why_not_matched") or ""
            recall, n = _recall(row), f"{row['n']:,}"
            cells = [recall, n, difference, f"{pairs['p_value']:.2g}" if pairs else "–", text]
            rows.append([str(network["name"]), kinds_of_lenses(row["scenario"]), *cells])
    header = ["network", "kind", "recall", "lenses", "difference in pairs, points", "p", "verdict"]
    caption = "Recall on rare lenses, and against single lenses that are as easy to see"
    return table(header, rows, caption, left=(0, 1, 6)) if rows else ""


def _sensitivity(content: Content, order: Sequence[Content]) -> str:
    rows = []
    for network in order:
        for probe in network.get("sensitivity") or ():
            known = [(r, v) for r, v in zip(probe["recall"], probe["values"], strict=True) if r is not None]
            if known:
                ends = [f"{percent(r)}\nat {_plain(v)}" for r, v in (min(known, key=_first), max(known, key=_first))]
                unit = f" ({probe['unit']})" if probe["unit"] else ""
                text = [f"{probe['property']}{unit}", _plain(probe["reference"]), f"{probe['n']:,}", *ends]
                rows.append([str(network["name"]), *text])
    header = ["network", "property", "unchanged", "scenes", "lowest recall", "highest recall"]
    return table(header, rows, "Recall while one property changes", left=(0, 1)) if rows else ""


def _first(pair: Sequence[Any]) -> Any:
    return pair[0]


def _plain(x: object) -> str:
    return "–" if x is None else f"{x:.4g}" if isinstance(x, float) else str(x)


def _false_positives(content: Content, order: Sequence[Content]) -> str:
    rows = [
        [
            str(network["name"]),
            row["kind"].replace("_", " "),
            f"{row['n']:,}",
            f"{row['n_found']:,}",
            "–" if row["rate"] is None else f"{percent(row['rate'])}\n{_ends(row)}",
        ]
        for network in order
        for row in network.get("false_positives") or ()
    ]
    header = ["network", "kind", "objects", "false positives", "rate"]
    return table(header, rows, "False positives by kind of non-lens", left=(0, 1)) if rows else ""


def _calibration(content: Content, order: Sequence[Content]) -> str:
    rows = []
    for network in order:
        fit = network.get("calibration")
        if fit:
            cells = [f"{_shown(network, name)} → {_shown(fit, name)}" for name in ("ece", "brier")]
            temperature = "–" if fit.get("temperature") is None else f"{fit['temperature']:.3f}"
            on = f"{fit['n']:,} ({fit['n_lenses']:,} lenses)"
            rows.append([str(network["name"]), str(fit["method"]), temperature, on, *cells])
    header = ["network", "method", "temperature", "fitted on validation rows", "ECE", "Brier score"]
    return table(header, rows, "Before and after calibration", left=(0, 1)) if rows else ""


def _shown(scores: Content, name: str) -> str:
    """A score of ``metrics``, or a dash."""
    x = scores["metrics"].get(name)
    return "–" if x is None else f"{x:.3g}"


def _agreement(content: Content, order: Sequence[Content]) -> str:
    agreement = content.get("agreement")
    if not agreement:
        return ""
    parts = []
    for key, caption in (
        ("same_decision", "Share of objects decided alike"),
        ("rank_correlation", "Rank correlation of the scores"),
    ):
        rows = [
            [str(name), *("–" if x is None else f"{x:.3f}" for x in row)]
            for name, row in zip(agreement["networks"], agreement[key], strict=True)
        ]
        parts.append(table(["network", *map(str, agreement["networks"])], rows, caption))
    return "".join(parts)


_TABLES: Mapping[str, Sequence[Callable[[Content, Sequence[Content]], str]]] = {
    "completeness": (_completeness,),
    "rare": (_rare,),
    "sensitivity": (_sensitivity,),
    "false_positives": (_false_positives,),
    "calibration": (_calibration,),
    "agreement": (_agreement,),
}


def _scores(content: Content, order: Sequence[Content]) -> str:
    meaning = [[_label(content, name), text] for name, (_, text) in _METRICS.items()]
    parts = [table(["score", "what it says"], meaning, "What the scores mean", left=(0, 1))]
    for network in order:
        rows = []
        for name, x in network["metrics"].items():
            note = network["limits"].get(name) or ""
            if x is None:
                cells = ["not defined", "–", network["undefined"].get(name, "the file gives no reason")]
            else:
                cells = [_digits(name, x), _digits_of(name, network["intervals"].get(name)), note]
            rows.append([_label(content, name), *cells])
        title = f"{network['name']}: threshold {network['threshold']:.6g} ({network['threshold_from']})"
        level = f"{100 * content['bootstrap']['level']:g} % interval"
        parts.append(table(["score", "value", level, "note"], rows, title, left=(0, 3)))
    return "".join(parts)


def _digits(name: str, x: float) -> str:
    return f"{x:,.1f}" if name == "lenses_in_top" else f"{x:.4f}" if abs(x) >= 1e-3 or x == 0 else f"{x:.2e}"


def _digits_of(name: str, interval: Sequence[float] | None) -> str:
    return f"{_digits(name, interval[0])} to {_digits(name, interval[1])}" if interval else "–"


def _provenance(content: Content, order: Sequence[Content]) -> str:
    data, boot = content["data"], content["bootstrap"]
    made = ", ".join(f"{key} {text}" for key, text in (data.get("made_by") or {}).items())
    kinds = ", ".join(f"{kind.replace('_', ' ')} {n:,}" for kind, n in (data.get("kinds") or {}).items())
    facts = {
        "data": data["root"],
        "rows": f"{data['rows']}: {data['n_objects']:,} objects",
        "made by": made,
        "kinds": kinds,
        "SHA-256 of the manifest": data.get("manifest_sha256"),
        "bootstrap": f"{boot['resamples']:,} resamples, seed {boot['seed']}",
        "versions": ", ".join(f"{key} {text}" for key, text in content["versions"].items()),
        "files beside this page": ", ".join(str(name) for name in content.get("files") or ()),
        "command": content.get("command"),
    }
    rows = [[key, str(text)] for key, text in facts.items() if text]
    networks = [
        [
            str(network["name"]),
            f"mean of {', '.join(map(str, network['ensemble_of']))}"
            if network.get("ensemble_of")
            else f"{network['source']}, bands {' '.join(network['bands'])}"
            + (f", {network['n_parameters']:,} parameters" if network.get("n_parameters") else ""),
            f"{network['threshold']:.6g}",
            str(network["threshold_from"]),
            str(network["checkpoint"] or "–"),
            str(network["sha256"] or "–"),
        ]
        for network in order
    ]
    header = ["network", "what it is", "threshold", "threshold from", "checkpoint", "SHA-256"]
    return table(["what", "value"], rows, "Data and software", left=(0, 1)) + table(
        header, networks, "Networks", left=(0, 1, 3, 4, 5)
    )
