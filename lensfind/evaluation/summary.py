"""The five answers that stand on top of the report, in sentences made from ``metrics.json``."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Answer",
    "answers",
    "best_first",
    "kinds_of_lenses",
    "one_in",
    "percent",
    "plain",
    "simulated",
    "span",
    "value",
]

Content = Mapping[str, Any]
_FEW = 20
_VAGUE = 10  # points of a loss that is not excluded, above which nothing is said
"""Lenses that a bin must have to be spoken of."""
_CRITERIA = {
    "lenses_in_top": "the number of lenses in the first {top:,} candidates",
    "completeness_at_purity_0.5": "completeness at 50 % purity",
    "average_precision": "average precision",
    "auroc": "AUROC",
    "recall": "recall",
}
_SHARES = re.compile("recall|precision|accuracy|f1|tpr|purity|completeness")
_KINDS = {"single_lens": "single lenses", "compound_arc": "compound arcs", "double_ring": "double rings"}


@dataclass(frozen=True)
class Answer:
    """A question, its answer in a few words, what there is to say more, and a line for each network."""

    question: str
    lead: str
    sentences: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def percent(share: float) -> str:
    """``0.431`` as ``43 %``, with more digits near 0 and 1, where they matter."""
    edge = min(share, 1 - share)
    digits = 0 if edge >= 0.1 or edge <= 0 else 1 if edge >= 0.01 else 2 if edge >= 0.001 else 4
    return f"{100 * share:.{digits}f} %"


def plain(x: float) -> str:
    """An edge of a bin in three digits or more: ``0.5``, ``1,000``."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def span(content: Content, low: str, high: str) -> str:
    """An interval in words."""
    return f"{100 * content['bootstrap']['level']:g} %: {low} to {high}"


def one_in(prevalence: float) -> str:
    """``5e-4`` as ``one object in 2,000``."""
    n = 1 / prevalence
    about = "" if abs(n - round(n)) < 1e-6 * n else "about "
    return f"{about}one object in {n:,.0f}" if n >= 10 else f"{percent(prevalence)} of the objects"


def kinds_of_lenses(scenario: str) -> str:
    """``double_ring`` as ``double rings``."""
    return _KINDS.get(scenario, scenario.replace("_", " "))


def simulated(content: Content) -> bool:
    """Whether the data say of themselves that the simulator made them."""
    return bool((content["data"].get("made_by") or {}).get("scenario"))


def number(name: str, x: float) -> str:
    """A score in its own way of writing."""
    if name == "lenses_in_top":
        return f"{x:,.0f}" if x >= 10 else f"{x:.1f}"
    return percent(x) if _SHARES.match(name) and name != "f1" else f"{x:.3f}" if x >= 0.1 else f"{x:.2g}"


def value(content: Content, network: Content, name: str) -> str | None:
    """A score with its interval in brackets; None where it is undefined."""
    x, interval = network["metrics"].get(name), network["intervals"].get(name)
    if x is None:
        return None
    if interval is None:
        return f"{number(name, x)} (no interval)"
    return f"{number(name, x)} ({span(content, *(number(name, end) for end in interval))})"


def best_first(content: Content) -> tuple[list[Content], str]:
    """Networks from the best to the worst, and by which score, in words.

    The first of lenses in the top of the survey, completeness at 50 % purity, average precision, AUROC and recall that
    all networks have; if there is none, the one that most have, and those without it come last.
    """
    networks = list(content["networks"])
    known = {key: sum(n["metrics"].get(key) is not None for n in networks) for key in _CRITERIA}
    key = max(known, key=lambda name: known[name])  # of equals the first
    order = sorted(networks, key=lambda n: -1.0 if (x := n["metrics"].get(key)) is None else x, reverse=True)
    return order, _CRITERIA[key].format(top=content["survey"]["top"])


def answers(content: Content) -> list[Answer]:
    """The five questions of a survey scientist and their answers, for the best network and in a line for each.

    Args:
        content: What stands in ``metrics.json``.
    """
    order, _ = best_first(content)
    functions = (_first_candidates, _completeness, _missed, _rare, _sure)
    return [function(content, order) for function in functions]


def _name(content: Content, network: Content, start: bool = True) -> str:
    if len(content["networks"]) > 1:
        return f"The {network['name']}" if network.get("ensemble_of") else str(network["name"])
    return "The network" if start else "the network"


