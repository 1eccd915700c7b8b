"""The folder of a training run: what was configured, whether it goes on or has ended, and the table of several runs.

A run is its folder: ``config.yaml`` (resolved, written once), ``checkpoints/``, and ``metrics.json``, written last. The
same command for the same folder continues a run that was killed, and does nothing for one that has ended.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lensfind.errors import LensfindError
from lensfind.files import write_file

__all__ = ["Run", "open_run", "read_metrics"]

METRICS = "metrics.json"
_FREE = ("output_dir", "resume", "run_id", "group", "data_dir")
"""Keys that may differ between two starts of one run."""


@dataclass(frozen=True)
class Run:
    """A training run: its folder, and its resolved configuration as plain values."""

    folder: Path
    config: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.folder / "checkpoints"

    @property
    def last(self) -> Path | None:
        """The checkpoint to go on from, if there is one."""
        return self.checkpoints / "last.ckpt" if (self.checkpoints / "last.ckpt").is_file() else None

    @property
    def ended(self) -> bool:
        """Whether training and test of this very configuration are done."""
        return (self.folder / METRICS).is_file()


def open_run(cfg: DictConfig, *, write: bool = True) -> Run:
    """The run that ``cfg`` asks for: a new one, or the one that its folder already holds.

    Args:
        cfg: Of train.py, composed by Hydra.
        write: Write ``config.yaml`` for a new run (the first process does).

    Raises:
        LensfindError: The folder holds a run with another configuration, or ``resume`` names no run.
    """
    folder = Path(cfg.resume if cfg.resume else cfg.output_dir).resolve()
    kept = folder / "config.yaml"
    if cfg.resume and not kept.is_file():
        raise LensfindError(
            "resume to be the folder of a run, with config.yaml", str(cfg.resume), "Look for it below runs/ or sweeps/."
        )
    if cfg.resume:
        config, differs = _resumed(kept, folder)
        if differs:
            (folder / METRICS).unlink(missing_ok=True)
            write_file(kept, OmegaConf.to_yaml(OmegaConf.create(config)))
        return Run(folder, config)
    if not (kept.is_file() and (folder / "checkpoints" / "last.ckpt").is_file()):  # nothing to go on from
        config = _plain(cfg)
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(kept, OmegaConf.to_yaml(OmegaConf.create(config)))
        return Run(folder, config)
    saved = _saved(kept, folder)
    asked = cfg.copy()
    OmegaConf.set_struct(asked, False)
    asked.update({key: saved.get(key) for key in _FREE})
    before, now = _flat(saved), _flat(_plain(asked))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        first = changed[0]
        raise LensfindError(
            f"the configuration of the run in {folder}",
            f"another one ({first}: {before.get(first)} there, {now.get(first)} now"
            + (f"; also {', '.join(changed[1:6])})" if changed[1:] else ")"),
            f"Choose another folder (hydra.run.dir=DIR, hydra.sweep.dir=DIR), or go on with that run: resume={folder}",
        )
    return Run(folder, saved)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved, and with absolute paths: a run goes on, and its checkpoint finds its data, from any folder."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    for place, key in (
        (config, "data_dir"),
        *((config["data"], key) for key in ("root", "store", "truth", "data_dir")),
    ):
        if isinstance(place.get(key), str):
            place[key] = str(Path(place[key]).absolute())
    return config


def _renamed(config: Any, old: str, new: str) -> Any:
    """The configuration with each value that is the path ``old`` replaced: run folders may be moved."""
    if isinstance(config, Mapping):
        return {key: _renamed(value, old, new) for key, value in config.items()}
    return new if config == old else config


def _saved(kept: Path, folder: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(kept))
    except (YAMLError, OSError, ValueError, OmegaConfBaseException) as error:
        config = str(error).splitlines()[0]
    if not isinstance(config, dict) or not isinstance(config.get("output_dir"), str):
        raise LensfindError(
            "the configuration of a run", f"{kept} with {str(config)[:100]!r}", "Start a new run in another folder."
        )
    renamed: dict[str, Any] = _renamed(config, config["output_dir"], str(folder))
    return renamed


def _resumed(kept: Path, folder: Path) -> tuple[dict[str, Any], bool]:
    """The saved configuration with the overrides that stand beside ``resume=`` on the command line."""
    saved = _saved(kept, folder)
    config = OmegaConf.create(saved)
    OmegaConf.set_struct(config, True)
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    for override in OverridesParser.create().parse_overrides(list(given)):
        key = override.key_or_group
        if key == "resume":
            continue
        way_out = f"Change single values only, e.g. resume={folder} trainer.max_epochs=200, or start a new run."
        if key in choices or override.package is not None:
            raise LensfindError("single values beside resume=", f"the group {key}={override.value()}", way_out)
        try:
            OmegaConf.update(config, key, override.value(), force_add=override.is_add())
        except OmegaConfBaseException as error:
            raise LensfindError(f"a key of {kept}", key, way_out) from error
    plain: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    return plain, _flat(plain) != _flat(saved)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, Mapping):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if not (prefix == "" and key in _FREE):
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def read_metrics(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of an ended run or evaluation."""
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text())
    return metrics
