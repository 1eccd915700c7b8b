"""The pictures of the README, made from a run of `experiment=demo`.

    python train.py experiment=demo
    python docs/figures.py RUN_DIR          # docs/: mosaic, learning_curves, occlusion, real_cutouts .png

The real cut-outs and published weights are read from $LENSFIND_REFERENCE or ../shared; without them that picture stays.
"""

import csv
import os
import shutil
import sys
from pathlib import Path

import numpy as np

import lensfind
from lensfind import figures
from lensfind.bands import BANDS
from lensfind.data import Store
from lensfind.data.cutouts import read_cutouts
from lensfind.files import whole_file
from lensfind.interpretation import occlusion
from lensfind.runs import read_metrics

HERE = Path(__file__).resolve().parent


def main(run: Path) -> None:
    """Write every picture into docs/."""
    store = Store(Path(read_metrics(run)["data"]))
    finder = lensfind.load(run)
    place = {int(i): row for row, i in enumerate(store.catalogue["id"])}
    with (run / "predictions.csv").open(newline="") as file:
        scored = [(place[int(row["id"])], int(row["label"]), float(row["p_lens"])) for row in csv.DictReader(file)]
    chosen = [next_ for kind in (1, 0) for next_ in [row for row in scored if row[1] == kind][:12]]
    stamps = store.read([row for row, _, _ in chosen], store.bands)
    titles = [f"{'lens' if label else 'other'}: {p:.2f}" for _, label, p in chosen]
    save(figures.mosaic(stamps, titles, columns=6), "mosaic.png")
    shutil.copyfile(run / "learning_curves.png", HERE / "learning_curves.png")
    # Not the surest lens: where P(lens) is all but 1, no small square changes it.
    row, _, p = min((one for one in scored if one[1] == 1), key=lambda one: abs(one[2] - 0.8))
    one = store.read([row], store.bands)
    difference = occlusion(finder, one, window=3, stride=3)[0]
    save(figures.occlusion(figures.composite(one)[0], difference, p, "simulated lens"), "occlusion.png")
    reference = Path(os.environ.get("LENSFIND_REFERENCE", HERE.parents[1] / "shared"))
    if (reference / "euclid_q1").is_dir():
        paths = sorted((reference / "euclid_q1").glob("*.fits"))
        cutouts = read_cutouts(paths, list(BANDS))
        names = {"OU-VIS": "OU_VIS_Weights.pt", "OU-66": "OU_66_Weights.pt", "OU-200": "OU_200_Weights.pt"}
        finders = {name: lensfind.load(reference / "published" / file) for name, file in names.items()}
        scores = {name: one.predict_proba(cutouts).numpy() for name, one in (finders | {"demo": finder}).items()}
        for k, path in enumerate(paths):
            print(path.stem, {name: round(float(p[k]), 3) for name, p in scores.items()})
        titles = [
            f"{path.stem}\n" + "   ".join(f"{name} {p[k]:.2f}" for name, p in scores.items())
            for k, path in enumerate(paths)
        ]
        save(figures.mosaic(cutouts, titles, columns=3, side=3.0), "real_cutouts.png")


def save(figure: figures.Figure, name: str) -> None:
    """Write a picture and say how large it is."""
    with whole_file(HERE / name) as file:
        figure.savefig(file, format="png")
    print(f"docs/{name}: {np.ceil((HERE / name).stat().st_size / 1000):.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
