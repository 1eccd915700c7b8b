"""One shard of a store: a plain FITS file that DS9 and TOPCAT open.

It has an image cube per band, the table CATALOGUE of its rows and the table REJECTS of what was left out, FITS
checksums in every HDU, and no date anywhere, so that made again it is the same bytes. A shard takes its name only when
it is whole.
"""

import io
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from numpy.typing import NDArray

from lensfind.bands import BANDS, UNIT, check_bands
from lensfind.errors import LensfindError
from lensfind.files import whole_file

__all__ = [
    "BAD_FITS",
    "WHOLE",
    "Cube",
    "Hdu",
    "check_catalogue",
    "cubes_of",
    "damaged",
    "layout",
    "ones_sum",
    "read_catalogue",
    "read_rejects",
    "shard_done",
    "stamp_fault",
    "write_shard",
]

BAD_FITS = (OSError, ValueError, KeyError, TypeError, fits.VerifyError)
"""What astropy raises on files that are damaged."""

WHOLE = 0xFFFFFFFF
"""What :func:`ones_sum` gives over an HDU that is undamaged (FITS standard 4.0, appendix J)."""


def stamp_fault(stamp: NDArray[Any], band: str) -> str | None:
    """Why a stamp must not enter a store, as ``"kind: detail"``, or None for a good one.

    Args:
        stamp: Image of ``band``; good is (n, n) with n = ``BANDS[band].size``, finite as float32, not constant.
        band: Key of :data:`lensfind.bands.BANDS`.
    """
    size = BANDS[band].size
    if stamp.shape != (size, size):
        return f"wrong shape: {band} is {stamp.shape}, not {(size, size)}"
    with np.errstate(over="ignore"):
        low, high = np.float32(stamp.min()), np.float32(stamp.max())  # NaN wins over any number in both
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"not finite: {band} has NaN or infinite pixels"
    return f"constant: every pixel of {band} is {low:g}" if low == high else None


def write_shard(
    root: Path,
    number: int,
    stamps: Mapping[str, NDArray[Any]],
    catalogue: Table,
    rejects: Sequence[tuple[str, str]] = (),
    *,
    planes: Mapping[str, NDArray[Any]] | None = None,
    unit: str = UNIT,
) -> Path:
    """Write ``shard-NNNNN.fits``; it appears under its name only when whole.

    Args:
        root: The store's folder; made if absent.
        number: The shard's place in the store, from 0.
        stamps: band -> (N, n, n) with n = ``BANDS[band].size``, float32, electron/s (or ``unit``). N may be 0.
        catalogue: N rows; at least ``id`` (integers, unique) and ``label`` (0 or 1). Dtypes, units and masks are kept,
            ``meta`` is not. Names that begin with ``crc_`` or ``blank_`` are the store's own.
        rejects: (id, ``"kind: detail"``) of every object that belongs here and was left out.
        planes: Further cubes (N, ...) beside the bands, e.g. ARC or MASK; float32, uint8, int16 or int32.
        unit: BUNIT of the bands, where it is not electron/s.

    Raises:
        LensfindError: A stamp of the wrong shape, with NaN or constant; an unfit catalogue; a disk that is full or
            cannot be written. Nothing is left behind then.
    """
    root = Path(root)
    bands = [band for band in BANDS if band in check_bands(stamps)]
    cubes = {band: np.ascontiguousarray(stamps[band], dtype=">f4") for band in bands}
    for name, plane in (planes or {}).items():
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or name in {*BANDS, "CATALOGUE", "REJECTS", "PRIMARY"}:
            raise LensfindError("planes with new names in capitals, e.g. ARC", repr(name), "Rename the plane.")
        kind = np.dtype(plane.dtype).newbyteorder(">")
        if kind.str not in {">f4", "|u1", ">i2", ">i4"}:
            raise LensfindError(f"plane {name} as float32, uint8, int16 or int32", str(plane.dtype), "Convert it.")
        cubes[name] = np.ascontiguousarray(plane, dtype=kind)
    check_catalogue(catalogue, f"shard {number}")
    for name, cube in cubes.items():
        if len(cube) != len(catalogue):
            raise LensfindError(
                f"{len(catalogue)} {name} stamps, one per catalogue row",
                f"{len(cube)}",
                "Write stamps and rows together.",
            )
    for band in bands:
        if cubes[band].shape[1:] != (BANDS[band].size, BANDS[band].size) and not len(catalogue):
            raise LensfindError(
                f"{band} stamps of {BANDS[band].size} pixels", f"{cubes[band].shape}", "Mend the shape."
            )
        for index, stamp in enumerate(cubes[band]):
            if fault := stamp_fault(stamp, band):
                raise LensfindError(
                    f"good stamps for shard {number}",
                    f"object {catalogue['id'][index]}: {fault}",
                    "Leave the object out and list it in rejects.",
                )
    hdus = [fits.PrimaryHDU()]
    for name, cube in cubes.items():
        hdu = fits.ImageHDU(cube, name=name)
        if name in BANDS:
            hdu.header["BUNIT"] = unit
            hdu.header["PIXSCALE"] = (BANDS[name].pixel_scale, "arcsec")
        hdus.append(hdu)
    hdus += [_catalogue_hdu(catalogue, cubes), _rejects_hdu(rejects)]
    for hdu in hdus:
        hdu.add_checksum(when="lensfind")  # astropy would put the date here
    path = root / f"shard-{number:05d}.fits"
    with whole_file(path, sum(cube.nbytes for cube in cubes.values())) as file:
        # Not HDUList.writeto to the file: that hands arrays to numpy's tofile, which loses the errno of a full disk.
        for hdu in hdus:
            if hdu.name in cubes:
                file.write(hdu.header.tostring().encode("ascii"))
                file.write(cubes[hdu.name].data if cubes[hdu.name].size else b"")
                file.write(bytes(-cubes[hdu.name].nbytes % 2880))
            else:
                file.write(_in_memory(hdu))
    return path


