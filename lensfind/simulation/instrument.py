"""The instrument: zero points, PSF and pixels, noise, depth; one table per survey (``conf/survey``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates
from scipy.signal import fftconvolve
from scipy.sparse import csr_array
from scipy.special import erf

from lensfind.bands import BANDS, Band
from lensfind.errors import LensfindError
from lensfind.simulation.settings import build, check_number

__all__ = ["FINE", "FINE_SCALE", "OVERSAMPLING", "BandSurvey", "Survey", "fine_axis", "gaussian_share", "psf_kernel"]

OVERSAMPLING = 3
FINE = OVERSAMPLING * BANDS["VIS"].size
"""Side of the rendering grid in pixels: three per VIS pixel (600)."""

FINE_SCALE = BANDS["VIS"].pixel_scale / OVERSAMPLING
"""Side of a rendering pixel in arcsec."""


def fine_axis() -> NDArray[np.float64]:
    """Centres of the rendering pixels along one axis, arcsec from the stamp's centre."""
    return np.asarray((np.arange(FINE) - (FINE - 1) / 2) * FINE_SCALE)


def gaussian_share(
    edges: NDArray[np.floating[Any]], centres: NDArray[np.floating[Any]], fwhm: float
) -> NDArray[np.float64]:
    """PSF and binning along one axis, shape (pixels, cells): the share of a cell's light in each pixel.

    The integral over the pixel of a Gaussian about the cell's centre: nothing is resampled, and flux is conserved by
    construction. All lengths in arcsec; ``edges`` has one more element than there are pixels.
    """
    sigma = fwhm / np.sqrt(8 * np.log(2))
    return np.asarray(0.5 * np.diff(erf((edges[:, None] - centres) / (np.sqrt(2) * sigma)), axis=0))


@lru_cache(maxsize=16)
def _to_pixels(band: Band, fwhm: float) -> csr_array:
    """:func:`gaussian_share` from the whole rendering grid to the whole stamp, shape (band.size, FINE)."""
    edges = (np.arange(band.size + 1) - band.size / 2) * band.pixel_scale
    share = gaussian_share(edges, fine_axis(), fwhm)
    share[share < 1e-9] = 0
    return csr_array(share.astype(np.float32))


@lru_cache(maxsize=16)
def psf_kernel(psf: str, fwhm: float, beta: float, cell: float) -> NDArray[np.float32]:
    """A PSF that is no Gaussian on cells of ``cell`` arcsec: (k, k), k odd, of sum 1, centred.

    Args:
        psf: "moffat" (Moffat 1969, A&A 3, 455: (1 + (r/a)^2)^-beta, a = FWHM / (2 sqrt(2^(1/beta) - 1)), cut at 10
            arcsec, half a stamp), or the path of a FITS file whose primary image is the PSF, its middle the centre,
            with ``PIXSCALE`` in arcsec or ``CDELT1`` / ``CD1_1`` in degrees; splined onto the cells.
        fwhm, beta: Of the Moffat.
        cell: Arcsec.

    Raises:
        LensfindError: The file is missing or no square image with a pixel scale.
    """
    if psf == "moffat":
        half = round(10 / cell)
        axis = np.arange(-half, half + 1) * cell
        a = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
        kernel = (1 + (axis**2 + axis[:, None] ** 2) / a**2) ** -beta
    else:
        image, scale = _read_kernel(psf)
        middle = (np.array(image.shape) - 1) / 2
        half = int(min(middle) * scale / cell)
        axis = np.arange(-half, half + 1) * cell / scale
        kernel = map_coordinates(image, np.meshgrid(axis + middle[0], axis + middle[1], indexing="ij"), order=3)
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def _read_kernel(path: str) -> tuple[NDArray[np.float64], float]:
    wanted = "survey.bands.*.psf to be gaussian, moffat, or a FITS file with an image and its pixel scale (PIXSCALE)"
    do = "Set survey.bands.VIS.psf=gaussian, or give the file's path."
    try:
        with fits.open(path) as hdus:
            image, header = hdus[0].data, hdus[0].header
    except OSError as error:
        raise LensfindError(wanted, f"{path} ({error})", do) from error
    scale = header.get("PIXSCALE") or 3600 * abs(header.get("CDELT1", header.get("CD1_1", 0)))
    if image is None or image.ndim != 2 or not scale or not image.sum() > 0:
        raise LensfindError(wanted, f"{path} without one of them", do)
    return np.asarray(image, dtype=np.float64), float(scale)


