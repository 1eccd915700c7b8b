"""Negatives: galaxies that are no lenses and look like them, and the surroundings that every kind shares.

Components are drawn in the sky's plane from the populations; the shapes (arms, rings, tails) are ours, drawn so that
they stand at the radii of lensed arcs. Their shares of light have no source but the eye.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import poisson

from lensfind.simulation.draws import Uniforms, generator
from lensfind.simulation.pairs import pair_table
from lensfind.simulation.parts import Parts, fainter
from lensfind.simulation.photometry import Z_MAX
from lensfind.simulation.population import VIS, Galaxies, blue_sky, early_types, late_types, red_sky
from lensfind.simulation.scenario import Scenario

__all__ = ["NEGATIVES", "Surroundings", "draw_negative", "surroundings"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

WIDTH = 20.0
"""Side of the stamp, arcsec."""

Radius = Array
_Draw = Callable[[Uniforms, Scenario, Parts, Index], tuple[Galaxies, Radius]]


def _red(draws: Uniforms, scenario: Scenario) -> Galaxies:
    z, sigma = red_sky(scenario.population.galaxy_limit).sample(draws)
    return early_types(draws, sigma, z)


def _blue(draws: Uniforms, scenario: Scenario) -> Galaxies:
    z, absolute = blue_sky(scenario.population.galaxy_limit, Z_MAX).sample(draws)  # none beyond the templates' end
    return late_types(draws, absolute, z)


def _like_a_lens(draws: Uniforms, scenario: Scenario) -> tuple[Galaxies, Array]:
    """A red galaxy of the deflectors' population, and the theta_E that it would have."""
    theta, sigma, z, _, _ = pair_table(scenario).sample(draws)
    sigma = np.clip(np.nan_to_num(sigma, nan=200.0), *scenario.population.deflector.sigma_v)
    return early_types(draws, sigma, z), theta


def _with(galaxies: Galaxies, **changes: Array) -> Galaxies:
    return Galaxies(**{**vars(galaxies), **changes})


def _bulge(draws: Uniforms, disc: Galaxies, share: Array) -> Galaxies:
    """A red de Vaucouleurs bulge with ``share`` of the disc galaxy's VIS light; 8 numbers each."""
    red = early_types(draws, np.full(len(disc), 150.0), np.clip(disc.z, 0.02, 2.0))
    red = red.of_magnitude(fainter(disc.magnitudes, share)[:, VIS])
    return _with(red, r_e=np.clip(0.25 * disc.r_e, 0.1, 0.5), x=disc.x, y=disc.y, q=0.7 + 0.3 * red.q)


def _together(galaxy: Galaxies, *parts: Array) -> Galaxies:
    """The galaxy with the summed light of its parts, magnitudes (N, 4) each."""
    return _with(galaxy, magnitudes=-2.5 * np.log10(np.sum([10 ** (-0.4 * part) for part in parts], axis=0)))


def _none(size: int) -> Array:
    return np.full(size, np.nan)


def _elliptical(draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index) -> tuple[Galaxies, Radius]:
    galaxy = _red(draws, scenario)
    parts.galaxies(objects, "lens", galaxy)
    return galaxy, _none(len(galaxy))


def _disc(draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index) -> tuple[Galaxies, Radius]:
    galaxy = _blue(draws, scenario)
    parts.galaxies(objects, "lens", galaxy)
    return galaxy, _none(len(galaxy))


