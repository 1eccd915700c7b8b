"""Sample light on cells that are as fine as it asks for: a tile's blocks are split into VIS pixels, those again in
three by three where the light is curved, and so on; a cell's value is the mean of its parts.

What lies in between, rays and light, comes from an engine's :class:`Rays`.

An object's pixels must not depend on its neighbours in the batch, so that any row can be made again alone to the last
bit. torch's vector kernels treat the last few elements of an array by other code, and several threads move where
that is: hence whole multiples of ``_LANES``, one thread (:func:`one_thread`), sums in a written order, and products
of matrices of fixed shape (`tests/test_engines.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensfind.errors import LensfindError
from lensfind.simulation.engines.plan import BLOCK, BLOCKS, DEPTH, EDGE, VIS_SCALE, Deflection, Shape, Tiles

__all__ = [
    "FAR",
    "Group",
    "Rays",
    "between",
    "check_oversampling",
    "images",
    "one_thread",
    "star_images",
    "wing_images",
]

_LANES = 64
_CHUNK = 3584  # parents at a time: 9 x 3584 floats stay in a core's cache, and torch never cuts them for its threads
_JUMPS = 4  # levels on which cells at a mass's centre are split: rays to either side of it go opposite ways
_BRIM = 1.0  # arcsec beyond the stamp whose light is still drawn: the PSF brings some of it in


class Rays(Protocol):
    """What an engine gives, for lights of one profile that have equally many masses in front."""

    def trace(self, family: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where the rays (x, y), (9, C) arcsec, meet the plane of their family (C,)."""
        ...

    def light(self, member: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Surface brightness at unit total flux, u and v (see ``plan.Shape``) of the lights (C,) there, each (9, C)."""
        ...


@dataclass(frozen=True)
class Group:
    """Families to sample: ``members`` (F, S) rows of ``shape`` and ``deflection``; ``flux`` (B, lights): weights of the
    lights in each of B images, or None: one image, for families of one."""

    shape: Shape
    deflection: Deflection
    members: NDArray[np.int64]
    flux: NDArray[np.float64] | None
    rays: Rays
    dtype: torch.dtype
    device: torch.device

    def put(self, array: NDArray[np.generic], dtype: torch.dtype | None = None) -> Tensor:
        """The array on the group's device, in its precision if no other is given."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=self.device, dtype=dtype or self.dtype)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread within, so that no array is cut where vector kernels would see it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_oversampling(oversampling: int) -> int:
    """Levels of splitting between VIS pixels and the rendering grid (0, 1, 2), or an error."""
    if oversampling not in (1, 3, 9):
        raise LensfindError("engine.oversampling as 1, 3 or 9", repr(oversampling), "Set engine.oversampling=3.")
    return (1, 3, 9).index(oversampling)


@dataclass
class _Level:
    """Cells of one level: ``value`` (B, 9, C) of the parts of C parents; ``part``, ``parent``: those split again;
    ``place``: tile, row and column of the parents, counted in parents from the tile's corner."""

    value: Tensor
    part: Tensor
    parent: Tensor
    place: tuple[Tensor, Tensor, Tensor]


class _Sampler:
    def __init__(self, group: Group) -> None:
        self.group = group
        self.members = group.put(group.members, torch.int64)
        self.need = group.put(group.shape.need.T)
        self.flux = None if group.flux is None else group.put(group.flux)
        reach = group.deflection.reach / group.shape.unit
        self.jump = group.put(np.where(group.deflection.count > 0, 0.35 * reach, np.inf))

    def shade(self, family: Tensor, x: Tensor, y: Tensor, side: float, level: int) -> tuple[Tensor, Tensor]:
        """Values (B, 9, C) of the parts, of ``side`` arcsec, of parents about (x, y), and which are to be split."""
        count = len(family)
        part = torch.arange(9, device=x.device)
        right, down = (((k - 1) * side).to(x.dtype)[:, None] for k in (part % 3, part // 3))
        images = 1 if self.flux is None else len(self.flux)
        values = torch.zeros((images, 9, count), dtype=x.dtype, device=x.device)
        split = torch.zeros((9, count), dtype=torch.bool, device=x.device)
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            size, fill = stop - start, -(stop - start) % _LANES
            some, at_x, at_y = (
                torch.cat([column[start:stop], column[stop - 1 : stop].expand(fill)]) if fill else column[start:stop]
                for column in (family, x, y)
            )
            beta_x, beta_y = self.group.rays.trace(some, at_x + right, at_y + down)
            for k in range(self.members.shape[1]):
                member = self.members[:, k].index_select(0, some)
                value, u, v = self.group.rays.light(member, beta_x, beta_y)
                if self.flux is None:
                    values[0, :, start:stop] = value[:, :size]
                else:
                    for image, flux in zip(values, self.flux, strict=True):
                        image[:, start:stop] += (value * flux.index_select(0, member))[:, :size]
                if level < DEPTH - 1:
                    split[:, start:stop] |= self._split(member, u, v, level)[:, :size]
        return values, split

    def _split(self, member: Tensor, u: Tensor, v: Tensor, level: int) -> Tensor:
        du, dv = u - u[4], v - v[4]
        # Half the way to the farthest part is a part's own half diagonal, however the masses stretch it.
        foot = 0.6 * torch.sqrt((du * du + dv * dv).amax(dim=0))
        near = torch.sqrt(u * u + v * v) < foot + self.need[level].index_select(0, member)
        return near | (foot > self.jump.index_select(0, member)) if level < _JUMPS else near

    def levels(
        self, family: Tensor, place: tuple[Tensor, Tensor, Tensor], x: Tensor, y: Tensor, fine: Tensor
    ) -> list[_Level]:
        """All levels of cells below the blocks about (x, y); those without ``fine`` (C,) end as VIS pixels."""
        levels, side = [], BLOCK / 3
        for level in range(DEPTH):
            values, split = self.shade(family, x, y, side, level)
            if level == 0:
                split &= fine
            part, parent = split.nonzero(as_tuple=True)
            levels.append(_Level(values, part, parent, place))
            if len(part) == 0:
                break
            column, row = part % 3, part // 3
            tile, tile_row, tile_column = (index.index_select(0, parent) for index in place)
            place = (tile, 3 * tile_row + row, 3 * tile_column + column)
            family = family.index_select(0, parent)
            x = x.index_select(0, parent) + (column - 1).to(x.dtype) * side
            y = y.index_select(0, parent) + (row - 1).to(y.dtype) * side
            side /= 3
        return levels


def _mean(value: Tensor) -> Tensor:
    """Mean of the nine parts (B, 9, C) -> (B, C), summed in this order for every number of parents."""
    total = value[:, 0]
    for part in range(1, 9):
        total = total + value[:, part]
    return total / 9


def _blocks(tiles: Tiles) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Tile, and row and column within it, of every block to sample: near the stamp and not in a hole."""
    brim = round(_BRIM / BLOCK)
    found = []
    for size in np.unique(tiles.size):
        of = np.flatnonzero(tiles.size == size)
        step = np.arange(size)
        inside = []
        for first in (tiles.row[of], tiles.column[of]):
            at = first[:, None] + step
            inside.append((at >= -1 - brim) & (at < BLOCKS - 1 + brim))
        wanted = inside[0][:, :, None] & inside[1][:, None, :]
        for i in np.flatnonzero(tiles.hole[of] >= 0):
            hole = tiles.hole[of[i]]
            row, column = tiles.row[hole] - tiles.row[of[i]], tiles.column[hole] - tiles.column[of[i]]
            rows, columns = (slice(max(k, 0), max(k + tiles.size[hole], 0)) for k in (row, column))
            wanted[i, rows, columns] = False
        tile, row, column = wanted.nonzero()
        found.append((of[tile], row, column))
    tile, row, column = (np.concatenate(part) for part in zip(*found, strict=True))
    return tile, row, column


def images(group: Group, tiles: Tiles, last: int) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Sample the tiles: (tiles, images (B, T, w, w) per arcsec^2), the tiles of one size and kind at a time.

    A fine image has 3 * 3^last cells per block, a coarse one 3. Always in the same order, whatever else is sampled.
    """
    tile, row, column = _blocks(tiles)
    if not len(tile):
        return
    x, y = ((first[tile] + at + 0.5) * BLOCK + EDGE for first, at in ((tiles.column, column), (tiles.row, row)))
    place = (group.put(tile, torch.int64), group.put(row, torch.int64), group.put(column, torch.int64))
    family, fine = group.put(tiles.family[tile], torch.int64), group.put(tiles.fine[tile], torch.bool)
    levels = _Sampler(group).levels(family, place, group.put(x), group.put(y), fine)
    for k in range(len(levels) - 1, last, -1):
        levels[k - 1].value[:, levels[k - 1].part, levels[k - 1].parent] = _mean(levels[k].value)

    area = tiles.size**2
    begin, width = group.put(np.cumsum(area) - area), group.put(tiles.size, torch.int64)
    kinds = np.stack([tiles.fine, tiles.size], axis=1)
    edges = [*np.flatnonzero(np.any(np.diff(kinds, axis=0, prepend=-1), axis=1)).tolist(), len(area)]
    sorts = [np.arange(start, stop) for start, stop in pairwise(edges)]
    many = len(levels[0].value)
    cells = torch.zeros((many, int(area.sum())), dtype=group.dtype, device=group.device)
    for k in range(last + 1):  # cells (B, all cells of level k - 1), tile after tile -> those of level k
        parts = cells[:, None].expand(-1, 9, -1).clone()
        if k < len(levels):
            of, cell_row, cell_column = levels[k].place
            size = width.index_select(0, of) * 3**k
            parts[:, :, begin.to(torch.int64).index_select(0, of) * 9**k + cell_row * size + cell_column] = levels[
                k
            ].value
        grown, first = [], 0
        for some in sorts:
            side, tall = int(tiles.size[some[0]]) * 3**k, len(some)
            view = parts[:, :, first : first + tall * side**2].view(many, 3, 3, tall, side, side)
            view = view.permute(0, 3, 4, 1, 5, 2).reshape(many, tall, 3 * side, 3 * side)
            first += tall * side**2
            if k == last or not tiles.fine[some[0]]:
                yield some, view
            else:
                grown.append(view.reshape(many, -1))
        sorts = [some for some in sorts if tiles.fine[some[0]]]
        if k < last:
            cells = torch.cat(grown, dim=1)


FAR = 72
"""Side of the grid of blocks, from block -3 on, on which wings are sampled that are interpolated in between."""


def wing_images(group: Group, families: NDArray[np.int64]) -> Tensor:
    """Light per arcsec^2 at the centres of FAR x FAR blocks, (F, FAR, FAR), of some families of one."""
    square = np.stack(np.meshgrid(*[np.arange(FAR // 3)] * 2, indexing="ij")).reshape(2, -1)
    y, x = (np.tile((3 * k + 1.5 - 3) * BLOCK + EDGE, len(families)) for k in square)
    family = group.put(np.repeat(families, square.shape[1]), torch.int64)
    values, _ = _Sampler(group).shade(family, group.put(x), group.put(y), BLOCK, DEPTH)
    view = values[0].view(3, 3, len(families), FAR // 3, FAR // 3).permute(2, 3, 0, 4, 1)
    return view.reshape(len(families), FAR, FAR)


def between(blocks: int) -> NDArray[np.float64]:
    """Cubic interpolation from blocks' centres to their VIS pixels', (3 blocks, blocks + 4): two blocks more each side.

    Lagrange's weights of four points at 1/3 and 2/3 of the way.
    """
    third = np.array([-5, 60, 30, -4]) / 81
    matrix = np.zeros((3 * blocks, blocks + 4))
    for k in range(blocks):
        matrix[3 * k, k : k + 4] = third[::-1]
        matrix[3 * k + 1, k + 2] = 1
        matrix[3 * k + 2, k + 1 : k + 5] = third
    return matrix


def star_images(group: Group, tiles: Tiles, last: int) -> Tensor:
    """Images (1, T, w, w) of points on tiles of three blocks: a star between cells is shared over nine of them.

    The weights are Lagrange's of three points, which keep place and width: after the PSF nothing shows of the grid.
    """
    cell, shape, light = VIS_SCALE / 3**last, group.shape, group.members[tiles.family, 0]
    image = np.zeros((1, len(light), 9 * 3**last, 9 * 3**last))
    weights, firsts = [], []
    for at, first in ((shape.y, tiles.row), (shape.x, tiles.column)):
        place = (at[light] - EDGE - first * BLOCK) / cell - 0.5
        near = np.rint(place)
        u = place - near
        weights.append(np.stack([u * (u - 1) / 2, 1 - u**2, u * (u + 1) / 2], axis=1))
        firsts.append(near.astype(np.int64) - 1)
    for k, (row, column) in enumerate(zip(*firsts, strict=True)):
        image[0, k, row : row + 3, column : column + 3] = np.outer(weights[0][k], weights[1][k]) / cell**2
    return group.put(image)
