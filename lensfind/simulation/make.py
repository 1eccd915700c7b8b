"""Make: a simulated store, shard by shard, in parallel and resumable; and the data module that makes its own."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from lensfind.bands import BANDS
from lensfind.data.store import finish, shard_done, write_shard
from lensfind.errors import LensfindError
from lensfind.simulation.instrument import Survey
from lensfind.simulation.objects import catalogue, simulate_object
from lensfind.simulation.scene import Scenario

if TYPE_CHECKING:
    from lensfind.data.module import LensData

__all__ = ["simulate", "simulated_data"]

CONFIG = "simulation.yaml"
_CHUNK = 16  # objects per task: small enough for a moving bar and even work, large against the cost of a task

_Chunk = tuple[dict[str, NDArray[np.float32]], list[Mapping[str, Any]], list[tuple[str, str]]]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} objects/s")


def _config(n: int, seed: int, scenario: Scenario, survey: Survey, shard_size: int) -> dict[str, Any]:
    """All that decides the bytes of a store, as plain values."""
    for name, value, low in (("n", n, 1), ("seed", seed, 0), ("shard_size", shard_size, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise LensfindError(
                f"{name} as a whole number of at least {low}", repr(value), f"Set {name}={low} or more."
            )
    config = {
        "n": n,
        "seed": seed,
        "shard_size": shard_size,
        "scenario": asdict(scenario),
        "survey": asdict(survey),
    }
    return dict(json.loads(json.dumps(config)))


def _render_chunk(first: int, last: int, seed: int, scenario: Scenario, survey: Survey) -> _Chunk:
    made = [simulate_object(seed, index, scenario, survey) for index in range(first, last)]
    stamps = {band: np.stack([one.stamps[band] for one in made]) for band in BANDS}
    return stamps, [one.row for one in made], [reject for one in made for reject in one.rejects]


def _claim(root: Path, config: Mapping[str, Any]) -> None:
    """Write the config of an unfinished store into ``root``, or check that it is the one already there."""
    path = root / CONFIG
    if path.is_file():
        there = yaml.safe_load(path.read_text())
        if there != config:
            differ = [key for key in config if not isinstance(there, dict) or there.get(key) != config[key]]
            raise LensfindError(
                f"{root} to be simulated with this config",
                f"a store begun with another {', '.join(differ)} (see {path})",
                "Choose another output folder, or remove this one.",
            )
    elif root.is_dir() and any(root.iterdir()):
        raise LensfindError(
            f"an empty or new folder for the simulation, or one with {CONFIG}",
            f"{root} with other files",
            "Choose another output folder.",
        )
    else:
        root.mkdir(parents=True, exist_ok=True)
        aside = root / f".{CONFIG}.{os.getpid()}"
        aside.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        os.replace(aside, path)


def simulate(
    root: str | Path,
    *,
    n: int,
    seed: int,
    scenario: Mapping[str, Any],
    survey: Mapping[str, Any],
    workers: int = 1,
    shard_size: int = 500,
) -> None:
    """Simulate ``n`` objects into the store ``root``.

    A finished store of the same config is left alone, an unfinished one goes on behind its last whole shard, and
    the bytes are the same for any number of workers.

    Args:
        root: Folder of the store; new, empty, or from this very config.
        n: Objects to make. Rejected draws are drawn again and listed in ``rejects.csv``.
        seed: Root seed.
        scenario: Of ``conf/scenario``, see :class:`~lensfind.simulation.scene.Scenario`.
        survey: Of ``conf/survey``, see :class:`~lensfind.simulation.instrument.Survey`.
        workers: Processes, one thread each.
        shard_size: Objects per shard.

    Raises:
        LensfindError: Impossible settings, a folder with something else in it, or what ``write_shard`` raises.
    """
    root, plan, instrument = Path(root), Scenario.from_config(scenario), Survey.from_config(survey)
    config = _config(n, seed, plan, instrument, shard_size)
    if workers < 1:
        raise LensfindError("workers of at least 1", str(workers), "Set workers=1.")
    _claim(root, config)
    if (root / "manifest.yaml").is_file():
        return
    shards = math.ceil(n / shard_size)
    todo = [number for number in range(shards) if not shard_done(root, number)]
    bounds = {number: (number * shard_size, min((number + 1) * shard_size, n)) for number in todo}
    total = sum(last - first for first, last in bounds.values())
    size = max(1, min(_CHUNK, math.ceil(total / (4 * workers))))
    chunks = [
        (number, start, min(start + size, last))
        for number, (first, last) in bounds.items()
        for start in range(first, last, size)
    ]
    columns = ("simulating", BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns) as progress, parallel_config("loky", inner_max_num_threads=1):
        task = progress.add_task("", total=total)
        made = Parallel(n_jobs=workers, return_as="generator", batch_size=1)(
            delayed(_render_chunk)(start, last, seed, plan, instrument) for _, start, last in chunks
        )
        waiting: list[_Chunk] = []
        for (number, start, last), chunk in zip(chunks, made, strict=True):
            waiting.append(chunk)
            progress.advance(task, last - start)
            if last == bounds[number][1]:
                stamps = {band: np.concatenate([part[0][band] for part in waiting]) for band in BANDS}
                table = catalogue([row for part in waiting for row in part[1]], plan.label)
                write_shard(root, number, stamps, table, [reject for part in waiting for reject in part[2]])
                waiting = []
    finish(root, {"app": "simulate", **config}, shards=shards, lens_rule=plan.label)


def simulated_data(
    n: int,
    seed: int,
    scenario: Mapping[str, Any],
    survey: Mapping[str, Any],
    workers: int,
    shard_size: int,
    data_dir: str | Path,
    root: str | Path | None = None,
    **data: Any,
) -> "LensData":
    """A :class:`~lensfind.data.module.LensData` whose ``prepare_data`` simulates its store on first use.

    Args:
        n, seed, scenario, survey, workers, shard_size: Of :func:`simulate`.
        data_dir: Parent of the default ``root``, ``<scenario>-n<n>-seed<seed>-<hash of the config>``.
        root: The store's folder, instead.
        **data: LensData's other arguments.
    """
    from lensfind.data.module import LensData  # the simulator itself knows no Lightning

    plan = Scenario.from_config(scenario)
    config = _config(n, seed, plan, Survey.from_config(survey), shard_size)
    if root is None:
        name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
        root = Path(data_dir) / f"{plan.name}-n{n}-seed{seed}-{name}"
    make = partial(simulate, n=n, seed=seed, scenario=scenario, survey=survey, workers=workers, shard_size=shard_size)
    return LensData(root=str(root), make=make, **data)
