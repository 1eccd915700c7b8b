"""Pictures of stamps: colour composites, mosaics, single bands, occlusion maps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from lensfind.bands import BANDS, check_bands
from lensfind.errors import LensfindError
from lensfind.figures.style import DPI, literal
from lensfind.finder import Stamps

__all__ = ["MOST", "composite", "mosaic", "occlusion", "planes"]

MOST = 32
"""Stamps in one mosaic."""

# From blue to red light; weights of electron/s/arcsec^2 by which a red galaxy comes out orange and a blue arc blue.
_WEIGHTS = {"VIS": 0.85, "Y": 0.65, "J": 0.47, "H": 0.37}
_MATCH = 2.4
"""Sigma in VIS pixels of the Gaussian from the point spread of VIS to that of NISP and its pixels."""


def composite(stamps: Stamps) -> NDArray[np.float32]:
    """Pictures of stamps: colours as in Lupton et al. 2004 (PASP 116, 133), grey if there are fewer than three bands.

    Red is the reddest band, blue the bluest, green the mean of those between, on the bluest band's grid (NISP is
    interpolated to the 0.1 arcsec of VIS, centres on centres). Brightness is asinh of VIS (or the mean) in units of its
    noise, from the sky to each picture's own 99.8th percentile.

    Args:
        stamps: ``{band: (N, n, n)}`` in electron/s.

    Returns:
        float32 (N, n, n, 3) in [0, 1]; grey has three equal channels.
    """
    check_bands(stamps)
    ordered = [band for band in _WEIGHTS if band in stamps]
    grid = BANDS[ordered[0]]
    planes = {
        band: _on_grid(np.asarray(stamps[band], np.float64), band, grid.name) * weight / BANDS[band].pixel_scale ** 2
        for band, weight in _WEIGHTS.items()
        if band in stamps
    }
    blue, *middle, red = (planes[band] for band in ordered) if len(ordered) >= 3 else [planes[ordered[0]]] * 3
    # Brightness from the sharp band, colours at the resolution of NISP: else cores would be blue with red rims.
    light = blue if "VIS" in stamps else np.mean([red, *middle, blue], axis=0)
    if "VIS" in stamps and len(ordered) >= 3:
        blue = ndimage.gaussian_filter(blue, (0, _MATCH, _MATCH))
    rgb = np.stack([red, np.mean(middle, axis=0), blue], axis=-1)
    rgb -= np.median(rgb, axis=(1, 2), keepdims=True)
    light = (light - np.median(light, axis=(1, 2), keepdims=True))[..., None]
    tiny = np.finfo(np.float32).tiny
    noise = 1.4826 * np.median(np.abs(light), axis=(1, 2), keepdims=True) + tiny
    top = np.maximum(np.quantile(light, 0.998, axis=(1, 2), keepdims=True) / noise, 5.0)
    bright = np.arcsinh(np.maximum(light / noise - 0.7, 0) / 3) / np.arcsinh(top / 3)
    # Colour is the ratio of the bands; within the noise there is none, so the ratio is drawn towards grey.
    rgb = np.maximum(rgb + noise, 0.3 * noise)
    rgb = bright * rgb / rgb.mean(axis=-1, keepdims=True)
    rgb /= np.maximum(rgb.max(axis=-1, keepdims=True), 1)  # keep the hue of what is too bright
    return np.asarray(rgb, dtype=np.float32)


def _on_grid(images: NDArray[np.float64], band: str, grid: str) -> NDArray[np.float64]:
    """Images (N, n, n) of ``band`` interpolated to the pixels of ``grid``; the stamps' centres coincide."""
    source, target = BANDS[band], BANDS[grid]
    if source.pixel_scale == target.pixel_scale:
        return images
    step = target.pixel_scale / source.pixel_scale
    offset = (source.size - 1) / 2 - step * (target.size - 1) / 2
    shape = (len(images), target.size, target.size)
    shifted: NDArray[np.float64] = ndimage.affine_transform(
        images, (1, step, step), (0, offset, offset), shape, order=1, mode="nearest"
    )
    return shifted