def shard_done(root: Path, number: int) -> bool:
    """Whether a whole shard ``number`` is there: every header reads and the file ends where they say. Cheap."""
    path = Path(root) / f"shard-{number:05d}.fits"
    try:
        with open(path, "rb") as file:
            return [hdu.name for hdu in layout(file)][-2:] == ["CATALOGUE", "REJECTS"]
    except BAD_FITS:
        return False


def _catalogue_hdu(catalogue: Table, cubes: Mapping[str, NDArray[Any]]) -> fits.BinTableHDU:
    table = Table(catalogue, copy=True)
    table.meta.clear()
    for name in catalogue.colnames:
        column = table[name]
        if isinstance(column, MaskedColumn):  # FITS has no blank for every type: the mask goes beside the column
            if column.mask.any():
                table[f"blank_{name}"] = np.array(column.mask)
            fill = {"f": np.nan, "U": "", "S": b""}.get(column.dtype.kind, 0)
            table[name] = Column(column.filled(fill), unit=column.unit, description=column.description)
        if table[name].dtype.itemsize == 0:  # strings of no length have no FITS format
            table[name] = table[name].astype(f"{table[name].dtype.kind}1")
    for name, cube in cubes.items():
        table[f"crc_{name}"] = np.array([zlib.crc32(stamp) for stamp in cube], dtype=np.int64)
    table["crc_row"] = np.zeros(len(catalogue), dtype=np.int64)
    try:
        hdu = fits.table_to_hdu(table)
        hdu.name = "CATALOGUE"
        content = _in_memory(hdu)
    except (TypeError, ValueError, UnicodeError) as error:
        raise LensfindError(
            "catalogue columns of numbers, booleans or ASCII text", str(error), "Convert or drop the column."
        ) from error
    # The last column is the CRC of the row's other bytes as they stand in the file, so that verify can name the row.
    start, width = next(layout(io.BytesIO(content))).data, hdu.header["NAXIS1"]
    lines = [content[start + i * width : start + (i + 1) * width - 8] for i in range(len(table))]
    hdu.data["crc_row"] = [zlib.crc32(line) for line in lines]
    return hdu


def _in_memory(hdu: Any) -> bytes:
    """The bytes of a small HDU as they stand in a file."""
    file, first = io.BytesIO(), [] if isinstance(hdu, fits.PrimaryHDU) else [fits.PrimaryHDU()]
    fits.HDUList([*first, hdu]).writeto(file)
    return file.getvalue()[2880 * len(first) :]


def _rejects_hdu(rejects: Sequence[tuple[str, str]]) -> fits.BinTableHDU:
    columns = []
    for name, texts in zip(("id", "reason"), zip(*rejects, strict=True) if rejects else ((), ()), strict=True):
        plain = [str(text).encode("unicode_escape").decode("ascii") for text in texts]  # FITS knows only ASCII
        columns.append(fits.Column(name, f"{max([1, *map(len, plain)])}A", array=np.array(plain, dtype=str)))
    return fits.BinTableHDU.from_columns(columns, name="REJECTS")


@dataclass(frozen=True)
class Hdu:
    """Place of an HDU in its file, in bytes."""

    name: str
    header: fits.Header
    start: int  # of the header
    data: int  # start of the data
    end: int  # with the padding


