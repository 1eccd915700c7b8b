"""Weights & Biases: everything that a run sends there beyond Lightning's metrics (docs/wandb.md)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import wandb
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from torchmetrics.functional import classification as metrics

from lensfind import figures
from lensfind.errors import LensfindError
from lensfind.finder import LensFinder

__all__ = ["Dashboard", "finish", "send_evaluation", "wandb_logger"]

EXAMPLES = 32
"""Stamps in the table."""
POINTS = 1000
"""Of an interactive curve; W&B draws no more than 10,000 rows per panel."""


class Dashboard(Callback):
    """Configuration and parameter count when training starts; curves, confusion matrix and stamps after the test.

    Does nothing in a trainer without a :class:`WandbLogger`, and only the first process writes.

    Args:
        config: The resolved configuration of the run as plain values.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``config`` and ``n_parameters``."""
        run = _run(trainer)
        if run is None:
            return
        assert isinstance(pl_module, LensFinder)
        # A resumed run meets its own old values, and Lightning writes hyper-parameters under some of the same keys.
        run.config.update(self.config | {"n_parameters": pl_module.n_parameters}, allow_val_change=True)
        run.summary["n_parameters"] = pl_module.n_parameters

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ROC and PR curves, the confusion matrix (pictures and interactive) and the table of example stamps."""
        run = _run(trainer)
        if run is None:
            return
        assert isinstance(pl_module, LensFinder)
        assert pl_module.test_scores is not None
        row, label, p_lens = pl_module.test_scores.numpy().T
        truth = label.astype(np.int64)
        name = pl_module.name
        content = {
            "test/roc": wandb.Image(figures.roc_curve({name: (truth, p_lens)})),
            "test/pr": wandb.Image(figures.precision_recall_curve({name: (truth, p_lens)})),
            "test/confusion_matrix": wandb.Image(figures.confusion_matrix(truth, p_lens)),
            "test/confusion_matrix_interactive": wandb.plot.confusion_matrix(
                y_true=truth.tolist(), preds=(p_lens > 0.5).astype(int).tolist(), class_names=["non-lens", "lens"]
            ),
            **_examples(trainer, row.astype(np.int64), truth, p_lens),
        }
        if 0 < truth.sum() < len(truth):
            target, preds = torch.from_numpy(truth), torch.from_numpy(p_lens)
            fpr, tpr, _ = metrics.binary_roc(preds, target)
            precision, recall, _ = metrics.binary_precision_recall_curve(preds, target)
            content["test/roc_interactive"] = _curve(
                fpr, tpr, ("false positive rate", "true positive rate"), "ROC curve"
            )
            content["test/pr_interactive"] = _curve(
                recall, precision, ("recall", "precision"), "Precision-recall curve"
            )
        run.log(content)


def finish(logger: WandbLogger, exit_code: int = 0) -> None:
    """End the run of ``logger`` if it has begun one; without this every job of a sweep writes into the first run.

    Args:
        logger: Of the trainer.
        exit_code: 0 marks the run as finished, anything else as failed.
    """
    if wandb.run is not None and logger.version == wandb.run.id:
        wandb.finish(exit_code=exit_code)


def wandb_logger(cfg: DictConfig) -> WandbLogger | None:
    """The logger of an app that does not train: ``logger=wandb`` or none.

    Raises:
        LensfindError: Another logger.
    """
    if cfg.get("logger") is None:
        return None
    logger = instantiate(cfg.logger, _convert_="all")
    if not isinstance(logger, WandbLogger):
        raise LensfindError(
            "logger=wandb, or none", f"{type(logger).__name__}", "Pictures lie in the output folder anyway."
        )
    return logger


