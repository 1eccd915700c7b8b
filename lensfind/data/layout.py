"""The files of the lens-finding challenge 2.0: where they are, and one image out of one of them.

ROOT/[Public/]EUC_VIS/imageEUC_VIS-<ID>.fits   200x200, 0.1"
ROOT/[Public/]EUC_J|EUC_Y|EUC_H/...            66x66, 0.3"
ROOT/[Public/]image_catalog2.0train.csv        or EuclidDataFile2.0train.csv: the truth table
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.data.store import stamp_fault
from lensfind.errors import LensfindError

__all__ = ["BadImageError", "Layout", "find_layout", "index_images", "read_stamp"]

_DEPTH = 3
_TRUTH_NAME = re.compile(r"(image_catalog|EuclidDataFile).*\.csv", re.IGNORECASE)
_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class Layout:
    """Where the parts of a challenge folder are."""

    root: Path
    images: Mapping[str, Path]
    """Band -> folder of its images, for the bands that have any, in the order of ``BANDS``."""
    truth: Path


def find_layout(root: str | Path, truth: str | Path | None = None) -> Layout:
    """Find the image folders and the truth table in ROOT or up to three levels below, e.g. in ``Public/``.

    The truth table is ``truth`` (a path, also relative to ROOT), or else the one file named like the challenge's own,
    or else the one CSV file that there is.

    Raises:
        LensfindError: No such folder, no image folder, a band's folder twice, no truth table or several.
    """
    top = Path(root).resolve()
    if not top.is_dir():
        raise LensfindError(
            "a folder in the layout of the lens-finding challenge",
            f"{root}, which does not exist or is no folder",
            "Set data.root=DIR to it, or use data=simulated, which needs no data.",
        )
    images: dict[str, list[Path]] = {}
    tables: list[Path] = []
    level = [top]
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                band = entry.name.removeprefix("EUC_")
                if entry.is_dir() and entry.name.startswith("EUC_") and band in BANDS:
                    with os.scandir(entry.path) as files:
                        filled = any(item.name.endswith(".fits") for item in files)
                    if filled:
                        images.setdefault(band, []).append(Path(entry.path))
                elif entry.is_dir() and not entry.name.startswith("."):
                    below.append(Path(entry.path))
                elif entry.is_file() and entry.name.lower().endswith(".csv"):
                    tables.append(Path(entry.path))
        level = below
    if not images:
        raise LensfindError(
            "folders EUC_VIS, EUC_J, EUC_Y or EUC_H with images imageEUC_<BAND>-<ID>.fits",
            f"{top} without any, also below Public/",
            "Point data.root at the unpacked challenge; for FITS shards use data=shards.",
        )
    for band, folders in images.items():
        if len(folders) > 1:
            raise LensfindError(
                f"one folder EUC_{band} below {top}",
                f"{len(folders)}: {', '.join(map(str, folders))}",
                "Point data.root at the one set that you mean.",
            )
    found = {band: images[band][0] for band in BANDS if band in images}
    if truth is not None:
        table = next((path for path in (top / truth, Path(truth).resolve()) if path.is_file()), None)
        if table is None:
            raise LensfindError("a truth table", f"data.truth={truth}, which is no file", "Check the path.")
        return Layout(top, found, table)
    tables = [path for path in tables if _TRUTH_NAME.fullmatch(path.name)] or tables
    if not tables:
        raise LensfindError(
            "a truth table such as image_catalog2.0train.csv, since labels come from it",
            f"{top} without any CSV file",
            "Put it into the folder or set data.truth=PATH. The challenge's test set came without one.",
        )
    if len(tables) > 1:
        raise LensfindError(
            "one truth table", f"{len(tables)}: {', '.join(map(str, tables))}", "Choose one with data.truth=PATH."
        )
    return Layout(top, found, tables[0])


class BadImageError(Exception):
    """Why an object has to be rejected, as ``"kind: detail"``."""


def index_images(folder: Path, band: str) -> dict[int, list[str]]:
    """Id -> names of its image files (several only where they differ in leading zeros)."""
    name = re.compile(rf"imageEUC_{band}-(\d+)\.fits")
    found: dict[int, list[str]] = {}
    for entry in os.scandir(folder):
        match = name.fullmatch(entry.name)
        if match:
            found.setdefault(int(match[1]), []).append(entry.name)
    return found


def read_stamp(folder: Path, names: Sequence[str], band: str) -> NDArray[np.float32]:
    """The image (n, n) out of the one file in ``names``, or the reason why not."""
    if not names:
        raise BadImageError(f"missing image: {band}")
    if len(names) > 1:
        raise BadImageError(f"ambiguous image: {band} has {' and '.join(sorted(names))}")
    pixels = _read_primary(folder / names[0], band)
    if fault := stamp_fault(pixels, band):
        raise BadImageError(fault)
    return pixels


def _read_primary(path: Path, band: str) -> NDArray[np.float32]:
    """The image (ny, nx) of a primary HDU (FITS standard 4.0, sections 3.3 and 4.4.1).

    Not astropy: it takes 0.3 ms for each of 400,000 files where this takes 0.04 ms, and it only warns of a file that is
    cut short in its padding.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadImageError(f"unreadable image: {band}: {error.strerror}") from error
    if not raw.startswith(b"SIMPLE  ="):
        raise BadImageError(f"unreadable image: {band} is no FITS file ({len(raw)} bytes)")
    header: dict[bytes, bytes] = {}
    end = 0
    while raw[end : end + 80].rstrip() != b"END":
        card = raw[end : end + 80]
        if len(card) < 80:
            raise BadImageError(f"truncated image: {band} ends within its header")
        if card[8:10] == b"= ":
            header[card[:8].rstrip()] = card[10:].partition(b"/")[0].strip()
        end += 80
    try:
        shape = [int(header[b"NAXIS%d" % axis]) for axis in range(int(header[b"NAXIS"]), 0, -1)]
        dtype = np.dtype(_DTYPES[int(header[b"BITPIX"])])
        scale, zero = float(header.get(b"BSCALE", 1)), float(header.get(b"BZERO", 0))
        blank = int(header[b"BLANK"]) if b"BLANK" in header and dtype.kind != "f" else None
    except (KeyError, ValueError) as error:
        raise BadImageError(f"unreadable image: {band} has a damaged header ({error})") from error
    if len(shape) != 2 or min(shape) < 1:
        raise BadImageError(f"wrong shape: {band} has {shape or 'nothing'} in its primary HDU, not an image")
    start, count = _blocks(end + 80), shape[0] * shape[1]
    need = start + _blocks(count * dtype.itemsize)
    if len(raw) < need:
        raise BadImageError(f"truncated image: {band} has {len(raw)} of {need} bytes")
    pixels = np.frombuffer(raw, dtype, count, start).reshape(shape)
    if (scale, zero, blank) != (1.0, 0.0, None):
        pixels = np.where(pixels == blank, np.nan, pixels * scale + zero)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which stamp_fault finds
        return pixels.astype(np.float32)


def _blocks(size: int) -> int:
    """Bytes in whole FITS blocks."""
    return -(-size // 2880) * 2880
