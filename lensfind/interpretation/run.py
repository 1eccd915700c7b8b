"""The app ``interpret``: methods of the configuration on chosen objects, files of each, one gallery."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console

from lensfind.dashboard import finish, wandb_logger
from lensfind.data import LensData
from lensfind.errors import LensfindError
from lensfind.evaluation import predict
from lensfind.finder import LensFinder
from lensfind.inputs import rows_of
from lensfind.interpretation import judging, pages
from lensfind.interpretation.gallery import write_gallery
from lensfind.interpretation.pages import Session

__all__ = ["run_methods"]

console = Console(soft_wrap=True)

PAGES: Mapping[str, Callable[[Session, str, partial[Any]], None]] = {
    "faithfulness": judging.faithfulness,  # first: its verdicts are printed on the maps
    "occlusion": pages.occlusion,
    "gradient": pages.gradients,
    "integrated_gradients": pages.gradients,
    "grad_cam": pages.gradients,
    "guided_backprop": pages.gradients,
    "guided_grad_cam": pages.gradients,
    "class_image": pages.class_image,
    "deep_dream": pages.deep_dream,
    "kernel_image": pages.kernel_image,
    "kernel_activation": pages.kernel_activation,
    "kernels": pages.kernels,
}


def run_methods(cfg: DictConfig, finder: LensFinder, data: LensData) -> Path:
    """Arrays (``.npz``), figures, GIFs, tables and ``gallery.html`` of every method in ``cfg.method``.

    Args:
        cfg: ``conf/interpret.yaml``, composed by Hydra.
        finder: Of ``cfg.checkpoint``, on its device.
        data: Set up.

    Returns:
        The folder of the results.

    Raises:
        LensfindError: No or unknown methods, unknown ids, an empty selection, or what a method does not accept.
    """
    settings: dict[str, Any] = OmegaConf.to_container(cfg.get("method") or OmegaConf.create(), resolve=True)  # type: ignore[assignment]
    unknown = [name for name in settings if name not in PAGES]
    if unknown or not settings:
        raise LensfindError(
            f"methods out of {', '.join(PAGES)}, or all",
            ", ".join(unknown) or "none",
            "Set method=occlusion, method=[occlusion,grad_cam] or method=all.",
        )
    logger = wandb_logger(cfg)
    # Settings that are null in the file are those that the function itself chooses.
    methods = {
        name: instantiate({k: v for k, v in settings[name].items() if v is not None}, _partial_=True, _convert_="all")
        for name in PAGES
        if name in settings
    }
    localisation = settings.get("faithfulness", {}).get("localisation")
    session = Session(
        finder=finder,
        data=data,
        rows=_chosen(cfg, finder, data),
        folder=Path(cfg.output_dir),
        some=rows_of(cfg.rows, data),
        judges=cfg.judges if cfg.judges is None or isinstance(cfg.judges, str) else list(cfg.judges),
        checkpoint=Path(cfg.checkpoint),
        localisation=localisation,
        say=console.print,
        asked=cfg.ids is not None,
        settings={name: pages.keywords(method) for name, method in methods.items()},
    )
    exit_code = 1
    try:
        for name, method in methods.items():
            PAGES[name](session, name, method)
        names = ", ".join(str(number) for number in session.ids)
        write_gallery(
            session.folder / "gallery.html",
            f"{session.name}: what it looks at",
            f"Network {session.name} (bands {', '.join(finder.bands)}), {cfg.checkpoint}. Data {data.store.root},"
            f" objects {names}. Methods: {', '.join(methods)}. Positive relevance (blue) speaks for"
            " the target of its figure, a lens unless set otherwise.",
            session.entries,
            session.notes,
            session.tables,
        )
        if logger is not None:
            _send(logger, session)
        exit_code = 0
    finally:
        if logger is not None:
            finish(logger, exit_code)
    console.print(f"Results: {session.folder} (arrays .npz, {len(session.entries)} pictures)")
    console.print(f"Gallery: {session.folder / 'gallery.html'}")
    return session.folder


def _chosen(cfg: DictConfig, finder: LensFinder, data: LensData) -> NDArray[np.int64]:
    """Catalogue rows of the ids, or the most confident lenses and as many that are none."""
    ids = np.asarray(data.catalogue["id"])
    if cfg.ids is not None:
        given = list(cfg.ids) if isinstance(cfg.ids, ListConfig) else [cfg.ids]
        place = {int(number): row for row, number in enumerate(ids)}
        unknown = [number for number in given if number not in place]
        if unknown or len(set(given)) < max(len(given), 1):
            raise LensfindError(
                f"ids of objects, each once, in {data.store.root}",
                f"ids={given} ({len(unknown)} unknown, {len(given) - len(set(given))} twice)",
                f"Try ids=[{ids[0]}].",
            )
        return np.array([place[number] for number in given])
    rows = rows_of(cfg.rows, data)
    if type(cfg.n) is not int or cfg.n < 1 or not len(rows):
        raise LensfindError(
            "one or more objects to look at", f"n={cfg.n} of {len(rows)} rows ({cfg.rows})", "Set n=4, or rows=all."
        )
    scored = predict([finder], data.loader(rows))
    order = np.argsort(-scored.log_odds[0], kind="stable")
    lenses = order[scored.label[order] == 1][: -(-cfg.n // 2)]
    others = order[scored.label[order] == 0][: cfg.n - len(lenses)]
    return np.asarray(scored.row[np.concatenate([lenses, others])])


def _send(logger: WandbLogger, session: Session) -> None:
    """Every picture, GIF and table to W&B as media."""
    content: dict[str, Any] = {}
    for entry in session.entries:
        key = f"{entry.section}/{entry.path.stem}"
        caption = " ".join(filter(None, [entry.warning, entry.caption]))
        if entry.path.suffix == ".gif":
            content[key] = wandb.Video(str(entry.path), caption=caption, format="gif")
        else:
            content[key] = wandb.Image(str(entry.path), caption=caption)
    for section, rows in session.tables.items():
        if rows:
            columns = list(rows[0])
            content[f"{section}/table"] = wandb.Table(columns, [[row[key] for key in columns] for row in rows])
    run = logger.experiment
    run.config.update({"network": session.name, "data": str(session.data.store.root)}, allow_val_change=True)
    run.log(content)
