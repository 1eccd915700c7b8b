"""Render: noiseless light on a grid three times finer than VIS, with lenstronomy; lensing once for all bands.

A :class:`Plane` is the light of one component at unit total flux on a box of the rendering grid; a band's image is
the sum of planes times their fluxes, through that band's PSF and pixels.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.param_util import phi_q2_ellipticity
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.simulation.instrument import FINE, FINE_SCALE, OVERSAMPLING, Survey
from lensfind.simulation.population import Galaxies
from lensfind.simulation.scene import Mass

__all__ = ["Plane", "arc_plane", "galaxy_plane", "lens_kwargs", "lens_model", "render"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """One component's noiseless light: ``image`` (ny, nx) float32, summing to 1 over the whole sky, and its place.

    ``image`` covers rendering pixels ``[y : y + ny, x : x + nx]``; ``magnitudes`` (4,) AB in the order of BANDS.
    """

    image: NDArray[np.float32]
    x: int
    y: int
    magnitudes: Array


@lru_cache(maxsize=1)
def lens_model() -> LensModel:
    """SIE and external shear."""
    return LensModel(["SIE", "SHEAR"])


def lens_kwargs(mass: Mass) -> list[dict[str, float]]:
    """lenstronomy's parameters of a mass for :func:`lens_model`."""
    return [
        {"theta_E": mass.theta_e, "e1": mass.e1, "e2": mass.e2, "center_x": 0.0, "center_y": 0.0},
        {"gamma1": mass.gamma1, "gamma2": mass.gamma2, "ra_0": 0.0, "dec_0": 0.0},
    ]


@lru_cache(maxsize=1)
def _light() -> LightModel:
    return LightModel(["SERSIC_ELLIPSE"])


def _brightness(galaxies: Galaxies, i: int) -> Callable[[Array, Array], Array]:
    """Surface brightness per rendering pixel at (x, y) in arcsec of galaxy ``i``, at unit total flux."""
    e1, e2 = phi_q2_ellipticity(galaxies.angle[i], galaxies.q[i])
    kwargs = {
        "amp": 1.0,
        "R_sersic": galaxies.r_e[i],
        "n_sersic": galaxies.n[i],
        "e1": e1,
        "e2": e2,
        "center_x": galaxies.x[i],
        "center_y": galaxies.y[i],
    }
    kwargs["amp"] = FINE_SCALE**2 / _light().total_flux([kwargs])[0]
    return lambda x, y: np.asarray(_light().surface_brightness(x, y, [kwargs]))


def _box(x: float, y: float, half: float, block: int) -> tuple[slice, slice]:
    """Rendering pixels (rows, columns) within ``half`` arcsec, on multiples of ``block``, cut at the stamp's edge."""
    sides = []
    for centre in (y, x):
        low, high = ((centre + sign * half) / FINE_SCALE / block + FINE / block / 2 for sign in (-1, 1))
        last = FINE // block
        first = min(max(int(np.floor(low)), 0), last - 1)
        sides.append(slice(first * block, max(min(int(np.ceil(high)), last), first + 1) * block))
    return sides[0], sides[1]


def _axes(box: tuple[slice, slice], step: float) -> tuple[Array, Array]:
    """Centres (x, y) in arcsec, shape (ny, nx), of cells of ``step`` rendering pixels that tile ``box``."""
    y, x = ((np.arange(round((side.stop - side.start) / step)) + 0.5) * step + side.start - FINE / 2 for side in box)
    grid_x, grid_y = np.meshgrid(x * FINE_SCALE, y * FINE_SCALE)
    return grid_x, grid_y


