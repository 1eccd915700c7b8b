"""The tables and pictures of docs/evaluation.md, out of an evaluation's folder (its command stands on that page).

python docs/make_evaluation.py EVALUATION_DIR
"""

import json
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PICTURES = {"survey": "evaluation_survey", "completeness": "evaluation_completeness", "rare": "evaluation_rare"}


def cell(value, interval, percent=True):
    """A value with its interval, in per cent or as it is; a dash where undefined."""
    if value is None:
        return "–"
    factor, digits = (100, 1) if percent else (1, 3)
    text = f"{factor * value:.{digits}f}"
    return text if interval is None else f"{text} ({factor * interval[0]:.{digits}f}–{factor * interval[1]:.{digits}f})"


def scores(content):
    """One row per network: scores of the test set, and what the survey would get."""
    lines = ["| network | AUROC | AP | F1 | recall % | TPR at FPR 1e-2 % | TPR at FPR 1e-3 % | lenses in first 1,000 |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for one in content["networks"]:
        values, spans = one["metrics"], one["intervals"]
        cells = [cell(values[k], spans[k], False) for k in ("auroc", "average_precision", "f1")]
        cells += [cell(values[k], spans[k]) for k in ("recall", "tpr_at_fpr_1e-2", "tpr_at_fpr_1e-3")]
        top = values["lenses_in_top"]
        span = spans["lenses_in_top"]
        cells.append("–" if top is None else f"{top:.0f}" + (f" ({span[0]:.0f}–{span[1]:.0f})" if span else ""))
        lines.append(f"| {one['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rare(content):
    """One row per network: recall of each set, and the difference in matched pairs."""
    sets = [row["scenario"] for row in content["networks"][0]["rare"]]
    head = [f"{name} %" for name in sets] + [f"{name} - single, matched (pairs, p)" for name in sets[1:]]
    lines = ["| network | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for one in content["networks"]:
        cells = [cell(row["recall"], (row["lower"], row["upper"])) for row in one["rare"]]
        for row in one["rare"][1:]:
            pair = row["matched"]
            cells.append(
                f"{100 * pair['difference']:+.1f} ({100 * pair['lower']:+.1f} to {100 * pair['upper']:+.1f};"
                f" {pair['n_pairs']}, {pair['p_value']:.1g})"
                if pair
                else "–"
            )
        lines.append(f"| {one['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    """Put the tables between their marks and copy the pictures."""
    folder = Path(sys.argv[1])
    content = json.loads((folder / "metrics.json").read_text())
    page = DOCS / "evaluation.md"
    text = page.read_text()
    for name, table in (("scores", scores(content)), ("rare", rare(content))):
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m, t=table: m[1] + t + m[2], text, flags=re.S
        )
        assert count == 1, f"no place for the table {name} in {page}"
    page.write_text(text)
    for name, picture in PICTURES.items():
        shutil.copy(folder / f"{name}.png", DOCS / f"{picture}.png")
    print(f"{page}: {len(content['networks'])} networks, {content['data']['n_objects']} objects")


if __name__ == "__main__":
    main()
