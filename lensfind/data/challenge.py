"""The training data of the lens-finding challenge 2.0, packed once into a store of FITS shards.

See lensfind.data.layout for the files. Nothing is ever written into the challenge's own folder.
Challenge: Metcalf et al. 2019 (A&A 625, A119).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import joblib
import numpy as np
from astropy.table import Table
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lensfind.bands import BANDS, check_bands
from lensfind.data.catalogue import lens_labels
from lensfind.data.layout import BadImageError, Layout, find_layout, index_images, read_stamp
from lensfind.data.module import LensData
from lensfind.data.store import Store, finish, shard_done, write_shard
from lensfind.data.truth import read_truth
from lensfind.errors import LensfindError

__all__ = ["UNIT", "challenge_data", "pack"]

UNIT = "adu"
"""``BUNIT`` of a packed challenge: linear flux, kept as it is, since it has no published zero point."""


def challenge_data(
    root: str | Path,
    store: str | Path,
    bands: Iterable[str],
    lens_rule: str,
    ignored_ids: Sequence[int] = (),
    workers: int = 1,
    shard_size: int = 1000,
    truth: str | Path | None = None,
    **data: Any,
) -> LensData:
    """LensData over a challenge folder: packed into shards on first use, reused afterwards.

    The store is ``store/challenge-<hash>``, the hash being over the folder's path, its bands, the content of the truth
    table, the rule, the ignored ids and the shard size: another configuration never meets the shards of this one.
    Images that change later are not noticed; delete the store to pack again. To try a second rule without packing
    again, use ``data=shards data.root=STORE data.lens_rule=...``.

    Args:
        root: The challenge folder, see :func:`find_layout`.
        store: Parent folder of the store.
        bands: Bands to train on; every band that the folder has is packed.
        lens_rule: Which rows are lenses, see :func:`lensfind.data.catalogue.lens_labels`.
        ignored_ids: Ids of objects to leave out.
        workers: Threads to pack with; -1 for one per core.
        shard_size: Rows of the truth table per shard.
        truth: The truth table, where the folder has none or several.
        **data: Other arguments of :class:`lensfind.data.module.LensData`.
    """
    bands = check_bands(bands)
    layout = find_layout(root, truth)
    check_bands(bands, offered=layout.images, by=str(layout.root))
    ignored = sorted({int(i) for i in ignored_ids})
    content = hashlib.sha256(layout.truth.read_bytes()).hexdigest()
    key = repr((1, str(layout.root), list(layout.images), content, lens_rule, ignored, shard_size))
    path = Path(store) / f"challenge-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    make = partial(
        pack,
        layout.root,
        lens_rule=lens_rule,
        ignored_ids=ignored,
        workers=workers,
        shard_size=shard_size,
        truth=layout.truth,
    )
    return LensData(path, bands, lens_rule=lens_rule, make=make, **data)


def pack(
    root: str | Path,
    store_root: str | Path,
    *,
    lens_rule: str,
    ignored_ids: Sequence[int] = (),
    workers: int = 1,
    shard_size: int = 1000,
    truth: str | Path | None = None,
) -> None:
    """Pack a challenge folder into the store at ``store_root``; returns at once if that is finished.

    Shard k holds rows [k * shard_size, (k + 1) * shard_size) of the truth table, in its order, less those that are
    rejected. Every row becomes an object or a line of ``rejects.csv``, with one of the reasons *malformed row*,
    *duplicate id* (all rows of the id: nobody can say which is right), *ignored id*, *missing image*,
    *ambiguous image* (``-7.fits`` beside ``-007.fits``), *unreadable image*, *truncated image*, *wrong shape*,
    *not finite*, *constant*; images that no row names are listed as *no truth row*. Killed and called again it
    goes on with the shards that are missing; ``store_root`` must belong to one configuration.

    Args: as in :func:`challenge_data`. A thread holds about two shards in memory (0.5 GB at 1000 rows, four bands).

    Raises:
        LensfindError: As :func:`find_layout`, :func:`~lensfind.data.truth.read_truth` and
            :func:`~lensfind.data.catalogue.lens_labels`; no row with images; a full disk.
    """
    out = Path(store_root)
    if shard_size < 1 or (workers < 1 and workers != -1):
        raise LensfindError(
            "data.shard_size >= 1 and data.workers >= 1, or -1 for one per core",
            f"shard_size={shard_size}, workers={workers}",
            "Set them.",
        )
    if (out / "manifest.yaml").is_file():
        return
    layout = find_layout(root, truth)
    shards = _plan(layout, lens_rule, sorted(map(int, ignored_ids)), shard_size)
    bar = Progress(
        TextColumn("packing {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} objects/s"),
        TimeRemainingColumn(),
    )
    todo = [shard for shard in shards if not shard_done(out, shard.number)]
    with bar:
        task = bar.add_task(layout.root.name, total=sum(shard.rows for shard in todo), rate=0.0)
        start = monotonic()
        # Threads: the time goes into reading and writing files and into numpy, all of which let go of the interpreter
        # lock, while a process would first spend seconds on importing torch.
        run = joblib.Parallel(workers, prefer="threads", return_as="generator_unordered")
        for rows in run(joblib.delayed(_pack_shard)(out, layout.images, shard) for shard in todo):
            bar.advance(task, rows)
            bar.update(task, rate=bar.tasks[task].completed / (monotonic() - start))
    made_by = {
        "kind": "challenge",
        "root": str(layout.root),
        "truth": layout.truth.name,
        "ignored_ids": sorted(map(int, ignored_ids)),
        "shard_size": shard_size,
    }
    finish(out, made_by, shards=len(shards), lens_rule=lens_rule)
    counts = Store(out).manifest["counts"]
    reasons = ", ".join(f"{count} {kind}" for kind, count in counts["rejected"].items())
    bar.console.print(
        f"Packed {counts['objects']} objects ({counts['lenses']} lenses) into {out}"
        + (f"; rejected: {reasons}, listed in {out / 'rejects.csv'}" if reasons else "")
    )


@dataclass(frozen=True)
class _Shard:
    """What one thread needs to pack one shard."""

    number: int
    rows: int
    """Rows of the truth table, good and bad."""
    catalogue: Table
    files: Mapping[str, Sequence[Sequence[str]]]
    """Band -> for every row of the catalogue the names of the image files with its id: one, if all is well."""
    rejects: tuple[tuple[str, str], ...]


def _plan(layout: Layout, lens_rule: str, ignored_ids: Sequence[int], shard_size: int) -> list[_Shard]:
    """Divide the truth table over shards; lists the images without a row with the last one."""
    truth = read_truth(layout.truth, ignored_ids)
    table = truth.table
    table.add_column(lens_labels(table, lens_rule), name="label", index=1)
    index = {band: index_images(folder, band) for band, folder in layout.images.items()}
    if not any(all(int(i) in names for names in index.values()) for i in table["id"]):
        raise LensfindError(
            f"rows of {layout.truth} with an image in each of {', '.join(index)}",
            f"{truth.rows} rows, {len(truth.rejects)} of them rejected, and no such one",
            f"Set data.truth=PATH to the table of the images in {', '.join(map(str, layout.images.values()))}.",
        )
    shards = []
    for number, first in enumerate(range(0, truth.rows, shard_size)):
        last = min(first + shard_size, truth.rows)
        catalogue = table[slice(*np.searchsorted(truth.position, [first, last]))]
        files = {band: [names.get(int(i), []) for i in catalogue["id"]] for band, names in index.items()}
        rejects = tuple((name, reason) for position, name, reason in truth.rejects if first <= position < last)
        if last == truth.rows:
            extra = {i: names[0] for found in index.values() for i, names in found.items() if i not in truth.ids}
            rejects += tuple((str(i), f"no truth row: {extra[i]}") for i in sorted(extra))
        shards.append(_Shard(number, last - first, catalogue, files, rejects))
    return shards


def _pack_shard(out: Path, folders: Mapping[str, Path], shard: _Shard) -> int:
    """Read the images of a shard and write it; returns the count of its rows."""
    sides = {band: BANDS[band].size for band in folders}
    stamps = {band: np.empty((len(shard.catalogue), n, n), dtype=np.float32) for band, n in sides.items()}
    kept: list[int] = []
    rejects = list(shard.rejects)
    for row, number in enumerate(shard.catalogue["id"]):
        try:
            for band, folder in folders.items():
                stamps[band][len(kept)] = read_stamp(folder, shard.files[band][row], band)
        except BadImageError as error:
            rejects.append((str(number), str(error)))
        else:
            kept.append(row)
    stamps = {band: cube[: len(kept)] for band, cube in stamps.items()}
    write_shard(out, shard.number, stamps, shard.catalogue[kept], rejects, unit=UNIT)
    return shard.rows
