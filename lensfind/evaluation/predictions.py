"""The table of predictions: every object's scores, rank and outcome beside its catalogue row, in four formats."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.table import Column, Table
from astropy.table.meta import get_yaml_from_table
from astropy.units import Unit
from numpy.typing import ArrayLike, NDArray

from lensfind.errors import LensfindError
from lensfind.files import whole_file

__all__ = ["FORMATS", "Predicted", "ranks", "write_predictions"]

FORMATS = (".csv", ".fits", ".ecsv", ".parquet")
"""Suffixes that :func:`write_predictions` knows."""
_CHUNK = 50_000
_FLAGS = np.array(["rejected", "false_positive", "missed", "found"])
_Cells = tuple[NDArray[Any], NDArray[np.bool_] | None]  # values and, where some are blank, which


@dataclass(frozen=True)
class Predicted:
    """What one network says of N objects."""

    p_lens: NDArray[np.float64]
    """(N,) P(lens) in [0, 1]."""
    threshold: float
    """An object is found if P(lens) > threshold."""
    log_odds: NDArray[np.float64] | None = None
    """(N,) order of objects whose P(lens) are equal, as where it saturates at 1."""
    p_calibrated: NDArray[np.float64] | None = None
    """(N,) P(lens) after calibration on validation."""
    p_survey: NDArray[np.float64] | None = None
    """(N,) the same at the survey's prevalence."""


@dataclass(frozen=True)
class _Column:
    name: str
    dtype: np.dtype[Any]
    unit: str | None
    description: str
    cells: Callable[[slice], _Cells]


def ranks(p_lens: ArrayLike, log_odds: ArrayLike | None = None) -> NDArray[np.int64]:
    """Place of each object, 1 = highest P(lens), then highest log-odds.

    Objects that are equal in both share the smallest place of theirs (1 2 2 4): nothing says which comes first.

    Args:
        p_lens: (N,) P(lens).
        log_odds: (N,) or None.

    Example:
        >>> ranks([0.2, 0.9, 0.2, 0.1]).tolist()
        [2, 1, 2, 4]
    """
    p = np.asarray(p_lens, dtype=np.float64)
    second = np.zeros(len(p)) if log_odds is None else np.asarray(log_odds, dtype=np.float64)
    order = np.lexsort((-second, -p))
    new = np.ones(len(p), dtype=bool)
    new[1:] = (np.diff(p[order]) != 0) | (np.diff(second[order]) != 0)
    place = np.empty(len(p), dtype=np.int64)
    place[order] = np.maximum.accumulate(np.where(new, np.arange(1, len(p) + 1), 0))
    return place


def write_predictions(
    path: Path, catalogue: Table, label: ArrayLike, split: ArrayLike, networks: Mapping[str, Predicted]
) -> None:
    """Write one row per object; the file appears whole or not at all.

    Rows are written in blocks; what grows with them is the ranks, what is found, and a sort of the ids.

    Columns: ``id``, ``label``, ``split``; for each network ``p_lens``, ``p_calibrated`` and ``p_survey`` if there are
    any, ``rank`` (see :func:`ranks`), ``found`` (1: P(lens) > threshold) and ``flag`` (``found`` lens, ``missed`` lens,
    ``false_positive``, or ``rejected`` non-lens), with ``_NAME`` behind each if there are several networks; then the
    catalogue's columns with units and descriptions. A catalogue column whose name is taken (FITS knows no difference
    between capitals and small letters) gets ``cat_`` before it; its ``label`` is left out where it is the same.

    Numbers read back exactly. Blank (masked) numbers are empty in CSV and ECSV, null in Parquet and NaN or TNULL in
    FITS; blank text is empty text. NaN stays NaN. FITS has descriptions as TCOMM, and names in ASCII.

    Args:
        path: ``.csv``, ``.fits``, ``.ecsv`` or ``.parquet``.
        catalogue: N rows with the column ``id``.
        label: (N,) 1 = lens, 0 = non-lens.
        split: (N,) text: train, val, test or unused.
        networks: name -> scores of the N objects, in the catalogue's order.

    Raises:
        LensfindError: An unknown suffix, pyarrow missing for Parquet, other counts of rows, an id twice, a column of
            something else than one number or text per object, a full disk.
    """
    write = {".csv": _csv, ".ecsv": _ecsv, ".fits": _fits, ".parquet": _parquet}.get(path.suffix.lower())
    if write is None:
        raise LensfindError(
            f"predictions in a file that ends in {', '.join(FORMATS)}",
            path.name,
            "Choose a format with predictions=csv, fits, ecsv or parquet.",
        )
    columns = _columns(catalogue, np.asarray(label), np.asarray(split).astype(str), networks)
    size = len(catalogue) * sum(column.dtype.itemsize for column in columns)
    if path.suffix.lower() == ".parquet":
        _pyarrow()  # before a file is begun
    with whole_file(path, size) as file:
        write(file, columns, len(catalogue))