@dataclass(frozen=True)
class BandSurvey:
    """One band of a survey."""

    zero_point: float
    """AB magnitude of 1 electron/s."""
    exposures: int
    exposure_time: float
    """Of one exposure, s."""
    sky: float
    """AB mag / arcsec^2."""
    read_noise: float
    """Electrons per pixel and exposure."""
    psf: str
    """``gaussian``, ``moffat``, or the path of a FITS kernel."""
    psf_fwhm: float
    """Arcsec."""
    psf_beta: float
    """Exponent of the Moffat; others have none."""
    depth: float | None
    """AB magnitude of ``depth_sigma`` in an aperture of ``depth_aperture`` arcsec diameter; None: ideal noise."""
    depth_sigma: float
    depth_aperture: float

    def __post_init__(self) -> None:
        if not isinstance(self.psf, str) or not (self.psf in ("gaussian", "moffat") or Path(self.psf).is_file()):
            raise LensfindError(
                "survey.bands.*.psf to be gaussian, moffat, or the path of a FITS kernel",
                repr(self.psf),
                "Set survey.bands.VIS.psf=gaussian.",
            )
        for key in ("exposures", "exposure_time", "psf_fwhm", "psf_beta", "depth_sigma", "depth_aperture"):
            check_number(f"survey.bands.*.{key}", getattr(self, key), 0.0, np.inf, above=True)
        check_number("survey.bands.*.read_noise", self.read_noise, 0.0, np.inf)
        for key in ("zero_point", "sky", "depth"):
            if key != "depth" or self.depth is not None:
                check_number(f"survey.bands.*.{key}", getattr(self, key), 0.0, 50.0)

    @property
    def time(self) -> float:
        """Total exposure, s."""
        return self.exposures * self.exposure_time

    def flux(self, magnitude: ArrayLike) -> NDArray[np.float64]:
        """Electron/s of an AB magnitude."""
        return np.asarray(10 ** (-0.4 * (np.asarray(magnitude) - self.zero_point)))

    def background(self, band: Band) -> tuple[float, float]:
        """Sky electrons and read-noise variance (electrons^2) per pixel over all exposures."""
        sky = float(self.flux(self.sky)) * band.pixel_scale**2 * self.time
        return sky, self.exposures * self.read_noise**2

    def noise_scale(self, band: Band) -> float:
        """Factor on the table's noise that brings the depth from the ideal to the measured one.

        It stands for all that the table leaves out (dark current, straylight, lost exposures, resampling).
        """
        if self.depth is None:
            return 1.0
        area = np.pi * (self.depth_aperture / 2 / band.pixel_scale) ** 2
        ideal = self.depth_sigma * np.sqrt(sum(self.background(band)) * area) / self.time
        return float(self.flux(self.depth) / ideal)

    def sigma(self, band: Band) -> float:
        """Noise of a blank pixel, electron/s."""
        return self.noise_scale(band) * float(np.sqrt(sum(self.background(band)))) / self.time

    @property
    def psf_file(self) -> bool:
        """Whether the PSF comes from a file."""
        return self.psf not in ("gaussian", "moffat")

    @property
    def separable(self) -> bool:
        """Whether the PSF is a Gaussian, which the engines apply as two small matrix products per component."""
        return self.psf == "gaussian"

    def observe(self, fine: NDArray[np.float32], band: Band) -> NDArray[np.float32]:
        """Rendering grid over the whole stamp (200 o, 200 o) -> noiseless native stamp (band.size, band.size).

        ``o`` is any oversampling for a Moffat or FITS kernel (FFT convolution, light beyond the stamp is dark) and
        :data:`OVERSAMPLING` for a Gaussian. Same unit per pixel; flux is conserved.
        """
        if self.separable:
            share = _to_pixels(band, self.psf_fwhm)
            return np.ascontiguousarray((share @ np.ascontiguousarray((share @ fine).T)).T, dtype=np.float32)
        cell = BANDS["VIS"].size * BANDS["VIS"].pixel_scale / len(fine)
        kernel = psf_kernel(self.psf, self.psf_fwhm, self.psf_beta, cell)
        spread = fftconvolve(fine, kernel, mode="same")
        bins = round(band.pixel_scale / cell)
        edge = (len(fine) - bins * band.size) // 2
        inner = spread[edge : len(fine) - edge, edge : len(fine) - edge]
        return np.asarray(inner.reshape(band.size, bins, band.size, bins).sum(axis=(1, 3)), dtype=np.float32)

    def expose(
        self,
        stamp: NDArray[np.float32],
        band: Band,
        rng: np.random.Generator,
        *,
        noise: float = 1.0,
        like: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Noiseless electron/s -> one noisy, sky-subtracted stamp in electron/s.

        Poisson of sky and source, Gaussian read noise, the noise (not the light) times :meth:`noise_scale`.

        Args:
            stamp: (n, n).
            band: Its geometry.
            rng: Of the noise.
            noise: A further factor on the noise.
            like: Another light (n, n) for which the noise is drawn; ``stamp`` gets the same deviates in units of its
                own sigma. Drawn for ``stamp`` itself they would be others, as a Poisson draw uses up more or fewer
                numbers.
        """
        sky, read = self.background(band)
        expected = np.maximum(stamp if like is None else like, 0).astype(np.float64) * self.time + sky
        deviates = rng.poisson(expected) - expected + np.sqrt(read) * rng.standard_normal(stamp.shape)
        if like is not None:
            own = np.maximum(stamp, 0).astype(np.float64) * self.time + sky
            deviates *= np.sqrt((own + read) / (expected + read))
        return np.asarray(stamp + noise * self.noise_scale(band) * deviates / self.time, dtype=np.float32)


@dataclass(frozen=True)
class Survey:
    """A survey with all four bands; made from ``conf/survey/*.yaml`` by :meth:`from_config`."""

    name: str
    bands: Mapping[str, BandSurvey]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Survey":
        """Checked survey of a plain mapping ``{name, bands: {VIS: {...}, Y: ..., J: ..., H: ...}}``.

        Raises:
            LensfindError: A band or a key is unknown or missing, or a value is impossible.
        """
        raw = build(cls, config, "survey")
        if not isinstance(raw.bands, Mapping) or set(raw.bands) != set(BANDS):
            raise LensfindError(
                f"survey.bands with {', '.join(BANDS)}",
                ", ".join(map(str, raw.bands)) if isinstance(raw.bands, Mapping) else repr(raw.bands),
                "Give the four bands in conf/survey.",
            )
        bands = {band: build(BandSurvey, raw.bands[band], f"survey.bands.{band}") for band in BANDS}  # type: ignore[arg-type]
        return cls(raw.name, bands)
