"""Columns of the simulated catalogue: their types, units and meaning, and how systems fill them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Column, Table
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.data.catalogue import lens_labels
from lensfind.errors import LensfindError
from lensfind.simulation.population import VIS, Galaxies
from lensfind.simulation.scenario import Scenario
from lensfind.simulation.systems import System

__all__ = ["COLUMNS", "blank", "catalogue", "centre_columns", "check_columns", "system_columns"]

Rows = Mapping[str, NDArray[Any]]
_F, _I = np.float64, np.int64

COLUMNS: Mapping[str, tuple[Any, str | None, str]] = {
    "id": (_I, None, "index in the scenario"),
    "kind": ("U12", None, "what stands in the middle, see docs/simulation.md"),
    "pair": (_I, None, "id of the lens, for a lens and its twin, even if a set of odd n ends before it; else -1"),
    "attempt": (_I, None, "draws rejected before this one"),
    "theta_e": (_F, "arcsec", "Einstein radius for the (nearer) source"),
    "theta_e_2": (_F, "arcsec", "of the second mass (compound_arc), or for the farther source (double_ring)"),
    "beta": (_F, None, "theta_e / theta_e_2 of a double ring"),
    "ein_area": (_F, "arcsec2", "area within the critical curve for the (nearer) source"),
    "sigma_v": (_F, "km / s", "velocity dispersion of the central galaxy"),
    "sigma_v_2": (_F, "km / s", "of the middle galaxy, or of the nearer source of a double ring"),
    "z_lens": (_F, None, "redshift of the central galaxy, of whatever kind"),
    "z_lens_2": (_F, None, "redshift of the second deflector"),
    "z_source": (_F, None, "redshift of the lensed source"),
    "z_source_2": (_F, None, "redshift of the farther source"),
    "mag_eff": (_F, None, "magnification: lensed over unlensed source flux"),
    "n_source_im": (_I, None, "images of the source's centre (0: no source)"),
    "n_pix_source": (_I, None, "VIS pixels with lensed source above 1 sigma of the blank noise"),
    "arc_snr": (_F, None, "signal to noise of the lensed source over those pixels"),
    "contrast": (_F, None, "lensed source over source + deflectors in those pixels"),
    "mag_eff_2": (_F, None, "the same of the farther source"),
    "n_pix_source_2": (_I, None, "the same of the farther source"),
    "arc_snr_2": (_F, None, "the same of the farther source"),
    "contrast_2": (_F, None, "the same of the farther source"),
    "collett": (_I, None, "1: theta_e > offset, mag_eff > 3, mag_eff r_source > seeing, arc_snr > 20 (Collett 2015)"),
    "mag_lens": (_F, "mag", "AB, central galaxy only (no companion, satellite or star), VIS"),
    "mag_source": (_F, "mag", "AB, unlensed source, VIS"),
    **{f"mag_lens_{band}": (_F, "mag", f"central galaxy only, {band}") for band in BANDS},
    **{f"mag_source_{band}": (_F, "mag", f"unlensed source, {band}") for band in BANDS},
    "mag_lens_2": (_F, "mag", "AB, middle galaxy, VIS, before lensing"),
    "mag_source_2": (_F, "mag", "AB, unlensed farther source, VIS"),
    "r_lens": (_F, "arcsec", "half-light radius of the central galaxy"),
    "q_lens": (_F, None, "axis ratio of its light"),
    "angle_lens": (_F, "rad", "major axis of its light, from x to y"),
    "e1": (_F, None, "ellipticity of the mass"),
    "e2": (_F, None, "ellipticity of the mass"),
    "gamma1": (_F, None, "external shear"),
    "gamma2": (_F, None, "external shear"),
    "x_lens_2": (_F, "arcsec", "second deflector in its own plane"),
    "y_lens_2": (_F, "arcsec", "second deflector in its own plane"),
    "x_source": (_F, "arcsec", "unlensed source from the stamp's centre"),
    "y_source": (_F, "arcsec", "unlensed source from the stamp's centre"),
    "x_source_2": (_F, "arcsec", "unlensed farther source"),
    "y_source_2": (_F, "arcsec", "unlensed farther source"),
    "r_source": (_F, "arcsec", "half-light radius of the unlensed source"),
    "q_source": (_F, None, "axis ratio of the source"),
    "r_feature": (_F, "arcsec", "radius of arms, ring, tails, satellites or stars that could be taken for arcs"),
    "n_neighbours": (_I, None, "field galaxies in the stamp"),
    "n_satellites": (_I, None, "satellites of the central galaxy"),
    "n_stars": (_I, None, "field stars in the stamp"),
}
"""Columns before ``label``: dtype, unit, description. Floats that have no meaning for a kind are NaN."""

_LATER = ("id", "pair", "attempt", "n_neighbours", "n_satellites", "n_stars")
"""Numbers that an object gets after it has been accepted: nothing can be selected by them."""


def check_columns(scenario: Scenario) -> None:
    """Check that ``scenario.select`` and ``scenario.label`` ask for columns that are known when they are asked.

    Raises:
        LensfindError: One asks for something else, or the label is no rule.
    """
    kinds = {key: kind for key, (kind, _, _) in COLUMNS.items() if kind in (_F, _I) and key not in _LATER}
    for name in scenario.select:
        if name not in kinds:
            raise LensfindError(
                f"scenario.select of {', '.join(kinds)}",
                f"{name}, which is {'known only afterwards' if name in COLUMNS else 'no column'}",
                f"Remove scenario.select.{name}; the catalogue has every column, to choose from afterwards.",
            )
    asked = COLUMNS if scenario.keep_undetectable else kinds  # else a lens is judged before it is accepted
    try:
        lens_labels(Table({key: np.zeros(0, dtype=COLUMNS[key][0]) for key in asked}), scenario.label)
    except LensfindError as error:
        raise LensfindError(
            "scenario.label as a rule of comparisons, and, or, not, parentheses, numbers and columns out of "
            + ", ".join(kinds),
            error.args[1],
            "Set scenario.label, e.g. scenario.label='n_source_im > 1 and mag_eff > 1.6'.",
        ) from error


def blank(kind: str, n: int) -> dict[str, NDArray[Any]]:
    """``n`` rows of a kind with nothing in them."""
    rows = {
        name: np.zeros(n, dtype=_I) if dtype is _I else np.full(n, np.nan)
        for name, (dtype, _, _) in COLUMNS.items()
        if name != "kind"
    }
    return rows | {"kind": np.full(n, kind, dtype="U12"), "pair": np.full(n, -1, dtype=_I)}


def centre_columns(centre: Galaxies) -> dict[str, NDArray[Any]]:
    """Columns of the central galaxies."""
    return {
        "sigma_v": centre.sigma_v,
        "z_lens": centre.z,
        "r_lens": centre.r_e,
        "q_lens": centre.q,
        "angle_lens": centre.angle,
        "mag_lens": centre.magnitudes[:, VIS],
        **{f"mag_lens_{band}": centre.magnitudes[:, k] for k, band in enumerate(BANDS)},
    }


def system_columns(system: System) -> dict[str, NDArray[Any]]:
    """Columns of systems that are known before anything is rendered."""
    columns, source, second = centre_columns(system.centre), system.source, system.second
    if source is None:
        return columns
    masses = ("theta_e", "theta_e_2", "beta", "sigma_v_2", "e1", "e2", "gamma1", "gamma2")
    columns |= {key: system.values[key] for key in masses if key in system.values}
    columns |= {
        "z_source": source.z,
        "x_source": source.x,
        "y_source": source.y,
        "r_source": source.r_e,
        "q_source": source.q,
        "mag_source": source.magnitudes[:, VIS],
        **{f"mag_source_{band}": source.magnitudes[:, k] for k, band in enumerate(BANDS)},
    }
    if second is None:
        return columns
    if system.kind == "compound_arc":
        named = {"z_lens_2": second.z, "x_lens_2": second.x, "y_lens_2": second.y, "sigma_v_2": second.sigma_v}
        return columns | named | {"mag_lens_2": second.magnitudes[:, VIS]}
    named = {"z_source_2": second.z, "x_source_2": second.x, "y_source_2": second.y}
    return columns | named | {"mag_source_2": second.magnitudes[:, VIS]}


def catalogue(rows: Sequence[Rows], rule: str) -> Table:
    """Chunks of rows as one table with units, descriptions and the ``label`` that ``rule`` gives."""
    table = Table(
        [
            Column(np.concatenate([chunk[name] for chunk in rows]), name=name, dtype=dtype, unit=unit, description=text)
            for name, (dtype, unit, text) in COLUMNS.items()
        ]
    )
    table["label"] = lens_labels(table, rule)
    table["label"].description = f"1: {rule}"
    return table
