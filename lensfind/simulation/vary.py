"""Vary: objects of a simulated store made once more with one property changed, and everything else as it was.

What is changed are the components of the accepted scene, never a draw: neighbours, the lens galaxy, the source's shape
and every pixel's noise stay. The noise keeps its deviates in units of sigma where the light under it changes; only the
arc's own photons are drawn anew from their address where the arc is another.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensfind.bands import BANDS, check_bands
from lensfind.data.store import Store
from lensfind.errors import LensfindError
from lensfind.simulation.components import ROLES, Batch
from lensfind.simulation.engines import get_engine
from lensfind.simulation.exposure import LIGHT, expose, sum_of
from lensfind.simulation.instrument import Survey
from lensfind.simulation.make import Plan, simulated_store
from lensfind.simulation.scenes import scenes

__all__ = ["PROPERTIES", "Property", "Value", "Variations", "Varied", "check_value", "variations"]

Image = NDArray[np.float32]
Planes = Mapping[str, Mapping[str, Image]]
Value = float | str


@dataclass(frozen=True)
class Property:
    """``label`` and ``unit`` of a property's value, the ``reference`` that changes nothing, ``values`` to try (with the
    reference among them), and the least and greatest possible one."""

    label: str
    unit: str | None
    reference: Value
    values: tuple[Value, ...]
    bounds: tuple[float, float] = (-np.inf, np.inf)


_WIDE = (0.1, 10.0)

PROPERTIES: Mapping[str, Property] = {
    "theta_e": Property("Einstein radius", "times", 1.0, (0.4, 0.55, 0.75, 1.0, 1.3, 1.6, 2.0), _WIDE),
    "source_brightness": Property("source fainter by", "mag", 0.0, (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0), (-15, 15)),
    "source_colour": Property("source redder in VIS-H by", "mag", 0.0, (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0), (-9, 9)),
    "psf_width": Property("PSF width", "times", 1.0, (0.5, 0.7, 0.85, 1.0, 1.25, 1.6, 2.0), _WIDE),
    "noise": Property("noise", "times", 1.0, (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0), (0.0, 1000.0)),
    "occluded_arc": Property("arc occluded", "share", 0.0, (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), (0.0, 1.0)),
    "missing_band": Property("missing band", None, "none", ("none", *BANDS)),
}
"""What can be changed.

- theta_e: factor on the reduced Einstein radius of every mass. The source, and whatever lies between, moves with it, so
  that its place in Einstein radii stays: the images of an isothermal lens with shear then keep their configuration and
  number, and their distances scale. Sizes and brightnesses stay, also those of the lens galaxy.
- source_brightness: added to the magnitudes of the lensed sources (of both of a double ring).
- source_colour: added to VIS-H of the same at fixed VIS; Y and J in proportion to log wavelength. Positive is redder.
- psf_width: factor on the PSF's FWHM in every band.
- noise: factor on the whole noise, light kept; a depth of 2.5 log10(1 / value) mag more.
- occluded_arc: share of the arc's VIS light that is taken away with its photons' noise, which leaves what the lens's
  twin shows there: within a sector about the stamp's centre that opens to both sides of the arc's brightest pixel.
- missing_band: the band that shows nothing but the sky's noise, of its own address (a constant stamp is refused).
"""

_WAVELENGTH = {"VIS": 0.7506, "Y": 1.0890, "J": 1.3791, "H": 1.7860}
"""Effective wavelengths in micrometres of speclite's filters ``Euclid-*``."""


@dataclass(frozen=True)
class Varied:
    """``stamps``: band -> (N, n, n) float32 electron/s; ``noiseless``: the same without noise; ``arc``: the lensed
    sources' share of it."""

    stamps: Mapping[str, Image]
    noiseless: Mapping[str, Image]
    arc: Mapping[str, Image]


def check_value(name: str, value: object) -> Value:
    """A value of a property of :data:`PROPERTIES`.

    Raises:
        LensfindError: No such property, or a value that it cannot have.
    """
    if name not in PROPERTIES:
        raise LensfindError(
            f"sensitivity.properties out of {', '.join(PROPERTIES)}", str(name), "Mend sensitivity.properties."
        )
    one, do = PROPERTIES[name], f"Mend sensitivity.properties.{name}."
    if isinstance(one.reference, str):
        if value not in one.values:
            raise LensfindError(f"{name} out of {', '.join(map(str, one.values))}", repr(value), do)
        return str(value)
    low, high = one.bounds
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise LensfindError(f"{name} as a number from {low:g} to {high:g}", repr(value), do)
    return float(value)