def _run(trainer: pl.Trainer) -> Any:
    """The W&B run of the trainer, in the first process; else None."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def _curve(x: torch.Tensor, y: torch.Tensor, names: tuple[str, str], title: str) -> Any:
    """A chart of at most POINTS points that W&B draws itself, overlaying the runs that one selects.

    The chart of ``wandb.plot.roc_curve``, which would ask for pandas and scikit-learn.
    """
    kept = torch.linspace(0, len(x) - 1, min(len(x), POINTS)).round().long()
    rows = [["lens", *point] for point in zip(x[kept].tolist(), y[kept].tolist(), strict=True)]
    return wandb.plot_table(
        "wandb/area-under-curve/v0",
        wandb.Table(columns=["class", *names], data=rows),
        {"x": names[0], "y": names[1], "class": "class"},
        {"title": title, "x-axis-title": names[0], "y-axis-title": names[1]},
    )


def _examples(
    trainer: pl.Trainer, row: NDArray[np.int64], truth: NDArray[np.int64], p_lens: NDArray[np.float64]
) -> dict[str, Any]:
    """Up to 16 mistakes, the most confident first, and others drawn at random: a table and a mosaic of the same."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    error = np.abs(p_lens - truth)
    order = np.argsort(-error, kind="stable")
    wrong = (p_lens > 0.5) != (truth == 1)
    mistakes = order[wrong[order]][: EXAMPLES // 2]
    rest = np.setdiff1d(np.arange(len(row)), mistakes)
    others = np.random.default_rng(0).permutation(rest)[: EXAMPLES - len(mistakes)]
    chosen = np.concatenate([mistakes, others])
    stamps = data.store.read(row[chosen], data.store.bands)
    # The last row of a FITS image is up, of a picture the first.
    pictures = (figures.composite(stamps)[:, ::-1] * 255).round().astype(np.uint8)
    ids = np.asarray(data.catalogue["id"])[row[chosen]]
    names = ["lens" if truth[index] else "non-lens" for index in chosen]
    table = wandb.Table(columns=["id", "image", "p_lens", "truth", "mistake"])
    for k, index in enumerate(chosen):
        table.add_data(int(ids[k]), wandb.Image(pictures[k]), float(p_lens[index]), names[k], bool(wrong[index]))
    titles = [f"{name} {p_lens[index]:.3f}" for name, index in zip(names, chosen, strict=True)]
    return {"test/examples": table, "test/mosaic": wandb.Image(figures.mosaic(stamps, titles))}


def send_evaluation(logger: WandbLogger, content: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
    """What evaluate.py found: scores in the summary, tables of all that has rows, and every figure.

    Args:
        logger: Of the app.
        content: Of ``metrics.json``.
        pictures: ``{name: PNG file}``.
    """
    run = logger.experiment
    run.config.update({key: content[key] for key in ("data", "survey", "bootstrap")}, allow_val_change=True)
    tables: dict[str, list[dict[str, Any]]] = {"scores": []}
    for network in content["networks"]:
        name = {"network": network["name"]}
        for metric, value in network["metrics"].items():
            low, high = network["intervals"].get(metric) or (None, None)
            note = network["undefined"].get(metric) or network["limits"].get(metric)
            tables["scores"].append(name | {"metric": metric, "value": value, "low": low, "high": high, "note": note})
            if value is not None:
                run.summary[f"{network['name']}/{metric}"] = value
        for key in ("reliability", "false_positives", "rare", "sensitivity"):
            tables.setdefault(key, []).extend(name | line for row in network[key] for line in _lines(row))
        for quantity, bins in network["completeness"].items():
            tables.setdefault("completeness", []).extend(name | {"property": quantity} | row for row in bins)
    logged = {f"evaluation/{key}": _table(rows) for key, rows in tables.items() if rows}
    run.log(logged | {f"evaluation/{key}": wandb.Image(str(path)) for key, path in pictures.items()})


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows that may lack each other's columns; a value may be a number in one and a band's name in another."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return wandb.Table(columns, [[row.get(key) for key in columns] for row in rows], allow_mixed_types=True)


def _lines(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of ``metrics.json`` as flat ones: lists side by side become lines, a mapping more columns."""
    flat = {key: value for key, value in row.items() if not isinstance(value, Mapping | list)}
    flat |= {f"{key}_{k}": v for key, value in row.items() if isinstance(value, Mapping) for k, v in value.items()}
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    if not lists:
        return [flat]
    return [flat | dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