def galaxy_plane(galaxies: Galaxies, i: int) -> Plane:
    """Unlensed Sersic light of galaxy ``i``, on cells that shrink towards its centre.

    VIS pixels far out, rendering pixels near, a fifth of one and less inside: the de Vaucouleurs cusp needs the fine,
    the wings of a bright galaxy the large ones. The flux within the stamp is right to 0.01 mag (tested).
    """
    brightness = _brightness(galaxies, i)
    x, y, r_e, n = galaxies.x[i], galaxies.y[i], galaxies.r_e[i], galaxies.n[i]
    outer = _box(x, y, max((30.0 if n > 2 else 5.0) * r_e / np.sqrt(galaxies.q[i]), 0.5), OVERSAMPLING)
    coarse = brightness(*(axis.ravel() for axis in _axes(outer, OVERSAMPLING)))
    shape = [(side.stop - side.start) // OVERSAMPLING for side in outer]
    image = coarse.reshape(shape).repeat(OVERSAMPLING, 0).repeat(OVERSAMPLING, 1)
    cusp = 15 if n > 2 and r_e < 0.2 else 5
    for half, parts in ((min(max(3 * r_e, 0.5), 2.0), 1), (min(max(4 * r_e, 0.1), 0.2), cusp)):
        box = _box(x, y, half, OVERSAMPLING)
        box = (_within(box[0], outer[0]), _within(box[1], outer[1]))
        grid = _axes(box, 1 / parts)
        fine = brightness(*(axis.ravel() for axis in grid))
        ny, nx = (side.stop - side.start for side in box)
        image[
            box[0].start - outer[0].start : box[0].stop - outer[0].start,
            box[1].start - outer[1].start : box[1].stop - outer[1].start,
        ] = fine.reshape(ny, parts, nx, parts).mean(axis=(1, 3))
    return Plane(image.astype(np.float32), outer[1].start, outer[0].start, galaxies.magnitudes[i])


def _within(inner: slice, outer: slice) -> slice:
    return slice(max(inner.start, outer.start), min(inner.stop, outer.stop))


def arc_plane(mass: Mass, source: Galaxies) -> Plane:
    """Lensed light of the one ``source``, unit flux before lensing, so that ``image`` sums to the magnification.

    Rays are shot through :func:`lens_model` once for every VIS pixel, and again on sub-pixels of at most a third of
    the half-light radius where the source is near: small sources need it, and fill little of the stamp. The box holds
    every image of light within five half-light radii of the source's centre, or the stamp if that is less.
    """
    extent = 5 * source.r_e[0] / np.sqrt(source.q[0])
    box = _box(0.0, 0.0, 1.15 * (1.3 * mass.theta_e + np.hypot(source.x[0], source.y[0]) + extent), OVERSAMPLING)
    brightness, kwargs = _brightness(source, 0), lens_kwargs(mass)
    x, y = _axes(box, OVERSAMPLING)
    beta_x, beta_y = lens_model().ray_shooting(x.ravel(), y.ravel(), kwargs)
    coarse = brightness(beta_x, beta_y).reshape(x.shape)
    image = coarse.repeat(OVERSAMPLING, 0).repeat(OVERSAMPLING, 1)
    if source.r_e[0] < 0.3:
        near = (np.hypot(beta_x - source.x[0], beta_y - source.y[0]) < extent + 0.2).reshape(x.shape)
        parts = int(np.clip(np.ceil(FINE_SCALE * 3 / source.r_e[0]), 1, 4))
        offset = ((np.arange(OVERSAMPLING * parts) + 0.5) / parts - OVERSAMPLING / 2) * FINE_SCALE
        down, right = np.meshgrid(offset, offset, indexing="ij")
        rays = ((axis[near][:, None] + step.ravel()).ravel() for axis, step in ((x, right), (y, down)))
        fine = brightness(*lens_model().ray_shooting(*rays, kwargs))
        fine = fine.reshape(-1, OVERSAMPLING, parts, OVERSAMPLING, parts).mean(axis=(2, 4))
        ny, nx = x.shape
        image.reshape(ny, OVERSAMPLING, nx, OVERSAMPLING).transpose(0, 2, 1, 3)[near] = fine
    return Plane(image.astype(np.float32), box[1].start, box[0].start, source.magnitudes[0])


def render(planes: Iterable[Plane], survey: Survey, bands: Iterable[str] = BANDS) -> Mapping[str, NDArray[np.float32]]:
    """Noiseless stamps, electron/s: band -> (n, n), the planes' light through PSF and pixels of ``bands``."""
    planes = list(planes)
    stamps = {}
    for k, (name, band) in enumerate(BANDS.items()):
        if name in bands:
            fine = np.zeros((FINE, FINE), dtype=np.float32)
            for plane in planes:
                ny, nx = plane.image.shape
                flux = np.float32(survey.bands[name].flux(plane.magnitudes[k]))
                fine[plane.y : plane.y + ny, plane.x : plane.x + nx] += flux * plane.image
            stamps[name] = survey.bands[name].observe(fine, band)
    return stamps
