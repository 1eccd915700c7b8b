"""Real galaxies as sources: a folder of FITS images, the pixel scale in their headers."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits

from lensfind.errors import LensfindError
from lensfind.simulation.parts import Images

__all__ = ["image_files", "read_images"]


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
