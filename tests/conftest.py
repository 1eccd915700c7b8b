"""Shared by all tests: where the reference data lie, and small honest stamps."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lensfind.bands import BANDS


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder with the published weights and the real cut-outs; skips where there is none."""
    folder = Path(os.environ.get("LENSFIND_REFERENCE", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "published").is_dir():
        pytest.skip(f"no reference data at {folder}: set LENSFIND_REFERENCE to a folder with published/ and euclid_q1/")
    return folder


def noise_stamps(n: int, seed: int = 0, bands: tuple[str, ...] = tuple(BANDS)) -> dict[str, NDArray[np.float32]]:
    """Stamps of nothing but noise, in electron/s."""
    rng = np.random.default_rng(seed)
    return {b: rng.normal(0.0, 0.01, (n, BANDS[b].size, BANDS[b].size)).astype(np.float32) for b in bands}