def variations(
    root: str | Path, ids: Sequence[int], bands: Sequence[str] = tuple(BANDS), chunk: int = 16
) -> Iterator["Variations"]:
    """Objects of a simulated store, to be made again with changes, ``chunk`` at a time so that memory stays bounded.

    Args:
        root: A store of :func:`lensfind.simulation.simulate`.
        ids: ``id`` of each object. Lenses of any kind; of other objects some changes change nothing.
        bands: To make.
        chunk: Objects in memory, 3 MB each.

    Raises:
        LensfindError: Not a simulated store, an id or band that it does not have, real galaxy images that are gone, or
            objects that do not come out as they lie in the store (another version of the simulator made them).
    """
    wanted, names = [int(i) for i in ids], check_bands(bands)
    store, plan = simulated_store(root, wanted)
    for start in range(0, len(wanted), chunk):
        yield Variations(store, plan, wanted[start : start + chunk], names)


class Variations:
    """N objects of :func:`variations`; holds their noiseless light.

    ``catalogue``: their rows in the store; ``unchanged``: as they lie there.
    """

    def __init__(self, store: Store, plan: Plan, ids: Sequence[int], bands: tuple[str, ...]) -> None:
        self.ids, self.bands = ids, bands
        rows = [int(np.flatnonzero(store.catalogue["id"] == i)[0]) for i in ids]
        self.catalogue = store.catalogue[rows]
        attempts, z_lens = (np.asarray(self.catalogue[name]).tolist() for name in ("attempt", "z_lens"))
        self._seed, self._scenario, self._survey = plan.seed, plan.scenario, plan.survey
        self._engine = get_engine(**plan.engine)
        self._scenes = scenes(plan.seed, ids, attempts, z_lens, plan.scenario, plan.images())
        self._planes = self._draw(self._scenes.batch, self._survey, ROLES)
        self.unchanged = self._expose(self._planes)
        there = store.read(rows, self.bands)
        for band in self.bands:
            # Other processors may differ in the last bits, and a photon with them.
            off = np.abs(self.unchanged.stamps[band] - there[band]) > 0.1 * self._survey.bands[band].sigma(BANDS[band])
            if np.mean(off) > 1e-3:
                raise LensfindError(
                    f"objects that come out of the simulator as they lie in {store.root}",
                    f"others in {band}, since another version of lensfind made the store",
                    "Simulate the set again with simulate.py.",
                )

    def make(self, name: str, value: Value) -> Varied:
        """The objects with the property ``name`` of :data:`PROPERTIES` at ``value``.

        Raises:
            LensfindError: See :func:`check_value`; or a PSF from a file, which has no width to change.
        """
        value = check_value(name, value)
        if value == PROPERTIES[name].reference:
            return self.unchanged
        if isinstance(value, str):
            return self._without(value)
        if name == "theta_e":
            roles = [*LIGHT["arc"], "middle"]
            return self._expose({**self._planes, **self._draw(_larger(self._scenes.batch, value), self._survey, roles)})
        if name == "psf_width":
            return self._expose(self._draw(self._scenes.batch, _wider(self._survey, value), ROLES))
        if name == "noise":
            return self._expose(self._planes, noise=value)
        if name == "occluded_arc":
            return self._expose(self._planes, hidden=value)
        slope = {band: 1.0 if name == "source_brightness" else _redder(band) for band in self._planes["source"]}
        dimmer = {band: np.float32(10 ** (-0.4 * value * slope[band])) for band in slope}
        arcs = {role: {b: image * dimmer[b] for b, image in self._planes[role].items()} for role in LIGHT["arc"]}
        return self._expose({**self._planes, **arcs})

    def _draw(self, batch: Batch, survey: Survey, roles: Sequence[str]) -> Planes:
        bands = [band for band in BANDS if band in self.bands or band == "VIS"]
        return self._engine(batch, survey, bands, roles=roles)

    def _expose(self, planes: Planes, noise: float = 1.0, hidden: float = 0.0) -> Varied:
        twin, at = self._scenes.twin, self._scenes.at
        stamps: dict[str, Image] = {}
        noiseless, arcs = dict(stamps), dict(stamps)
        for band in self.bands:
            one, like = self._survey.bands[band], sum_of(self._planes, "base", band)
            base, arc = (sum_of(planes, light, band) for light in LIGHT)
            lit = [None if gone or hidden >= 1 else arc[place] for gone, place in zip(twin, at, strict=True)]
            keep = [self._seen(place, band, hidden) if hidden else None for place in at]
            stamps[band] = np.stack(
                [
                    expose(self._seed, self._scenario, origin, band, one, base[p], lit[i], like[p], noise, keep[i])
                    for i, (origin, p) in enumerate(zip(self._scenes.origins, at, strict=True))
                ]
            )
            arcs[band] = np.stack(
                [
                    np.zeros_like(base[0]) if light is None else light if seen is None else np.where(seen, light, 0)
                    for light, seen in zip(lit, keep, strict=True)
                ]
            )
            noiseless[band] = base[at] + arcs[band]
        return Varied(stamps, noiseless, arcs)

    def _without(self, band: str) -> Varied:
        """The unchanged objects with a band of blank sky."""
        if band not in self.bands:
            return self.unchanged
        old, one, blank = self.unchanged, self._survey.bands[band], np.zeros_like(self.unchanged.stamps[band])
        sky = [expose(self._seed, self._scenario, o, band, one, blank[0], None) for o in self._scenes.origins]
        return Varied(
            {**old.stamps, band: np.stack(sky)}, {**old.noiseless, band: blank}, {**old.arc, band: blank.copy()}
        )

    def _seen(self, place: int, band: str, hidden: float) -> NDArray[np.bool_]:
        """Pixels (n, n) of a band outside the sector that holds the share ``hidden`` of the arc in VIS."""
        arc = sum_of({role: {"VIS": self._planes[role]["VIS"][place]} for role in LIGHT["arc"]}, "arc", "VIS")
        brightest = _azimuth("VIS").ravel()[arc.argmax()]
        apart = np.abs(np.angle(np.exp(1j * (_azimuth("VIS") - brightest)))).ravel()
        order = np.argsort(apart, kind="stable")
        light = np.cumsum(arc.ravel()[order], dtype=np.float64)
        edge = apart[order][min(np.searchsorted(light, hidden * light[-1]), len(order) - 1)]
        return np.asarray(np.abs(np.angle(np.exp(1j * (_azimuth(band) - brightest)))) > edge)