def _spiral(draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index) -> tuple[Galaxies, Radius]:
    """Face-on disc with a red bulge and two or three logarithmic arms of clumps around ``features`` radii."""
    radius = draws.within(scenario.scene.features)
    disc = _with(_blue(draws, scenario), q=draws.uniform(0.8, 1.0), r_e=radius * draws.uniform(0.8, 1.2))
    share, arms = draws.uniform(0.15, 0.45), draws.uniform(0.35, 0.65)
    bulge = _bulge(draws, disc, share)
    parts.galaxies(objects, "lens", bulge)
    parts.galaxies(objects, "lens", _with(disc, magnitudes=fainter(disc.magnitudes, (1 - share) * (1 - arms))))
    number, turn, pitch = draws.integers(2, 3), draws.uniform(0, 2 * np.pi), np.deg2rad(draws.uniform(14, 30))
    along, width, weight = draws.block(30), draws.block(30), draws.block(30)
    k = np.arange(30)
    on_arm, there = k % number[:, None], k < 10 * number[:, None]
    step = (k // number[:, None] + 0.5 + 0.6 * (along - 0.5)) / 10
    grown = 0.5 + 1.2 * step
    r = radius[:, None] * grown
    phi = turn[:, None] + 2 * np.pi * on_arm / number[:, None] + np.log(grown / 0.5) / np.tan(pitch)[:, None]
    weight = np.where(there, (0.5 + weight) * np.exp(-step), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    x, y = _incline(r, phi, disc)
    i, j = np.nonzero(there)
    parts.light(
        objects[i],
        "lens",
        fainter(disc.magnitudes[i], ((1 - share) * arms)[i] * weight[i, j]),
        x=x[i, j],
        y=y[i, j],
        r_e=((0.1 + 0.06 * width) * r)[i, j],
        n=0.5,
        q=0.4,
        angle=(disc.angle[:, None] + phi + np.pi / 2 - pitch[:, None])[i, j],
    )
    return _together(disc, bulge.magnitudes, fainter(disc.magnitudes, 1 - share)), radius


def _incline(r: Array, phi: Array, disc: Galaxies) -> tuple[Array, Array]:
    """Places (N, K) in a disc's plane -> sky: flattened by its q and turned by its angle."""
    root, cos, sin = np.sqrt(disc.q)[:, None], np.cos(disc.angle)[:, None], np.sin(disc.angle)[:, None]
    major, minor = r * np.cos(phi) / root, r * np.sin(phi) * root
    return disc.x[:, None] + major * cos - minor * sin, disc.y[:, None] + major * sin + minor * cos


def _ring(draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index) -> tuple[Galaxies, Radius]:
    """Red core and blue star-forming ring (a Gaussian annulus), nearly face on."""
    radius = draws.within(scenario.scene.features)
    disc = _with(_blue(draws, scenario), q=draws.uniform(0.65, 1.0))
    share = draws.uniform(0.4, 0.75)
    core = _bulge(draws, disc, share)
    parts.galaxies(objects, "lens", _with(core, r_e=radius * draws.uniform(0.15, 0.4)))
    place = {"r_e": radius, "n": draws.uniform(0.08, 0.22), "q": disc.q, "angle": disc.angle}
    parts.light(objects, "lens", fainter(disc.magnitudes, 1 - share), "ring", **place)
    return _with(_together(disc, core.magnitudes, fainter(disc.magnitudes, 1 - share)), r_e=radius), radius


def _merger(draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index) -> tuple[Galaxies, Radius]:
    """Two galaxies within 2 arcsec and one or two tidal tails: overlapping elongated clumps along an arc."""
    radius, turn = draws.within(scenario.scene.features), draws.uniform(0, 2 * np.pi)
    first, second = _red(draws, scenario), _blue(draws, scenario)
    apart, ratio = draws.uniform(0.3, 0.9) * radius, draws.uniform(0.5, 2.0)
    second = second.at(apart * np.cos(turn), apart * np.sin(turn)).of_magnitude(first.magnitudes[:, VIS] + ratio)
    parts.galaxies(objects, "lens", first)
    parts.galaxies(objects, "lens", _with(second, r_e=np.minimum(second.r_e, 0.5 * radius)))
    number, span, share = draws.integers(1, 2), draws.uniform(0.8, 2.4), draws.uniform(0.3, 0.9)
    k = np.arange(20)
    tail, step = k // 10, (k % 10 + 0.5) / 10
    there = tail < number[:, None]
    phi = turn[:, None] + np.pi * tail + 0.4 + span[:, None] * step
    r = radius[:, None] * (0.8 + 0.5 * step)
    weight = np.where(there, np.exp(-1.5 * step) / number[:, None], 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    i, j = np.nonzero(there)
    parts.light(
        objects[i],
        "lens",
        fainter(second.magnitudes[i], share[i] * weight[i, j]),
        x=(r * np.cos(phi))[i, j],
        y=(r * np.sin(phi))[i, j],
        r_e=(0.11 * span * radius)[i],
        n=0.5,
        q=0.45,
        angle=(phi + np.pi / 2)[i, j],
    )
    return first, radius


def _edge_on(draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index) -> tuple[Galaxies, Radius]:
    """An edge-on disc: for one half alone with its bulge, for the other tangential beside a red galaxy, like an arc."""
    beside = draws.uniform() < 0.5
    radius, phi = draws.within(scenario.scene.features), draws.uniform(0, 2 * np.pi)
    disc, thin, faint = _blue(draws, scenario), draws.uniform(0.1, 0.25), draws.uniform(1.5, 3.5)
    red, share = _red(draws, scenario), draws.uniform(0.1, 0.4)
    long = draws.uniform(0.5, 1.2)
    size = np.where(beside, 0.4 * radius, long) * np.sqrt(thin)
    disc = _with(disc, q=thin, r_e=size * 1.6)
    moved = disc.at(radius * np.cos(phi), radius * np.sin(phi)).of_magnitude(red.magnitudes[:, VIS] + faint)
    moved = _with(moved, angle=phi + np.pi / 2)
    bulge = _bulge(draws, disc, share)
    b, a = np.flatnonzero(beside), np.flatnonzero(~beside)
    parts.galaxies(objects[b], "lens", red.take(b))
    parts.galaxies(objects[b], "lens", moved.take(b))
    parts.galaxies(objects[a], "lens", _with(bulge, r_e=np.minimum(bulge.r_e, 0.3)).take(a))
    parts.galaxies(objects[a], "lens", _with(disc, magnitudes=fainter(disc.magnitudes, 1 - share)).take(a))
    alone = _together(disc, bulge.magnitudes, fainter(disc.magnitudes, 1 - share))
    centre = Galaxies(
        **{
            key: np.where(beside if v.ndim == 1 else beside[:, None], v, vars(alone)[key])
            for key, v in vars(red).items()
        }
    )
    return centre, np.where(beside, radius, np.nan)


def _satellites(draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index) -> tuple[Galaxies, Radius]:
    """A red galaxy with one to four blue satellites on a ring of 0.5 to 2.5 theta_E, as bright as arcs."""
    centre, theta = _like_a_lens(draws, scenario)
    parts.galaxies(objects, "lens", centre)
    number, turn, radius = draws.integers(1, 4), draws.uniform(0, 2 * np.pi), theta * draws.uniform(0.5, 2.5)
    tangential = draws.uniform() < 0.5
    for k in range(4):
        satellite = late_types(draws, np.full(len(draws), -18.0), centre.z)
        around = turn + 2 * np.pi * (k + 0.5 * draws.uniform()) / number
        place = satellite.at(radius * np.cos(around), radius * np.sin(around))
        place = place.of_magnitude(draws.uniform(22.0, 24.5))
        place = _with(place, r_e=draws.uniform(0.08, 0.35), angle=np.where(tangential, around + np.pi / 2, place.angle))
        there = np.flatnonzero(k < number)
        parts.galaxies(objects[there], "lens", place.take(there))
    return centre, radius


def _star(draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index) -> tuple[Galaxies, Radius]:
    """A galaxy like a lens with one or two stars at the radii of arcs."""
    centre, _ = _like_a_lens(draws, scenario)
    parts.galaxies(objects, "lens", centre)
    radius, turn, number = draws.within(scenario.scene.features), draws.uniform(0, 2 * np.pi), draws.integers(1, 2)
    for k in range(2):
        around = turn + np.pi * k * draws.uniform(0.7, 1.3)
        magnitudes = _stars(draws, centre.magnitudes[:, VIS] + draws.uniform(-0.5, 3.0))
        there = np.flatnonzero(k < number)
        x, y = radius * np.cos(around), radius * np.sin(around)
        parts.light(objects[there], "lens", magnitudes[there], "point", x=x[there], y=y[there])
    return centre, radius


def _stars(draws: Uniforms, vis: Array) -> Array:
    """Magnitudes (N, 4) of stars: VIS-H uniform in 0.2 to 2.0 (F to M dwarfs; unsure), Y and J between."""
    colour = draws.uniform(0.2, 2.0)
    step = {"J": 0.8, "Y": 0.6, "H": 1.0, "VIS": 0.0}  # order of BANDS
    return np.stack([vis - part * colour for part in step.values()], axis=1)


NEGATIVES: Mapping[str, _Draw] = {
    "elliptical": _elliptical,
    "disc": _disc,
    "spiral": _spiral,
    "ring": _ring,
    "merger": _merger,
    "edge_on": _edge_on,
    "satellites": _satellites,
    "star": _star,
}


def draw_negative(
    kind: str, draws: Uniforms, scenario: Scenario, parts: Parts, objects: Index
) -> tuple[Galaxies, Array]:
    """Add one object of ``kind`` per row to ``parts``; returns the central galaxies (of all their light, but not that
    of companions, satellites or stars), and the radius in arcsec of what could be taken for an arc (NaN: nothing)."""
    return NEGATIVES[kind](draws, scenario, parts, objects)


# --------------------------------------------------------------------------------------------------- surroundings

_FIELD = 32  # numbers per neighbour
Surroundings = tuple[Index, Index, Index]
"""Numbers (N,) of field galaxies, satellites and stars."""


def surroundings(
    seed: int, scenario: Scenario, addresses: Sequence[tuple[int, ...]], z: Array, parts: Parts
) -> Surroundings:
    """Field galaxies, satellites of the central galaxy at ``z`` (N,), and stars, by density; alike for every kind.

    Field galaxies lie anywhere in the stamp and are not lensed; blue ones beyond the templates' end have no VIS flux
    and are left out. Each object draws from its own address (seed, ``addresses[i]``).
    """
    settings = scenario.scene.neighbours
    red, blue = red_sky(settings.limit), blue_sky(settings.limit)
    means = [sky.density.value * WIDTH**2 for sky in (red, blue)] + [settings.satellites, settings.stars]
    tables: list[list[Array]] = [[], [], [], []]
    streams = [generator(seed, *address) for address in addresses]
    first = np.clip([rng.random(4) for rng in streams], 1e-12, 1 - 1e-12)
    numbers = np.asarray(poisson.ppf(first, means), dtype=np.int64)
    for rng, row in zip(streams, numbers, strict=True):
        for table, number in zip(tables, row, strict=True):
            table.append(rng.random((number, _FIELD)))
    owner = [np.repeat(np.arange(len(addresses)), numbers[:, k]) for k in range(4)]
    draws = [Uniforms(np.concatenate(table)) for table in tables]
    zr, sigma = red.sample(draws[0])
    parts.galaxies(owner[0], "field", _anywhere(draws[0], early_types(draws[0], sigma, zr)))
    zb, absolute = blue.sample(draws[1])
    galaxies = _anywhere(draws[1], late_types(draws[1], absolute, np.minimum(zb, Z_MAX)))
    seen = np.flatnonzero(zb <= Z_MAX)
    parts.galaxies(owner[1][seen], "field", galaxies.take(seen))
    satellite = late_types(draws[2], np.full(len(draws[2]), -17.5), np.clip(z[owner[2]], 0.02, Z_MAX))
    r, phi = draws[2].uniform(1.0, 6.0), draws[2].uniform(0, 2 * np.pi)
    parts.galaxies(owner[2], "field", satellite.at(r * np.cos(phi), r * np.sin(phi)))
    faint, bright = settings.star_magnitude[1], settings.star_magnitude[0]
    slope = 0.2  # d log10 N / dm of faint stars at high latitude (unsure)
    part = 10 ** (slope * (bright - faint))
    vis = faint + np.log10(part + (1 - part) * draws[3].uniform()) / slope
    x, y = draws[3].uniform(-WIDTH / 2, WIDTH / 2), draws[3].uniform(-WIDTH / 2, WIDTH / 2)
    parts.light(owner[3], "field", _stars(draws[3], vis), "point", x=x, y=y)
    field = numbers[:, 0] + np.bincount(owner[1][seen], minlength=len(addresses))
    return field, numbers[:, 2], numbers[:, 3]


def _anywhere(draws: Uniforms, galaxies: Galaxies) -> Galaxies:
    half = WIDTH / 2
    return galaxies.at(draws.uniform(-half, half), draws.uniform(-half, half))
