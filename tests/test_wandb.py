"""The W&B dashboard: real offline runs, read back from the files that wandb writes."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import wandb
from astropy.table import Table
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from wandb.proto.wandb_internal_pb2 import Record

from lensfind import LensFinder
from lensfind.dashboard import Dashboard, finish
from lensfind.data import LensData
from lensfind.data import store as stores
from tests.conftest import noise_stamps, run_app

SPLIT = {"kind": "rows", "train": 8, "val": 8, "test": 44}


@pytest.fixture(scope="module")
def noise_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 objects of noise in J and H; every third is called a lens."""
    root = tmp_path_factory.mktemp("noise")
    catalogue = Table({"id": 5000 + np.arange(60), "label": (np.arange(60) % 3 == 0).astype(np.int64)})
    stores.write_shard(root, 0, noise_stamps(60, bands=("J", "H")), catalogue)
    stores.finish(root, {}, shards=1, lens_rule="every third")
    return root


def records(file: Path) -> Iterator[Record]:
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB; crc, length, type, data) after 7 bytes."""
    raw, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(raw):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[position : position + 7])
        record += raw[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(record)
            record = b""


def whole(file: Path) -> list[Record]:
    """All records of an ended run; wandb's own process may write the last ones a moment after ``finish`` returns."""
    deadline = time.monotonic() + 30
    while True:
        found = list(records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < deadline, f"{file} has no exit record"
        time.sleep(0.05)


class Written:
    """What one offline run has in its folder."""

    def __init__(self, folder: Path) -> None:
        (self.folder,) = folder.glob("wandb/offline-run-*")
        (file,) = self.folder.glob("*.wandb")
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: dict[str, Path] = {}
        self.exit_code: int | None = None
        for record in whole(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.name, self.project, self.group = record.run.display_name, record.run.project, record.run.run_group
                self.config |= items(record.run.config.update)
            elif kind == "config":
                self.config |= items(record.config.update)
            elif kind == "history":
                self.history.append(items(record.history.item))
            elif kind == "summary":
                self.summary |= items(record.summary.update)
            elif kind == "artifact":
                contents = record.artifact.manifest.contents
                self.artifacts |= {entry.path: Path(entry.local_path) for entry in contents}
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def logged(self, key: str) -> Any:
        """The last value of a key."""
        return next(row[key] for row in reversed(self.history) if key in row)

    def media(self, key: str) -> Path:
        """The file that a logged image or table stands in."""
        return self.folder / "files" / self.logged(key)["path"]


def items(updates: Any) -> dict[str, Any]:
    """Keys and values of a record; wandb splits a mapping into one item per leaf."""
    values: dict[str, Any] = {}
    for item in updates:
        *parents, last = item.nested_key or [item.key]
        place = values
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return values


def train(folder: Path, store: Path, config: dict[str, Any], **options: Any) -> LensFinder:
    """One epoch on 8 objects and a test on 44, as apps.train does it."""
    logger = WandbLogger(project="lensfind", save_dir=folder, **options)
    pl.seed_everything(0, verbose=False)
    finder = LensFinder("ou66", ("H",))
    data = LensData(store, ("H",), split=SPLIT, batch_size=22, verify=False)
    exit_code = 1
    try:
        trainer = quiet_trainer(logger, Dashboard(config))
        trainer.fit(finder, datamodule=data)
        trainer.test(finder, datamodule=data, verbose=False)
        exit_code = 0
    finally:
        finish(logger, exit_code)
    return finder


def quiet_trainer(logger: Any, dashboard: Dashboard) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=logger,
        callbacks=[dashboard],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, no chatter, nothing in the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.mktemp("staging")))
        yield


@pytest.fixture(scope="module")
def run(noise_store: Path, offline: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, LensFinder]:
    """One run, offline."""
    folder = tmp_path_factory.mktemp("run")
    config = {"seed": 3, "model": {"architecture": "ou66"}, "data": {"split": SPLIT, "bands": ["H"]}}
    finder = train(folder, noise_store, config, name="ou66-h", group="paper")
    return Written(folder), finder


def test_names_configuration_and_parameters(run):
    written, finder = run
    assert (written.name, written.project, written.group) == ("ou66-h", "lensfind", "paper")
    assert written.config["seed"] == 3
    assert written.config["data"] == {"split": SPLIT, "bands": ["H"]}
    assert written.config["learning_rate"] == 3e-4  # Lightning's own, beside ours
    assert written.config["n_parameters"] == written.summary["n_parameters"] == 201_842 == finder.n_parameters
    assert written.exit_code == 0


def test_metrics_of_all_splits(run):
    written, finder = run
    for split in ("train", "val", "test"):
        for metric in ("loss", "auroc", "average_precision", "f1", "precision", "recall", "accuracy"):
            assert np.isfinite(written.logged(f"{split}/{metric}"))
    found = finder.test_scores[:, 2] > 0.5
    assert written.logged("test/accuracy") == pytest.approx(float((found == finder.test_scores[:, 1]).double().mean()))


