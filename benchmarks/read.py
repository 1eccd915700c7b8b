"""Objects read per second: from a store, and the plain way, four FITS files per object.

    python benchmarks/read.py [objects]

Both read the same four-band objects (212 kB each) in random order out of the page cache, in one process, in one run;
what counts is the ratio. Everything is made in a temporary folder and takes about 0.5 MB of disk per object.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.data import Store, finish, verify, write_shard

SHARD, BATCH = 250, 100


def make(root: Path, n: int) -> None:
    """The same noise as a store and as files."""
    rng = np.random.default_rng(0)
    for number in range(n // SHARD):
        ids = np.arange(SHARD) + SHARD * number
        stamps = {b: rng.normal(0, 0.01, (SHARD, BANDS[b].size, BANDS[b].size)).astype(np.float32) for b in BANDS}
        write_shard(root / "store", number, stamps, Table({"id": ids, "label": ids % 2}))
        for band, cube in stamps.items():
            (root / band).mkdir(exist_ok=True)
            for index, stamp in zip(ids, cube, strict=True):
                fits.writeto(root / band / f"{index}.fits", stamp)
    finish(root / "store", {"seed": 0}, shards=n // SHARD, lens_rule="none")


def rate(read: Callable[[NDArray[np.int64]], object], rows: NDArray[np.int64]) -> float:
    """Objects per second, the best of three passes over ``rows``; the first of them warms the page cache."""
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for first in range(0, len(rows), BATCH):
            read(rows[first : first + BATCH])
        best = max(best, len(rows) / (time.perf_counter() - start))
    return best


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, n)
        store = Store(root / "store")

        def files(rows: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
            return {
                band: np.stack([fits.getdata(root / band / f"{row}.fits").astype(np.float32) for row in rows])
                for band in BANDS
            }

        rows = np.random.default_rng(1).permutation(n)
        for band, cube in files(rows[:20]).items():
            np.testing.assert_array_equal(cube, store.read(rows[:20])[band])
        mapped, plain = rate(store.read, rows), rate(files, rows[: min(n, 500)])
        start = time.perf_counter()
        assert not verify(root / "store")
        size = sum(path.stat().st_size for path in (root / "store").iterdir())
        print(f"store, memory-mapped cubes: {mapped:8.0f} objects/s")
        print(f"four FITS files per object: {plain:8.0f} objects/s")
        print(f"ratio:                      {mapped / plain:8.0f}")
        print(f"verify:                     {size / 1e6 / (time.perf_counter() - start):8.0f} MB/s")


if __name__ == "__main__":
    main(max(int(sys.argv[1]) // SHARD, 1) * SHARD if len(sys.argv) > 1 else 1000)
