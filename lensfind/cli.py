"""The four commands: Hydra around the functions of ``lensfind.apps``, and nothing else.

Here live what Hydra needs (the folder of configs, resolvers, the table at the end of a sweep) and two conveniences of
the command line: ``data=DIR``, and sweep folders that are named after what was swept.
"""

import logging
import os
import secrets
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from lensfind import apps
from lensfind.bands import band_set_name
from lensfind.errors import LensfindError
from lensfind.files import NO_ROOM

__all__ = ["CONF", "Comparison", "command_line", "evaluate", "interpret", "simulate", "train"]

_here = Path(__file__).resolve().parent
CONF = _here / "conf" if (_here / "conf").is_dir() else _here.parent / "conf"
"""Folder of the configs: inside the package in a wheel, beside it in a checkout."""

# Lightning's hints about hardware and other products would bury what a run has to say.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
for noise in (
    "Experiment logs directory",
    "Checkpoint directory",
    ".*smaller than the logging interval",
    ".*treespec",
    ".*many workers",
):
    warnings.filterwarnings("ignore", message=noise)

AXES = ("model", "bands", "experiment", "sweep")
"""Groups that already show in a run's name (``ou200-vis``)."""


def _sweep_name() -> str | None:
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).name


def _band_set(bands: object) -> str:
    """Name for folders; a wrong choice is named too, and refused by the part that has to use it."""
    try:
        return band_set_name(bands)  # type: ignore[arg-type]
    except (LensfindError, TypeError):
        return "unknown-bands"


OmegaConf.register_new_resolver("band_set", _band_set, replace=True)
OmegaConf.register_new_resolver(
    "cpu_count",
    lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    replace=True,
)
OmegaConf.register_new_resolver("random_id", lambda: secrets.token_hex(4), use_cache=True, replace=True)
OmegaConf.register_new_resolver("run_dir", lambda chosen, default: chosen or default, replace=True)
OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)


def command_line(app: str, arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them.

    ``data=DIR`` becomes ``data=shards data.root=DIR`` (or ``data=challenge ...`` where it has no manifest), and a
    sweep of train.py over keys that do not show in a run's name gets folders that do: ``ou66-all_learning_rate-0.001``.
    """
    done = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        value = value.strip("'\"")
        if (
            key == "data"
            and not (CONF / "data" / f"{value}.yaml").is_file()
            and (os.sep in value or Path(value).is_dir())
        ):
            layout = "shards" if (Path(value) / "manifest.yaml").is_file() or not _has_vis(Path(value)) else "challenge"
            quoted = value.replace("'", "\\'")
            done += [f"data={layout}", f"data.root='{quoted}'"]
        else:
            done.append(argument)
    sweeps = {"-m", "--multirun"} & set(done) or any(argument.startswith("sweep=") for argument in done)
    if app == "train" and sweeps and not any(argument.startswith("hydra.sweep.subdir=") for argument in done):
        overrides = [argument for argument in done if "=" in argument and not argument.startswith("-")]
        swept = [o.key_or_group for o in OverridesParser.create().parse_overrides(overrides) if o.is_sweep_override()]
        tail = ""
        for key in swept:
            if (CONF / key).is_dir():
                tail += "" if key in AXES else f"_${{hydra:runtime.choices.{key}}}"
            elif not key.startswith("hydra"):
                tail += f"_{key.rpartition('.')[2]}-${{{key}}}"
        if tail:
            done.append(f"hydra.sweep.subdir='${{name}}{tail}'")
    return done


def _has_vis(folder: Path) -> bool:
    return any(path.is_dir() for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}EUC_*"))


class Comparison(Callback):
    """Hydra callback: one table of all runs of a sweep, printed and as ``comparison.csv`` in the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra when the last job has ended well."""
        apps.compare(Path(config.hydra.sweep.dir))


def _command(function: Callable[[DictConfig], object]) -> Callable[[], None]:
    name = function.__name__

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
    def run(cfg: DictConfig) -> object:
        try:
            return function(cfg)
        except LensfindError as error:
            # Hydra prints this kind without the stack trace, which would hide the sentence that helps.
            raise CompactHydraException(f"lensfind: {error}") from error
        except MissingMandatoryValue as error:
            key = str(error).rpartition(": ")[2].splitlines()[0]
            sentence = LensfindError(f"a value for {key}", "none", f"Add {key}=... to the command.")
            raise CompactHydraException(f"lensfind: {sentence}") from error
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            sentence = LensfindError(
                "room on the disk",
                str(error),
                "Make room, then run the same command again: it goes on from what is whole.",
            )
            raise CompactHydraException(f"lensfind: {sentence}") from error

    def command() -> None:
        sys.argv[1:] = command_line(name, sys.argv[1:])
        run()

    command.__doc__ = f"``lensfind-{name}``: :func:`lensfind.apps.{name}` with the configuration of the command line."
    command.__name__ = command.__qualname__ = name
    return command


train = _command(apps.train)
evaluate = _command(apps.evaluate)
simulate = _command(apps.simulate)
interpret = _command(apps.interpret)
