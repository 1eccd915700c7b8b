"""Scene: what stands in one stamp, drawn from the populations by a scenario (``conf/scenario``)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from lensfind.errors import LensfindError
from lensfind.simulation.cosmology import einstein_radius, sigma_for
from lensfind.simulation.photometry import Z_MAX
from lensfind.simulation.population import (
    Galaxies,
    blue_sky,
    early_types,
    late_types,
    red_sky,
    velocity_dispersion_function,
)
from lensfind.simulation.settings import build, check_range

__all__ = ["KINDS", "Mass", "Rejected", "Scenario", "Scene", "draw_kind", "draw_neighbours", "draw_scene"]

KINDS = ("lens", "deflector", "red", "blue")
"""What stands in the middle: a lens with its source, a lens galaxy without one, an ordinary red or blue galaxy."""

WEIGHTINGS = ("uniform_theta_e", "cross_section")
_CANDIDATES = 256
_WIDTH = 20.0  # side of the stamp, arcsec


class Rejected(Exception):
    """A draw that cannot become an object; its message is the reason in the store's ``rejects.csv``."""


@dataclass(frozen=True)
class DeflectorSettings:
    """Lens galaxies. ``sigma_v`` [low, high] km/s; ``z`` [low, high]; ``shear``: sigma of each external component;
    ``axis_scatter`` deg and ``ellipticity_scatter``: of the mass about the light."""

    sigma_v: tuple[float, float]
    z: tuple[float, float]
    shear: float
    axis_scatter: float
    ellipticity_scatter: float


@dataclass(frozen=True)
class SourceSettings:
    """Lensed galaxies. ``limit``: unlensed B + distance modulus; ``z`` [low, high]; ``impact``: largest distance from
    the optical axis in Einstein radii (uniform in the disc)."""

    limit: float
    z: tuple[float, float]
    impact: float


@dataclass(frozen=True)
class Scenario:
    """What to draw; made from ``conf/scenario/*.yaml`` by :meth:`from_config`, whose comments give sources.

    ``number`` is the scenario's address in the seeds. ``mix``: share of each of :data:`KINDS`. ``weighting``: lenses
    uniform in theta_E within ``theta_e`` [arcsec] ("uniform_theta_e", for training) or by number times cross-section
    theta_E^2 ("cross_section"). ``label``: the rule over catalogue columns. ``keep_undetectable``: keep lenses that
    fail the rule (label 0, kind "lens") instead of drawing again. ``attempts``: draws per object before giving up.
    ``galaxy_limit``, ``neighbour_limit``: magnitude limits of ordinary central galaxies and of neighbours (r or B +
    distance modulus).
    """

    name: str
    number: int
    mix: Mapping[str, float]
    weighting: str
    theta_e: tuple[float, float]
    label: str
    keep_undetectable: bool
    attempts: int
    deflector: DeflectorSettings
    source: SourceSettings
    galaxy_limit: float
    neighbour_limit: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Scenario":
        """Checked scenario of a plain nested mapping.

        Raises:
            LensfindError: A key is unknown or missing, or a value is impossible.
        """
        raw = build(cls, config, "scenario")
        deflector = build(DeflectorSettings, raw.deflector, "scenario.deflector")  # type: ignore[arg-type]
        source = build(SourceSettings, raw.source, "scenario.source")  # type: ignore[arg-type]
        mix = {kind: float(raw.mix.get(kind, 0.0)) for kind in KINDS}
        if set(raw.mix) - set(KINDS) or min(mix.values()) < 0 or abs(sum(mix.values()) - 1) > 1e-6:
            raise LensfindError(
                f"scenario.mix with shares of {', '.join(KINDS)} that add up to 1",
                str(dict(raw.mix)),
                "Set for instance scenario.mix={lens: 0.5, deflector: 0.2, red: 0.15, blue: 0.15}.",
            )
        if raw.weighting not in WEIGHTINGS:
            raise LensfindError(
                f"scenario.weighting out of {', '.join(WEIGHTINGS)}",
                str(raw.weighting),
                f"Set scenario.weighting={WEIGHTINGS[0]}.",
            )
        for key, value, low in (
            ("attempts", raw.attempts, 1),
            ("number", raw.number, 0),
            ("source.impact", source.impact, 0),
            ("deflector.shear", deflector.shear, 0),
            ("deflector.axis_scatter", deflector.axis_scatter, 0),
            ("deflector.ellipticity_scatter", deflector.ellipticity_scatter, 0),
        ):
            if not value >= low:
                raise LensfindError(f"scenario.{key} of at least {low}", str(value), f"Set scenario.{key}={low}.")
        return replace(
            raw,
            mix=mix,
            theta_e=check_range("scenario.theta_e", raw.theta_e, 0.05, 5.0),
            deflector=replace(
                deflector,
                sigma_v=check_range("scenario.deflector.sigma_v", deflector.sigma_v, 50, 500),
                z=check_range("scenario.deflector.z", deflector.z, 0.02, 2.0),
            ),
            source=replace(source, z=check_range("scenario.source.z", source.z, 0.02, 5.0)),
        )


