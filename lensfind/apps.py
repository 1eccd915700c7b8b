"""The four apps as ordinary functions of a resolved configuration; ``cli.py`` puts Hydra around them.

``train``, ``evaluate``, ``simulate`` and ``interpret`` wire the parts together, write into one folder, and print where
the results are and what to type next.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from hydra.utils import instantiate
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from lensfind import figures
from lensfind.checkpoint import load
from lensfind.dashboard import Dashboard, finish
from lensfind.data import LensData, Store
from lensfind.errors import LensfindError
from lensfind.evaluation import comparison, print_table, write_evaluation
from lensfind.evaluation.run import run_evaluation
from lensfind.files import whole_file
from lensfind.finder import LensFinder
from lensfind.inputs import data_for, device, load_networks
from lensfind.interpretation import occlusion
from lensfind.interpretation.run import run_methods
from lensfind.runs import Run, open_run, read_metrics
from lensfind.simulation import simulate as simulate_store
from lensfind.simulation.export import export_challenge
from lensfind.simulation.show import distribution_panels, shown_rows
from lensfind.training import BestCheckpoint, History, SeededEpochs, check, keep_metrics

__all__ = ["compare", "evaluate", "interpret", "simulate", "train"]

console = Console(soft_wrap=True)


# ------------------------------------------------------------------------------------------------------------- train


def train(cfg: DictConfig) -> dict[str, float]:
    """Train a finder, keep the best checkpoint, test it, and draw what there is to see.

    Args:
        cfg: ``conf/train.yaml``, composed by Hydra.

    Returns:
        The test metrics (``test/auroc`` and so on).

    Raises:
        LensfindError: See the parts; and for several processes inside a sweep.
    """
    first = getattr(rank_zero_only, "rank", 0) == 0
    run = open_run(cfg, write=first)
    config = run.config
    if run.ended:
        ended = {f"test/{key}": value for key, value in read_metrics(run.folder)["metrics"].items()}
        console.print(
            f"{run.folder} has ended already; nothing to do. Train on: resume={run.folder} trainer.max_epochs=N"
        )
        return ended
    check(config)
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    data: LensData = instantiate(config["data"], _convert_="all")
    finder: LensFinder = instantiate(config["model"], _convert_="all")
    finder.provenance["config"] = config
    if first:
        data.prepare_data()  # before the other processes start: they would wait for minutes and then give up
    logger: Logger = instantiate(config["logger"], _convert_="all")
    history = History()
    callbacks: list[Callback] = [history, SeededEpochs(config["seed"])]
    if config["patience"] is not None:
        callbacks.append(EarlyStopping(config["monitor"], patience=config["patience"], mode=config["monitor_mode"]))
    if isinstance(logger, WandbLogger):
        callbacks.append(Dashboard(config))
    best = BestCheckpoint(run.checkpoints, config["monitor"], config["monitor_mode"])
    trainer: pl.Trainer = instantiate(config["trainer"], logger=logger, callbacks=[*callbacks, best], _convert_="all")
    if run.last:
        load(run.last)  # a damaged one is named here, before anything is touched
    if first:
        data.setup("fit")
        finder.provenance["manifest_sha256"] = data.store.sha256  # by which evaluate.py knows what was trained on
        empty = [split for split in ("train", "val", "test") if not len(data.rows(split))]
        if empty:
            raise LensfindError(
                "rows to train on, to validate on and to test with",
                f"none in {', '.join(empty)} of {data.store.root}",
                "Choose a split that fills all three, e.g. split=fraction.",
            )
        sizes = ", ".join(f"{len(data.rows(split))} {split}" for split in ("train", "val", "test"))
        console.print(f"{finder.name}: {finder.n_parameters:,} parameters; bands {', '.join(finder.bands)}; {sizes}")
    exit_code = 1
    try:
        if run.last and isinstance(logger, CSVLogger) and first:
            keep_metrics(logger, run)
        trainer.fit(finder, datamodule=data, ckpt_path=run.last, weights_only=True)
        if not (run.checkpoints / "best.ckpt").is_file():
            raise LensfindError(
                "the best checkpoint of the run",
                f"no best.ckpt in {run.checkpoints}",
                "Start a new run in another folder.",
            )
        epochs = history.epochs  # the test loads best.ckpt, and with it the history up to there
        trainer.test(finder, datamodule=data, ckpt_path=run.checkpoints / "best.ckpt", weights_only=True, verbose=False)
        results = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("test/")}
        if trainer.is_global_zero:
            _report(run, finder, data, epochs)
        exit_code = 0
    finally:
        if isinstance(logger, WandbLogger):
            finish(logger, exit_code)
    return results


def _report(run: Run, finder: LensFinder, data: LensData, epochs: Sequence[Mapping[str, float]]) -> None:
    """Everything that a run leaves for people: metrics, predictions, pictures, and where they are."""
    assert finder.test_scores is not None
    row, label, p_lens = finder.test_scores.numpy().T
    row, label = row.astype(np.int64), label.astype(np.int64)
    _save(figures.learning_curves(epochs), run.folder / "learning_curves.png")
    shown = np.concatenate([np.flatnonzero(label == kind)[:16] for kind in (1, 0)])
    titles = [f"{'lens' if label[i] else 'other'} {p_lens[i]:.2f}" for i in shown]
    _save(figures.mosaic(data.store.read(row[shown], data.store.bands), titles), run.folder / "mosaic.png")
    shown = _most_confident(label, p_lens, 2 * run.config["occlusion_maps"])[: run.config["occlusion_maps"]]
    if len(shown):
        maps = occlusion(finder.cpu().eval(), data.store.read(row[shown], finder.bands), progress=True)
        _occlusion_figures(data, row[shown], maps, p_lens[shown], run.folder)
    written = write_evaluation(
        run.folder,
        ids=np.asarray(data.catalogue["id"])[row],
        label=label,
        p_lens=p_lens,
        split=np.full(len(row), "test"),
        provenance={
            "name": finder.name,
            "checkpoint": "checkpoints/best.ckpt",
            "data": str(data.store.root),
            "rows": "test",
        },
    )
    print_table([{"network": finder.name, **written["metrics"]}], title=f"{finder.name} on {len(row)} test objects")
    console.print(f"Results: {run.folder}")
    console.print(
        f"  {', '.join(sorted(path.name for path in run.folder.iterdir() if path.suffix in ('.png', '.json', '.csv')))}"
    )
    console.print(f"Next: python evaluate.py checkpoint={run.folder}   python interpret.py checkpoint={run.folder}")


def compare(folder: Path) -> None:
    """One table of all ended runs below a sweep's folder: printed, and written as ``comparison.csv``."""
    ended = sorted(path.parent for path in folder.glob("*/metrics.json"))
    if not ended:
        return
    rows = [{"run": path.name, **read_metrics(path)["metrics"]} for path in ended]
    comparison(rows, folder / "comparison.csv")
    print_table(rows, title=f"{len(rows)} runs in {folder}")
    console.print(f"Table: {folder / 'comparison.csv'}")


