"""Shared by all tests: where the reference data lie, small honest stamps, one simulated set and one training run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from numpy.typing import NDArray
from omegaconf import DictConfig

from lensfind import apps
from lensfind.bands import BANDS
from lensfind.cli import CONF

ROOT = Path(__file__).resolve().parents[1]


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


def compose(app: str, *overrides: str) -> DictConfig:
    """The configuration that ``python APP.py OVERRIDES`` would get."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose(app, overrides=list(overrides))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated set in four bands, made once per session by the real simulator."""
    root = tmp_path_factory.mktemp("simulated") / "store"
    apps.simulate(compose("simulate", "n=160", "workers=2", "shard_size=40", f"output_dir={root}"))
    return root


@pytest.fixture(scope="session")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one real training run that the tests share: OU-66 on J, Y, H for three epochs; its folder."""
    folder = tmp_path_factory.mktemp("runs") / "ou66-jyh"
    arguments = [*SMALL, f"data.root={store}", "trainer.max_epochs=3", f"hydra.run.dir={folder}"]
    done = run_app("train.py", *arguments, cwd=folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(folder) in done.stdout
    return folder


def run_app(app: str, *arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """An app as a user types it."""
    return subprocess.run(
        [sys.executable, str(ROOT / app), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


SMALL = (
    "experiment=ou_jyh",
    "data=shards",
    "data.batch_size=32",
    "data.split.train=0.6",
    "data.split.val=0.2",
    "data.split.test=0.2",
)
"""Overrides of the shared run: small enough for seconds, with enough of each class in every split."""