@dataclass(frozen=True)
class Mass:
    """Singular isothermal ellipsoid with external shear, in lenstronomy's conventions.

    ``theta_e`` arcsec (area pi theta_e^2 within the critical curve); ``e1``, ``e2``, ``gamma1``, ``gamma2``.
    Centred on the stamp, as is the shear.
    """

    theta_e: float
    e1: float
    e2: float
    gamma1: float
    gamma2: float


@dataclass(frozen=True)
class Scene:
    """``centre``: the one central galaxy; ``mass`` and ``source`` (unlensed place and light) of a lens, else None."""

    kind: str
    centre: Galaxies
    mass: Mass | None = None
    source: Galaxies | None = None


def draw_kind(rng: np.random.Generator, scenario: Scenario) -> str:
    """One of :data:`KINDS` by the scenario's mix."""
    return str(rng.choice(KINDS, p=[scenario.mix[kind] for kind in KINDS]))


def _pair(rng: np.random.Generator, scenario: Scenario) -> tuple[NDArray[np.float64], ...]:
    """One deflector and source: theta_e, sigma_v, z_lens, z_source, absolute B of the source, each of shape (1,).

    Candidates take their redshifts and the source its luminosity by number; theta_e is uniform within its range, and
    the density of the velocity dispersion that each candidate then needs, n(sigma) |d sigma / d theta_e|, is its
    weight. For "uniform_theta_e" all candidates share one theta_e, for "cross_section" each has its own and the
    weight gains theta_e^2. Candidates behind no lens (z_source < z_lens) have no cross-section.
    """
    z_lens = _volume_redshift(rng, *scenario.deflector.z, _CANDIDATES)
    z_source, absolute = blue_sky(scenario.source.limit).sample(rng, _CANDIDATES)
    first, last = scenario.source.z
    within = (z_source >= first) & (z_source <= last)
    if not np.any(within & (z_source > z_lens)):
        raise Rejected("source in front of lens" if within.any() else "no source within the range of z")
    one = scenario.weighting == "uniform_theta_e"
    theta = np.broadcast_to(rng.uniform(*scenario.theta_e, 1 if one else _CANDIDATES), _CANDIDATES)
    sigma = sigma_for(theta * u.arcsec, z_lens, z_source).value
    low, high = scenario.deflector.sigma_v
    allowed = within & (z_source > z_lens) & (sigma >= low) & (sigma <= high)
    sigma = np.where(allowed, sigma, low)
    weight = np.where(allowed, velocity_dispersion_function(sigma) * sigma / theta, 0) * (1 if one else theta**2)
    if not weight.any():
        raise Rejected("no deflector of this theta_e within the range of sigma_v")
    chosen = np.searchsorted(np.cumsum(weight), rng.random() * weight.sum(), side="right")
    i = np.array([min(int(chosen), _CANDIDATES - 1)])
    return theta[i], sigma[i], z_lens[i], z_source[i], absolute[i]


