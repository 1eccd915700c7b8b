"""One object from its address: population -> scene -> render -> detect -> noise, and its row of the catalogue.

Object ``index`` of a scenario draws from ``SeedSequence(seed, spawn_key=(scenario number, index, stream, ...))``:
stream 0 is the kind, 1 the physics of attempt k, 2 the neighbours, 3 the noise of each band. So it can be made again
alone, and its noise and neighbours stay when its physics change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Column, Table
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.data.catalogue import lens_labels
from lensfind.errors import LensfindError
from lensfind.simulation.detect import detectability, image_count
from lensfind.simulation.instrument import Survey
from lensfind.simulation.render import Plane, arc_plane, galaxy_plane, render
from lensfind.simulation.scene import Rejected, Scenario, Scene, draw_kind, draw_neighbours, draw_scene

__all__ = ["COLUMNS", "SimulatedObject", "catalogue", "simulate_object"]

_F, _I = np.float64, np.int64

COLUMNS: Mapping[str, tuple[Any, str | None, str]] = {
    "id": (_I, None, "index in the scenario"),
    "kind": ("U9", None, "lens, deflector, red or blue: what stands in the middle"),
    "attempt": (_I, None, "draws rejected before this one"),
    "theta_e": (_F, "arcsec", "Einstein radius"),
    "ein_area": (_F, "arcsec2", "pi theta_e^2, area within the critical curve without shear"),
    "sigma_v": (_F, "km / s", "velocity dispersion of the central galaxy"),
    "z_lens": (_F, None, "redshift of the central galaxy, of whatever kind"),
    "z_source": (_F, None, "redshift of the lensed source"),
    "mag_eff": (_F, None, "magnification: lensed over unlensed source flux"),
    "n_source_im": (_I, None, "images of the source's centre (0: no source)"),
    "n_pix_source": (_I, None, "VIS pixels with lensed source above 1 sigma of the blank noise"),
    "arc_snr": (_F, None, "signal to noise of the lensed source over those pixels"),
    "contrast": (_F, None, "lensed source over source + central galaxy in those pixels"),
    "mag_lens": (_F, "mag", "AB, central galaxy, VIS"),
    "mag_source": (_F, "mag", "AB, unlensed source, VIS"),
    **{f"mag_lens_{band}": (_F, "mag", f"central galaxy, {band}") for band in BANDS},
    **{f"mag_source_{band}": (_F, "mag", f"unlensed source, {band}") for band in BANDS},
    "r_lens": (_F, "arcsec", "half-light radius of the central galaxy"),
    "q_lens": (_F, None, "axis ratio of its light"),
    "angle_lens": (_F, "rad", "major axis of its light, from x to y"),
    "e1": (_F, None, "ellipticity of the mass"),
    "e2": (_F, None, "ellipticity of the mass"),
    "gamma1": (_F, None, "external shear"),
    "gamma2": (_F, None, "external shear"),
    "x_source": (_F, "arcsec", "unlensed source from the stamp's centre"),
    "y_source": (_F, "arcsec", "unlensed source from the stamp's centre"),
    "r_source": (_F, "arcsec", "half-light radius of the unlensed source"),
    "q_source": (_F, None, "axis ratio of the source"),
    "n_neighbours": (_I, None, "field galaxies in the stamp"),
}
"""Columns before ``label``: dtype, unit, description. Floats that have no meaning for a kind are NaN."""

UNDETECTABLE = "lens not detectable: the rule of the label is false"


@dataclass(frozen=True)
class SimulatedObject:
    """``stamps``: band -> (n, n) float32 electron/s; ``noiseless``: the same without noise; ``row``: see COLUMNS;
    ``rejects``: (id, reason) of each earlier attempt; ``arc``: noiseless lensed source in VIS, or None."""

    stamps: Mapping[str, NDArray[np.float32]]
    noiseless: Mapping[str, NDArray[np.float32]]
    row: Mapping[str, Any]
    rejects: tuple[tuple[str, str], ...]
    arc: NDArray[np.float32] | None


def _generator(seed: int, *address: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=address))


def catalogue(rows: Iterable[Mapping[str, Any]], rule: str) -> Table:
    """Rows as a table with units, descriptions and the ``label`` that ``rule`` gives."""
    rows = list(rows)
    table = Table(
        [
            Column([row[name] for row in rows], name=name, dtype=dtype, unit=unit, description=text)
            for name, (dtype, unit, text) in COLUMNS.items()
        ]
    )
    table["label"] = lens_labels(table, rule)
    table["label"].description = f"1: {rule}"
    return table


def _row(scene: Scene) -> dict[str, Any]:
    centre, source, mass = scene.centre, scene.source, scene.mass
    row: dict[str, Any] = {name: 0 if dtype is _I else np.nan for name, (dtype, _, _) in COLUMNS.items()}
    row |= {
        "kind": scene.kind,
        "sigma_v": centre.sigma_v[0],
        "z_lens": centre.z[0],
        "r_lens": centre.r_e[0],
        "q_lens": centre.q[0],
        "angle_lens": centre.angle[0],
        **{f"mag_lens_{band}": centre.magnitudes[0, k] for k, band in enumerate(BANDS)},
    }
    if source is not None and mass is not None:
        row |= {
            "theta_e": mass.theta_e,
            "ein_area": np.pi * mass.theta_e**2,
            "e1": mass.e1,
            "e2": mass.e2,
            "gamma1": mass.gamma1,
            "gamma2": mass.gamma2,
            "z_source": source.z[0],
            "x_source": source.x[0],
            "y_source": source.y[0],
            "r_source": source.r_e[0],
            "q_source": source.q[0],
            **{f"mag_source_{band}": source.magnitudes[0, k] for k, band in enumerate(BANDS)},
        }
    return row | {"mag_lens": row["mag_lens_VIS"], "mag_source": row["mag_source_VIS"]}


def _is_lens(row: Mapping[str, Any], rule: str) -> bool:
    # Only the columns that the rule can mean: a whole table takes longer than the image.
    table = Table({name: [value] for name, value in row.items() if name in rule})
    return bool(lens_labels(table, rule)[0])


def _attempt(
    rng: np.random.Generator, scenario: Scenario, survey: Survey, kind: str
) -> tuple[dict[str, Any], list[Plane], NDArray[np.float32] | None]:
    """Row, planes and noiseless VIS arc of one draw, or :class:`Rejected`; NISP is not rendered yet."""
    scene = draw_scene(rng, scenario, kind)
    row = _row(scene)
    if scene.source is None or scene.mass is None:
        return row, [galaxy_plane(scene.centre, 0)], None
    planes = [galaxy_plane(scene.centre, 0), arc_plane(scene.mass, scene.source)]
    centre, arc = (render([plane], survey, ["VIS"])["VIS"] for plane in planes)
    row["n_source_im"] = image_count(scene.mass, scene.source)
    row |= detectability(arc, centre, survey, float(survey.bands["VIS"].flux(row["mag_source"])))
    if not scenario.keep_undetectable and not _is_lens(row, scenario.label):
        raise Rejected(UNDETECTABLE)
    return row, planes, arc


def simulate_object(seed: int, index: int, scenario: Scenario, survey: Survey) -> SimulatedObject:
    """The object at one address; the same bytes wherever and in whatever order it is made.

    A draw that is impossible, or a lens that the label's rule does not call one, is rejected and drawn again.

    Raises:
        LensfindError: ``scenario.attempts`` draws were all rejected.
    """
    kind = draw_kind(_generator(seed, scenario.number, index, 0), scenario)
    rejects: list[tuple[str, str]] = []
    for attempt in range(scenario.attempts):
        try:
            rng = _generator(seed, scenario.number, index, 1, attempt)
            row, planes, arc = _attempt(rng, scenario, survey, kind)
            break
        except Rejected as reason:
            rejects.append((f"{index}/{attempt}", str(reason)))
    else:
        raise LensfindError(
            f"an object {index} ({kind}) within scenario.attempts={scenario.attempts} draws",
            f"only rejected ones, the last for: {rejects[-1][1]}",
            "Ask less of scenario.label, widen the scenario's ranges, or raise scenario.attempts.",
        )
    neighbours = draw_neighbours(_generator(seed, scenario.number, index, 2), scenario)
    planes += [galaxy_plane(field, i) for field in neighbours for i in range(len(field))]
    noiseless = render(planes, survey)
    stamps = {
        name: survey.bands[name].expose(noiseless[name], band, _generator(seed, scenario.number, index, 3, k))
        for k, (name, band) in enumerate(BANDS.items())
    }
    row |= {"id": index, "attempt": attempt, "n_neighbours": sum(map(len, neighbours))}
    return SimulatedObject(stamps, noiseless, row, tuple(rejects), arc)