def _columns(
    catalogue: Table, label: NDArray[Any], split: NDArray[np.str_], networks: Mapping[str, Predicted]
) -> list[_Column]:
    n = len(catalogue)
    given = {"label": label, "split": split} | {
        f"{key} of {name}": value
        for name, scores in networks.items()
        for key, value in vars(scores).items()
        if isinstance(value, np.ndarray)
    }
    for key, values in given.items():
        if values.shape != (n,):
            raise LensfindError(
                f"one value of {key} for each of {n} objects", f"shape {values.shape}", "Give arrays of one length."
            )
    ids, count = np.unique(np.asarray(catalogue["id"]), return_counts=True)
    if (count > 1).any():
        raise LensfindError(
            "one row per id in the predictions",
            f"{int((count > 1).sum())} ids more than once, such as {ids[count > 1][0]}",
            "Score each object once: choose rows=test, or pack the data again with unique ids.",
        )
    columns = [
        _from_table(catalogue["id"], "id"),
        _plain("label", label.astype(np.int64), "1: lens, 0: non-lens"),
        _plain("split", split, "train, val, test or unused"),
    ]
    for name, scores in networks.items():
        columns += _of_network(scores, label, f"_{name}" if len(networks) > 1 else "")
    taken = {column.name.casefold() for column in columns}
    if len(taken) < len(columns):
        raise LensfindError(
            "networks with different names", ", ".join(networks), "Rename a run: name=... when training."
        )
    for name in catalogue.colnames:
        if name == "id" or (name == "label" and np.array_equal(np.asarray(catalogue["label"]), label)):
            continue
        free = name
        while free.casefold() in taken:
            free = f"cat_{free}"
        taken.add(free.casefold())
        columns.append(_from_table(catalogue[name], free))
    return columns


def _of_network(scores: Predicted, label: NDArray[Any], suffix: str) -> Iterator[_Column]:
    found = np.asarray(scores.p_lens) > scores.threshold
    yield _plain(f"p_lens{suffix}", scores.p_lens, "P(lens) of the network as it is", "")
    if scores.p_calibrated is not None:
        yield _plain(f"p_calibrated{suffix}", scores.p_calibrated, "P(lens) calibrated on validation", "")
    if scores.p_survey is not None:
        yield _plain(f"p_survey{suffix}", scores.p_survey, "P(lens) at the survey's prevalence", "")
    yield _plain(f"rank{suffix}", ranks(scores.p_lens, scores.log_odds), "1: highest P(lens); equals share a rank")
    yield _plain(f"found{suffix}", found.astype(np.int64), f"1: P(lens) > {scores.threshold!r}")
    yield _Column(
        f"flag{suffix}",
        _FLAGS.dtype,
        None,
        "found or missed (lenses), false_positive or rejected (non-lenses)",
        lambda rows: (_FLAGS[2 * label[rows].astype(np.int64) + found[rows]], None),
    )


def _plain(name: str, values: NDArray[Any], description: str, unit: str | None = None) -> _Column:
    return _Column(name, values.dtype, unit, description, lambda rows: (values[rows], None))


def _from_table(column: Any, name: str) -> _Column:
    kind = getattr(getattr(column, "dtype", None), "kind", "?")
    if kind not in "biufUSO" or column.ndim != 1 or (kind == "f" and column.dtype.itemsize > 8):
        raise LensfindError(
            f"one number or text per object in the catalogue's column {name}",
            f"{type(column).__name__} of {getattr(column, 'dtype', 'objects')}, shape {getattr(column, 'shape', '?')}",
            "Take that column out of the catalogue, or split it into plain ones.",
        )

    def cells(rows: slice) -> _Cells:
        part = column[rows]
        values, mask = np.asarray(part), getattr(part, "mask", None)
        if values.dtype.kind in "SO":
            values = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()], dtype=np.str_)
        if mask is not None and mask.any():
            values = np.where(mask, "", values) if values.dtype.kind == "U" else values
            return values, np.asarray(mask)
        return values, None

    width = (
        column.dtype.itemsize if kind == "S" else max((len(str(v)) for v in column), default=1) if kind == "O" else 0
    )
    dtype = np.dtype(f"U{width or 1}") if kind in "SO" else column.dtype
    unit = getattr(column, "unit", None)
    return _Column(name, dtype, None if unit is None else str(unit), column.info.description or "", cells)


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK))


def _template(columns: Sequence[_Column]) -> Table:
    """No rows, but names, dtypes, units and descriptions."""
    return Table(
        [Column([], c.name, c.dtype.newbyteorder("="), unit=c.unit, description=c.description) for c in columns]
    )


def _csv(file: BinaryIO, columns: Sequence[_Column], n: int, header: str = "") -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    if header:
        text.write(header)
    else:
        writer.writerow([column.name for column in columns])
    for rows in _chunks(n):
        writer.writerows(zip(*(_texts(*column.cells(rows)) for column in columns), strict=True))
    text.detach()  # flushes, and leaves the file open for its owner