def _why(content: Content, network: Content, name: str) -> str:
    """Why a score is undefined, and what to do."""
    data = content["data"]
    reason = network["undefined"].get(name, "the file gives no reason")
    if not data["n_lenses"] or not data["n_nonlenses"]:
        return f"{reason}. Evaluate on data that have both lenses and non-lenses."
    needed = re.search(r"at least (\d+) would", reason)
    if needed is None:
        return f"{reason}."
    if not simulated(content):
        return f"{reason}: more labelled non-lenses are needed."
    # A seed that no default has: others would make the very objects of the training, or evaluate.py's own again.
    command = f"python simulate.py scenario=training n={2 * int(needed[1])} seed=20261122 output=DIR"
    return f"{reason} (half of the objects of {command}; then data=DIR)."


def _first_candidates(content: Content, order: Sequence[Content]) -> Answer:
    survey = content["survey"]
    lenses = survey["prevalence"] * survey["n_objects"]
    top, best = f"{survey['top']:,}", order[0]
    question = f"How many lenses are in the first {top} candidates?"
    found = value(content, best, "lenses_in_top")
    scene = (
        f"The survey has {survey['n_objects']:,} objects, and {one_in(survey['prevalence'])} is a lens:"
        f" {lenses:,.0f} lenses in all. People look at the {top} objects with the highest scores; picked blindly, they"
        f" would hold {survey['top'] * survey['prevalence']:.2g}."
    )
    if found is None:
        lead = f"These data cannot tell{' for ' + best['name'] if len(order) > 1 else ''}."
        sentences = [f"Why: {_why(content, best, 'lenses_in_top')}", scene]
    else:
        lead = f"About {found}{', with ' + best['name'] if len(order) > 1 else ''}."
        sentences = [scene, *_limits(best, "lenses_in_top")]
    return Answer(question, lead, sentences, _lines(content, order, "lenses_in_top"))


def _lines(content: Content, order: Sequence[Content], *names: str) -> list[str]:
    """A line per network where there are several."""
    if len(order) < 2:
        return []
    values = [(n, [value(content, n, name) for name in names]) for n in order]
    return [f"{n['name']}: {', '.join(v or 'not defined' for v in found)}" for n, found in values]


def _limits(network: Content, *names: str) -> list[str]:
    notes = dict.fromkeys(network["limits"][name] for name in names if network["limits"].get(name))
    return [f"Mind: {note}." for note in notes]


def _completeness(content: Content, order: Sequence[Content]) -> Answer:
    best, survey = order[0], content["survey"]
    question = f"How complete is it at which purity, when {one_in(survey['prevalence'])} is a lens?"
    parts, gaps = [], []
    for name, words in (
        ("completeness_at_purity_0.5", "if every second candidate may be false (purity 50 %)"),
        ("completeness_at_purity_0.9", "if one in ten may be false (purity 90 %)"),
    ):
        found = value(content, best, name)
        if found is None:
            gaps.append(f"Not known {words}: {_why(content, best, name)}")
        else:
            parts.append(f"{found} of all lenses {words}")
    lead = f"{_name(content, best)} finds {'; '.join(parts)}." if parts else "These data cannot tell."
    sentences = list(gaps)
    turned = [
        f"{words} leaves a purity of {x}"
        for share, words in (("0.5", "to find half of the lenses"), ("0.9", "to find nine in ten"))
        if (x := value(content, best, f"purity_at_completeness_{share}"))
    ]
    if turned:
        sentences.append(f"Turned round: {'; '.join(turned)}.")
    recall, pure = value(content, best, "recall"), value(content, best, "purity")
    if recall is not None:
        missing = "cannot be told: " + best["undefined"].get("purity", "no reason is given")
        sentences.append(
            f"At the threshold P(lens) > {best['threshold']:.4g} it finds {recall} of the lenses; the purity of what it"
            f" finds {'would be ' + pure if pure else missing} in that survey."
        )
    sentences += _limits(best, "completeness_at_purity_0.5", "completeness_at_purity_0.9")
    names = ("completeness_at_purity_0.5", "completeness_at_purity_0.9")
    lines = _lines(content, order, *names)
    if lines:
        sentences.append("Completeness at 50 % purity, then at 90 %:")
    return Answer(question, lead, sentences, lines)


