"""Euclid Q1 cut-outs: multi-extension FITS with all bands at 0.1 arcsec per pixel, made into native stamps.

The networks were trained on simulated single-instrument stamps; real MER mosaics differ from those in PSF, noise
correlation and calibration. Scores of cut-outs are a demonstration of that domain shift, see docs/real_cutouts.md.
"""

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from lensfind.bands import BANDS, check_bands
from lensfind.errors import LensfindError

__all__ = ["CUTOUT_SCALE", "ZERO_POINTS", "read_cutout", "read_cutouts"]

CUTOUT_SCALE = 0.1
"""Side of a cut-out's pixel in arcsec, in every band (MER resamples NISP to the VIS grid)."""

ZERO_POINTS: Mapping[str, float] = {"VIS": 25.72, "Y": 25.04, "J": 25.26, "H": 25.21}
"""AB magnitude of 1 electron/s in the simulated instrument (lenstronomy 1.14.2, ``ObservationConfig.Euclid``)."""

_HDU = {"VIS": "VIS", "Y": "NIR_Y", "J": "NIR_J", "H": "NIR_H"}


def read_cutout(
    path: str | PathLike[str],
    bands: Iterable[str] = tuple(BANDS),
    *,
    zero_points: Mapping[str, float] = ZERO_POINTS,
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """One cut-out as the stamps that a finder takes.

    Per band the image is ``<BAND>_BGSUB``, or ``<BAND>_FLUX`` where there is no other (``VIS``, ``NIR_Y``, ``NIR_J``,
    ``NIR_H``). It is cropped or padded about its centre to 200 px (VIS, 20.0") or 198 px (NISP, 19.8"), NISP is then
    summed 3x3 to 66 px of 0.3", and the flux is brought from the header's ``MAGZERO`` to electron/s:
    f [electron/s] = f * 10^(0.4 (zero_point - MAGZERO)). The centre pixel is n // 2 before and after, so that an odd
    side moves the centre by half a pixel.

    Padding is white Gaussian noise about zero with the median of ``<BAND>_RMS`` as its standard deviation, since a
    constant border would be a feature that no training stamp has. The sky of the mosaics is smoother than that (its
    noise is correlated: in a Q1 cut-out 0.7 of the RMS map per VIS pixel, 0.6 of the sum per 3x3 NISP pixel). The
    generator is seeded by ``seed`` and the band alone, so a file always gives the same stamps. Pixels that the survey
    masked (flux 0, RMS 1e16) stay as they are.

    Args:
        path: The FITS file.
        bands: Bands to read, by default all four.
        zero_points: AB magnitude of 1 electron/s per band.
        seed: Seed of the padding's noise.

    Returns:
        Band -> (1, n, n) float32 in electron/s, n = ``BANDS[band].size``.

    Raises:
        LensfindError: No such file, not a whole FITS file, a band without image, RMS map or ``MAGZERO``, another pixel
            scale than 0.1", NaN or infinite pixels, or a constant image.
    """
    path, chosen = Path(path), check_bands(bands)
    if not path.is_file():
        raise LensfindError("a FITS cut-out", f"{path}, which is not a file", "Check the path.")
    try:
        with fits.open(path, memmap=False) as hdus:
            last = hdus[-1].fileinfo()
            end, size = last["datLoc"] + last["datSpan"], path.stat().st_size
            if end != size:
                raise OSError(f"its last readable part ends at byte {end} of {size}")
            return {band: _stamp(path, hdus, band, zero_points, seed)[None] for band in chosen}
    except (OSError, fits.VerifyError) as error:
        raise LensfindError(
            "a whole FITS file", f"{path}, which is truncated or damaged ({error})", "Download the cut-out again."
        ) from error


def read_cutouts(
    paths: Iterable[str | PathLike[str]],
    bands: Iterable[str] = tuple(BANDS),
    *,
    zero_points: Mapping[str, float] = ZERO_POINTS,
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """Many cut-outs, each read as :func:`read_cutout` does, stacked to (N, n, n) per band in the order given."""
    chosen = check_bands(bands)
    stamps = [read_cutout(path, chosen, zero_points=zero_points, seed=seed) for path in paths]
    if not stamps:
        raise LensfindError("one or more cut-outs", "none", "Give at least one path.")
    return {band: np.concatenate([stamp[band] for stamp in stamps]) for band in chosen}


def _stamp(
    path: Path, hdus: fits.HDUList, band: str, zero_points: Mapping[str, float], seed: int
) -> NDArray[np.float32]:
    """One band's (n, n) stamp in electron/s."""
    names = {hdu.name: hdu for hdu in hdus}
    prefix = _HDU[band]
    image = names.get(f"{prefix}_BGSUB", names.get(f"{prefix}_FLUX"))
    if image is None or image.data is None or image.data.ndim != 2:
        have = [b for b, p in _HDU.items() if f"{p}_BGSUB" in names or f"{p}_FLUX" in names]
        raise LensfindError(
            f"an image {prefix}_BGSUB or {prefix}_FLUX in {path}",
            f"images of {', '.join(have) or 'no Euclid band'}",
            f"Ask only for bands that it has: read_cutout(path, bands={have}).",
        )
    if "MAGZERO" not in image.header:
        raise LensfindError(
            f"MAGZERO (AB zero point) in the header of {image.name} in {path}",
            "a header without it",
            "Add it to the header, e.g. astropy.io.fits.setval(path, 'MAGZERO', value=24.6, extname='VIS_BGSUB').",
        )
    scale = proj_plane_pixel_scales(WCS(image.header)) * 3600  # without a WCS 1 "degree" a pixel, so an error as well
    if not np.allclose(scale, CUTOUT_SCALE, rtol=0.01):
        raise LensfindError(
            f'{CUTOUT_SCALE}" per pixel in {image.name} of {path}',
            f'{scale[0]:.4g}" x {scale[1]:.4g}" in its WCS',
            "Take the cut-out from the MER mosaics, which have all bands at that scale.",
        )

    binning = round(BANDS[band].pixel_scale / CUTOUT_SCALE)
    side = BANDS[band].size * binning
    pixels = image.data.astype(np.float64)
    if min(pixels.shape) < side:
        rms = names.get(f"{prefix}_RMS")
        good = np.array([]) if rms is None or rms.data is None else rms.data[np.isfinite(rms.data) & (rms.data > 0)]
        if not good.size:
            raise LensfindError(
                f"a map {prefix}_RMS in {path}, to pad its {pixels.shape[1]}x{pixels.shape[0]} px to {side} px",
                "none, or one without a positive value",
                f"Make the cut-out at least {side} px wide, or keep its RMS map.",
            )
        stream = np.random.SeedSequence(seed, spawn_key=(list(BANDS).index(band),))
        frame = np.random.default_rng(stream).normal(0.0, float(np.median(good)), (side, side))
    else:
        frame = np.empty((side, side))
    # Pixel n // 2 of the cut-out becomes pixel side // 2, in each axis.
    y, x = (side // 2 - n // 2 for n in pixels.shape)
    pixels = pixels[max(-y, 0) : max(-y, 0) + side, max(-x, 0) : max(-x, 0) + side]
    frame[max(y, 0) : max(y, 0) + pixels.shape[0], max(x, 0) : max(x, 0) + pixels.shape[1]] = pixels
    bad = int((~np.isfinite(pixels)).sum())
    if bad or np.ptp(pixels) == 0:
        raise LensfindError(
            f"finite, varying pixels in {image.name} of {path}",
            f"{bad} NaN or infinite pixels" if bad else "one constant value",
            "Cut it out away from the edge of the tile, or leave the band out with bands=.",
        )
    binned = frame.reshape(side // binning, binning, side // binning, binning).sum(axis=(1, 3))
    stamp: NDArray[np.float32] = (binned * 10 ** (0.4 * (zero_points[band] - float(image.header["MAGZERO"])))).astype(
        np.float32
    )
    return stamp
