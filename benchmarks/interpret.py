"""Seconds per occlusion map: the plain way against ours, in one run.

    python benchmarks/interpret.py [positions]

Plain, as in the released code of Wilde et al. 2022: for every position of the square read the four FITS files, resize
them with scikit-image, scale, cover, and pass one image through the network. It is timed on `positions` (default 40) of
the 2,500 (OU-200) or 4,356 (OU-66) and scaled up. Ours: the stamp read once from a store, one call of
``lensfind.interpretation.occlusion``. Weights are random (time does not depend on them); both give the same numbers,
which is checked on those positions.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from astropy.table import Table
from skimage.transform import resize

from lensfind import LensFinder
from lensfind.bands import BANDS
from lensfind.data import Store, finish, write_shard
from lensfind.finder import probability
from lensfind.interpretation import occlusion


def make(root: Path) -> None:
    """One object as a store and as four files."""
    rng = np.random.default_rng(0)
    stamps = {band: rng.normal(0, 0.01, (1, b.size, b.size)).astype(np.float32) for band, b in BANDS.items()}
    write_shard(root / "store", 0, stamps, Table({"id": [0], "label": [1]}))
    finish(root / "store", {"seed": 0}, shards=1, lens_rule="none")
    for band, cube in stamps.items():
        fits.writeto(root / f"{band}.fits", cube[0])


@torch.no_grad()
def plain(finder: LensFinder, root: Path, window: int, corners: list[tuple[int, int]]) -> np.ndarray:
    """P(lens | occluded) of the squares at ``corners``, one at a time."""
    found = []
    for row, column in corners:
        bands = []
        for band in finder.bands:
            image = fits.getdata(root / f"{band}.fits").astype(np.float64)
            if image.shape[0] != finder.net.size:
                image = resize(
                    image, (finder.net.size, finder.net.size), anti_aliasing=image.shape[0] > finder.net.size
                )
            bands.append((image - image.min()) / (image.max() - image.min()))
        x = torch.from_numpy(np.stack(bands)[None]).float()
        x[:, :, row : row + window, column : column + window] = 0
        found.append(float(probability(finder(x))[0]))
    return np.array(found)


def now() -> np.ndarray:
    """Wall and CPU seconds; the latter are the fair ones on a machine that others use too."""
    return np.array([time.perf_counter(), time.process_time()])


def main(positions: int) -> None:
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root)
        store = Store(root / "store")
        for architecture, window in (("ou200", 4), ("ou66", 1)):
            torch.manual_seed(0)
            finder = LensFinder(architecture).eval()
            side = finder.net.size // window
            rng = np.random.default_rng(1)
            corners = [(int(r) * window, int(c) * window) for r, c in rng.integers(0, side, (positions, 2))]
            plain(finder, root, window, corners[:2])
            start = now()
            theirs = plain(finder, root, window, corners)
            slow = (now() - start) / positions * side**2
            fast, maps = np.full(2, np.inf), np.empty(0)
            for _ in range(3):
                start = now()
                maps = occlusion(finder, store.read([0], finder.bands))
                fast = np.minimum(fast, now() - start)
            whole = float(finder.predict_proba(store.read([0], finder.bands))[0])
            ours = [maps[0, row // window, column // window] + whole for row, column in corners]
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
            for kind, (theirs_s, ours_s) in zip(("wall", "CPU"), zip(slow, fast, strict=True), strict=True):
                print(
                    f"{architecture}, {kind} time: plain {theirs_s:6.1f} s, ours {ours_s:5.2f} s per map"
                    f" of {side**2:,}; ratio {theirs_s / ours_s:.0f}"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