def _azimuth(band: str) -> NDArray[np.float64]:
    """Angle of every pixel about the stamp's centre, (n, n)."""
    axis = np.arange(BANDS[band].size) - (BANDS[band].size - 1) / 2
    return np.asarray(np.arctan2(axis[:, None], axis))


def _redder(band: str) -> float:
    """Magnitudes by which a band changes when VIS-H becomes redder by one and VIS stays."""
    span = np.log(_WAVELENGTH["H"] / _WAVELENGTH["VIS"])
    return -float(np.log(_WAVELENGTH[band] / _WAVELENGTH["VIS"]) / span)


def _wider(survey: Survey, factor: float) -> Survey:
    """A survey whose PSFs are wider by ``factor``."""
    for name, band in survey.bands.items():
        if band.psf not in ("gaussian", "moffat"):
            raise LensfindError(
                "a PSF with a width (gaussian or moffat) for psf_width",
                f"{band.psf} in {name}",
                "Leave psf_width out of sensitivity.properties.",
            )
    return Survey(survey.name, {b: replace(band, psf_fwhm=factor * band.psf_fwhm) for b, band in survey.bands.items()})


def _larger(batch: Batch, factor: float) -> Batch:
    """The batch with all Einstein radii, and all places of what is lensed, larger by ``factor``."""
    masses, lights = batch.masses, batch.lights
    masses = replace(masses, theta_e=factor * masses.theta_e, x=factor * masses.x, y=factor * masses.y)
    x, y = lights.x.copy(), lights.y.copy()
    for role in (*LIGHT["arc"], "middle"):
        of = np.flatnonzero(lights.role == ROLES.index(role))
        # A galaxy's own place is that of its first component; its clumps stay where they are in it.
        _, first, component = np.unique(lights.object[of], return_index=True, return_inverse=True)
        whole = of[first][component]
        x[of], y[of] = (at[of] + (factor - 1) * at[whole] for at in (lights.x, lights.y))
    return replace(batch, masses=masses, lights=replace(lights, x=x, y=y))
