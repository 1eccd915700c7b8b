"""Detect: what of a lens can be seen, measured on noiseless images; the columns that label rules are made of."""

import warnings
from collections.abc import Mapping

import numpy as np
from lenstronomy.LensModel.lens_model import LensModel
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.simulation.components import Batch, Masses
from lensfind.simulation.cosmology import COSMOLOGY
from lensfind.simulation.instrument import Survey

__all__ = ["critical_area_and_images", "detectability", "mask"]

Array = NDArray[np.float64]
Image = NDArray[np.float32]

_GRID = 161
_FAINTEST = 0.05
"""Images that are demagnified below this are not counted: of an isothermal lens these are the cells around its centre,
where the deflection jumps, not images."""


def critical_area_and_images(batch: Batch, i: int, z_source: float, x: float, y: float) -> tuple[float, int]:
    """Area within the critical curve in arcsec^2 and the number of images of the point (x, y) at ``z_source``.

    Rays are shot with lenstronomy from the corners of a grid of triangles, which cover the source plane as often as
    there are images (Schneider, Ehlers & Falco 1992, section 10.3): an image is a triangle whose map holds the source,
    and the area is that of the triangles whose map is turned over (an isothermal lens has no radial critical curve).
    This is the challenge's ``ein_area`` also with shear and two planes; for an SIE it is pi theta_E^2.
    """
    masses = batch.masses
    rows = np.flatnonzero((masses.object == i) & (masses.z < z_source))
    if not len(rows):
        return 0.0, 1
    reach = masses.theta_e[rows].sum() + np.hypot(masses.x[rows], masses.y[rows]).max()
    half = 1.6 * reach + 1.1 * np.hypot(x, y) + 0.1
    axis = np.linspace(-half, half, _GRID) + 0.37 * half / _GRID  # no corner on the centre of a mass
    grid_x, grid_y = np.meshgrid(axis, axis)
    model, kwargs = _model(masses, rows, z_source, float(batch.z_convention[i]))
    beta_x, beta_y = (
        b.reshape(grid_x.shape) - s
        for b, s in zip(model.ray_shooting(grid_x.ravel(), grid_y.ravel(), kwargs), (x, y), strict=True)
    )
    cell = (axis[1] - axis[0]) ** 2 / 2
    area, images = 0.0, 0
    low, high = slice(None, -1), slice(1, None)
    for corners in (((low, low), (low, high), (high, low)), ((high, high), (high, low), (low, high))):
        ax, bx, cx = (beta_x[corner] for corner in corners)
        ay, by, cy = (beta_y[corner] for corner in corners)
        ab, bc, ca = ax * by - ay * bx, bx * cy - by * cx, cx * ay - cy * ax
        mapped = (ab + bc + ca) / 2
        area += cell * float(np.sum(mapped < 0))
        inside = ((ab > 0) & (bc > 0) & (ca > 0)) | ((ab < 0) & (bc < 0) & (ca < 0))
        images += int(np.sum(inside & (np.abs(mapped) < cell / _FAINTEST)))
    return area, images


def _model(
    masses: Masses, rows: NDArray[np.int64], z_source: float, z_convention: float
) -> tuple[LensModel, list[dict[str, float]]]:
    kwargs: list[dict[str, float]] = []
    for row in rows:
        sie = {key: float(getattr(masses, key)[row]) for key in ("e1", "e2")}
        place = {"center_x": float(masses.x[row]), "center_y": float(masses.y[row])}
        shear = {key: float(getattr(masses, key)[row]) for key in ("gamma1", "gamma2")}
        kwargs += [{"theta_E": float(masses.theta_e[row]), **sie, **place}, {**shear, "ra_0": 0.0, "dec_0": 0.0}]
    names = ["SIE", "SHEAR"] * len(rows)
    if len(rows) == 1 and z_source == z_convention:
        return LensModel(names), kwargs
    with warnings.catch_warnings():  # lenstronomy warns whenever a cosmology is given
        warnings.simplefilter("ignore")
        redshifts = [float(z) for z in masses.z[rows] for _ in range(2)]
        planes = {"lens_redshift_list": redshifts, "z_source": z_source, "z_source_convention": z_convention}
        return LensModel(names, multi_plane=True, cosmo=COSMOLOGY, **planes), kwargs


def detectability(arc: Image, other: Image, survey: Survey, source_flux: Array) -> Mapping[str, Array]:
    """Visibility of lensed light in VIS.

    Args:
        arc: (N, n, n) noiseless VIS images of the lensed source alone, electron/s.
        other: The same of the deflectors' light.
        survey: Its VIS noise is the measure.
        source_flux: (N,) unlensed sources, electron/s.

    Returns:
        Arrays (N,). ``mag_eff``: lensed over unlensed flux. ``n_pix_source``: pixels in which the arc is above 1 sigma
        of the blank noise. ``arc_snr``: over those pixels, sum of the arc over its noise, which includes the photons of
        deflector and arc (as Collett 2015). ``contrast``: over those pixels, arc over arc + deflector light.
    """
    vis, band = survey.bands["VIS"], BANDS["VIS"]
    sigma = vis.sigma(band)
    seen = arc > sigma
    # Image by image: the sum of one must not depend on how many there are.
    signal = np.array([image[where].sum(dtype=np.float64) for image, where in zip(arc, seen, strict=True)])
    below = np.array([image[where].sum(dtype=np.float64) for image, where in zip(other, seen, strict=True)])
    total = np.array([image.sum(dtype=np.float64) for image in arc])
    count = np.count_nonzero(seen, axis=(1, 2))
    variance = count * sigma**2 + vis.noise_scale(band) ** 2 * (signal + below) / vis.time
    some = signal > 0
    return {
        "mag_eff": total / source_flux,
        "n_pix_source": count.astype(np.float64),
        "arc_snr": np.where(some, signal / np.sqrt(np.where(some, variance, 1.0)), 0.0),
        "contrast": np.where(some, signal / np.where(some, signal + below, 1.0), 0.0),
    }


def mask(arc: Image, survey: Survey) -> NDArray[np.uint8]:
    """Pixels in which the arc is above 1 sigma of the blank VIS noise, uint8."""
    return (arc > survey.bands["VIS"].sigma(BANDS["VIS"])).astype(np.uint8)
