"""The selection function: what share of the lenses a finder finds, against their properties.

Edges are round numbers, the same for every network on the same lenses, so that a forecast can multiply its own counts
by the table. Inner bins have one step; the two outermost reach as far as the farthest lens, so that the counts of every
table add up to all lenses that have the property.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from numpy.typing import ArrayLike, NDArray

from lensfind.errors import LensfindError
from lensfind.evaluation.bootstrap import wilson
from lensfind.files import write_file

__all__ = [
    "LENS_PROPERTIES",
    "PAIRS",
    "PROPERTIES",
    "Property",
    "Selection",
    "round_edges",
    "selection_function",
    "shares",
    "write_selection",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Property:
    """What completeness is counted against."""

    name: str
    expression: str
    """A column of the catalogue, or the difference of two: ``"mag_source_VIS - mag_source_H"``."""
    unit: str | None
    label: str
    """For the axis of a figure, with the unit."""
    log: bool = False
    """Bins and axis are logarithmic; values that are not positive count as blank."""


LENS_PROPERTIES = (
    Property("theta_e", "theta_e", "arcsec", "Einstein radius [arcsec]"),
    Property("mag_source", "mag_source", "mag", "unlensed source [AB mag]"),
    Property("mag_lens", "mag_lens", "mag", "lens galaxy [AB mag]"),
    Property("z_source", "z_source", None, "redshift of the source"),
    Property("mag_eff", "mag_eff", None, "magnification", log=True),
    Property("arc_snr", "arc_snr", None, "signal to noise of the arc", log=True),
    Property("contrast", "contrast", None, "contrast of the arc"),
    Property("color_source", "mag_source_VIS - mag_source_H", "mag", "source VIS - H [mag]"),
    Property("color_lens", "mag_lens_VIS - mag_lens_H", "mag", "lens galaxy VIS - H [mag]"),
)
"""What is counted unless other properties are asked for, and reported as missing where the catalogue lacks it."""

_CHALLENGE = (
    Property("ein_area", "ein_area", None, "area within the critical curve", log=True),
    Property("sb_contrast", "sb_contrast", None, "surface brightness contrast"),
    Property("color_diff", "color_diff", None, "colour difference"),
)
"""Stand-ins of the challenge's table, in its own units; taken where ``theta_e`` and the columns of colour are not."""

PROPERTIES: Mapping[str, Property] = {one.name: one for one in (*LENS_PROPERTIES, *_CHALLENGE)}
PAIRS = (("theta_e", "arc_snr"), ("theta_e", "mag_source"))
"""Counted in two dimensions where both properties are."""

_STEPS = (1.0, 2.0, 2.5, 5.0)
_DECADES = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))


@dataclass(frozen=True)
class Selection:
    """Completeness of one finder on one set of lenses."""

    tables: dict[str, Table]
    """By property, then by pair (``"theta_e,arc_snr"``): columns ``low``, ``high`` (for a pair also ``low_2``,
    ``high_2``; low <= x < high, the last bin with its high), ``n``, ``n_found``, ``completeness``, ``lower``,
    ``upper``; the last three are masked where n is 0. ``meta``: property, expression, label, log (lists of two for a
    pair), n_blank (lenses without the property, which stand in no bin) and level."""
    missing: dict[str, str]
    """Properties that the catalogue cannot give: reason by name."""
    n: int
    """Lenses."""
    n_found: int
    level: float

    @property
    def properties(self) -> list[str]:
        """Names of the one-dimensional tables."""
        return [name for name in self.tables if "," not in name]


def shares(found: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array]:
    """``found / n`` with Wilson's (1927, JASA 22, 209) interval; NaN where n is 0.

    Args:
        found: Counts of any shape.
        n: Out of how many, of the same shape.
        level: Probability that an interval covers the truth.
    """
    k, total = np.asarray(found, dtype=np.float64), np.asarray(n, dtype=np.float64)
    share = np.divide(k, total, out=np.full(total.shape, np.nan), where=total > 0)
    lower, upper = (np.where(total > 0, limit, np.nan) for limit in wilson(k, total, level))
    return share, np.clip(lower, 0, share), np.clip(upper, share, 1)


