"""Colours of galaxies: SkyPy's kcorrect templates with Dirichlet coefficients (Herbel et al. 2017, JCAP 08, 035).

SkyPy integrates every template through every filter at every galaxy's redshift (4 ms each). The same integrals are
done here once, on a grid of redshifts, and interpolated, as SkyPy itself does for more than a thousand galaxies; a
galaxy's magnitudes then never depend on the other galaxies of its batch.
"""

import warnings
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.simulation.cosmology import distance_modulus
from lensfind.simulation.draws import Uniforms

__all__ = ["REST_BAND", "Z_MAX", "apparent_magnitudes", "dirichlet_coefficients"]

Z_MAX = 3.97
"""The templates end at 600 A, which leaves the blue edge of VIS at z = 3.98."""

REST_BAND: Mapping[str, str] = {"red": "sdss2010-r", "blue": "bessell-B"}
"""Rest-frame filter of the absolute magnitudes: Hyde & Bernardi's r for red, Herbel's B for blue galaxies."""

# alpha at z = 0, alpha at z = 1, weights of the five templates (Herbel et al. 2017; SkyPy's example).
_DIRICHLET = {
    "red": (
        (2.461, 2.358, 2.568, 2.268, 2.402),
        (2.410, 2.340, 2.200, 2.540, 2.464),
        (3.84e9, 1.57e6, 3.91e8, 4.66e10, 3.03e7),
    ),
    "blue": (
        (2.079, 3.524, 1.917, 1.992, 2.536),
        (2.265, 3.862, 1.921, 1.685, 2.480),
        (3.47e9, 3.31e6, 2.13e9, 1.64e10, 1.01e9),
    ),
}


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Redshifts (z,), apparent maggies at 10 pc (z, template, band), and rest-frame maggies (template,) per colour."""
    with warnings.catch_warnings():  # SkyPy 0.5 and speclite 1.0 import astropy's old test runner
        warnings.simplefilter("ignore")
        from skypy.galaxies.spectrum import kcorrect
        from skypy.utils.photometry import mag_ab
    z = np.linspace(0.0, Z_MAX, 200)
    apparent = mag_ab(kcorrect.wavelength, kcorrect.templates, [f"Euclid-{band}" for band in BANDS], redshift=z)
    rest = {
        colour: 10 ** (-0.4 * mag_ab(kcorrect.wavelength, kcorrect.templates, filter_name))
        for colour, filter_name in REST_BAND.items()
    }
    return z, 10 ** (-0.4 * apparent), rest


def dirichlet_coefficients(draws: Uniforms, colour: str, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Template coefficients (N, 5): eq. 3.9 of Herbel et al. 2017 for ``colour`` "red" or "blue"; 5 numbers each.

    The formula of ``skypy.galaxies.spectrum.dirichlet_coefficients``, which draws from numpy's global state.
    """
    alpha0, alpha1, weight = (np.array(row) for row in _DIRICHLET[colour])
    alpha = alpha0 ** (1 - z[:, None]) * alpha1 ** z[:, None]
    coefficients = draws.gamma(alpha) * weight
    return np.asarray(coefficients / coefficients.sum(axis=1, keepdims=True))


def apparent_magnitudes(
    coefficients: NDArray[np.float64], z: NDArray[np.float64], absolute: NDArray[np.float64], colour: str
) -> NDArray[np.float64]:
    """AB magnitudes, shape (N, 4) in the order of :data:`lensfind.bands.BANDS`.

    Args:
        coefficients: (N, 5), of :func:`dirichlet_coefficients`.
        z: (N,) redshifts, 0 < z <= :data:`Z_MAX`.
        absolute: (N,) absolute AB magnitudes in :data:`REST_BAND` of ``colour``.
        colour: "red" or "blue".
    """
    grid, maggies, rest = _tables()
    if np.any((z <= 0) | (z > Z_MAX)):
        raise ValueError(f"redshift outside (0, {Z_MAX}], where the templates have no VIS flux")
    place = z / grid[1]
    low = np.minimum(place.astype(int), len(grid) - 2)
    part = (place - low)[:, None, None]
    at_z = maggies[low] * (1 - part) + maggies[low + 1] * part
    flux = (coefficients[:, :, None] * at_z).sum(axis=1)
    per_mass = (coefficients * rest[colour]).sum(axis=1)
    scale = absolute + 2.5 * np.log10(per_mass) + distance_modulus(z)
    return np.asarray(scale[:, None] - 2.5 * np.log10(flux))
