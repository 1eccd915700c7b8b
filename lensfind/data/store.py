"""The store: a folder of FITS shards with their manifest; its reader and its checker.

``manifest.yaml`` is written last: a folder without it is unfinished. One shard is the matter of ``shards.py``.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.table import Table, TableMergeError, vstack
from numpy.typing import ArrayLike, NDArray
from rich.progress import track

from lensfind.bands import BANDS, check_bands
from lensfind.data.damage import Damage, shard_damage
from lensfind.data.shards import (
    BAD_FITS,
    Cube,
    check_catalogue,
    cubes_of,
    damaged,
    read_catalogue,
    read_rejects,
    shard_done,
    stamp_fault,
    write_shard,
)
from lensfind.errors import LensfindError
from lensfind.files import clear_aside, write_file

__all__ = ["Damage", "Store", "finish", "shard_done", "stamp_fault", "verify", "write_shard"]

FORMAT, VERSION = "lensfind-store", 1
MANIFEST, REJECTS = "manifest.yaml", "rejects.csv"


def finish(root: Path, made_by: Mapping[str, Any], *, shards: int, lens_rule: str) -> None:
    """Check the set as a whole, then write ``rejects.csv`` (if any) and, last, ``manifest.yaml``; no date in either.

    Args:
        root: Folder with ``shards`` shards from :func:`write_shard`.
        made_by: Plain values only: the resolved config and root seed. The versions of lensfind, numpy and astropy
            are added as ``versions``.
        shards: How many there must be; files with higher numbers are not part of the store.
        lens_rule: The rule that made ``label`` (see :func:`lensfind.data.catalogue.lens_labels`).

    Raises:
        LensfindError: A shard is missing or damaged, shards disagree in bands or columns, or an id comes twice.
    """
    root = Path(root)
    names = [f"shard-{number:05d}.fits" for number in range(shards)]
    missing = [name for number, name in enumerate(names) if not shard_done(root, number)]
    if missing:
        raise LensfindError(
            f"{shards} whole shards in {root}",
            f"{len(missing)} missing or cut off (first: {missing[0]})",
            "Run the same command again: it writes only those that are missing.",
        )
    cubes = cubes_of(root / names[0]) if names else {}
    tables, rejects = [], list[tuple[str, str]]()
    for name in names:
        if _kinds(cubes_of(root / name)) != _kinds(cubes):
            raise LensfindError(
                f"the same bands in all shards of {root}", f"others in {name} than in {names[0]}", "Write them anew."
            )
        tables.append(read_catalogue(root / name))
        rejects += read_rejects(root / name)
    catalogue = _join(tables, root)
    versions = {package: _version(package) for package in ("lensfind", "numpy", "astropy")}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "bands": {b: {**_geometry(b), "unit": cubes[b].unit} for b in BANDS if b in cubes},
        "planes": [name for name in cubes if name not in BANDS],
        "shards": [
            {"name": name, "rows": len(table), "bytes": (root / name).stat().st_size}
            for name, table in zip(names, tables, strict=True)
        ],
        "counts": {
            "objects": len(catalogue),
            "lenses": int(np.sum(catalogue["label"])) if len(catalogue) else 0,
            "rejected": dict(sorted(Counter(reason.split(":")[0] for _, reason in rejects).items())),
        },
        "lens_rule": lens_rule,
        "made_by": {**made_by, "versions": versions},
    }
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    if not rejects:
        (root / REJECTS).unlink(missing_ok=True)
    else:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("id", "reason"), *rejects])
        write_file(root / REJECTS, table.getvalue())
    write_file(root / MANIFEST, text)
    for name in ("shard-*.fits", REJECTS, MANIFEST):
        for aside in root.glob(f".{name}.*"):
            clear_aside(aside)


def _kinds(cubes: Mapping[str, Cube]) -> dict[str, tuple[Any, ...]]:
    return {name: (cube.shape[1:], cube.dtype, cube.unit) for name, cube in cubes.items()}


def _geometry(band: str) -> dict[str, Any]:
    return {"pixel_scale": BANDS[band].pixel_scale, "size": BANDS[band].size}


class Store:
    """A finished store, open for reading.

    Args:
        root: Folder with ``manifest.yaml`` and its shards.

    Attributes:
        manifest: What :func:`finish` wrote.
        bands: Bands of the store, in the order of ``BANDS``.
        planes: Further cubes, e.g. ARC.
        catalogue: One row per object in store order; at least ``id`` and ``label`` (int64). Blanks are masked.

    Pixels stay on disk: cubes are memory-mapped, shard by shard, when first read, in each process anew. So a Store can
    be pickled and survives fork and spawn.

    Raises:
        LensfindError: No folder, no manifest or one that cannot be used, a shard that is missing, cut off or other
            than the manifest says, a damaged catalogue, an id that comes twice.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.manifest = _read_manifest(self.root)
        self.bands: tuple[str, ...] = tuple(band for band in BANDS if band in self.manifest["bands"])
        self.planes: tuple[str, ...] = tuple(self.manifest["planes"])
        shards = self.manifest["shards"]
        self._paths = [self.root / shard["name"] for shard in shards]
        self._ends = np.cumsum([shard["rows"] for shard in shards], dtype=np.int64)
        tables = []
        for path, shard in zip(self._paths, shards, strict=True):
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                raise LensfindError(
                    f"{path} with {shard['bytes']} bytes, as {MANIFEST} says",
                    "no such file" if size is None else f"{size} bytes",
                    "Copy it again, or delete it and the manifest and repeat the command that made the store.",
                )
            tables.append(read_catalogue(path))
            if len(tables[-1]) != shard["rows"]:
                raise LensfindError(
                    f"{shard['rows']} rows in {path}, as {MANIFEST} says", f"{len(tables[-1])}", "Undo the edit."
                )
        self.catalogue = _join(tables, self.root)
        self._maps: dict[int, dict[str, NDArray[Any]]] = {}

    def __len__(self) -> int:
        return len(self.catalogue)

    @property
    def sha256(self) -> str:
        """Hash of the manifest, which tells sets apart wherever they lie."""
        return hashlib.sha256((self.root / MANIFEST).read_bytes()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def read(self, rows: ArrayLike, bands: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Stamps of ``rows`` in the order asked, as native float32 copies (planes: in their own type).

        Args:
            rows: Integers (R,) in [0, len); any order, repeats allowed.
            bands: Bands or planes; None for all bands.

        Returns:
            band -> (R, n, n), electron/s.

        Raises:
            LensfindError: Rows out of range, bands that the store lacks, a shard that cannot be mapped.
        """
        wanted = np.atleast_1d(np.asarray(rows))
        if wanted.size == 0:
            wanted = wanted.astype(np.int64)
        if (
            wanted.ndim != 1
            or wanted.dtype.kind not in "iu"
            or (wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self))
        ):
            raise LensfindError(f"row numbers from 0 to {len(self) - 1}", f"{rows!r:.60}", "Rows index the catalogue.")
        names = self.bands if bands is None else tuple(bands)
        if not set(names) <= set(self.planes):
            check_bands([name for name in names if name not in self.planes], offered=self.bands, by=str(self.root))
        shards = np.searchsorted(self._ends, wanted, side="right")
        out: dict[str, NDArray[Any]] = {}
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            first = self._ends[shard - 1] if shard else 0
            cubes = self._map(int(shard))
            for name in names:
                cube = cubes[name]
                if name not in out:
                    out[name] = np.empty((len(wanted), *cube.shape[1:]), dtype=cube.dtype.newbyteorder("="))
                for place in places:
                    out[name][place] = cube[wanted[place] - first]
        for name in names if not out else ():
            cube = self._map(0)[name]
            out[name] = np.empty((0, *cube.shape[1:]), dtype=cube.dtype.newbyteorder("="))
        return out

    def _map(self, shard: int) -> dict[str, NDArray[Any]]:
        if shard not in self._maps:
            path = self._paths[shard]
            try:
                cubes = cubes_of(path)
                file = np.memmap(path, mode="r")
                maps = {name: np.ndarray(c.shape, c.dtype, buffer=file, offset=c.start) for name, c in cubes.items()}
            except BAD_FITS as error:
                raise damaged(path, str(error)) from error
            rows = self.manifest["shards"][shard]["rows"]
            stamps = {band: (rows, BANDS[band].size, BANDS[band].size) for band in self.bands}
            found = {name: cube.shape for name, cube in maps.items()}
            if list(found) != [*self.bands, *self.planes] or not stamps.items() <= found.items():
                raise damaged(path, f"cubes {found}, other than {MANIFEST} says")
            self._maps[shard] = maps
        return self._maps[shard]


def _join(tables: list[Table], root: Path) -> Table:
    """One catalogue out of those of the shards, checked. A shard without rows may lack columns."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return tables[0] if tables else Table({"id": np.zeros(0, np.int64), "label": np.zeros(0, np.int64)})
    try:
        catalogue = vstack(filled, join_type="exact", metadata_conflicts="silent")
    except (TableMergeError, ValueError, TypeError) as error:
        raise LensfindError(
            f"the same catalogue columns in all shards of {root}",
            str(error),
            "Write the set anew into an empty folder.",
        ) from error
    check_catalogue(catalogue, str(root))
    for name in ("id", "label"):
        catalogue[name] = np.asarray(catalogue[name], dtype=np.int64)
    return catalogue


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        raise LensfindError(
            f"a store, that is a folder of FITS shards with {MANIFEST}",
            f"{root}, which {'has no ' + MANIFEST + ' (unfinished)' if root.is_dir() else 'does not exist'}",
            "Check data.root; an unfinished set goes on when the command that began it runs again.",
        )
    again = f"Copy {MANIFEST} again, or delete it and repeat the command that made the store: whole shards are kept."
    try:
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise LensfindError(f"a manifest in YAML, {path}", " ".join(str(error).split())[:200], again) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise LensfindError(f"a mapping with format: {FORMAT} in {path}", f"{manifest!r:.80}", again)
    if manifest.get("version") != VERSION:
        raise LensfindError(
            f"version {VERSION} of the store in {path}", f"{manifest.get('version')!r:.40}", "Update lensfind."
        )
    bands, planes, shards = manifest.get("bands"), manifest.get("planes"), manifest.get("shards")
    if not (
        isinstance(bands, dict)
        and bands
        and all(b in BANDS and isinstance(bands[b], dict) for b in bands)
        and all({**bands[b], **_geometry(b)} == bands[b] for b in bands)
        and isinstance(planes, list)
        and all(isinstance(plane, str) for plane in planes)
    ):
        raise LensfindError(f"bands and planes as lensfind writes them in {path}", f"{bands!r:.200}", again)
    if not (
        isinstance(shards, list) and all(map(_is_entry, shards)) and len({s["name"] for s in shards}) == len(shards)
    ):
        raise LensfindError(f"shards with name, rows and bytes, each once, in {path}", f"{shards!r:.200}", again)
    return manifest


def _is_entry(shard: Any) -> bool:
    return (
        isinstance(shard, dict)
        and isinstance(shard.get("name"), str)
        and re.fullmatch(r"shard-\d{5,}\.fits", shard["name"]) is not None  # no path that leads elsewhere
        and all(type(shard.get(key)) is int and shard[key] >= 0 for key in ("rows", "bytes"))
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout on sys.path
        return "not installed"


def verify(root: str | Path, *, progress: bool = False) -> list[Damage]:
    """Read every byte of a store against its checksums, in bounded memory.

    Headers and data are checked against the FITS CHECKSUM and DATASUM, every stamp and every catalogue row against its
    own CRC-32, so that the object can be named.

    Args:
        root: The store's folder.
        progress: Show a bar.

    Returns:
        All damage found; empty for a sound store.

    Raises:
        LensfindError: There is no store, or its manifest cannot be used.
    """
    root = Path(root)
    manifest = _read_manifest(root)
    names = ["PRIMARY", *(band for band in BANDS if band in manifest["bands"]), *manifest["planes"]]
    found: list[Damage] = []
    for shard in track(manifest["shards"], description="verifying", disable=not progress, transient=True):
        path = root / shard["name"]
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            found.append(Damage(path.name, "", None, "missing"))
            continue
        if size != shard["bytes"]:
            found.append(Damage(path.name, "", None, f"{size} bytes, not the {shard['bytes']} of {MANIFEST}"))
        try:
            found += shard_damage(path, [*names, "CATALOGUE", "REJECTS"])
        except OSError as error:
            found.append(Damage(path.name, "", None, f"cannot be read: {error}"))
    return found