def selection_function(
    catalogue: Table,
    found: ArrayLike,
    *,
    properties: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    bins: int = 8,
    level: float = 0.95,
) -> Selection:
    """Completeness of the lenses in ``catalogue`` in bins of their properties.

    Args:
        catalogue: N lenses, one a row, and nothing else.
        found: (N,) bool, P(lens) above the threshold.
        properties: Names of :data:`PROPERTIES`, numeric columns of the catalogue, or differences of two such
            (``"mag_lens - mag_source"``). None: all of :data:`LENS_PROPERTIES` that the catalogue has.
        pairs: Properties to count in two dimensions. None: those of :data:`PAIRS` of which both are counted.
        bins: About so many bins per property, see :func:`round_edges`.
        level: Of the Wilson intervals.

    Raises:
        LensfindError: A row is no lens, the lengths differ, or a property that was asked for is not in the catalogue,
            is no number or is blank for every lens.
    """
    hits = np.asarray(found)
    if hits.dtype != np.bool_ or hits.shape != (len(catalogue),):
        raise LensfindError(
            f"one True or False for each of {len(catalogue)} lenses",
            f"{hits.dtype} {hits.shape}",
            "Give found = p_lens > threshold of the catalogue's rows.",
        )
    if "label" in catalogue.colnames and (np.asarray(catalogue["label"]) != 1).any():
        raise LensfindError(
            "a catalogue of lenses only",
            f"{int((np.asarray(catalogue['label']) != 1).sum())} rows with another label than 1",
            'Give catalogue[catalogue["label"] == 1].',
        )
    if isinstance(bins, bool) or int(bins) != bins or bins < 1:
        raise LensfindError("a number of bins of at least 1", repr(bins), "Set bins=8.")
    wanted, missing = _wanted(catalogue, properties)
    if pairs is None:
        pairs = [pair for pair in PAIRS if all(name in wanted for name in pair)]
    wanted_twice = {name: _asked(catalogue, name) for pair in pairs for name in pair if name not in wanted}
    members = wanted | wanted_twice
    values = {name: _values(catalogue, one) for name, one in members.items()}
    edges = {name: round_edges(values[name], bins, log=one.log) for name, one in members.items()}
    tables = {name: _count([one], [values[name]], [edges[name]], hits, level) for name, one in wanted.items()}
    for pair in pairs:
        both = [members[name] for name in pair]
        axes = [values[name] for name in pair], [edges[name] for name in pair]
        tables[",".join(pair)] = _count(both, *axes, hits, level)
    return Selection(tables, missing, len(catalogue), int(hits.sum()), level)


