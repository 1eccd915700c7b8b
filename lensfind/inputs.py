"""What evaluate.py and interpret.py are asked to look at: the networks, their device, and the data."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from lensfind.bands import BANDS
from lensfind.checkpoint import load
from lensfind.data import LensData, Store
from lensfind.errors import LensfindError
from lensfind.finder import LensFinder

__all__ = ["Network", "data_for", "device", "load_networks", "rows_of", "seen"]

console = Console(soft_wrap=True)


@dataclass(frozen=True)
class Network:
    """A finder with the file that it came from; ``name`` is unique among those loaded together."""

    name: str
    path: Path
    sha256: str
    finder: LensFinder


def device(name: str) -> torch.device:
    """The torch device of this name.

    Raises:
        LensfindError: This torch does not have it.
    """
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise LensfindError(
            "a device that this torch has", f"device={name} ({str(error).splitlines()[0]})", "Set device=cpu."
        ) from error


def load_networks(checkpoint: Any, where: torch.device) -> list[Network]:
    """The networks behind one path or several.

    Args:
        checkpoint: A checkpoint, a run's folder, published weights; a folder of runs (a sweep's) or of weight files;
            or a list of any of these.
        where: Device to put them on.

    Returns:
        One network per file, in the order given, folders in the order of their names. Two of the same kind are told
        apart by the folders of their runs.

    Raises:
        LensfindError: See :func:`lensfind.load`; nothing in a folder; or a file given twice.
    """
    given = (
        list(checkpoint)
        if isinstance(checkpoint, Sequence | ListConfig) and not isinstance(checkpoint, str)
        else [checkpoint]
    )
    if not given:
        raise LensfindError("one checkpoint or more", "an empty list", "Set checkpoint=PATH or checkpoint='[A,B]'.")
    files = [file for one in given for file in _files(one)]
    twice = [file for k, file in enumerate(files) if file in files[:k]]
    if twice:
        raise LensfindError(
            "each checkpoint once", f"{twice[0]} twice", "Take one of the two out of checkpoint='[...]'."
        )
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files]
    same = [k for k, one in enumerate(hashes) if one and one in hashes[:k]]
    if same:
        raise LensfindError(
            "networks that differ",
            f"{files[same[0]]}, a copy of {files[hashes.index(hashes[same[0]])]}",
            "Take one of the two out of checkpoint='[...]': an ensemble of copies is no ensemble.",
        )
    finders = [load(file).to(where) for file in files]
    names = [str(finder.provenance.get("name") or finder.name) for finder in finders]
    for name in {name for name in names if names.count(name) > 1}:
        for number, k in enumerate([k for k, other in enumerate(names) if other == name], 1):
            run = files[k].parent.parent.name if files[k].parent.name == "checkpoints" else files[k].stem
            names[k] = f"{name} ({run})" if f"{name} ({run})" not in names else f"{name} ({run}, {number})"
    return [Network(*one) for one in zip(names, files, hashes, finders, strict=True)]


def _files(given: object) -> list[Path]:
    """The checkpoint files that a path stands for."""
    if not isinstance(given, str | Path):
        raise LensfindError("the path of a checkpoint", repr(given), "Set checkpoint=PATH or checkpoint='[A,B]'.")
    path = Path(given)
    if not path.is_dir():
        return [path]  # load() says what is wrong with it
    own = path / "checkpoints" / "best.ckpt"
    if own.is_file():
        return [own]
    found = sorted(path.glob("*/checkpoints/best.ckpt")) or sorted(
        file for file in path.iterdir() if file.suffix in (".ckpt", ".pt")
    )
    if not found:
        raise LensfindError(
            "a run's folder, a sweep's folder or a folder of weight files",
            f"{path}, in which there is none of */checkpoints/best.ckpt, *.ckpt and *.pt",
            "Give a folder that train.py wrote; a run has best.ckpt from its first epoch on.",
        )
    return found


def rows_of(which: str, data: LensData) -> NDArray[np.int64]:
    """Catalogue rows of ``train``, ``val``, ``test`` or ``all``; may be none.

    Raises:
        LensfindError: Another word.
    """
    if which not in ("train", "val", "test", "all"):
        raise LensfindError("rows to be train, val, test or all", repr(which), "Set rows=test.")
    return np.arange(len(data.catalogue)) if which == "all" else data.rows(which)


def data_for(cfg: DictConfig, networks: Sequence[Network]) -> LensData:
    """The data that a configuration names; else those the networks were trained on; else, aloud, simulated ones.

    Args:
        cfg: With ``data`` and ``fallback``.
        networks: Their bands are loaded, all of them in one pass.

    Returns:
        Prepared and set up.

    Raises:
        LensfindError: A network needs a band that the data lack; networks of different data or splits without a word
            on which to use; or what making and reading the data raises.
    """
    settings: dict[str, Any] = OmegaConf.to_container(cfg.data, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    bands = [band for band in BANDS if any(band in network.finder.bands for network in networks)]
    trained = {network.name: plain for network in networks if (plain := _trained(network)) is not None}
    named = "_target_" in settings
    if named:
        data: LensData = instantiate(settings, bands=bands, _convert_="all")
    elif trained:
        # Plain values out of the checkpoint, and the class named here: nothing in the file can choose what runs.
        data = LensData(**_only(trained, "train on one set and split"), bands=bands)
    else:
        who = networks[0].name if len(networks) == 1 else f"each of the {len(networks)} networks"
        console.print(
            f"{who} comes without data: simulating {cfg.fallback.n} objects (name others with data=DIR)", markup=False
        )
        simulated: dict[str, Any] = OmegaConf.to_container(cfg.fallback, resolve=True)  # type: ignore[assignment]
        data = instantiate(simulated, bands=bands, split={"kind": "none"}, _convert_="all")
    data.prepare_data()
    _check_bands(networks, data.root)
    data.setup("test")
    if named and settings.get("split", {}).get("kind") == "none":
        splits = seen(networks, data)
        names = list(splits)
        other = next((name for name in names if (splits[name] != splits[names[0]]).any()), None)
        if other is not None:
            raise LensfindError(
                "networks that keep one split of these data",
                f"{names[0]} and {other}, which were trained on other rows of {data.root}",
                "Name data that none of them has seen: data=DIR, or data=simulated data.seed=1.",
            )
        if names:
            console.print("These are the data that the network was trained on: keeping their split.")
            data.splits = splits[names[0]]
    return data


def seen(networks: Sequence[Network], data: LensData) -> dict[str, NDArray[np.str_]]:
    """``{network: its split of the set (N,)}`` of the networks that were trained on these data, wherever they lie."""
    splits = {}
    for network in networks:
        trained = _trained(network)
        if trained is None:
            continue
        # By the manifest's hash; a checkpoint without one tells the folder only.
        here = Path(trained["root"]).resolve() == data.store.root.resolve()
        if here or network.finder.provenance.get("manifest_sha256") == data.store.sha256:
            # By the labels of the training: a split is stratified by them, and other labels would mix its parts.
            own = LensData(**trained | {"root": str(data.root)}, bands=data.bands, verify=False)
            own.setup("test")
            splits[network.name] = own.splits
    return splits


def _only(trained: Mapping[str, dict[str, Any]], what: str) -> dict[str, Any]:
    """The data settings that all networks agree on."""
    names = list(trained)
    for name in names[1:]:
        differ = [key for key in trained[name] if trained[name][key] != trained[names[0]][key]]
        if differ:
            raise LensfindError(
                f"networks that {what}",
                f"{differ[0]} {trained[names[0]][differ[0]]} of {names[0]} and {trained[name][differ[0]]} of {name}",
                "Name data that none of them has seen: data=DIR, or data=simulated data.seed=1.",
            )
    return trained[names[0]]


def _check_bands(networks: Sequence[Network], root: Path) -> None:
    there = Store(root).bands
    for network in networks:
        lacking = [band for band in network.finder.bands if band not in there]
        if lacking:
            raise LensfindError(
                f"the bands {', '.join(network.finder.bands)} of {network.name} in {root}",
                f"{', '.join(there)} (no {', '.join(lacking)})",
                f"Leave {network.path} out of checkpoint='[...]', or name data with these bands: data=DIR.",
            )


def _trained(network: Network) -> dict[str, Any] | None:
    """Folder, split and rule of the labels of the data that a network was trained on; None if it does not say."""
    trained = network.finder.provenance.get("data")
    if trained is None:
        return None
    plain = {key: trained.get(key) for key in ("root", "split", "lens_rule")}
    if not isinstance(plain["root"], str) or not isinstance(plain["split"], Mapping):
        raise LensfindError("the data settings of a run in the checkpoint", f"{plain}", "Name the data: data=DIR.")
    return plain
