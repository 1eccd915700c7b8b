"""From sampled tiles to stamps: the PSF, the native pixels, and each tile's place on its object's planes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensfind.bands import BANDS
from lensfind.simulation.components import ROLES, Batch
from lensfind.simulation.engines.plan import BLOCK, BLOCKS, EDGE, POINT, VIS_SCALE, Tiles, tile_families
from lensfind.simulation.engines.sampling import (
    FAR,
    Group,
    between,
    check_oversampling,
    images,
    star_images,
    wing_images,
)
from lensfind.simulation.instrument import Survey, gaussian_share

__all__ = ["Canvas"]


@lru_cache(maxsize=512)
def _share(
    name: str, fwhm: float, size: int, oversampling: int, kind: str, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, int]:
    """From a tile's cells to the pixels in and around it along one axis, (pixels, cells), and how many are around.

    ``kind``: "fine", cells that hold the mean of their light: standing in their centres it is broader by the variance
    of a cell, h^2 / 12 (Sheppard), which the PSF gives back; "star", cells that are exact as they are; "coarse", VIS
    pixels, whose light lies evenly over them.
    """
    band = BANDS[name]
    around = int(np.ceil(5.5 * fwhm / 2.355 / band.pixel_scale))
    pixels = round(size * BLOCK / band.pixel_scale)
    edges = np.arange(-around, pixels + around + 1) * band.pixel_scale
    cell = VIS_SCALE / oversampling
    if kind == "fine":
        fwhm = float(np.sqrt(max(fwhm**2 - 8 * np.log(2) * cell**2 / 12, (0.5 * fwhm) ** 2)))
    centres = (np.arange(3 * size * oversampling) + 0.5) * cell
    if kind == "condensed":
        centres = (np.arange(3 * size + 2) - 0.5) * VIS_SCALE
    share = gaussian_share(edges, centres, fwhm)
    if kind in ("coarse", "far"):
        share = share.reshape(len(share), -1, oversampling).mean(axis=2)
    if kind == "far":
        share = share @ between(size)
    return torch.from_numpy(share).to(device=device, dtype=dtype), around


def _condense(image: Tensor) -> Tensor:
    """Rendering cells (B, T, w, w) -> a third of them along the last axis and one more at either end.

    Each cell's light goes to its triple's middle cell and that one's neighbours by Lagrange's weights for a third of
    the way, which keep its place and width. For NISP, whose PSF is twice as wide as what the light is spread over.
    """
    left, middle, right = (image[..., k::3] for k in range(3))
    out = torch.zeros((*image.shape[:-1], image.shape[-1] // 3 + 2), dtype=image.dtype, device=image.device)
    out[..., 1:-1] = middle + (left + right) * (8 / 9)
    out[..., :-2] += left * (2 / 9) - right * (1 / 9)
    out[..., 2:] += right * (2 / 9) - left * (1 / 9)
    return out


def _both_axes(matrix: Tensor, images: Tensor) -> Tensor:
    """``matrix`` along both axes of images (..., w, w), one by one.

    Neither ``torch.matmul``, which folds them into one product, nor ``torch.bmm``, which takes another way for a single
    image than for many: the last bits of both depend on how many there are (tests/test_scenarios.py).
    """
    flat = images.reshape(-1, *images.shape[-2:])
    turned = matrix.T.contiguous()
    done = torch.stack([torch.mm(torch.mm(matrix, image), turned) for image in flat])
    return done.reshape(*images.shape[:-2], *done.shape[-2:])


class Canvas:
    """Noiseless stamps, ``stamps[role][band]`` (N, n, n) float32 electron/s, to which groups of lights are added.

    Args:
        batch: Whose lights are drawn.
        survey: PSF and zero points.
        bands, roles: Wanted.
        oversampling: Rendering cells per VIS pixel, 1, 3 or 9.
    """

    def __init__(
        self, batch: Batch, survey: Survey, bands: Sequence[str], roles: Sequence[str], oversampling: int
    ) -> None:
        self.lights, self.survey, self.oversampling = batch.lights, survey, oversampling
        self.last = check_oversampling(oversampling)
        self.stamps: dict[str, dict[str, NDArray[np.float32]]] = {
            role: {
                name: np.zeros((batch.n_objects, BANDS[name].size, BANDS[name].size), dtype=np.float32)
                for name in bands
            }
            for role in roles
        }
        self.bands = tuple(bands)
        self._planes: dict[tuple[str, int, str], NDArray[np.float32]] = {}

    def fluxes(self, lights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Electron/s of some of the batch's lights in the canvas's bands, (bands, lights)."""
        order = list(BANDS)
        return np.stack([self.survey.bands[b].flux(self.lights.magnitudes[lights, order.index(b)]) for b in self.bands])

    def draw(self, group: Group, rows: NDArray[np.int64]) -> None:
        """Sample and add a group whose lights are ``rows`` of the batch.

        Raises:
            ValueError: A point behind a mass.
        """
        tiles = tile_families(group.shape, group.deflection, group.members)
        if group.shape.profile[0] != POINT:
            wings = self._wings(group, tiles, rows)
            for some, image in images(group, tiles, self.last):
                if tiles.far[some].any():
                    image = image - self._inside(wings, tiles, some, image)
                light = rows[group.members[tiles.family[some], 0]]
                self._add(light, tiles, some, image, "fine" if tiles.fine[some[0]] else "coarse", group.flux is None)
        elif group.deflection.count[0]:
            raise ValueError("a lensed point: give stars z = NaN, and point-like sources a small r_e")
        else:
            light = rows[group.members[tiles.family, 0]]
            self._add(light, tiles, np.arange(len(light)), star_images(group, tiles, self.last), "star", True)

    def _wings(self, group: Group, tiles: Tiles, rows: NDArray[np.int64]) -> Tensor:
        """Add the interpolated light of families with far wings; their images (F, FAR, FAR), empty rows for others."""
        far = np.unique(tiles.family[tiles.far])
        wings = torch.zeros((len(group.members), FAR, FAR), dtype=group.dtype, device=group.device)
        if len(far):
            image = wing_images(group, far)
            wings[group.put(far, torch.int64)] = image
            lights = rows[group.members[far, 0]]
            flat, no = np.full(len(far), -1, dtype=np.int64), np.zeros(len(far), dtype=bool)
            whole = Tiles(far, np.full(len(far), BLOCKS), flat, flat, no, flat, no)
            self._add(lights, whole, np.arange(len(far)), image[None], "far", True)
        return wings

    def _inside(self, wings: Tensor, tiles: Tiles, some: NDArray[np.int64], image: Tensor) -> Tensor:
        """What :meth:`_wings` has added within coarse tiles, (1, T, w, w)."""
        size = int(tiles.size[some[0]])
        at = [first[some][:, None] + np.arange(-2, size + 2) + 3 for first in (tiles.row, tiles.column)]
        rows, columns = (torch.from_numpy(np.clip(k, 0, FAR - 1)).to(image.device) for k in at)
        seen = [((k >= 2) & (k < FAR - 2))[:, 2:-2].repeat(3, axis=1) for k in at]
        part = wings[
            torch.from_numpy(tiles.family[some]).to(image.device)[:, None, None], rows[:, :, None], columns[:, None]
        ]
        matrix = torch.from_numpy(between(size)).to(part)
        inside = _both_axes(matrix, part)
        mask = torch.from_numpy(seen[0][:, :, None] & seen[1][:, None] & tiles.far[some][:, None, None])
        return (inside * mask.to(image.device))[None]

    def _add(
        self, lights: NDArray[np.int64], tiles: Tiles, some: NDArray[np.int64], image: Tensor, kind: str, unit: bool
    ) -> None:
        """Add images (B, T, w, w): one per band, or one for all at ``unit`` flux; ``lights`` (T,): one per family."""
        owners, roles = self.lights.object[lights].tolist(), [ROLES[k] for k in self.lights.role[lights]]
        cell = VIS_SCALE / (1 if kind in ("coarse", "far") else self.oversampling)
        flux = self.fluxes(lights) * cell**2 if unit else np.full((len(self.bands), len(lights)), cell**2)
        size, condensed = int(tiles.size[some[0]]), None
        for k, name in enumerate(self.bands):
            plane, optics, band = image[k % len(image)], self.survey.bands[name], BANDS[name]
            if not optics.separable:
                self._collect(name, tiles, some, plane, kind, flux[k], owners, roles)
                continue
            use = kind
            if band.pixel_scale == BLOCK and self.oversampling == 3 and kind in ("fine", "star"):
                if condensed is None or len(image) > 1:
                    condensed = _condense(_condense(plane).transpose(1, 2).contiguous())
                plane, use = condensed, "condensed"
            share, around = _share(name, optics.psf_fwhm, size, self.oversampling, use, image.device, image.dtype)
            native = _both_axes(share, plane)
            if use == "condensed":
                native = native.transpose(1, 2)
            ratio = round(BLOCK / band.pixel_scale)
            shift = round((EDGE + band.size * band.pixel_scale / 2) / band.pixel_scale) - around
            top, left = (tiles.row[some] * ratio + shift).tolist(), (tiles.column[some] * ratio + shift).tolist()
            for i, patch in enumerate(native.cpu().numpy()):
                _paste(self.stamps[roles[i]][name][owners[i]], patch, top[i], left[i], flux[k, i])

    def _collect(
        self,
        name: str,
        tiles: Tiles,
        some: NDArray[np.int64],
        plane: Tensor,
        kind: str,
        flux: NDArray[np.float64],
        owners: list[int],
        roles: list[str],
    ) -> None:
        """Add to whole rendering planes: a PSF that is not separable is applied once per plane, by :meth:`develop`."""
        side, each = BANDS["VIS"].size * self.oversampling, 3 * self.oversampling
        edge = round((EDGE + BANDS["VIS"].size * VIS_SCALE / 2) / VIS_SCALE) * self.oversampling
        cells = plane.cpu().numpy()
        if kind == "far":
            matrix = between(BLOCKS).astype(cells.dtype)
            cells = matrix @ cells @ matrix.T
        if kind in ("coarse", "far"):
            cells = (cells / self.oversampling**2).repeat(self.oversampling, 1).repeat(self.oversampling, 2)
        for k, (owner, role) in enumerate(zip(owners, roles, strict=True)):
            whole = self._planes.setdefault((role, owner, name), np.zeros((side, side), dtype=np.float32))
            top, left = int(tiles.row[some[k]]) * each + edge, int(tiles.column[some[k]]) * each + edge
            _paste(whole, cells[k], top, left, flux[k])

    def develop(self) -> None:
        """Bring the collected planes through their PSF onto the stamps, and forget them."""
        for (role, owner, name), plane in self._planes.items():
            self.stamps[role][name][owner] += self.survey.bands[name].observe(plane, BANDS[name])
        self._planes.clear()


def _paste(onto: NDArray[np.float32], patch: NDArray[Any], top: int, left: int, flux: float) -> None:
    """Add ``flux`` times the part of ``patch`` that lies on ``onto``."""
    high, wide = patch.shape
    rows = slice(max(-top, 0), min(onto.shape[0] - top, high))
    columns = slice(max(-left, 0), min(onto.shape[1] - left, wide))
    if rows.start < rows.stop and columns.start < columns.stop:
        part = patch[rows, columns] * patch.dtype.type(flux)
        onto[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop] += part