def round_edges(values: ArrayLike, bins: int = 8, *, log: bool = False) -> Array:
    """Edges of about ``bins`` bins at round numbers that hold all ``values``; not finite ones are left out.

    Linear steps are 1, 2, 2.5 or 5 times a power of ten, logarithmic edges 1-2-5 and the like; the choice that comes
    closest to ``bins`` for the central 98 % of the values. The outermost bins are as wide as the rest needs.

    Args:
        values: At least one that is finite, and positive if ``log``.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    array = array[np.isfinite(array)]
    least, most = float(array.min()), float(array.max())
    low, high = (float(q) for q in np.quantile(array, [0.01, 0.99]))
    if low == high:
        low, high = least, most
    if log:
        choices = _log_edges(low, high, least, most)
    elif (array == np.round(array)).all():  # counts: bins of whole numbers, the greatest below an edge as all others
        choices = [edges for edges in _linear_edges(low, high + 1, least, most + 1, bins) if (edges % 1 == 0).all()]
    else:
        choices = _linear_edges(low, high, least, most, bins)
    return min(choices, key=lambda edges: (abs(len(edges) - 1 - bins), len(edges)))


def write_selection(
    path: Path, selection: Selection, *, network: str, threshold: float, checkpoint: str | None = None
) -> None:
    """Write the tables as FITS: one binary table per property or pair, EXTNAME its name, e.g. THETA_E.

    ``Table.read(path, hdu="THETA_E")`` gives one back, with units, and masked where there is no lens. Every header
    holds NETWORK, THRESH, LEVEL, CHECKPT (SHA-256), NLENS, NFOUND, NBLANK, PROP and EXPR (of a pair also PROP_2 and
    EXPR_2). Made again it is the same bytes.

    Args:
        path: The file; it appears under this name only when whole.
        selection: Of :func:`selection_function`.
        network: Name of the finder.
        threshold: On P(lens), above which a lens counts as found.
        checkpoint: SHA-256 of the finder's checkpoint, if it has one.

    Raises:
        LensfindError: The disk is full or the folder cannot be written.
    """
    about: list[tuple[str, str | float | int, str]] = [
        ("NETWORK", _plain(network), ""),
        ("THRESH", float(threshold), "a lens is found if P(lens) is above"),
        ("LEVEL", selection.level, "probability of the Wilson intervals"),
        ("NLENS", selection.n, "lenses"),
        ("NFOUND", selection.n_found, "of them found"),
        ("CHECKPT", checkpoint or "", ""),
    ]
    hdus: list[fits.PrimaryHDU | fits.BinTableHDU] = [fits.PrimaryHDU()]
    for card in about:
        hdus[0].header.append(card)
    for name, table in selection.tables.items():
        bare = table.copy()
        bare.meta = {}
        hdu = fits.table_to_hdu(bare)
        hdu.name = _plain(name)
        for card in about:
            hdu.header.append(card)
        hdu.header.append(("NBLANK", table.meta["n_blank"], "lenses without it, in no bin"))
        for number, (one, expression) in enumerate(zip(name.split(","), table.meta["expression"], strict=True)):
            suffix = "_2" if number else ""
            hdu.header.append((f"PROP{suffix}", _plain(one)))
            hdu.header.append((f"EXPR{suffix}", _plain(expression)))
        hdu.header["COMMENT"] = "low <= x < high, in the last bin x <= high; completeness = n_found / n,"
        hdu.header["COMMENT"] = "lower and upper its Wilson interval; NaN: no lens in the bin."
        hdus.append(hdu)
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content)
    write_file(path, content.getvalue())


def _plain(text: str) -> str:
    """As FITS headers want it."""
    return text.encode("ascii", "replace").decode()[:60]


def _linear_edges(low: float, high: float, least: float, most: float, bins: int) -> list[Array]:
    power = int(np.floor(np.log10((high - low) / bins))) if high > low else 0
    choices = []
    for step in (m * 10.0**k for k in (power - 1, power, power + 1, power + 2) for m in _STEPS):
        first, last = np.floor(low / step), np.ceil(high / step)
        edges = step * np.arange(first, max(last, first + 1) + 1)
        edges[0] = min(edges[0], step * np.floor(least / step))
        edges[-1] = max(edges[-1], step * np.ceil(most / step))
        edges = np.round(edges, max(0, 2 - int(np.floor(np.log10(step)))))  # 0.3, not 0.30000000000000004
        edges[0], edges[-1] = min(edges[0], least), max(edges[-1], most)  # should rounding have cut one off
        choices.append(edges)
    return choices


def _log_edges(low: float, high: float, least: float, most: float) -> list[Array]:
    decades = range(int(np.floor(np.log10(least))) - 1, int(np.ceil(np.log10(most))) + 2)
    choices = []
    for series in _DECADES:
        grid = np.array([float(f"{m}e{k}") for k in decades for m in series])
        first = int(np.searchsorted(grid, low, side="right")) - 1
        last = max(int(np.searchsorted(grid, high)), first + 1)
        edges = grid[first : last + 1].copy()
        edges[0] = min(edges[0], grid[np.searchsorted(grid, least, side="right") - 1])
        edges[-1] = max(edges[-1], grid[np.searchsorted(grid, most)])
        choices.append(edges)
    return choices


def _wanted(catalogue: Table, names: Sequence[str] | None) -> tuple[dict[str, Property], dict[str, str]]:
    """Properties to count, and reasons why others that stand in the default list cannot be."""
    if names is not None:
        return {name: _asked(catalogue, name) for name in names}, {}
    wanted: dict[str, Property] = {}
    missing: dict[str, str] = {}
    for one in LENS_PROPERTIES:
        reason = _why_not(catalogue, one)
        if reason:
            missing[one.name] = reason
        else:
            wanted[one.name] = one
    instead = {"ein_area": "theta_e", "sb_contrast": "contrast", "color_diff": "color_source"}
    wanted |= {one.name: one for one in _CHALLENGE if instead[one.name] in missing and not _why_not(catalogue, one)}
    return wanted, missing


def _asked(catalogue: Table, name: str) -> Property:
    """A property by name; an error if the catalogue cannot give it."""
    one = PROPERTIES.get(name)
    if one is None:
        unit = str(catalogue[name].unit or "") if name in catalogue.colnames else ""
        one = Property(name, name, unit or None, f"{name} [{unit}]" if unit else name)
    reason = _why_not(catalogue, one)
    if reason:
        numeric = [column for column in catalogue.colnames if catalogue[column].dtype.kind in "iufb"]
        raise LensfindError(
            f"the property {name}, to count completeness against",
            reason,
            f"Set properties to names out of {', '.join([*PROPERTIES, *numeric])}, or to null for what there is.",
        )
    return one


def _why_not(catalogue: Table, one: Property) -> str:
    """Why the catalogue cannot give a property; "" if it can."""
    for column in one.expression.split(" - "):
        if column not in catalogue.colnames:
            return f"a catalogue without the column {column}"
        if catalogue[column].dtype.kind not in "iufb":
            return f"a column {column} that holds no numbers ({catalogue[column].dtype})"
    if not np.isfinite(_values(catalogue, one)).any():
        return "a catalogue in which it is blank for every lens" if len(catalogue) else "a catalogue without lenses"
    return ""


def _values(catalogue: Table, one: Property) -> Array:
    """(N,) with NaN where the property is blank."""
    columns = [
        np.ma.filled(np.ma.asarray(catalogue[name]).astype(np.float64), np.nan) for name in one.expression.split(" - ")
    ]
    values = columns[0] if len(columns) == 1 else np.subtract(*columns)
    return np.where(np.isfinite(values) & ((values > 0) | (not one.log)), values, np.nan)


def _count(
    members: Sequence[Property],
    values: Sequence[Array],
    edges: Sequence[Array],
    found: NDArray[np.bool_],
    level: float,
) -> Table:
    points = np.column_stack(values)
    known = np.isfinite(points).all(axis=1)
    n, _ = np.histogramdd(points[known], edges)
    n_found, _ = np.histogramdd(points[known & found], edges)
    sides = np.meshgrid(*(np.arange(len(edge) - 1) for edge in edges), indexing="ij")
    columns = []
    for place, (one, edge, index) in enumerate(zip(members, edges, sides, strict=True)):
        suffix = "_2" if place else ""
        columns.append(Column(edge[:-1][index.ravel()], f"low{suffix}", unit=one.unit))
        columns.append(Column(edge[1:][index.ravel()], f"high{suffix}", unit=one.unit))
    columns.append(Column(n.ravel().astype(np.int64), "n", description="lenses"))
    columns.append(Column(n_found.ravel().astype(np.int64), "n_found", description="of them found"))
    for name, values_ in zip(("completeness", "lower", "upper"), shares(n_found, n, level), strict=True):
        columns.append(MaskedColumn(values_.ravel(), name, mask=n.ravel() == 0))
    about = {key: [getattr(one, key) for one in members] for key in ("expression", "label", "log")}
    named = {"property": [one.name for one in members], "n_blank": int((~known).sum()), "level": level}
    return Table(columns, meta=named | about)
