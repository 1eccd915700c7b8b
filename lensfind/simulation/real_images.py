"""Real galaxies as sources: a folder of FITS images, the pixel scale in their headers."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lensfind.errors import LensfindError
from lensfind.simulation.parts import Images

__all__ = ["image_files", "image_shapes", "read_images"]


def image_files(folder: str | Path | None) -> list[Path]:
    """The FITS files of a folder in the order of their names; none for None."""
    return [] if folder is None else sorted(Path(folder).glob("*.fits"))


@lru_cache(maxsize=2)
def read_images(folder: str | Path | None) -> Images:
    """Images of real galaxies for ``scene.source.images``: (image (ny, nx) of sum 1, pixel scale in arcsec) each.

    The header's ``PIXSCALE`` is in arcsec; negative pixels (noise of the sky) are set to 0. Cut the images to their
    galaxy and subtract the sky before: what is in the image is lensed.

    Raises:
        LensfindError: No images, or one without a pixel scale, without light, or that is no image.
    """
    if folder is None:
        return ()
    files, images = image_files(folder), []
    if not files:
        raise LensfindError("FITS images of galaxies", f"none in {folder}", "Set scene.source.images=DIR, or null.")
    for path in files:
        try:
            with fits.open(path) as hdus:
                hdu = next((hdu for hdu in hdus if hdu.header.get("NAXIS") == 2), hdus[0])
                scale, image = hdu.header.get("PIXSCALE"), np.asarray(hdu.data, dtype=np.float64)
        except (OSError, TypeError, ValueError) as error:
            raise LensfindError(f"a FITS image {path}", str(error), "Remove or replace the file.") from error
        image = np.maximum(np.nan_to_num(image), 0)
        if scale is None or not scale > 0 or image.ndim != 2 or not image.sum() > 0:
            got = f"PIXSCALE={scale}, shape {image.shape}, sum {image.sum():g}"
            raise LensfindError(
                f"in {path} a sky-subtracted image with PIXSCALE (arcsec) in its header",
                got,
                "Mend or remove the file.",
            )
        images.append((image / image.sum(), float(scale)))
    return tuple(images)


@lru_cache(maxsize=2)
def image_shapes(folder: str | Path) -> NDArray[np.float64]:
    """Half-light radius in arcsec (geometric mean of the axes) and axis ratio of each of :func:`read_images`, (n, 2).

    The axis ratio is that of the light's second moments; the radius that of the ellipse of this shape about the light's
    centre that holds half of it. Neither is freed of the PSF under which the image was taken.
    """
    shapes = []
    for image, scale in read_images(folder):
        y, x = np.indices(image.shape, dtype=np.float64)
        x, y = x - (image * x).sum(), y - (image * y).sum()
        xx, yy, xy = ((image * moment).sum() for moment in (x * x, y * y, x * y))
        size, flat = (xx + yy) / 2 + 1 / 12, np.hypot((xx - yy) / 2, xy)  # 1/12: a pixel is no point
        q, angle = np.sqrt((size - flat) / (size + flat)), np.arctan2(2 * xy, xx - yy) / 2
        major, minor = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        r = np.sqrt(q * major**2 + minor**2 / q).ravel()
        order = np.argsort(r)
        shapes.append((scale * np.interp(0.5, np.cumsum(image.ravel()[order]), r[order]), q))
    return np.array(shapes)
