"""Systems: a deflector, with what it deflects; proposals for many objects at once, then their components.

A proposal is cheap (no image): most are impossible or hopeless, and only the first good one of each object goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.simulation.cosmology import comoving_volume, distance, einstein_radius
from lensfind.simulation.draws import Uniforms
from lensfind.simulation.instrument import Survey
from lensfind.simulation.pairs import pair_table
from lensfind.simulation.parts import Images, Parts, structured
from lensfind.simulation.photometry import Z_MAX
from lensfind.simulation.population import VIS, Galaxies, blue_sky, early_types, late_types
from lensfind.simulation.population import velocity_dispersion_function as vdf
from lensfind.simulation.real_images import image_shapes
from lensfind.simulation.scenario import Deflectors, Scenario, Sources

__all__ = ["Reasons", "System", "compose", "double_ratio", "expected", "imaged", "propose"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_KMS = u.km / u.s
_OUTSIDE = (1.25, 3.0)  # theta_E: beyond the caustics of all but the flattest deflectors; the image count decides


class Reasons:
    """Why each of N proposals is rejected: the first reason that holds, or ""."""

    def __init__(self, size: int) -> None:
        self.texts = np.full(size, "", dtype=object)

    def add(self, bad: NDArray[np.bool_], text: str) -> None:
        """Reject where ``bad``, unless rejected already."""
        self.texts[bad & (self.texts == "")] = text


@dataclass(frozen=True)
class System:
    """N systems. ``values``: (N,) columns of masses and geometry; ``z_convention``: redshift of the farthest source."""

    kind: str
    centre: Galaxies
    source: Galaxies | None
    second: Galaxies | None  # the middle galaxy of a compound lens, the farther source of a double ring
    values: Mapping[str, Array]
    z_convention: Array

    def take(self, rows: Index) -> "System":
        """Some of them."""
        return System(
            self.kind,
            self.centre.take(rows),
            None if self.source is None else self.source.take(rows),
            None if self.second is None else self.second.take(rows),
            {key: value[rows] for key, value in self.values.items()},
            self.z_convention[rows],
        )


def _tailored(galaxies: Galaxies, settings: Deflectors | Sources, draws: Uniforms) -> Galaxies:
    """The galaxies with what the settings fix instead of what the population gave; 3 numbers each."""
    given = {key: getattr(galaxies, key) for key in ("q", "r_e")}
    for key in ("q", "r_e"):
        bounds = getattr(settings, key)
        drawn = draws.uniform(*(bounds or (0.0, 1.0)))
        given[key] = drawn if bounds else given[key]
    magnitude = draws.uniform(*(settings.magnitude or (0.0, 1.0)))
    changed = Galaxies(**{**vars(galaxies), **given})
    return changed.of_magnitude(magnitude) if settings.magnitude else changed


def _source(draws: Uniforms, z: Array, settings: Sources, reasons: Reasons) -> Galaxies:
    """A source galaxy at each redshift; 14 numbers each."""
    reasons.add(z > Z_MAX, f"source beyond z = {Z_MAX}, where the VIS template ends")
    absolute = blue_sky(settings.limit).sample_at(draws, z)
    reasons.add(np.isnan(absolute), "no source of this limit at this redshift")
    absolute = np.where(np.isnan(absolute), -20.0, absolute)
    galaxies = late_types(draws, absolute, np.minimum(z, Z_MAX), settings.template)
    return _tailored(galaxies, settings, draws)


def _offset(draws: Uniforms, bounds: tuple[float, float], unit: Array) -> tuple[Array, Array]:
    """Uniform in the annulus ``bounds`` times ``unit``; 2 numbers each."""
    inner, outer = bounds
    r = unit * np.sqrt(draws.uniform(inner**2, outer**2))
    phi = draws.uniform(0, 2 * np.pi)
    return r * np.cos(phi), r * np.sin(phi)


def _shape(draws: Uniforms, light: Galaxies, scenario: Scenario, reasons: Reasons) -> tuple[Array, Array]:
    """Ellipticity of the mass, scattered about the light's; 3 numbers each."""
    settings = scenario.scene.mass
    angle = light.angle + np.deg2rad(settings.axis_scatter) * draws.normal()
    size = (1 - light.q) / (1 + light.q)
    e1 = size * np.cos(2 * angle) + settings.ellipticity_scatter * draws.normal()
    e2 = size * np.sin(2 * angle) + settings.ellipticity_scatter * draws.normal()
    reasons.add(np.hypot(e1, e2) > 0.6, "mass flatter than an axis ratio of 0.25")
    return e1, e2


