"""Populations: who there is in the sky, in physical units, vectorised over galaxies.

Early types (deflectors, red neighbours) come from the velocity dispersion function of Choi, Park & Vogeley 2007
(ApJ 658, 884) with the light of Hyde & Bernardi 2009 (MNRAS 396, 1171), late types (sources, blue neighbours) from
the blue Schechter function of Herbel et al. 2017 (JCAP 08, 035), both on grids of (redshift, property).
"""

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import gamma

import astropy.units as u
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensfind.bands import BANDS
from lensfind.simulation.cosmology import COSMOLOGY, comoving_volume, distance, distance_modulus
from lensfind.simulation.draws import Uniforms
from lensfind.simulation.photometry import apparent_magnitudes, dirichlet_coefficients

__all__ = [
    "Galaxies",
    "Sky",
    "blue_sky",
    "early_types",
    "late_types",
    "r_band_magnitude",
    "red_sky",
    "velocity_dispersion_function",
]

Array = NDArray[np.float64]
VIS = list(BANDS).index("VIS")


@dataclass(frozen=True)
class Galaxies:
    """Galaxies with Sersic light, one array element each.

    ``z``; ``sigma_v`` km/s (NaN for late types); ``r_e`` arcsec, half-light radius, geometric mean of the axes;
    ``n`` Sersic index; ``q`` axis ratio; ``angle`` of the major axis, rad from x to y; ``x``, ``y`` arcsec from the
    stamp's centre; ``magnitudes`` (N, 4) AB in the order of BANDS.
    """

    z: Array
    sigma_v: Array
    r_e: Array
    n: Array
    q: Array
    angle: Array
    x: Array
    y: Array
    magnitudes: Array

    def __len__(self) -> int:
        return len(self.z)

    def take(self, rows: NDArray[np.int64]) -> "Galaxies":
        """Some of them."""
        return Galaxies(*(getattr(self, field.name)[rows] for field in fields(self)))

    def at(self, x: Array | float, y: Array | float) -> "Galaxies":
        """The same galaxies at other places, arcsec."""
        zero = np.zeros(len(self))
        return replace(self, x=x + zero, y=y + zero)

    def of_magnitude(self, vis: Array | float) -> "Galaxies":
        """The same galaxies with other VIS magnitudes and their own colours."""
        return replace(self, magnitudes=self.magnitudes + (vis - self.magnitudes[:, VIS])[:, None])


@dataclass(frozen=True)
class Sky:
    """Surface density of a population on a grid of (redshift, property), both edges ascending.

    ``counts`` (nz, nx): galaxies per arcsec^2 in each cell.
    """

    z_edges: Array
    x_edges: Array
    counts: Array
    cumulative: Array

    @property
    def density(self) -> u.Quantity:
        """Galaxies per arcsec^2."""
        return self.cumulative[-1] / u.arcsec**2

    def sample(self, draws: Uniforms) -> tuple[Array, Array]:
        """A galaxy each by number: redshift (N,) and property (N,), uniform within a cell; 3 numbers each."""
        cell = np.searchsorted(self.cumulative, draws.uniform() * self.cumulative[-1], side="right")
        i, j = np.divmod(np.minimum(cell, len(self.cumulative) - 1), self.counts.shape[1])
        z = self.z_edges[i] + draws.uniform() * np.diff(self.z_edges)[i]
        return z, self.x_edges[j] + draws.uniform() * np.diff(self.x_edges)[j]

    def sample_at(self, draws: Uniforms, z: Array) -> Array:
        """The property (N,) of a galaxy each at redshifts ``z`` (N,), by number; 2 numbers each.

        Not a number where the population has none there.
        """
        i = np.clip(np.searchsorted(self.z_edges, z, side="right") - 1, 0, len(self.z_edges) - 2)
        columns = self.counts.shape[1]
        before = np.where(i > 0, self.cumulative[i * columns - 1], 0.0)
        total = self.cumulative[(i + 1) * columns - 1] - before
        cell = np.searchsorted(self.cumulative, before + draws.uniform() * total, side="right")
        j = np.clip(cell - i * columns, 0, columns - 1)
        value = self.x_edges[j] + draws.uniform() * np.diff(self.x_edges)[j]
        return np.where(total > 0, value, np.nan)

    def per_redshift(self, z: Array) -> Array:
        """Galaxies per arcsec^2 and unit redshift at ``z``."""
        middle = (self.z_edges[1:] + self.z_edges[:-1]) / 2
        return np.asarray(np.interp(z, middle, self.counts.sum(axis=1) / np.diff(self.z_edges), left=0, right=0))


def _sky(z_edges: Array, x_edges: Array, density: Array, magnitude: Array, limit: float) -> Sky:
    """Comoving density (nz, nx) in Mpc^-3 per unit x -> counts down to an apparent ``limit``."""
    z = (z_edges[1:] + z_edges[:-1]) / 2
    volume = comoving_volume(z).to_value(u.Mpc**3 / u.arcsec**2) * np.diff(z_edges)
    counts = density * np.diff(x_edges) * volume[:, None] * (magnitude + distance_modulus(z)[:, None] < limit)
    return Sky(z_edges, x_edges, counts, np.cumsum(counts))