def _texts(values: NDArray[Any], mask: NDArray[np.bool_] | None) -> list[Any]:
    """Cells that the csv module writes exactly: Python's floats become the shortest text that reads back the same."""
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        values = values.astype(np.str_)  # else 0.1 in single precision becomes 0.10000000149011612
    cells: list[Any] = values.tolist()
    return cells if mask is None else [None if blank else cell for cell, blank in zip(cells, mask, strict=True)]


def _ecsv(file: BinaryIO, columns: Sequence[_Column], n: int) -> None:
    header = io.StringIO()
    _template(columns).write(header, format="ascii.ecsv", delimiter=",")
    _csv(file, columns, n, header.getvalue())


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _fits(file: BinaryIO, columns: Sequence[_Column], n: int) -> None:
    defined: list[fits.Column] = []
    dtypes: list[tuple[str, np.dtype[Any]]] = []
    for column in columns:
        kind, dtype, null = column.dtype.kind, column.dtype.newbyteorder(">"), None
        if kind == "U":  # UTF-8, as astropy does; the standard knows only ASCII
            widths = (np.char.encode(column.cells(rows)[0], "utf-8").dtype.itemsize for rows in _chunks(n))
            dtype = np.dtype(f"S{max(widths, default=1)}")
        elif kind in "iu":
            dtype = np.dtype(f">i{max(2, dtype.itemsize * (2 if kind == 'u' and dtype.itemsize < 8 else 1))}")
            null = np.iinfo(dtype).min if any(column.cells(rows)[1] is not None for rows in _chunks(n)) else None
        elif kind == "f":
            dtype = np.dtype(f">f{max(4, dtype.itemsize)}")
        form = f"{dtype.itemsize}A" if kind == "U" else "L" if kind == "b" else fits.column.NUMPY2FITS[dtype.str[1:]]
        defined.append(fits.Column(_ascii(column.name), form, _fits_unit(column.unit), null))
        dtypes.append((f"f{len(dtypes)}", np.dtype("S1") if kind == "b" else dtype))
    table = fits.BinTableHDU.from_columns(defined, nrows=0, name="PREDICTIONS")
    for k, column in enumerate(columns, 1):
        if column.description:
            table.header.set(f"TCOMM{k}", _ascii(column.description), after=f"TFORM{k}")
    table.header["NAXIS2"] = n
    row = np.dtype(dtypes)
    file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
    file.write(table.header.tostring().encode("ascii"))
    for rows in _chunks(n):
        block = np.zeros(rows.stop - rows.start, dtype=row)
        for name, definition, column in zip(row.names or (), defined, columns, strict=True):
            block[name] = _fits_cells(column, definition.null, rows)
        file.write(block.tobytes())
    file.write(bytes(-n * row.itemsize % 2880))


def _fits_cells(column: _Column, null: Any, rows: slice) -> NDArray[Any]:
    values, mask = column.cells(rows)
    if values.dtype.kind == "U":
        return np.char.encode(values, "utf-8")
    if values.dtype.kind == "b":
        values = np.where(values, b"T", b"F")
        null = b""
    elif values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        raise LensfindError(
            f"whole numbers below 2^63 in the column {column.name}", str(values.max()), "Choose predictions=parquet."
        )
    if mask is None:
        return values
    if values.dtype.kind == "f":
        return np.where(mask, np.nan, values)
    return np.where(mask, null, values if null == b"" else values.astype(np.int64))


def _fits_unit(unit: str | None) -> str | None:
    if not unit:
        return None
    try:
        return str(Unit(unit).to_string("fits"))
    except ValueError:  # a unit that FITS does not know, such as 1.5 arcsec: its plain name is better than none
        return _ascii(unit)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise LensfindError(
            "pyarrow, which writes Parquet",
            f"no such package ({error})",
            "Install it with pip install 'lensfind[parquet]', or choose predictions=csv, fits or ecsv.",
        ) from error
    return pyarrow


def _parquet(file: BinaryIO, columns: Sequence[_Column], n: int) -> None:
    arrow = _pyarrow()
    fields = [
        arrow.field(
            column.name,
            arrow.string() if column.dtype.kind == "U" else arrow.from_numpy_dtype(column.dtype.newbyteorder("=")),
            metadata={"unit": column.unit or "", "description": column.description},
        )
        for column in columns
    ]
    metadata = {f"table::len::{c.name}": str(c.dtype.itemsize // 4) for c in columns if c.dtype.kind == "U"}
    metadata["table_meta_yaml"] = "\n".join(get_yaml_from_table(_template(columns)))  # astropy reads units from it
    schema = arrow.schema(fields, metadata=metadata)
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        for rows in _chunks(n):
            cells = [column.cells(rows) for column in columns]
            arrays = [
                arrow.array(values.tolist() if values.dtype.kind == "U" else _native(values), field.type, mask=mask)
                for (values, mask), field in zip(cells, fields, strict=True)
            ]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