def propose(kind: str, draws: Uniforms, scenario: Scenario) -> tuple[System, Reasons]:
    """One proposal per row of ``draws`` for a kind of SYSTEMS, and why it is impossible (if it is)."""
    people, scene = scenario.population, scenario.scene
    reasons = Reasons(len(draws))
    theta, sigma, z_lens, z_source, front = pair_table(scenario).sample(draws)
    reasons.add(front, "source in front of lens")
    low, high = people.deflector.sigma_v
    reasons.add(~((sigma >= low * 0.999) & (sigma <= high * 1.001)), "sigma_v outside the scenario's range")
    reasons.add(~((theta >= people.theta_e[0]) & (theta <= people.theta_e[1])), "theta_e outside the scenario's range")
    sigma = np.clip(np.nan_to_num(sigma, nan=low), low, high)
    centre = _tailored(early_types(draws, sigma, z_lens), people.deflector, draws)
    e1, e2 = _shape(draws, centre, scenario, reasons)
    shear = scene.mass.shear
    source = _source(draws, z_source, scene.source, reasons)
    x, y = _offset(draws, _OUTSIDE if kind == "outside" else scene.source.impact, theta)
    values = {"theta_e": theta, "e1": e1, "e2": e2, "gamma1": shear * draws.normal(), "gamma2": shear * draws.normal()}
    source = source.at(x, y)
    if kind == "compound_arc":
        return _compound(System(kind, centre, source, None, values, source.z), draws, scenario, reasons), reasons
    if kind == "double_ring":
        return _double(System(kind, centre, source, None, values, source.z), draws, scenario, reasons), reasons
    values["mass_1"] = theta
    return System(kind, centre, None if kind == "deflector" else source, None, values, source.z), reasons


def _between(draws: Uniforms, low: Array, high: Array) -> Array:
    """Redshifts (N,) of constant comoving density between ``low`` and ``high`` (N,); 1 number each."""
    z = np.linspace(0.0, 5.0, 501)
    volume = np.concatenate([[0.0], np.cumsum(comoving_volume((z[1:] + z[:-1]) / 2).value)])
    first, last = np.interp(low, z, volume), np.interp(high, z, volume)
    return np.asarray(np.interp(first + draws.uniform() * (last - first), volume, z))


def _compound(system: System, draws: Uniforms, scenario: Scenario, reasons: Reasons) -> System:
    """A second deflector between the first and the source, by n(sigma_v) sigma_v^4, its cross-section; 18 numbers."""
    settings, source, values = scenario.population.middle, system.source, dict(system.values)
    assert source is not None
    low = np.maximum(settings.z[0], system.centre.z + 0.1)
    high = np.minimum(settings.z[1], source.z - 0.1)
    reasons.add(high < low, "no room for a second deflector between lens and source")
    z = np.clip(_between(draws, low, np.maximum(high, low)), 0.03, min(2.0, Z_MAX))
    grid = np.linspace(*settings.sigma_v, 200)
    weight = np.cumsum(vdf(np.maximum(grid, 1.0)) * grid**4)
    sigma = np.maximum(np.interp(draws.uniform() * weight[-1], weight, grid), 30.0)
    galaxy = _tailored(early_types(draws, sigma, z), settings, draws)
    x, y = _offset(draws, scenario.scene.middle_offset, values["theta_e"])
    e1, e2 = _shape(draws, galaxy, scenario, reasons)
    front = values["theta_e"]
    behind = einstein_radius(sigma * _KMS, z, source.z).value
    values |= {"mass_1": front, "mass_2": np.maximum(behind, 0.0), "e1_2": e1, "e2_2": e2, "theta_e_2": behind}
    # The source stands behind the middle of the two masses, so that arcs run around both.
    share = behind / (front + behind)
    return System(
        system.kind,
        system.centre,
        source.at(source.x + share * x, source.y + share * y),
        galaxy.at(x, y),
        values,
        system.z_convention,
    )