def _volume_redshift(rng: np.random.Generator, low: float, high: float, size: int) -> NDArray[np.float64]:
    """Redshifts of a population of constant comoving density."""
    sky = red_sky(np.inf)
    z, by_z = sky.z_edges, np.append(0.0, np.cumsum(sky.counts.sum(axis=1)))
    first, last = np.interp([low, high], z, by_z)
    return np.asarray(np.interp(rng.uniform(first, last, size), by_z, z))


def _draw_lens(rng: np.random.Generator, scenario: Scenario, with_source: bool) -> Scene:
    theta, sigma, z_lens, z_source, absolute = _pair(rng, scenario)
    if z_source[0] > Z_MAX:
        raise Rejected(f"source beyond z = {Z_MAX}, where the VIS template ends")
    settings = scenario.deflector
    centre = early_types(rng, sigma, z_lens)
    q, angle = float(centre.q[0]), float(centre.angle[0] + np.deg2rad(settings.axis_scatter) * rng.standard_normal())
    size = (1 - q) / (1 + q)
    e1, e2 = size * np.cos(2 * angle), size * np.sin(2 * angle)
    e1, e2 = (float(e + settings.ellipticity_scatter * rng.standard_normal()) for e in (e1, e2))
    if np.hypot(e1, e2) > 0.6:
        raise Rejected("mass flatter than an axis ratio of 0.25")
    gamma1, gamma2 = (float(g) for g in settings.shear * rng.standard_normal(2))
    if not with_source:
        return Scene("deflector", centre)
    theta_e = einstein_radius(sigma[0] * u.km / u.s, z_lens[0], z_source[0]).value
    mass = Mass(float(theta_e), e1, e2, gamma1, gamma2)
    source = late_types(rng, absolute, z_source)
    r, phi = scenario.source.impact * theta * np.sqrt(rng.random(1)), rng.uniform(0, 2 * np.pi, 1)
    return Scene("lens", centre, mass, replace(source, x=r * np.cos(phi), y=r * np.sin(phi)))


def draw_scene(rng: np.random.Generator, scenario: Scenario, kind: str) -> Scene:
    """The central object of one stamp.

    Raises:
        Rejected: The draw is impossible; the message is the reason.
    """
    if kind in ("lens", "deflector"):
        return _draw_lens(rng, scenario, with_source=kind == "lens")
    if kind == "red":
        z, sigma = red_sky(scenario.galaxy_limit).sample(rng, 1)
        return Scene(kind, early_types(rng, sigma, z))
    z, absolute = blue_sky(scenario.galaxy_limit).sample(rng, 1)
    if z[0] > Z_MAX:
        raise Rejected(f"galaxy beyond z = {Z_MAX}, where the VIS template ends")
    return Scene(kind, late_types(rng, absolute, z))


def draw_neighbours(rng: np.random.Generator, scenario: Scenario) -> tuple[Galaxies, Galaxies]:
    """Red and blue field galaxies anywhere in the stamp, by the density of their populations; the same for every kind.

    They are not lensed. Blue ones beyond the templates' end have no VIS flux and are left out.
    """
    both = []
    for sky, draw in ((red_sky, early_types), (blue_sky, late_types)):
        here = sky(scenario.neighbour_limit)
        number = rng.poisson((here.density * (_WIDTH * u.arcsec) ** 2).to_value(u.dimensionless_unscaled))
        z, value = here.sample(rng, number)
        seen = z <= Z_MAX
        galaxies = draw(rng, value[seen], z[seen])
        x, y = rng.uniform(-_WIDTH / 2, _WIDTH / 2, (2, len(galaxies)))
        both.append(replace(galaxies, x=x, y=y))
    return both[0], both[1]