def mosaic(
    stamps: Stamps,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    side: float = 1.2,
    field: float | None = None,
) -> Figure:
    """Pictures (:func:`composite`) of up to 32 objects side by side, with a 5 arcsec bar in the first.

    Args:
        stamps: ``{band: (N, n, n)}`` in electron/s.
        titles: One short line, or a few, above each.
        columns: Pictures in a row.
        side: Of a picture, in inches of 110 pixels.
        field: Side in arcsec of the part to show around the centre; None for the whole stamps.

    Raises:
        LensfindError: No objects, more than 32, or not one title each.
    """
    pictures = composite(stamps)
    n, pixels = pictures.shape[:2]
    if not 1 <= n <= MOST or (titles is not None and len(titles) != n):
        got = f"{n} objects" + ("" if titles is None else f" and {len(titles)} titles")
        raise LensfindError(f"1 to {MOST} objects and as many titles", got, "Choose fewer objects.")
    columns = min(columns, n)
    rows = -(-n // columns)
    lines = max(title.count("\n") + 1 for title in titles) if titles else 0
    figure = Figure((side * columns, (side + 0.2 * lines) * rows), dpi=110)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if number < n:
            ax.imshow(pictures[number], origin="lower", interpolation="nearest")
            if titles is not None:
                ax.set_title(literal(titles[number]), fontsize=8, pad=2)
    scale, shown = pixels / _field(pixels), min(field or np.inf, _field(pixels))
    edge = (pixels - shown * scale) / 2
    for ax in axes.flat[:n]:
        ax.set(xlim=(edge - 0.5, pixels - edge - 0.5), ylim=(edge - 0.5, pixels - edge - 0.5))
    bar = min(5.0, shown / 4) * scale
    inset = 0.06 * shown * scale
    left = edge + inset
    axes.flat[0].plot([left, left + bar], [left, left], color="white", lw=1.5)
    axes.flat[0].text(
        left + bar / 2, left + 0.5 * inset, f"{bar / scale:g}″", color="white", fontsize=7, ha="center", va="bottom"
    )
    return figure


def planes(stamps: Stamps, titles: Sequence[str]) -> Figure:
    """Up to ten objects, one a row of the page turned: colour composite above, then every single band.

    Single bands are asinh of electron/s in units of the noise, from black sky to each picture's 99.5th percentile.

    Args:
        stamps: ``{band: (N, n, n)}`` in electron/s.
        titles: One short line above each.
    """
    pictures, bands = composite(stamps), [band for band in _WEIGHTS if band in stamps]
    figure = Figure((1.2 * len(titles), 1.22 * (1 + len(bands)) + 0.2), dpi=90)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    axes = figure.subplots(1 + len(bands), len(titles), squeeze=False)
    for column, title in enumerate(titles):
        axes[0, column].imshow(pictures[column], origin="lower", interpolation="nearest")
        axes[0, column].set_title(literal(title), fontsize=7, pad=2)
        for row, band in enumerate(bands, 1):
            image = np.asarray(stamps[band][column], np.float64)
            image = image - np.median(image)
            noise = 1.4826 * np.median(np.abs(image)) + np.finfo(np.float32).tiny
            bright = np.arcsinh(np.maximum(image / noise, 0) / 3)
            top = max(float(np.quantile(bright, 0.995)), 1.0)
            axes[row, column].imshow(bright, origin="lower", cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[], frame_on=False)
    for row, name in enumerate(["colour", *bands]):
        axes[row, 0].set_ylabel(name, fontsize=8)
    return figure


def occlusion(image: ArrayLike, difference: ArrayLike, p_lens: float, title: str = "") -> Figure:
    """A stamp beside its occlusion map: blue where the pixels speak for a lens, red where they speak against it.

    Args:
        image: (n, n) or (n, n, 3), e.g. one of :func:`composite`.
        difference: (k, k), P(lens | occluded) - P(lens), its pixels covering the field of the image edge to edge: a map
            of squares goes through ``lensfind.interpretation.occlusion.spread`` first.
        p_lens: P(lens) of the whole stamp.
        title: Printed above the stamp before P(lens).
    """
    image, difference = np.asarray(image), np.asarray(difference, dtype=np.float64)
    half = _field(image.shape[0]) / 2
    extent = (-half, half, -half, half)
    figure = Figure((7.6, 3.4), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.imshow(image, origin="lower", extent=extent, cmap="gray")
    left.set(title=literal(f"{title}  P(lens) = {p_lens:.3f}".strip()), ylabel="offset [arcsec]")
    # One scale for both signs, so that white is zero and equal strength has equal colour.
    limit = float(np.abs(difference).max()) or 1e-6
    shown = right.imshow(difference, origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
    right.set(title="blue: lens evidence, red: against")
    for ax in (left, right):
        ax.set(xlabel="offset [arcsec]")
        ax.title.set_fontsize(9)
    figure.colorbar(shown, ax=right, label="P(lens | occluded) - P(lens)")
    return figure


def _field(pixels: int) -> float:
    """Side in arcsec of a picture of so many pixels."""
    return next(band.size * band.pixel_scale for band in BANDS.values() if band.size == pixels)