def _double(system: System, draws: Uniforms, scenario: Scenario, reasons: Reasons) -> System:
    """A second source behind the first, which deflects it as a sphere of ``population.middle.sigma_v``; 19 numbers."""
    settings, near, values = scenario.scene.source2, system.source, dict(system.values)
    assert near is not None
    sky = blue_sky(settings.limit)
    grid = np.linspace(0.02, 5.0, 499)
    count = np.concatenate([[0.0], np.cumsum(sky.per_redshift((grid[1:] + grid[:-1]) / 2))])
    low, high = np.maximum(settings.z[0], near.z + 0.1), settings.z[1]
    first, last = np.interp(low, grid, count), np.interp(high, grid, count)
    fixed = high == low
    reasons.add((last <= first) & ~fixed, "no room for a second source behind the first")
    z = np.interp(first + draws.uniform() * np.maximum(last - first, 0.0), count, grid)
    z = np.where(fixed, high, z)
    far = _source(draws, z, settings, reasons)
    z = np.maximum(z, near.z + 1e-3)
    sigma, centre = draws.within(scenario.population.middle.sigma_v), system.centre
    mass_1 = einstein_radius(centre.sigma_v * _KMS, centre.z, z).value
    mass_2 = np.maximum(einstein_radius(sigma * _KMS, near.z, z).value, 0.0)
    x, y = _offset(draws, settings.impact, values["theta_e"])
    values |= {
        "mass_1": mass_1,
        "mass_2": mass_2,
        "e1_2": np.zeros(len(z)),
        "e2_2": np.zeros(len(z)),
        "theta_e_2": mass_1,
        "beta": values["theta_e"] / mass_1,
        "sigma_v_2": sigma,
    }
    # Seen from the lens, the far source aligned with the near one is the natural pair: offsets are about its axis.
    return System(system.kind, centre, near, far.at(x, y), values, far.z)


def imaged(system: System, draws: Uniforms, scenario: Scenario) -> System:
    """The systems with the sizes and axis ratios of the real galaxies that :func:`compose` takes as their sources.

    ``draws`` as :func:`propose` left them; none is used up.
    """
    folder = scenario.scene.source.images
    if system.source is None or folder is None:
        return system
    shapes = image_shapes(folder)
    number = draws.take(np.arange(len(draws))).integers(0, len(shapes) - 1)
    return replace(system, source=replace(system.source, r_e=shapes[number, 0], q=shapes[number, 1]))


def expected(system: System, scenario: Scenario, survey: Survey, reasons: Reasons) -> None:
    """Reject proposals whose arcs cannot be seen, by an analytic estimate in VIS; see ``scenario.expect``.

    A point-like isothermal lens magnifies a source of half-light radius r at distance b from the axis by about
    mu = 2 theta_E / sqrt(b^2 + r^2) + 1 or so. Half of the light then covers mu pi (r^2 + s^2), s the PSF's half width,
    and stands on the light that the deflector's Sersic profile has at theta_E.
    """
    least = scenario.expect
    if scenario.keep_undetectable or system.source is None or not any(least.values()):
        return
    source, theta = system.source, system.values["theta_e"]
    arc_snr, contrast = estimate(source, theta, system.centre, survey)
    what = "(analytic estimate below scenario.expect)"
    reasons.add(arc_snr < least["arc_snr"], f"arc too faint {what}")
    reasons.add(contrast < least["contrast"], f"arc lost in the deflector's light {what}")
    if system.kind == "double_ring" and system.second is not None:
        arc_snr, _ = estimate(system.second, system.values["theta_e_2"], system.centre, survey)
        reasons.add(arc_snr < least["arc_snr"], f"outer arc too faint {what}")


