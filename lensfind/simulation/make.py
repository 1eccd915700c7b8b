"""Make: a simulated store, shard by shard, in parallel, in slices and resumable; data modules that make their own."""

import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from lensfind.data.store import Store, finish, shard_done, write_shard
from lensfind.errors import LensfindError
from lensfind.files import write_file
from lensfind.simulation.columns import catalogue, check_columns
from lensfind.simulation.detect import mask
from lensfind.simulation.engines import check_engine, get_engine
from lensfind.simulation.instrument import Survey
from lensfind.simulation.objects import Objects, simulate_objects
from lensfind.simulation.parts import Images
from lensfind.simulation.real_images import image_files, read_images
from lensfind.simulation.scenario import Scenario
from lensfind.simulation.settings import check_least

if TYPE_CHECKING:
    from lensfind.data.module import LensData

__all__ = ["Plan", "again", "resolve_planes", "simulate", "simulated_data", "simulated_store"]

CONFIG = "simulation.yaml"
PLANES = ("ARC", "MASK")
AUTO_PLANES = 5000
"""Objects up to which ``planes: auto`` writes the truth planes: sets of this size are for looking and measuring."""

_CHUNK = 32  # objects per task: enough to be vectorised, few enough for a moving bar and little memory


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} objects/s")


@dataclass(frozen=True)
class Plan:
    """All that decides the bytes of a store."""

    n: int
    seed: int
    shard_size: int
    scenario: Scenario
    survey: Survey
    engine: Mapping[str, Any]
    planes: tuple[str, ...]

    @property
    def config(self) -> dict[str, Any]:
        """As plain values, with the CRC of every real galaxy image and PSF file."""
        scenario = asdict(self.scenario)
        parts = {key: scenario.pop(key) for key in ("population", "scene")}
        files = {
            path.name: zlib.crc32(path.read_bytes())
            for source in (self.scenario.scene.source, self.scenario.scene.source2)
            for path in image_files(source.images)
        }
        kernels = {band: one.psf for band, one in self.survey.bands.items() if one.psf_file}
        crcs = {
            "images": files,
            "psf": {band: zlib.crc32(Path(path).read_bytes()) for band, path in kernels.items()},
        }
        config = {
            "n": self.n,
            "seed": self.seed,
            "shard_size": self.shard_size,
            "scenario": scenario,
            **parts,
            "survey": asdict(self.survey),
            "engine": dict(self.engine),
            "planes": self.planes,
        }
        return dict(json.loads(json.dumps(config | {key: value for key, value in crcs.items() if value})))

    def images(self) -> Images:
        """The real galaxies that the scenario asks for."""
        return read_images(self.scenario.scene.source.images or self.scenario.scene.source2.images)

    def make(self, indices: Sequence[int]) -> Objects:
        """The objects at these indices."""
        with _one_thread(self.engine["name"]):
            engine = get_engine(**self.engine)
            return simulate_objects(self.seed, indices, self.scenario, self.survey, engine, self.images())


@contextmanager
def _one_thread(engine: str) -> Iterator[None]:
    """torch on one thread: workers are processes, and sums over threads would not be the same bytes everywhere."""
    if engine != "torch":
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def resolve_planes(planes: str | Sequence[str], n: int) -> tuple[str, ...]:
    """The truth planes of a set: ``auto`` is ARC and MASK for up to 5000 objects, none for more.

    Raises:
        LensfindError: Another plane.
    """
    if planes == "auto":
        return PLANES if n <= AUTO_PLANES else ()
    if not isinstance(planes, list | tuple) or not all(plane in PLANES for plane in planes):
        raise LensfindError("planes as auto, or a list out of ARC, MASK", str(planes), "Set planes=[ARC,MASK].")
    return tuple(plane for plane in PLANES if plane in planes)