def layout(file: BinaryIO) -> Iterator[Hdu]:
    """The HDUs of a FITS file, read from their headers alone. OSError where one is unreadable or the file too short."""
    total, start = file.seek(0, os.SEEK_END), 0
    while start < total:
        file.seek(start)
        header = fits.Header.fromfile(file)
        data = file.tell()
        end = data + int(header.data_size_padded)
        if not data <= end <= total:
            raise OSError(f"cut off: {total} bytes, {end} needed")
        yield Hdu(str(header.get("EXTNAME", "PRIMARY")), header, start, data, end)
        start = end


class Cube(NamedTuple):
    """A cube of a shard."""

    start: int  # byte in the file
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    unit: str


def cubes_of(path: Path) -> dict[str, Cube]:
    """Where and what every cube of a shard is."""
    with open(path, "rb") as file:
        return {
            hdu.name: Cube(
                hdu.data,
                tuple(hdu.header[f"NAXIS{axis}"] for axis in range(hdu.header["NAXIS"], 0, -1)),
                np.dtype({-32: ">f4", 8: "u1", 16: ">i2", 32: ">i4"}[hdu.header["BITPIX"]]),
                str(hdu.header.get("BUNIT", "")),
            )
            for hdu in layout(file)
            if hdu.header.get("XTENSION") == "IMAGE"
        }


def read_catalogue(path: Path) -> Table:
    """The public catalogue of a shard, after a check of its FITS checksums."""
    try:
        with open(path, "rb") as file:
            hdu = next(hdu for hdu in layout(file) if hdu.name == "CATALOGUE")
            file.seek(hdu.start)
            content = file.read(hdu.end - hdu.start)
        if ones_sum(content) != WHOLE:
            raise OSError("its checksum is wrong")
        hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.fromstring(content, uint=True)])
        table = Table.read(hdus, hdu=1, mask_invalid=False, unit_parse_strict="silent")
    except (*BAD_FITS, StopIteration) as error:
        raise damaged(path, f"CATALOGUE cannot be used: {error or 'it is missing'}") from error
    return _public(table)


def _public(table: Table) -> Table:
    """The catalogue as it was given: without the CRCs, masked again, in native byte order."""
    names = [name for name in table.colnames if not name.startswith(("crc_", "blank_"))]
    public = Table()
    for name in names:
        kind = table[name].dtype
        column = table[name].astype(str if kind.kind == "S" else kind.newbyteorder("="))
        if f"blank_{name}" in table.colnames:
            column = MaskedColumn(column, mask=np.asarray(table[f"blank_{name}"]))
        public[name] = column
    return public


def read_rejects(path: Path) -> list[tuple[str, str]]:
    """(id, reason) of what was left out of a shard."""
    table = Table.read(path, hdu="REJECTS", mask_invalid=False)
    texts = [[str(text).encode().decode("unicode_escape") for text in table[name]] for name in ("id", "reason")]
    return list(zip(*texts, strict=True))


def check_catalogue(catalogue: Table, where: str) -> None:
    """LensfindError unless ``id`` is integer, each once, and ``label`` integer, 0 or 1; a table of 0 rows passes."""
    if not len(catalogue):
        return
    for name in ("id", "label"):
        if name not in catalogue.colnames:
            raise LensfindError(
                f"a column {name} in the catalogue of {where}", f"only {', '.join(catalogue.colnames)}", "Add it."
            )
        column = catalogue[name]
        if column.dtype.kind not in "iub" or np.ndim(column) != 1 or np.any(getattr(column, "mask", False)):
            raise LensfindError(
                f"an integer {name} for every row of {where}", f"{column.dtype} or blanks", "Mend the column."
            )
    ids, counts = np.unique(np.asarray(catalogue["id"]), return_counts=True)
    if counts.max() > 1:
        raise LensfindError(
            f"every id once in {where}",
            f"id {ids[counts > 1][0]} twice or more ({np.sum(counts > 1)} such ids)",
            "Keep one row of each.",
        )
    if not np.isin(np.asarray(catalogue["label"]), (0, 1)).all():
        raise LensfindError(f"labels 0 and 1 in {where}", f"{set(np.asarray(catalogue['label']))}", "1 means lens.")


def damaged(path: Path, what: str) -> LensfindError:
    """The error for a shard that cannot be used."""
    return LensfindError(
        f"a sound shard {path}",
        what,
        f"See all damage with: python -m lensfind.data verify {path.parent}. Then copy the shard again, or delete it "
        "and the manifest and repeat the command that made the store.",
    )


def ones_sum(data: bytes | memoryview, start: int = 0) -> int:
    """32-bit ones' complement sum of big-endian words, continued from ``start``; a length of 4 k bytes."""
    total = start + int(np.frombuffer(data, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & WHOLE) + (total >> 32)
    return total
