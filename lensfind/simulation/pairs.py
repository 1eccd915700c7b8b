"""Pairs of deflector and source: which of all that stand behind one another the set shall hold.

The natural density of pairs is n(z_lens) n(z_source) n(sigma_v), with theta_E a function of the three.
"""

from dataclasses import dataclass
from functools import lru_cache

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from lensfind.errors import LensfindError
from lensfind.simulation.cosmology import comoving_volume, einstein_radius, sigma_for
from lensfind.simulation.draws import Uniforms
from lensfind.simulation.population import blue_sky, velocity_dispersion_function
from lensfind.simulation.scenario import Scenario
from lensfind.simulation.settings import Range

__all__ = ["PairTable", "pair_table"]

Array = NDArray[np.float64]

_THETA, _LENS, _SOURCE = 64, 48, 96  # cells


def _edges(bounds: Range, cells: int) -> Array:
    """Edges of cells; one cell of no width where a value is fixed."""
    return np.linspace(*bounds, (cells if bounds[1] > bounds[0] else 1) + 1)


def _middle(edges: Array) -> Array:
    return (edges[1:] + edges[:-1]) / 2


@dataclass(frozen=True)
class PairTable:
    """Redshift pairs (cells) for each of a row of Einstein radii, or of fixed sigma_v.

    ``rows`` edges of theta_E in arcsec; ``row_share`` (R,) cumulative; ``cells`` (R * C,) row number + cumulative share
    of each pair of redshift cells within its row, so that one search finds both; ``in_front``: share of the pairs
    within the ranges whose source is in front.
    """

    rows: Array
    row_share: Array
    z_lens: Array
    z_source: Array
    cells: Array
    in_front: float
    sigma_v: Range
    fixed_sigma: bool

    def sample(self, draws: Uniforms) -> tuple[Array, Array, Array, Array, NDArray[np.bool_]]:
        """theta_e (N,) arcsec, sigma_v km/s, z_lens, z_source, and whether the source is in front; 6 numbers each.

        sigma_v may come out beyond its range by the width of a cell: the caller rejects.
        """
        front = draws.uniform() < self.in_front
        row = np.minimum(np.searchsorted(self.row_share, draws.uniform(), side="right"), len(self.row_share) - 1)
        columns = len(self.cells) // len(self.row_share)
        cell = np.searchsorted(self.cells, row + draws.uniform(), side="right") - row * columns
        i, j = np.divmod(np.clip(cell, 0, columns - 1), len(self.z_source) - 1)
        z_lens = self.z_lens[i] + draws.uniform() * np.diff(self.z_lens)[i]
        z_source = self.z_source[j] + draws.uniform() * np.diff(self.z_source)[j]
        part = draws.uniform()
        if self.fixed_sigma:
            sigma = self.sigma_v[0] + part * (self.sigma_v[1] - self.sigma_v[0])
            theta = einstein_radius(sigma * u.km / u.s, z_lens, z_source).value
        else:
            theta = self.rows[row] + part * np.diff(self.rows)[row]
            sigma = sigma_for(theta * u.arcsec, z_lens, z_source).value
        return theta, sigma, z_lens, z_source, front | (z_source <= z_lens)


@lru_cache(maxsize=8)
def _pair_table(
    weighting: str, theta_e: Range, sigma_v: Range, lens_z: Range, source_z: Range, limit: float
) -> PairTable:
    lens, source = _edges(lens_z, _LENS), _edges(source_z, _SOURCE)
    zl, zs = _middle(lens), _middle(source)
    number = comoving_volume(zl).value[:, None] * blue_sky(limit).per_redshift(zs)
    behind = zs > zl[:, None]
    in_front = float(number[~behind].sum() / max(number.sum(), 1e-300))
    natural = np.where(behind, number, 0.0)
    theta = _edges(theta_e, _THETA)
    fixed = sigma_v[1] - sigma_v[0] < 0.02 * sigma_v[1]
    if fixed:  # theta_E follows from the redshifts: flatten its distribution, or weigh by theta_E^2
        one = einstein_radius(np.mean(sigma_v) * u.km / u.s, zl[:, None], zs).value
        weight = np.where((one >= theta_e[0]) & (one <= theta_e[1]), natural, 0.0)
        if weighting == "uniform_theta_e":
            place = np.clip(np.searchsorted(theta, one) - 1, 0, len(theta) - 2)
            counts = np.bincount(place.ravel(), weight.ravel(), len(theta) - 1)
            weight = weight / np.maximum(counts, counts.max() * 1e-3)[place]
        else:
            weight = weight * one**2
        weight = weight.reshape(1, -1)
        rows = np.ones(1)
    else:  # n(sigma_v) |d sigma_v / d theta_E| of the sigma_v that each pair of redshifts needs
        middle = _middle(theta)[:, None, None]
        sigma = sigma_for(np.where(behind, middle, np.nan) * u.arcsec, zl[:, None], zs).value
        allowed = (sigma >= sigma_v[0]) & (sigma <= sigma_v[1])
        sigma = np.where(allowed, sigma, sigma_v[1])
        weight = np.where(allowed, velocity_dispersion_function(sigma) * sigma / middle * natural, 0.0)
        weight = weight.reshape(len(middle), -1)
        rows = weight.sum(axis=1) * middle[:, 0, 0] ** 2
        if weighting == "uniform_theta_e":
            rows = (rows > 0).astype(float)
    if not rows.sum() or not weight.sum():
        raise LensfindError(
            "some deflector in front of some source within the ranges of the scenario",
            f"none with theta_e {theta_e}, sigma_v {sigma_v}, z_lens {lens_z}, z_source {source_z}",
            "Widen population.theta_e, population.deflector or scene.source.z; a source is seen behind its lens only.",
        )
    cells = np.cumsum(weight, axis=1)
    cells = cells / np.maximum(cells[:, -1:], 1e-300) + np.arange(len(cells))[:, None]
    return PairTable(theta, np.cumsum(rows) / rows.sum(), lens, source, cells.ravel(), in_front, sigma_v, fixed)


def pair_table(scenario: Scenario) -> PairTable:
    """The table of a scenario's main deflectors and sources; cached per process."""
    people, source = scenario.population, scenario.scene.source
    return _pair_table(
        people.weighting, people.theta_e, people.deflector.sigma_v, people.deflector.z, source.z, source.limit
    )
