"""The truth table of the lens-finding challenge 2.0, read so that every row is kept or listed with a reason."""

import csv
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from lensfind.errors import LensfindError

__all__ = ["Truth", "read_truth"]

_ID_NAMES = ("id", "euclid id")
_BLANKS = ("", "na", "nan", "null", "none")
_WAY_OUT = "Set data.truth=PATH to the challenge's table, or to a mended copy of yours."


@dataclass(frozen=True)
class Truth:
    """A truth table's good rows, in file order, and what became of the others."""

    table: Table
    """``id`` (int64, unique), then every other column of the file as float64, blanks as NaN."""
    position: NDArray[np.int64]
    """Place of each good row among all rows of the file, counted from 0 below the header."""
    rows: int
    """Count of all rows of the file."""
    rejects: tuple[tuple[int, str, str], ...]
    """(position, id or "", reason) of each row that is not in ``table``."""
    ids: frozenset[int]
    """Every id that can be read, also those of rejected rows."""


def read_truth(path: Path, ignored_ids: Collection[int] = ()) -> Truth:
    """Read a challenge truth table.

    ``#`` comments and empty lines are skipped wherever they stand. The id column is ``ID`` or ``Euclid ID``; the column
    without a name is R's row number and is left out. A row is rejected as *malformed row* (another count of fields than
    the header, or text where a number should be), *ignored id*, or *duplicate id*: all rows of that id, since nothing
    says which of them is right.

    Raises:
        LensfindError: A file without header, id column or rows, or with two columns of one name.
    """
    header: list[str] = []
    good: list[list[float]] = []
    ids: list[int] = []
    lines: list[int] = []
    position: list[int] = []
    rejects: list[tuple[int, str, str]] = []
    known: set[int] = set()
    rows = id_column = 0
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        for line, text in enumerate(file, 1):
            if not text.strip() or text.lstrip().startswith("#"):
                continue
            # Line by line: in a csv.reader over the file one stray quote would swallow all rows up to the next one.
            fields = _fields(text)
            if not header:
                header = fields
                id_column = _id_column(path, header)
                continue
            rows += 1
            name = fields[id_column] if id_column < len(fields) else ""
            number = int(name) if name.isascii() and name.isdigit() and int(name) < 2**63 else None
            if number is not None:
                known.add(number)
            values, problem = _numbers(fields, header, id_column)
            if number is None and not problem:
                problem = f"the id is {name!r}"
            if problem or number is None:
                rejects.append((rows - 1, name[:40], f"malformed row: line {line}: {problem}"))
            elif number in ignored_ids:
                rejects.append((rows - 1, name, f"ignored id: line {line}"))
            else:
                ids.append(number)
                good.append(values)
                lines.append(line)
                position.append(rows - 1)
    if not rows:
        raise LensfindError("a truth table with rows", f"{path}, which has none", _WAY_OUT)

    count = Counter(ids)
    twice = [count[number] > 1 for number in ids]
    rejects += [
        (position[i], str(ids[i]), f"duplicate id: line {lines[i]}, one of {count[ids[i]]} rows")
        for i in range(len(ids))
        if twice[i]
    ]
    single = ~np.array(twice, dtype=bool)
    names = [name for i, name in enumerate(header) if i != id_column and name]
    columns = np.array(good, dtype=np.float64).reshape(len(good), len(names))[single]
    table = Table([np.array(ids, dtype=np.int64)[single]], names=["id"])
    for place, name in enumerate(names):
        table[name] = columns[:, place]
    return Truth(table, np.array(position, dtype=np.int64)[single], rows, tuple(sorted(rejects)), frozenset(known))


def _fields(text: str) -> list[str]:
    """Fields of one line, stripped; none where the csv module gives up (a field beyond its limit)."""
    try:
        return [field.strip() for field in next(csv.reader([text.rstrip("\r\n")], skipinitialspace=True), [])]
    except csv.Error:
        return []


def _id_column(path: Path, header: list[str]) -> int:
    """Position of the id column; checks the header."""
    folded = [name.casefold() for name in header]
    found = [folded.index(name) for name in _ID_NAMES if name in folded]
    if not found:
        shown = ", ".join(name or '""' for name in header)
        raise LensfindError(f"a column ID or Euclid ID in {path}", f"the columns {shown[:300]}", _WAY_OUT)
    # FITS column names are the same whatever their case, and the catalogue adds id and label.
    named = [name for i, name in enumerate(folded) if name and i != found[0]] + ["id", "label"]
    repeated = sorted(name for name, times in Counter(named).items() if times > 1)
    if repeated:
        raise LensfindError(
            f"columns of {path} with different names", f"{', '.join(repeated)} more than once", _WAY_OUT
        )
    return found[0]


def _numbers(fields: list[str], header: list[str], id_column: int) -> tuple[list[float], str]:
    """The numbers of one row's named columns but the id, and what is wrong with it ("" if nothing)."""
    if len(fields) != len(header):
        return [], f"{len(fields)} fields, expected {len(header)}"
    values = []
    for i, (name, field) in enumerate(zip(header, fields, strict=True)):
        if i == id_column or not name:
            continue
        try:
            values.append(np.nan if field.casefold() in _BLANKS else float(field))
        except ValueError:
            return [], f"{name} is {field[:40]!r}"
    return values, ""