def test_pictures_are_there(run):
    written, _ = run
    for key in ("test/roc", "test/pr", "test/confusion_matrix", "test/mosaic"):
        assert written.logged(key)["_type"] == "image-file"
        with Image.open(written.media(key)) as picture:
            assert min(picture.size) > 300


def test_interactive_curves(run):
    written, finder = run
    label, p_lens = finder.test_scores[:, 1].numpy(), finder.test_scores[:, 2].numpy()
    roc = json.loads(written.media("test/roc_interactive_table").read_text())
    assert roc["columns"] == ["class", "false positive rate", "true positive rate"]
    points = np.array([row[1:] for row in roc["data"]], dtype=float)
    np.testing.assert_allclose(points[[0, -1]], [[0, 0], [1, 1]])
    area = np.trapezoid(points[:, 1], points[:, 0])
    lenses, rest = p_lens[label == 1], p_lens[label == 0]
    pairs = (lenses[:, None] > rest).mean() + 0.5 * (lenses[:, None] == rest).mean()
    assert area == pytest.approx(pairs, abs=1e-6)
    pr = json.loads(written.media("test/pr_interactive_table").read_text())
    assert pr["columns"] == ["class", "recall", "precision"]
    counts = json.loads(written.media("test/confusion_matrix_interactive_table").read_text())
    assert sum(row[-1] for row in counts["data"]) == len(label)


def test_table_of_examples(run, noise_store):
    written, finder = run
    assert written.logged("test/examples")["nrows"] == 32
    # Pictures in tables travel as an artifact, staged in WANDB_DATA_DIR until they are synced.
    table = json.loads(written.artifacts["test/examples.table.json"].read_text())
    assert table["columns"] == ["id", "image", "p_lens", "truth", "mistake"]
    assert len(table["data"]) == 32
    known = {5000 + int(row): (int(label), p) for row, label, p in finder.test_scores.tolist()}
    for number, image, p_lens, truth, mistake in table["data"]:
        label, expected = known[number]
        assert p_lens == expected
        assert truth == ("lens" if label else "non-lens")
        assert mistake == ((p_lens > 0.5) != label)
        with Image.open(written.artifacts[image["path"]]) as picture:
            assert picture.size == (66, 66)
    assert len({row[0] for row in table["data"]}) == 32
    errors = [abs(p_lens - (truth == "lens")) for _, _, p_lens, truth, mistake in table["data"] if mistake][:16]
    worst = sorted((abs(p - label) for label, p in known.values() if (p > 0.5) != label), reverse=True)[:16]
    assert errors == pytest.approx(worst)


def test_each_job_has_its_own_run_even_after_an_exception(noise_store, offline, tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("the first job breaks")

    with monkeypatch.context() as broken:
        broken.setattr(LensFinder, "on_train_epoch_start", fail)
        with pytest.raises(RuntimeError, match="first job"):
            train(tmp_path / "a", noise_store, {"seed": 1}, name="ou66-j")
    assert wandb.run is None
    train(tmp_path / "b", noise_store, {"seed": 2}, name="ou66-h")
    first, second = Written(tmp_path / "a"), Written(tmp_path / "b")
    assert (first.name, first.exit_code, first.config["seed"]) == ("ou66-j", 1, 1)
    assert (second.name, second.exit_code, second.config["seed"]) == ("ou66-h", 0, 2)


def test_other_loggers_are_left_alone(noise_store, offline, tmp_path):
    data = LensData(noise_store, ("H",), split=SPLIT, batch_size=22, verify=False)
    finder = LensFinder("ou66", ("H",))
    quiet_trainer(CSVLogger(tmp_path), Dashboard({"seed": 1})).fit(finder, datamodule=data)
    assert wandb.run is None
    finish(WandbLogger(project="lensfind", offline=True, save_dir=tmp_path))  # one that never began a run
    assert wandb.run is None
    assert not list(tmp_path.glob("wandb/*"))


@pytest.mark.slow
def test_jobs_of_a_sweep_are_runs_of_their_own(store, tmp_path, monkeypatch):
    """Two jobs, two runs of one group, both ended, with the run's name; an exception ends a run as failed."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    common = ["trainer=debug", "logger=wandb", "data=shards", f"data.root={store}", "data.batch_size=16"]
    sweep = [*common, "occlusion_maps=0", f"hydra.sweep.dir={tmp_path / 'night'}"]
    done = run_app("train.py", "-m", "experiment=ou_j,ou_h", *sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (Written(tmp_path / "night" / name) for name in ("ou66-j", "ou66-h"))
    assert (first.name, second.name) == ("ou66-j", "ou66-h")
    assert first.group == second.group == "night"
    assert first.project == "lensfind"
    assert first.exit_code == second.exit_code == 0
    assert first.config["data"]["bands"] == ["J"]
    assert second.config["data"]["bands"] == ["H"]
    assert first.config["n_parameters"] == 201_842
    assert "test/auroc" in {key for row in first.history for key in row}
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "checkpoints").write_text("a file where the run wants a folder")
    failing = [*common, f"hydra.run.dir={tmp_path / 'failed'}"]
    assert run_app("train.py", "experiment=ou_j", *failing, cwd=tmp_path).returncode != 0
    assert Written(tmp_path / "failed").exit_code == 1
