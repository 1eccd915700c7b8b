"""Distances and the Einstein radius in the one cosmology of lensfind.

The simulator asks for thousands of distances per object, so comoving distances are interpolated from one fine table
(relative error below 1e-6 for z > 0.01), which `tests/test_simulation.py` compares with astropy.
"""

from functools import lru_cache

import astropy.units as u
import numpy as np
from astropy.constants import c
from astropy.cosmology import FlatLambdaCDM
from numpy.typing import ArrayLike, NDArray

__all__ = ["COSMOLOGY", "Z_LIMIT", "comoving_volume", "distance", "distance_modulus", "einstein_radius", "sigma_for"]

COSMOLOGY = FlatLambdaCDM(H0=70 * u.km / u.s / u.Mpc, Om0=0.3)

Z_LIMIT = 6.0
"""Highest redshift in the table of distances."""

_STEP = 1e-3
_KMS = u.km / u.s
_ARCSEC_PER_KMS2 = (4 * np.pi * (1 * _KMS / c) ** 2).to_value(u.arcsec, u.dimensionless_angles())


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z = np.arange(0.0, Z_LIMIT + _STEP, _STEP)
    return z, COSMOLOGY.comoving_distance(z).to_value(u.Mpc)


def _comoving(z: ArrayLike) -> NDArray[np.float64]:
    """Comoving distance in Mpc."""
    return np.asarray(np.interp(np.asarray(z, dtype=np.float64), *_table()))


def distance(z_from: ArrayLike, z_to: ArrayLike) -> u.Quantity:
    """Angular diameter distance between two redshifts (flat universe; Hogg 1999, astro-ph/9905116, eq. 19).

    Negative where ``z_to`` lies in front of ``z_from``. Shapes broadcast. Redshifts up to :data:`Z_LIMIT`.
    """
    return u.Quantity((_comoving(z_to) - _comoving(z_from)) / (1 + np.asarray(z_to)), u.Mpc)


def distance_modulus(z: ArrayLike) -> NDArray[np.float64]:
    """Distance modulus in mag, m - M for a spectrum that needs no K-correction."""
    z = np.asarray(z, dtype=np.float64)
    return np.asarray(5 * np.log10(_comoving(z) * (1 + z) * 1e5))


def comoving_volume(z: ArrayLike) -> u.Quantity:
    """Comoving volume per unit redshift and solid angle, Mpc^3 / arcsec^2."""
    return COSMOLOGY.differential_comoving_volume(z).to(u.Mpc**3 / u.arcsec**2)


def _unit_radius(z_lens: ArrayLike, z_source: ArrayLike) -> NDArray[np.float64]:
    """Einstein radius in arcsec of 1 km/s, as plain numbers: called hundreds of times per simulated object."""
    lens, source = _comoving(z_lens), _comoving(z_source)
    return np.asarray(_ARCSEC_PER_KMS2 * (source - lens) / source)


def einstein_radius(sigma_v: u.Quantity, z_lens: ArrayLike, z_source: ArrayLike) -> u.Quantity:
    """Einstein radius of a singular isothermal sphere, theta_E = 4 pi (sigma_v / c)^2 D_ls / D_s, in arcsec.

    The only place where a velocity dispersion becomes a deflection. With several lens planes, lenstronomy's reduced
    deflections all belong to one redshift: give its ``z_source_convention`` as ``z_source``, for every deflector.
    A source in front of the lens gives a negative value, which callers reject.

    >>> einstein_radius(250 * u.km / u.s, 0.5, 3.5).round(3)
    <Quantity 1.302 arcsec>
    """
    return u.Quantity(sigma_v.to_value(_KMS) ** 2 * _unit_radius(z_lens, z_source), u.arcsec)


def sigma_for(theta_e: u.Quantity, z_lens: ArrayLike, z_source: ArrayLike) -> u.Quantity:
    """Velocity dispersion in km/s that gives this Einstein radius, the inverse of :func:`einstein_radius`.

    Not a number where the source is in front of the lens.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return u.Quantity(np.sqrt(theta_e.to_value(u.arcsec) / _unit_radius(z_lens, z_source)), _KMS)