# ---------------------------------------------------------------------------------------------------------- evaluate


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Measure one network or several: what they find, what they miss, what it will cost (docs/evaluation.md).

    Args:
        cfg: ``conf/evaluate.yaml``, composed by Hydra.

    Returns:
        What stands in ``metrics.json``.
    """
    networks = load_networks(cfg.checkpoint, device(cfg.device))
    content = run_evaluation(cfg, networks, partial(data_for, cfg, networks))
    again = cfg.checkpoint if isinstance(cfg.checkpoint, str) else networks[0].path
    console.print(f"Next: python interpret.py checkpoint={again}", markup=False)
    return content


# ---------------------------------------------------------------------------------------------- interpret and simulate


def interpret(cfg: DictConfig) -> Path:
    """Look inside a finder: arrays, figures, GIFs and tables of the chosen methods, and one gallery of them all.

    Args:
        cfg: ``conf/interpret.yaml``, composed by Hydra.

    Returns:
        The folder of the results.
    """
    networks = load_networks(cfg.checkpoint, device(cfg.device))
    if len(networks) > 1:
        raise LensfindError("one checkpoint", f"{len(networks)}", f"Choose one, e.g. checkpoint={networks[0].path}.")
    return run_methods(cfg, networks[0].finder, data_for(cfg, networks))


def simulate(cfg: DictConfig) -> Path:
    """Simulate a set of stamps with their catalogue, and show it.

    Args:
        cfg: ``conf/simulate.yaml``, composed by Hydra.

    Returns:
        The folder of the set.

    Raises:
        LensfindError: See :func:`lensfind.simulation.simulate`; and for another ``export`` than challenge.
    """
    folder = Path(cfg.output_dir)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    if settings["export"] not in (None, "challenge"):
        raise LensfindError("export=challenge or export=null", str(settings["export"]), "Set export=challenge.")
    scenario = {key: settings[key] for key in ("scenario", "population", "scene")}
    keys = ("n", "seed", "survey", "engine", "workers", "shard_size", "planes", "slice")
    if not simulate_store(folder, scenario=scenario, **{key: settings[key] for key in keys}):
        console.print(f"Slice {cfg.slice} is made; other slices of {folder} are still to come.")
        return folder
    store = Store(folder)
    shown = shown_rows(store, 32)
    titles = [f"{store.catalogue['kind'][i]} {store.catalogue['id'][i]}" for i in shown]
    stamps = store.read(shown, store.bands)
    _save(figures.mosaic(stamps, titles, field=12.0), folder / "mosaic.png")
    few = np.linspace(0, len(shown) - 1, min(10, len(shown))).astype(int)
    _save(figures.planes({b: v[few] for b, v in stamps.items()}, [titles[i] for i in few]), folder / "bands.png")
    _save(figures.distributions(distribution_panels(store)), folder / "distributions.png")
    counts = store.manifest["counts"]
    rejected = counts["rejected"] or "none"
    console.print(f"{counts['objects']} objects, {counts['lenses']} of them lenses; draws rejected: {rejected}")
    if settings["export"] == "challenge":
        console.print(f"Challenge layout: {export_challenge(store, folder / 'challenge')}")
    console.print(f"Results: {folder} (shards, manifest.yaml, mosaic.png, bands.png, distributions.png)")
    console.print(f"Next: python train.py data={folder}")
    return folder


# ----------------------------------------------------------------------------------------------------------- pictures


def _most_confident(label: NDArray[np.int64], p_lens: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Positions of the objects with the highest P(lens): n / 2 lenses, then as many that are none."""
    order = np.argsort(-p_lens, kind="stable")
    lenses = order[label[order] == 1][: n // 2]
    return np.concatenate([lenses, order[label[order] == 0][: n - len(lenses)]])


def _occlusion_figures(
    data: LensData, rows: NDArray[np.int64], maps: NDArray[np.float32], p_lens: NDArray[np.float64], folder: Path
) -> None:
    """One ``occlusion_ID.png`` per object."""
    pictures = figures.composite(data.store.read(rows, data.store.bands))
    for row, picture, difference, p in zip(rows, pictures, maps, p_lens, strict=True):
        number, kind = data.catalogue["id"][row], "lens" if data.labels[row] else "non-lens"
        figure = figures.occlusion(picture, difference, p, f"{number} ({kind})")
        _save(figure, folder / f"occlusion_{number}.png")


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as file:
        figure.savefig(file, format="png")