def worst_bins(network: Content, properties: Content) -> list[tuple[str, str, float]]:
    """What completeness hangs on: (property, sentence, drop), largest drop first, where intervals are disjoint."""
    found = []
    for name, rows in (network.get("completeness") or {}).items():
        bins = [row for row in rows if row["n"] >= _FEW and row["completeness"] is not None]
        if len(bins) < 2:
            continue
        best, worst = (pick(bins, key=lambda row: row["completeness"]) for pick in (max, min))
        if best["lower"] <= worst["upper"]:
            continue
        about = properties.get(name, {})
        label = re.sub(r"\s*\[.*\]$", "", about.get("label") or name.replace("_", " "))
        unit = f" {about['unit']}" if about.get("unit") else ""
        sentence = (
            f"{label[:1].upper()}{label[1:]}: {_share(worst)} of lenses with {_range(worst)}{unit} are found,"
            f" against {_share(best)} with {_range(best)}{unit}"
        )
        found.append((label, sentence, best["completeness"] - worst["completeness"]))
    return sorted(found, key=lambda triple: -triple[2])


def _share(row: Content) -> str:
    return f"{percent(row['completeness'])} ({percent(row['lower'])} to {percent(row['upper'])})"


def _range(row: Content) -> str:
    return f"{plain(row['low'])} to {plain(row['high'])}"


def _missed(content: Content, order: Sequence[Content]) -> Answer:
    question, best = "Which lenses are missed?", order[0]
    sentences, lines = [], []
    recall = best["metrics"].get("recall")
    if recall is None:
        return Answer(question, "These data cannot tell.", [f"Why: {_why(content, best, 'recall')}"])
    lost, interval = 1 - recall, best["intervals"].get("recall")
    text = percent(lost) + (
        f" ({span(content, percent(1 - interval[1]), percent(1 - interval[0]))})" if interval else ""
    )
    lead = f"{_name(content, best)} misses {text} of the {content['data']['n_lenses']:,} lenses at its threshold"
    properties = content.get("properties") or {}
    drops = worst_bins(best, properties)
    if drops:
        lead += f", most of all by {drops[0][0]}."
        sentences = [
            f"What matters most, from the largest difference between bins of at least {_FEW} lenses (best and worst of"
            " many bins, with no correction for having looked at many):"
        ]
        lines = [sentence for _, sentence, _ in drops[:4]]
    elif best.get("completeness"):
        lead += "."
        full = any(sum(one["n"] >= _FEW for one in bins) > 1 for bins in best["completeness"].values())
        sentences = [
            f"No property changes the completeness by more than chance in bins of at least {_FEW} lenses; with more"
            " lenses smaller differences would show."
            if full
            else f"There are too few lenses to tell: no property has two bins of at least {_FEW}."
        ]
    else:
        lead += "."
        missing = ", ".join((best.get("selection") or {}).get("missing") or []) or "the properties of the lenses"
        sentences = [
            f"Which ones cannot be said: the catalogue lacks {missing}. Sets of python simulate.py have these columns."
        ]
    for network in order[1:] if drops else ():
        most = worst_bins(network, properties)
        ranked = [f"{label} ({100 * drop:.0f} points)" for label, _, drop in most[:3]]
        lines.append(f"{network['name']}, largest drops: {', '.join(ranked) or 'none that is clear'}")
    return Answer(question, lead, sentences, lines)


def _rare(content: Content, order: Sequence[Content]) -> Answer:
    question, best = "Are rare configurations (compound arcs, double rings) missed more?", order[0]
    rare = [row for row in best.get("rare") or () if row["scenario"] != "single_lens"]
    if not rare:
        do = "Run again with rare.n=400, which simulates 400 of each kind and scores them."
        return Answer(question, "Not measured.", [do])
    verdicts = [f"{kinds_of_lenses(row['scenario'])}: {_rare_verdict(row)}" for row in rare]
    lead = f"{'With ' + best['name'] + ', ' if len(order) > 1 else ''}{'; '.join(verdicts)}."
    sentences = [f"Found at the threshold: {_recalls(best)}."]
    for row in rare:
        pairs, kind = row.get("matched"), kinds_of_lenses(row["scenario"])
        if pairs:
            sentences.append(
                f"Against single lenses of the same Einstein radius and signal to noise ({pairs['n_pairs']:,} pairs):"
                f" {percent(pairs['recall'])} of {kind} are found and {percent(pairs['recall_single'])} of single"
                f" lenses, a difference of {_points(pairs['difference'])} points"
                f" ({span(content, _points(pairs['lower']), _points(pairs['upper']))}). {_scope(pairs, kind)}"
            )
        else:
            why = row.get("why_not_matched") or "no pairs were made"
            sentences.append(f"No fair comparison for {kind}: {why}. A larger rare.n finds more pairs.")
    lines = [f"{n['name']}: {_recalls(n, of=False) or 'not measured'}" for n in order] if len(order) > 1 else []
    return Answer(question, lead[:1].upper() + lead[1:], sentences, lines)


