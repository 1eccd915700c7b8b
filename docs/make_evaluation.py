"""The tables and pictures of docs/evaluation.md, out of an evaluation's folder (its command stands on that page).

python docs/make_evaluation.py EVALUATION_DIR
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
from astropy.table import Table

from lensfind import figures
from lensfind.evaluation import scores as measure
from lensfind.evaluation import survey_curve

DOCS = Path(__file__).resolve().parent
PLAIN = ("elliptical", "disc", "deflector")
TEMPTING = ("spiral", "ring", "merger", "edge_on", "satellites", "star")


def cell(value, interval, percent=True):
    """A value with its interval, in per cent or as it is; a dash where undefined."""
    if value is None:
        return "–"
    factor, digits = (100, 1) if percent else (1, 3)
    text = f"{factor * value:.{digits}f}"
    return text if interval is None else f"{text} ({factor * interval[0]:.{digits}f}–{factor * interval[1]:.{digits}f})"


def auroc(predictions, name, kinds):
    """AUROC of lenses against the non-lenses of some kinds."""
    some = (predictions["label"] == 1) | np.isin(predictions["kind"], kinds)
    found = measure(predictions["label"][some], predictions[f"p_lens_{name}"][some], resamples=1000)
    return cell(found.values["auroc"], found.intervals["auroc"], False)


def scores(content, predictions):
    """One row per network: scores of the test set, and what the survey would get."""
    head = ["network", "AUROC", "against plain galaxies", "against tempting ones", "F1", "recall %"]
    head += ["TPR at FPR 1e-2 %", "lenses in first 1,000"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in content["networks"]:
        values, spans = one["metrics"], one["intervals"]
        cells = [cell(values["auroc"], spans["auroc"], False)]
        cells += [auroc(predictions, one["name"], kinds) for kinds in (PLAIN, TEMPTING)]
        cells += [cell(values["f1"], spans["f1"], False)]
        cells += [cell(values[k], spans[k]) for k in ("recall", "tpr_at_fpr_1e-2")]
        top, span = values["lenses_in_top"], spans["lenses_in_top"]
        cells.append("–" if top is None else f"{top:.0f}" + (f" ({span[0]:.0f}–{span[1]:.0f})" if span else ""))
        lines.append(f"| {one['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rare(content):
    """One row per network: recall of each set, and the difference in matched pairs."""
    sets = [row["scenario"] for row in content["networks"][0]["rare"]]
    pairs = {row["scenario"]: row["matched"]["n_pairs"] for row in content["networks"][0]["rare"] if row["matched"]}
    head = [f"`{name}` %" for name in sets] + [f"`{name}` - single, {n} pairs (p)" for name, n in pairs.items()]
    lines = ["| network | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for one in content["networks"]:
        cells = [cell(row["recall"], (row["lower"], row["upper"])) for row in one["rare"]]
        for pair in (row["matched"] for row in one["rare"] if row["matched"]):
            difference, low, high = (100 * pair[key] for key in ("difference", "lower", "upper"))
            cells.append(f"{difference:+.1f} ({low:+.1f} to {high:+.1f}; {pair['p_value']:.1g})")
        lines.append(f"| {one['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    """Put the tables between their marks and draw the pictures."""
    folder = Path(sys.argv[1])
    content = json.loads((folder / "metrics.json").read_text())
    predictions = Table.read(folder / "predictions.csv")
    page = DOCS / "evaluation.md"
    text = page.read_text()
    for name, table in (("scores", scores(content, predictions)), ("rare", rare(content))):
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(\n?<!-- end -->)",
            lambda m, t=table: m[1] + t + "\n<!-- end -->",
            text,
            flags=re.S,
        )
        assert count == 1, f"no place for the table {name} in {page}"
    page.write_text(text)
    curves = {
        one["name"]: survey_curve(predictions["label"], predictions[f"p_lens_{one['name']}"], resamples=200)
        for one in content["networks"]
    }
    figures.survey_yield(curves).savefig(DOCS / "evaluation_survey.png")
    rows = {one["name"]: one["rare"] for one in content["networks"]}
    figures.rare_recall(rows).savefig(DOCS / "evaluation_rare.png")
    print(f"{page}: {len(content['networks'])} networks, {content['data']['n_objects']} objects")


if __name__ == "__main__":
    main()
