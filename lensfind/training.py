"""What a training run needs beside finder and data: checks before any work, and callbacks that survive a resume."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from lensfind.errors import LensfindError
from lensfind.finder import METRICS
from lensfind.runs import Run

__all__ = ["BestCheckpoint", "History", "SeededEpochs", "check", "keep_metrics"]


class History(Callback):
    """The metrics of every epoch, kept in the checkpoint so that learning curves survive a resume and any logger."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what was logged in this epoch."""
        values = {key: float(value) for key, value in trainer.callback_metrics.items() if "/" in key}
        self.epochs.append({"epoch": trainer.current_epoch, **values})

    def state_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.epochs = list(state_dict["epochs"])


class SeededEpochs(Callback):
    """Dropout of every epoch drawn from (seed, epoch, device): a resumed run is the run that was not stopped."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed torch's default generators, which dropout draws from."""
        state = np.random.SeedSequence(self.seed, spawn_key=(trainer.current_epoch, trainer.global_rank))
        torch.manual_seed(int(state.generate_state(1, np.uint64)[0]))


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt`` and ``last.ckpt``, and still knows the best value when the run's folder was moved."""

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning forgets what was best so far if the folder has another path than before."""
        old, new = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(key): moved(item) for key, item in value.items()}
            return value.replace(old, new, 1) if isinstance(value, str) else value

        super().load_state_dict(moved(state_dict))


def check(config: Mapping[str, Any]) -> None:
    """Refuse before any work what would fail after it."""

    def ask(key: str, good: bool, expected: str, way_out: str) -> None:
        if not good:
            value: Any = config
            for part in key.split("."):
                value = value.get(part)
            raise LensfindError(f"{key} to be {expected}", repr(value), f"Set {way_out}.")

    def whole(value: object, least: int) -> bool:
        return type(value) is int and value >= least

    trainer = config["trainer"]
    monitored = [f"{split}/{name}" for split in ("train", "val") for name in METRICS]
    ask("seed", whole(config["seed"], 0), "a whole number of 0 or more", "seed=0")
    ask("monitor", config["monitor"] in monitored, f"one of {', '.join(monitored)}", "monitor=val/loss")
    ask("monitor_mode", config["monitor_mode"] in ("min", "max"), "min or max", "monitor_mode=min")
    ask("patience", config["patience"] is None or whole(config["patience"], 1), "null or epochs", "patience=10")
    ask("occlusion_maps", whole(config["occlusion_maps"], 0), "a whole number of 0 or more", "occlusion_maps=1")
    epochs = trainer["max_epochs"]
    ask("trainer.max_epochs", whole(epochs, 1) or epochs == -1, "1 or more (-1: no end)", "trainer.max_epochs=150")
    for split in ("train", "val", "test"):
        key = f"limit_{split}_batches"
        ask(f"trainer.{key}", trainer.get(key) is None or trainer[key] > 0, "null or above 0", f"trainer.{key}=null")
    debug = "false; it leaves no checkpoint to test"
    ask("trainer.fast_dev_run", not trainer.get("fast_dev_run"), debug, "trainer=debug instead")
    # Lightning starts the other processes of DDP with the same command line, which would be a second sweep.
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    devices, strategy = config["trainer"]["devices"], str(config["trainer"].get("strategy"))
    if multirun and devices not in (1, "1") and "spawn" not in strategy:
        raise LensfindError(
            "one device per job inside a sweep",
            f"trainer.strategy={strategy} with trainer.devices={devices}",
            "Set trainer.devices=1, or trainer.strategy=ddp_spawn, or start the runs one by one.",
        )


def keep_metrics(logger: CSVLogger, run: Run) -> None:
    """Lightning's CSV logger deletes metrics.csv when it starts again: hand it the rows of the epochs that stand."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        return
    done = torch.load(run.checkpoints / "last.ckpt", map_location="cpu", weights_only=True)["epoch"]
    with path.open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row.get("epoch") and row.get("step") and float(row["epoch"]) <= done
        ]
    for row in rows:
        logger.experiment.log_metrics(
            {key: float(value) if "/" in key else int(float(value)) for key, value in row.items() if value},
            step=int(row["step"]),
        )
    logger.experiment.save()