def estimate(source: Galaxies, theta: Array, centre: Galaxies, survey: Survey) -> tuple[Array, Array]:
    """Expected S/N and contrast (N,) of the arcs in VIS, see :func:`expected`."""
    vis, band = survey.bands["VIS"], BANDS["VIS"]
    sigma, scale = vis.sigma(band), band.pixel_scale
    distance_2 = source.x**2 + source.y**2
    flux = vis.flux(source.magnitudes[:, VIS])
    mu = np.where(distance_2 < theta**2, 2.0, 1.0) * theta / np.sqrt(distance_2 + source.r_e**2) + 0.5
    area = mu * np.pi * (source.r_e**2 + 0.1**2) / scale**2  # VIS pixels
    b = 2 * centre.n - 1 / 3 + 0.009876 / centre.n
    # Mean intensity within r_e is F / (2 pi r_e^2); at r_e it is 0.2774 (n = 4) of that; Sersic falls from there.
    at_radius = 0.2774 * np.exp(-b * ((theta / centre.r_e) ** (1 / centre.n) - 1)) / (2 * np.pi * centre.r_e**2)
    lens = vis.flux(centre.magnitudes[:, VIS]) * at_radius * scale**2
    arc = 0.5 * mu * flux / area
    noise = np.sqrt(sigma**2 + vis.noise_scale(band) ** 2 * (arc + lens) / vis.time)
    return arc * np.sqrt(area) / noise, arc / (arc + lens)


def compose(system: System, draws: Uniforms, scenario: Scenario, images: Images, parts: Parts, objects: Index) -> None:
    """Add the systems' masses and lights to ``parts`` as ``objects``."""
    values, centre, source, second = system.values, system.centre, system.source, system.second
    parts.galaxies(objects, "lens", centre)
    if source is None:
        return
    shear = {"gamma1": values["gamma1"], "gamma2": values["gamma2"]}
    parts.mass(objects, centre.z, values["mass_1"], values["e1"], values["e2"], **shear)
    _light(parts, objects, "source", source, draws, scenario.scene.source, images)
    if second is None:
        return
    massive = values["mass_2"] > 0
    where = second if system.kind == "compound_arc" else source
    z, theta_e, e1, e2 = (column[massive] for column in (where.z, values["mass_2"], values["e1_2"], values["e2_2"]))
    parts.mass(objects[massive], z, theta_e, e1, e2, where.x[massive], where.y[massive])
    if system.kind == "compound_arc":
        parts.galaxies(objects, "middle", second, lensed=True)
    else:
        _light(parts, objects, "source2", second, draws, scenario.scene.source2, images)


def _light(
    parts: Parts, objects: Index, role: str, source: Galaxies, draws: Uniforms, settings: Sources, images: Images
) -> None:
    if settings.images is None:
        structured(parts, objects, role, source, draws, dict(settings.structure))
        return
    number, angle = draws.integers(0, len(images) - 1), draws.uniform(0, 2 * np.pi)
    place = {"z": source.z, "x": source.x, "y": source.y}
    parts.light(objects, role, source.magnitudes, "image", n=number, angle=angle, **place)


def double_ratio(z_lens: Array, z_near: Array, z_far: Array) -> Array:
    """beta = theta_E1 / theta_E2 = D_ls1 D_s2 / (D_s1 D_ls2) of an isothermal sphere and two sources (Collett & Auger
    2014, MNRAS 443, 969)."""
    return np.asarray(
        (distance(z_lens, z_near) * distance(0, z_far) / (distance(0, z_near) * distance(z_lens, z_far))).value
    )