def _plan(
    n: int,
    seed: int,
    scenario: Mapping[str, Any],
    survey: Mapping[str, Any],
    engine: Mapping[str, Any],
    shard_size: int,
    planes: str | Sequence[str],
) -> Plan:
    for name, value, low in (("n", n, 1), ("seed", seed, 0), ("shard_size", shard_size, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise LensfindError(
                f"{name} as a whole number of at least {low}", repr(value), f"Set {name}={low} or more."
            )
    check_engine(**engine)
    whole = Scenario.from_config(scenario)
    check_columns(whole)
    return Plan(
        n,
        seed,
        shard_size,
        whole,
        Survey.from_config(survey),
        dict(engine),
        resolve_planes(planes, n),
    )


def _claim(root: Path, config: Mapping[str, Any]) -> None:
    """Write the config of an unfinished store into ``root``, or check that it is the one already there.

    Another one is replaced as long as nothing has been made by it. Of two that start together with different ones, the
    one that claimed the folder last stays: claim again before a shard is written.
    """
    path = root / CONFIG
    if path.is_file():
        try:
            there = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError):
            there = None
        if there == config:
            return
        if any(root.glob("shard-*.fits")) or (root / "manifest.yaml").is_file():
            differ = [key for key in config if not isinstance(there, dict) or there.get(key) != config[key]]
            raise LensfindError(
                f"{root} to be simulated with this config",
                f"a store begun with another {', '.join(differ)} (see {path})",
                "Choose another folder with output=DIR, or remove this one.",
            )
    elif root.is_dir() and any(entry.name != CONFIG and not entry.name.startswith(".") for entry in root.iterdir()):
        raise LensfindError(
            f"an empty or new folder for the simulation, or one with {CONFIG}",
            f"{root} with other files",
            "Choose another folder with output=DIR.",
        )
    write_file(path, yaml.safe_dump(dict(config), sort_keys=False))


def _share(part: str | None, shards: int) -> list[int]:
    """Shards of the slice ``"3/64"``: every 64th, from the third; all without a slice."""
    if part is None:
        return list(range(shards))
    match = re.fullmatch(r"(\d+)/(\d+)", str(part))
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise LensfindError("slice as K/N with K from 1 to N", str(part), "Set slice=1/4, 2/4, 3/4 and 4/4 in turn.")
    return list(range(int(match[1]) - 1, shards, int(match[2])))


def simulate(
    root: str | Path,
    *,
    n: int,
    seed: int,
    scenario: Mapping[str, Any],
    survey: Mapping[str, Any],
    engine: Mapping[str, Any],
    workers: int = 1,
    shard_size: int = 500,
    planes: str | Sequence[str] = (),
    slice: str | None = None,
) -> bool:
    """Simulate ``n`` objects into the store ``root``.

    A finished store of the same config is left alone, an unfinished one goes on with the shards that are missing, and
    the bytes are the same for any number of workers and slices.

    Args:
        root: Folder of the store; new, empty, or from this very config.
        n: Objects to make. Rejected draws are drawn again and listed in ``rejects.csv``.
        seed: Root seed.
        scenario: ``{scenario: ..., population: ..., scene: ...}`` of ``conf/scenario``, see
            :class:`~lensfind.simulation.scenario.Scenario`.
        survey: Of ``conf/survey``, see :class:`~lensfind.simulation.instrument.Survey`.
        engine: Of ``conf/engine``, see :func:`~lensfind.simulation.engines.get_engine`.
        workers: Processes, one thread each.
        shard_size: Objects per shard.
        planes: Truth planes beside the bands: ``ARC`` (noiseless lensed sources in VIS, float32, electron/s) and
            ``MASK`` (1 where ARC is above 1 sigma of the blank noise, uint8), or ``"auto"``.
        slice: ``"3/64"``: only the third of 64 parts of the shards. Whichever slice ends last finishes the store.

    Returns:
        Whether the store is finished.

    Raises:
        LensfindError: Impossible settings, a folder with something else in it, or what ``write_shard`` raises.
    """
    root, plan = Path(root), _plan(n, seed, scenario, survey, engine, shard_size, planes)
    check_least("workers", workers, 1, whole=True)
    shards = math.ceil(n / shard_size)
    mine = _share(slice, shards)
    config = plan.config
    if not (root / "manifest.yaml").is_file():  # what is not there is told before the folder is claimed
        plan.images()
        get_engine(**engine)
    _claim(root, config)
    if (root / "manifest.yaml").is_file():
        return True
    _make_shards(root, plan, [number for number in mine if not shard_done(root, number)], workers)
    if not all(shard_done(root, number) for number in range(shards)):
        return False
    finish(root, {"app": "simulate", **config}, shards=shards, lens_rule=plan.scenario.label)
    return True


def _make_shards(root: Path, plan: Plan, todo: Sequence[int], workers: int) -> None:
    bounds = {number: (number * plan.shard_size, min((number + 1) * plan.shard_size, plan.n)) for number in todo}
    chunks = [
        (number, start, min(start + _CHUNK, last))
        for number, (first, last) in bounds.items()
        for start in range(first, last, _CHUNK)
    ]
    columns = ("simulating", BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns) as progress, parallel_config("loky", inner_max_num_threads=1):
        task = progress.add_task("", total=sum(last - first for first, last in bounds.values()))
        made = Parallel(n_jobs=workers, return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")(
            delayed(plan.make)(range(start, last)) for _, start, last in chunks
        )
        waiting: list[Objects] = []
        for (number, start, last), chunk in zip(chunks, made, strict=True):
            waiting.append(chunk)
            progress.advance(task, last - start)
            if last == bounds[number][1]:
                _write(root, number, plan, waiting)
                waiting = []


def _write(root: Path, number: int, plan: Plan, parts: Sequence[Objects]) -> None:
    stamps = {band: np.concatenate([part.stamps[band] for part in parts]) for band in BANDS}
    extra: dict[str, NDArray[Any]] = {}
    if plan.planes:
        arc = np.concatenate([part.arc for part in parts])
        extra = {name: arc if name == "ARC" else mask(arc, plan.survey) for name in plan.planes}
    table = catalogue([part.rows for part in parts], plan.scenario.label)
    rejects = [line for part in parts for lines in part.rejects for line in lines]
    _claim(root, plan.config)
    write_shard(root, number, stamps, table, rejects, planes=extra)


def simulated_store(root: str | Path, ids: Sequence[int]) -> tuple[Store, Plan]:
    """A finished store of :func:`simulate` that has objects with these ids, and what it was made by.

    Raises:
        LensfindError: Not a simulated store, or an id that it does not have.
    """
    store = Store(root)
    made_by = store.manifest["made_by"]
    if made_by.get("app") != "simulate":
        raise LensfindError(
            f"a store made by simulate.py in {root}",
            f"one made by {made_by.get('app') or 'something else'}",
            "Name a simulated set, data=DIR; only its objects can be made again.",
        )
    unknown = [i for i in ids if not 0 <= i < made_by["n"]]
    if unknown:
        raise LensfindError(f"ids from 0 to {made_by['n'] - 1}", str(unknown[0]), "Choose ids of the catalogue.")
    keys = ("n", "seed", "survey", "engine", "shard_size", "planes")
    scenario = {key: made_by[key] for key in ("scenario", "population", "scene")}
    plan = _plan(scenario=scenario, **{key: made_by[key] for key in keys})
    for key, value in plan.config.items():
        if key in ("images", "psf") and value != made_by.get(key):
            raise LensfindError(
                f"the files by which {root} was made, to make its objects again",
                f"other {'images of galaxies' if key == 'images' else 'PSF files'}",
                "Put them back where they were.",
            )
    return store, plan


def again(root: str | Path, ids: Sequence[int]) -> Objects:
    """Objects of a finished store made once more from the addresses of their rows: the same bytes, without the store.

    Args:
        root: A store of :func:`simulate`.
        ids: ``id`` of each object.

    Raises:
        LensfindError: See :func:`simulated_store`; or real galaxy images that are gone.
    """
    return simulated_store(root, ids)[1].make([int(i) for i in ids])


def simulated_data(
    n: int,
    seed: int,
    scenario: Mapping[str, Any],
    population: Mapping[str, Any],
    scene: Mapping[str, Any],
    survey: Mapping[str, Any],
    engine: Mapping[str, Any],
    workers: int,
    shard_size: int,
    data_dir: str | Path,
    planes: str | Sequence[str] = (),
    root: str | Path | None = None,
    **data: Any,
) -> "LensData":
    """A :class:`~lensfind.data.module.LensData` whose ``prepare_data`` simulates its store on first use.

    Args:
        n, seed, survey, engine, workers, shard_size, planes: Of :func:`simulate`.
        scenario, population, scene: What ``conf/scenario`` fills.
        data_dir: Parent of the default ``root``, ``<scenario>-n<n>-seed<seed>-<hash of the config>``.
        root: The store's folder, instead.
        **data: LensData's other arguments.
    """
    from lensfind.data.module import LensData  # the simulator itself knows no Lightning

    whole = {"scenario": scenario, "population": population, "scene": scene}
    plan = _plan(n, seed, whole, survey, engine, shard_size, planes)
    if root is None:
        name = hashlib.sha256(json.dumps(plan.config, sort_keys=True).encode()).hexdigest()[:8]
        root = Path(data_dir) / f"{plan.scenario.name}-n{n}-seed{seed}-{name}"
    settings: dict[str, Any] = {"n": n, "seed": seed, "scenario": whole, "survey": survey, "engine": engine}
    settings |= {"workers": workers, "shard_size": shard_size, "planes": planes}
    return LensData(root=str(root), make=partial(_make, settings=settings), **data)


def _make(root: Path, settings: Mapping[str, Any]) -> None:
    simulate(root, **settings)