def _rare_verdict(row: Content) -> str:
    pairs = row.get("matched")
    if not pairs:
        return "not known"
    if pairs["p_value"] < 0.05:
        return "yes, missed more" if pairs["difference"] < 0 else "no, found more often"
    lost = math.ceil(max(-100 * pairs["lower"], 0))
    if pairs["upper"] < 0:
        return f"undecided (p = {pairs['p_value']:.2g}; up to {lost} points more may be missed)"
    if lost > _VAGUE:
        return f"too uncertain to tell (up to {lost} points more may be missed)"
    return f"no sign that they are missed more (a loss of more than {lost} points is excluded)"


def _scope(pairs: Content, kind: str) -> str:
    """Which lenses the pairs stand for."""
    if not pairs.get("balance"):
        return ""
    snr = pairs["balance"]["snr"]
    return (
        f"Of {pairs['n_rare']:,} {kind}, {pairs['n_pairs']:,} have such a partner, and the comparison is about lenses"
        f" like these: median signal to noise (in VIS, whichever bands the network sees) {snr['median_matched']:.0f},"
        f" of all {snr['median_rare']:.0f}."
    )


def _recalls(network: Content, of: bool = True) -> str:
    parts = []
    for row in network.get("rare") or ():
        kind = kinds_of_lenses(row["scenario"])
        if row["recall"] is None:
            parts.append(f"{kind} not defined (there are none)")
        else:
            total = f", of {row['n']:,}" if of else ""
            interval = f"{percent(row['lower'])} to {percent(row['upper'])}{total}"
            parts.append(f"{kind} {percent(row['recall'])} ({interval})")
    return ", ".join(parts)


def _points(difference: float) -> str:
    return f"{100 * difference:+.0f}".replace("-", "−").replace("+0", "0").replace("−0", "0")


def _sure(content: Content, order: Sequence[Content]) -> Answer:
    data, boot, survey, best = content["data"], content["bootstrap"], content["survey"], order[0]
    n, others = data["n_lenses"], data["n_nonlenses"]
    interval = best["intervals"].get("recall")
    known = (
        f"the share of lenses found is known to ±{50 * (interval[1] - interval[0]):.1f} points; " if interval else ""
    )
    level = f"{100 * boot['level']:g} %"
    if simulated(content):
        lead = f"Sure to within the {level} intervals for images like these simulated ones, and not for the real sky."
    else:
        lead = f"Sure to within the {level} intervals, for objects drawn like these; a survey's sky may differ."
    sentences = [
        f"The test set has {n:,} lenses and {others:,} non-lenses: {known}"
        f"intervals come from {boot['resamples']:,} bootstrap resamples of both classes (shares: Wilson), and would"
        f" hold the true value in about {level} of repeated tests."
    ]
    if others:
        unseen = 3 / others
        sentences.append(
            f"What {others:,} non-lenses can resolve: even without one false positive among them the rate may be up to"
            f" {unseen:.2g} (95 %), which in a survey of {survey['n_objects']:,} objects is up to"
            f" {unseen * survey['n_objects']:,.0f} false candidates. Scores that ask for rates below 1 in {others:,}"
            " are left undefined, with the reason."
        )
    if len(order) > 1:
        sentences.append("Networks whose intervals overlap much are not told apart by these data.")
    sentences.append(
        (
            "These data are simulated. "
            if simulated(content)
            else "If these data are simulated, as the challenge's are: "
        )
        + "Figures from simulated images do not carry over to real sky. A network trained on simulations alone"
        " recovered up to 92 % of simulated lenses at 100 % purity, but had 50 % completeness at 24 % purity on real"
        " Euclid images (arXiv:2512.05899). Take the numbers here to compare networks and to see what they miss, and"
        " measure again on labelled real images before a forecast rests on them."
    )
    return Answer("How sure are we?", lead, sentences)
