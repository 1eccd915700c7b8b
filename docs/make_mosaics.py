"""The pictures of docs/simulation.md: python docs/make_mosaics.py [FOLDER of the sets].

64 objects of every scenario, seed 0; a mosaic of 32 composites each; single bands of training.
"""

import subprocess
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
SCENARIOS = ("training", "single_lens", "non_lens", "compound_arc", "double_ring", "twin")

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "data/mosaics")
for scenario in SCENARIOS:
    command = ["simulate.py", f"scenario={scenario}", "n=64", "shard_size=32", f"output={folder / scenario}"]
    subprocess.run([sys.executable, str(HERE.parent / command[0]), *command[1:]], check=True)
    names = ("mosaic", "bands") if scenario == "training" else ("mosaic",)
    for name in names:
        Image.open(folder / scenario / f"{name}.png").convert("RGB").save(
            HERE / f"simulation_{scenario}_{name}.jpg", quality=82, optimize=True
        )
