"""The instrument: zero points, PSF and pixels, noise, depth; one table per survey (``conf/survey``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import erf

from lensfind.bands import BANDS, Band
from lensfind.errors import LensfindError
from lensfind.simulation.settings import build

__all__ = ["FINE", "FINE_SCALE", "BandSurvey", "Survey", "fine_axis"]

OVERSAMPLING = 3
FINE = OVERSAMPLING * BANDS["VIS"].size
"""Side of the rendering grid in pixels: three per VIS pixel (600)."""

FINE_SCALE = BANDS["VIS"].pixel_scale / OVERSAMPLING
"""Side of a rendering pixel in arcsec."""


def fine_axis() -> NDArray[np.float64]:
    """Centres of the rendering pixels along one axis, arcsec from the stamp's centre."""
    return np.asarray((np.arange(FINE) - (FINE - 1) / 2) * FINE_SCALE)


@lru_cache(maxsize=16)
def _to_pixels(band: Band, fwhm: float) -> csr_array:
    """PSF and binning along one axis, shape (band.size, FINE): the share of a rendering pixel's light in each pixel.

    The integral of the Gaussian over the native pixel, so nothing is resampled and flux is conserved by construction.
    """
    sigma = fwhm / np.sqrt(8 * np.log(2))
    edges = (np.arange(band.size + 1) - band.size / 2) * band.pixel_scale
    share = 0.5 * np.diff(erf((edges[:, None] - fine_axis()) / (np.sqrt(2) * sigma)), axis=0)
    share[share < 1e-9] = 0
    return csr_array(share.astype(np.float32))


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
    psf_fwhm: float
    """Arcsec, Gaussian."""
    depth: float
    """AB magnitude of ``depth_sigma`` in an aperture of ``depth_aperture`` arcsec diameter; None: ideal noise."""
    depth_sigma: float
    depth_aperture: float

    def __post_init__(self) -> None:
        for key in ("exposures", "exposure_time", "psf_fwhm", "depth_sigma", "depth_aperture"):
            if not getattr(self, key) > 0:
                raise LensfindError(f"{key} of every band above 0", str(getattr(self, key)), f"Set survey's {key}.")

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
        area = np.pi * (self.depth_aperture / 2 / band.pixel_scale) ** 2
        ideal = self.depth_sigma * np.sqrt(sum(self.background(band)) * area) / self.time
        return float(self.flux(self.depth) / ideal)

    def sigma(self, band: Band) -> float:
        """Noise of a blank pixel, electron/s."""
        return self.noise_scale(band) * float(np.sqrt(sum(self.background(band)))) / self.time

    def observe(self, fine: NDArray[np.float32], band: Band) -> NDArray[np.float32]:
        """Rendering grid (FINE, FINE) -> noiseless native stamp (band.size, band.size), same unit per pixel."""
        share = _to_pixels(band, self.psf_fwhm)
        return np.ascontiguousarray((share @ np.ascontiguousarray((share @ fine).T)).T, dtype=np.float32)

    def expose(self, stamp: NDArray[np.float32], band: Band, rng: np.random.Generator) -> NDArray[np.float32]:
        """Noiseless electron/s -> one noisy, sky-subtracted stamp in electron/s.

        Poisson of sky and source, Gaussian read noise, the noise (not the light) times :meth:`noise_scale`.
        """
        sky, read = self.background(band)
        expected = np.maximum(stamp, 0).astype(np.float64) * self.time + sky
        noise = rng.poisson(expected) - expected + np.sqrt(read) * rng.standard_normal(stamp.shape)
        return np.asarray(stamp + self.noise_scale(band) * noise / self.time, dtype=np.float32)


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
        if set(raw.bands) != set(BANDS):
            raise LensfindError(
                f"survey.bands with {', '.join(BANDS)}",
                ", ".join(map(str, raw.bands)),
                "Give the four bands in conf/survey.",
            )
        bands = {band: build(BandSurvey, raw.bands[band], f"survey.bands.{band}") for band in BANDS}  # type: ignore[arg-type]
        return cls(raw.name, bands)
