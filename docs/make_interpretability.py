"""The pictures and the table of docs/interpretability.md, made again with the published weights.

    python docs/make_interpretability.py WEIGHTS_FOLDER [WORK_FOLDER]     # half an hour on one core

WEIGHTS_FOLDER holds OU_66_Weights.pt and OU_200_Weights.pt. WORK_FOLDER (default data/docs) keeps the simulated stamps
and everything that the runs leave.
"""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "interpretability"
METHODS = "method=[occlusion,grad_cam,guided_grad_cam,kernel_activation,class_image,deep_dream]"
PAPER = ("method.class_image.recipe=paper", "method.class_image.n=1", "method.deep_dream.recipe=paper")


def run(app: str, *arguments: str) -> None:
    """An app as a user types it."""
    print(f"python {app}", *arguments, flush=True)
    subprocess.run([sys.executable, str(ROOT / app), *arguments], check=True)


def main(weights: Path, work: Path) -> None:
    """Simulate, interpret, and copy what the page shows."""
    run("simulate.py", "n=200", "seed=1", f"output={work / 'stamps'}")
    run("simulate.py", "scenario=twin", "n=48", "seed=7", f"output={work / 'twins'}")
    PICTURES.mkdir(exist_ok=True)
    for name, layer in (("ou66", None), ("ou200", "layer.20")):
        checkpoint = f"checkpoint={weights / name.replace('ou', 'OU_')}_Weights.pt"
        folder = work / name
        layers = [f"method.guided_grad_cam.layer={layer}"] if layer else []
        common = [checkpoint, f"data={work / 'stamps'}", "n=2"]
        run("interpret.py", *common, METHODS, *PAPER, *layers, f"hydra.run.dir={folder}")
        lens, other = ids(folder)
        for method in ("occlusion", "grad_cam", "guided_grad_cam", "kernel_activation"):
            copy(folder / f"{method}_{lens}.png", f"{name}_{method}_lens.png")
        copy(folder / "class_image_lens_0.gif", f"{name}_class_image_lens.gif")
        copy(folder / f"deep_dream_lens_{other}.gif", f"{name}_deep_dream_lens_of_a_non_lens.gif")
        copy(folder / f"deep_dream_non_lens_{lens}.gif", f"{name}_deep_dream_non_lens_of_a_lens.gif")
    checkpoint = f"checkpoint={weights / 'OU_66_Weights.pt'}"
    folder, methods = work / "ou66_default", "method=[class_image,kernel_image]"
    common = [checkpoint, f"data={work / 'stamps'}", "n=2"]
    run("interpret.py", *common, methods, "method.class_image.n=1", f"hydra.run.dir={folder}")
    copy(folder / "class_image_lens_0.gif", "ou66_default_class_image_lens.gif")
    copy(next(folder.glob("kernel_image*.png")), "ou66_kernel_image.png")
    folder = work / "ou66_faithfulness"
    settings = "method.faithfulness.settings={integrated_gradients:{steps:8}}"
    judged = ["n=2", "method=faithfulness", "method.faithfulness.n=8", settings, f"hydra.run.dir={folder}"]
    run("interpret.py", checkpoint, f"data={work / 'twins'}", *judged)
    copy(folder / "faithfulness.png", "ou66_faithfulness.png")
    with (folder / "faithfulness.csv").open(newline="") as file:
        for row in csv.reader(file):
            print(" | ".join(row))


def ids(folder: Path) -> tuple[str, str]:
    """Ids of the lens and the non-lens: with n=2 the dreams begin with the lens."""
    import numpy as np

    with np.load(folder / "occlusion.npz") as arrays:
        first, second = (str(int(number)) for number in arrays["id"])
    return first, second


def copy(source: Path, name: str) -> None:
    """Into docs/interpretability."""
    shutil.copyfile(source, PICTURES / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("data/docs"))