def velocity_dispersion_function(sigma_v: ArrayLike) -> Array:
    """Choi+07, dn/dsigma in Mpc^-3 (km/s)^-1 of ``sigma_v`` in km/s; taken as non-evolving to z = 2.

    phi* (s/s*)^a exp[-(s/s*)^b] b / Gamma(a/b) / s, phi* = 8e-3 h^3 Mpc^-3, s* = 161 km/s, a = 2.32, b = 2.67.
    """
    s = np.asarray(sigma_v, dtype=np.float64)
    a, b, phi = 2.32, 2.67, 8e-3 * COSMOLOGY.h**3
    x = s / 161.0
    return np.asarray(phi * x**a * np.exp(-(x**b)) * b / gamma(a / b) / s)


def r_band_magnitude(sigma_v: ArrayLike) -> Array:
    """Absolute r magnitude of an early type: the bright root of V = -2.97 - 0.37 M - 0.006 M^2, V = log10 sigma_v.

    Hyde & Bernardi 2009; ``sigma_v`` in km/s below 540, where the relation turns over.
    """
    v = np.log10(np.asarray(sigma_v, dtype=np.float64))
    return np.asarray((-0.37 + np.sqrt(0.37**2 - 4 * 0.006 * (2.97 + v))) / (2 * 0.006))


def _axis_ratio(draws: Uniforms, scale: Array) -> Array:
    """q = 1 - Rayleigh(scale), cut to 0.2 < q < 1 by the inverse of the cut distribution."""
    return np.asarray(1 - scale * np.sqrt(-2 * np.log1p(-draws.uniform() * -np.expm1(-0.32 / scale**2))))


def _arcsec(size: Array, z: Array) -> Array:
    """Angle in arcsec of a length in kpc."""
    return np.asarray(size / distance(0.0, z).to_value(u.kpc) * u.rad.to(u.arcsec))


def early_types(draws: Uniforms, sigma_v: Array, z: Array) -> Galaxies:
    """Red de Vaucouleurs galaxies at the centre, of ``sigma_v`` (N,) in km/s and ``z`` (N,).

    log10 R_e[kpc] = 2.46 - 2.79 V + 0.84 V^2 with 0.11 dex of scatter; q = 1 - Rayleigh(0.378 - 0.000572 sigma_v)
    (Collett 2015, ApJ 811, 20). No luminosity evolution. 8 numbers each.
    """
    v = np.log10(sigma_v)
    size = 10 ** (2.46 - 2.79 * v + 0.84 * v**2 + 0.11 * draws.normal())
    q = _axis_ratio(draws, np.maximum(0.378 - 0.000572 * sigma_v, 0.05))
    angle = draws.uniform(0, np.pi)
    magnitudes = apparent_magnitudes(dirichlet_coefficients(draws, "red", z), z, r_band_magnitude(sigma_v), "red")
    zero = np.zeros(len(z))
    return Galaxies(z, sigma_v, _arcsec(size, z), np.full(len(z), 4.0), q, angle, zero, zero, magnitudes)


def late_types(draws: Uniforms, absolute: Array, z: Array, template: str = "blue") -> Galaxies:
    """Blue exponential galaxies at the centre, of absolute B magnitude ``absolute`` (N,) and ``z`` (N,).

    R_e = 10^(-(M + 18)/4) ((1 + z)/1.6)^-1.2 kpc with 0.35 dex of scatter; q = 1 - Rayleigh(0.3) (Collett 2015).
    8 numbers each; ``template``: "blue" or "red" colours, of which ``absolute`` is the B or r magnitude.
    """
    size = 10 ** (-(absolute + 18) / 4 + 0.35 * draws.normal()) * ((1 + z) / 1.6) ** -1.2
    q = _axis_ratio(draws, np.full(len(z), 0.3))
    angle = draws.uniform(0, np.pi)
    magnitudes = apparent_magnitudes(dirichlet_coefficients(draws, template, z), z, absolute, template)
    zero = np.zeros(len(z))
    return Galaxies(z, np.full(len(z), np.nan), _arcsec(size, z), np.ones(len(z)), q, angle, zero, zero, magnitudes)


@lru_cache(maxsize=8)
def red_sky(limit: float, z_max: float = 2.0) -> Sky:
    """Early types: property sigma_v in km/s (50 to 450), r magnitude + distance modulus brighter than ``limit``.

    Like SkyPy's, the limit has no K-correction. Cached per process.
    """
    z, s = np.linspace(0.02, z_max, 199), np.linspace(50.0, 450.0, 201)
    middle = (s[1:] + s[:-1]) / 2
    return _sky(z, s, velocity_dispersion_function(middle)[None], r_band_magnitude(middle)[None], limit)


@lru_cache(maxsize=8)
def blue_sky(limit: float, z_max: float = 5.0) -> Sky:
    """Late types: property absolute B magnitude, B + distance modulus brighter than ``limit`` (no K-correction).

    Schechter function with alpha = -1.3, M* = -20.405 - 0.941 z, phi* = 0.00370 exp(-0.1027 z) Mpc^-3 (Herbel et
    al. 2017, the blue galaxies of SkyPy's example). It was fitted to z of about 1; M* is held from z = 2 on, where
    its line would pass every galaxy known. Redshifts go beyond the templates' end: the scene counts those as rejected.
    """
    z, m = np.linspace(0.02, z_max, 250), np.linspace(-26.0, -12.0, 281)
    middle, zc = (m[1:] + m[:-1]) / 2, ((z[1:] + z[:-1]) / 2)[:, None]
    luminosity = 10 ** (0.4 * (-20.40492365 - 0.9408582 * np.minimum(zc, 2.0) - middle))
    phi = 0.00370253 * np.exp(-0.10268436 * zc)
    density = 0.4 * np.log(10) * phi * luminosity ** (1 - 1.3) * np.exp(-luminosity)
    return _sky(z, m, density, middle[None], limit)
