"""What both engines agree on before a ray is shot: normalised profiles, planes of masses, tiles, how fine to sample.

Everything here is float64 numpy, vectorised over a batch's lights.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, gamma, gammaincinv

from lensfind.bands import BANDS
from lensfind.simulation.components import PROFILES, Batch
from lensfind.simulation.cosmology import distance

__all__ = [
    "BLOCK",
    "DEPTH",
    "EDGE",
    "POINT",
    "VIS_SCALE",
    "Deflection",
    "Shape",
    "Tiles",
    "deflections",
    "families",
    "shapes",
    "tile_families",
]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

SERSIC, RING, POINT, IMAGE = range(len(PROFILES))

VIS_SCALE = BANDS["VIS"].pixel_scale
BLOCK = BANDS["J"].pixel_scale
"""Tiles are made of blocks, the NISP pixels, 3x3 VIS pixels each: both bands' pixels end where a block ends."""

EDGE = -BANDS["J"].size * BLOCK / 2
"""Where block 0 begins, arcsec from the stamp's centre. Blocks -1 and 66 reach beyond the NISP stamp, over VIS's."""

BLOCKS = BANDS["J"].size + 2

DEPTH = 8
"""Most levels of cells: VIS pixels, and each level's cells split in three by three."""

_SIZES = (3, 5, 7, 9, 11, 15, 19, 23, 27, 33, 39, 47, BLOCKS)  # of tiles, in blocks: equal sizes share one product
_LOST = 2e-3  # share of a Sersic's light that may lie outside its tile, 0.002 mag
_SMOOTH = 7e-4  # curvature of the light over a cell, over the mean surface brightness within r_e
_SMALL = 1e-3  # the same error times the cell's area, over the light of a VIS pixel at that mean surface brightness
_FAINT = 5e-6  # the same, over the whole light of a cusp: nothing finer is asked for
_FAINT_SMOOTH = 5e-5  # where there is no cusp, errors of the midpoint rule cancel
_FAR = 3e-4  # error of the interpolated wings, over the mean surface brightness


@dataclass(frozen=True)
class Shape:
    """Profiles as functions of t = u^2 + v^2 with (u, v) = ``matrix`` (x - x0, y - y0); one row per light.

    sersic: I = amp exp(-b t^(1/2n)), u and v in r_e; ring: I = amp exp(-(sqrt t - 1)^2 / 2 n^2); image: (u, v) are its
    pixels. ``amp`` is the surface brightness per arcsec^2 at unit total flux. ``extent``: arcsec, where the tile may
    end. ``need`` (L, DEPTH): cells of level k closer than this to the centre, in units of (u, v), are split.
    ``far``: beyond this distance the light may be interpolated between blocks, or infinity. ``unit``: arcsec.
    """

    profile: Index
    x: Array
    y: Array
    matrix: Array
    amp: Array
    b: Array
    n: Array
    extent: Array
    need: Array
    far: Array
    unit: Array

    def take(self, rows: Index) -> "Shape":
        """Some of the lights."""
        return Shape(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def sersic_b(n: Array) -> Array:
    """b_n = 1.9992 n - 0.3271 (Capaccioli 1989), as lenstronomy takes it."""
    return np.asarray(1.9992 * n - 0.3271)


def _total(profile: int, n: Array) -> Array:
    """Total flux over amp r_e^2 of a sersic (Graham & Driver 2005, eq. 4 without its e^b) or a ring."""
    if profile == SERSIC:
        return np.asarray(2 * np.pi * n * sersic_b(n) ** (-2 * n) * gamma(2 * n))
    whole = np.sqrt(np.pi / 2) * n * (1 + erf(1 / (np.sqrt(2) * n)))
    return np.asarray(2 * np.pi * (n**2 * np.exp(-0.5 / n**2) + whole))


def _need(profile: int, n: Array, r_e: Array) -> Array:
    """Radius in r_e, per level, within which cells of that level are too coarse; -1: nowhere.

    The midpoint of a cell of side h misses its mean by h^2/24 of the light's second derivative.
    """
    x, order = np.geomspace(2e-3, 50.0, 72), n[:, None]
    if profile == SERSIC:
        power = sersic_b(order) * x ** (1 / order)
        second = np.exp(-power) * (power / order / x) ** 2
    else:
        step = (x - 1) / order
        second = np.exp(-0.5 * step**2) / order**2 * np.maximum(step**2, 1)
    second *= 2 * np.pi / 24 / _total(profile, n)[:, None]  # over the mean, 24 of the midpoint rule
    need = np.full((len(n), DEPTH), -1.0)
    for level in range(DEPTH):
        side = (VIS_SCALE / 3**level / r_e)[:, None]
        faint = np.where(n > 1.5, _FAINT, _FAINT_SMOOTH) * 2 * np.pi
        small = np.minimum(_SMALL * (VIS_SCALE / r_e) ** 2, faint)[:, None] / side**2
        coarse = (second > np.maximum(_SMOOTH, small) / side**2) & (x >= 0.4 * side)
        last = len(x) - 1 - coarse[:, ::-1].argmax(axis=1)
        need[:, level] = np.where(coarse.any(axis=1), x[last], -1.0)
    return need


def _far(n: Array, r_e: Array, q: Array) -> Array:
    """Radius in r_e beyond which a Sersic's light may be interpolated between the blocks' centres (tiles of kind far).

    Cubic interpolation misses 3/128 h^4 of the fourth derivative, which is steepest along the minor axis.
    """
    x, order = np.geomspace(0.05, 50.0, 48), n[:, None]
    slope = sersic_b(order) * x ** (1 / order) / order
    error = 3 / 128 * (BLOCK / (np.sqrt(q) * r_e)[:, None] / x * (slope + 1.5)) ** 4
    error *= np.exp(-order * slope) * 2 * np.pi / _total(SERSIC, n)[:, None]
    return np.asarray(x[len(x) - 1 - (error > _FAR)[:, ::-1].argmax(axis=1)])


def shapes(batch: Batch, rows: Index) -> Shape:
    """The lights ``rows`` of the batch, normalised.

    Raises:
        ValueError: A number that no profile has.
    """
    lights = batch.lights
    profile, r_e, n, q, angle = (getattr(lights, key)[rows].copy() for key in ("profile", "r_e", "n", "q", "angle"))
    amp, b, extent = np.zeros((3, len(rows)))
    need, far = np.full((len(rows), DEPTH), -1.0), np.full(len(rows), np.inf)
    for kind in (SERSIC, RING):
        of = profile == kind
        if not of.any():
            continue
        if not (
            np.all(r_e[of] > 0)
            and np.all(n[of] > (0.2 if kind == SERSIC else 0))
            and np.all((q[of] > 0) & (q[of] <= 1))
        ):
            raise ValueError(f"a {PROFILES[kind]} without r_e > 0, n > 0 and 0 < q <= 1")
        amp[of] = 1 / (_total(kind, n[of]) * r_e[of] ** 2)
        need[of] = _need(kind, n[of], r_e[of])
        if kind == SERSIC:
            b[of] = sersic_b(n[of])
            reach = (gammaincinv(2 * n[of], 1 - _LOST) / b[of]) ** n[of]
            far[of] = _far(n[of], r_e[of], q[of])
        else:
            reach = 1 + 3.5 * n[of]
        extent[of] = reach * r_e[of] / np.sqrt(q[of])
    for i in np.flatnonzero(profile == IMAGE):
        image, scale = batch.images[int(n[i])]
        r_e[i], q[i], amp[i] = scale, 1.0, 1 / scale**2
        extent[i] = (np.hypot(*image.shape) / 2 + 1) * scale
        need[i] = np.where(VIS_SCALE / 3.0 ** np.arange(DEPTH) > 0.5 * scale, extent[i] / scale, -1.0)
    point = profile == POINT
    r_e[point], q[point], angle[point] = 1.0, 1.0, 0.0
    cos, sin, root = np.cos(angle), np.sin(angle), np.sqrt(q)
    matrix = np.stack([cos * root, sin * root, -sin / root, cos / root], axis=1) / r_e[:, None]
    return Shape(profile, lights.x[rows], lights.y[rows], matrix, amp, b, n, extent, need, far, r_e / root)


@dataclass(frozen=True)
class Deflection:
    """The masses in front of each light, in order of redshift: ``count`` (L,); ``mass`` (L, K) rows of the batch's
    masses, -1 where there are fewer than K; ``between`` (L, K, K): [j, i] scales mass i's reduced deflection for a ray
    that goes on to mass j; ``behind`` (L, K): for one that goes on to the light. ``reach`` (L,) arcsec: bound on the
    total deflection; ``shear`` (L,): bound on the total shear.

    Multi-plane lensing (Schneider, Ehlers & Falco 1992, eq. 9.7): theta_j = theta_1 - sum_i (D_ij / D_j) alpha_i, and
    with reduced deflections of the source redshift c, (D_ij D_c) / (D_j D_ic), as lenstronomy's z_source_convention.
    """

    count: Index
    mass: Index
    between: Array
    behind: Array
    reach: Array
    shear: Array

    def take(self, rows: Index) -> "Deflection":
        """Some of the lights, with no more columns than they have masses."""
        most = int(self.count[rows].max(initial=0))
        return Deflection(
            self.count[rows],
            self.mass[rows, :most],
            self.between[rows, :most, :most],
            self.behind[rows, :most],
            self.reach[rows],
            self.shear[rows],
        )


def _scale(z_from: Array, z_to: Array, convention: Array) -> Array:
    whole = distance(z_from, convention).value / distance(0.0, convention).value
    return np.asarray(np.maximum(distance(z_from, z_to).value, 0) / distance(0.0, z_to).value / whole)


def deflections(batch: Batch, rows: Index) -> Deflection:
    """The masses in front of the lights ``rows``."""
    masses, lights = batch.masses, batch.lights
    owner, z = lights.object[rows], lights.z[rows]
    order = np.lexsort((masses.z, masses.object))
    first = np.searchsorted(masses.object[order], np.arange(batch.n_objects + 1))
    most = int(np.diff(first).max(initial=0))
    place = first[owner][:, None] + np.arange(most)
    mass = np.full((len(rows), most), -1, dtype=np.int64)
    there = place < first[owner + 1][:, None]
    mass[there] = order[place[there]]
    if most:
        mass[~(np.where(mass >= 0, masses.z[mass], np.inf) < z[:, None])] = -1  # NaN: behind nothing
    count = (mass >= 0).sum(axis=1)
    mass = mass[:, : int(count.max(initial=0))]
    most = mass.shape[1]
    between, behind = np.zeros((len(rows), most, most)), np.zeros((len(rows), most))
    reach, shear = np.zeros(len(rows)), np.zeros(len(rows))
    for i in range(most):
        at = np.flatnonzero(mass[:, i] >= 0)
        m, convention = mass[at, i], batch.z_convention[owner[at]]
        behind[at, i] = _scale(masses.z[m], z[at], convention)
        for j in range(i + 1, most):
            on = mass[at, j] >= 0
            between[at[on], j, i] = _scale(masses.z[m[on]], masses.z[mass[at[on], j]], convention[on])
        ellipticity = np.hypot(masses.e1[m], masses.e2[m])
        q = (1 - ellipticity) / (1 + ellipticity)
        e = np.sqrt(np.maximum(1 - q**2, 1e-8))
        reach[at] += behind[at, i] * masses.theta_e[m] * np.sqrt(q) / e * np.maximum(np.arctan(e / q), np.arctanh(e))
        shear[at] += behind[at, i] * np.hypot(masses.gamma1[m], masses.gamma2[m])
    return Deflection(count, mass, between, behind, reach, shear)


def families(batch: Batch, rows: Index, deflection: Deflection) -> list[Index]:
    """Lights drawn together, (F, S) places in ``rows`` per entry: S lights of one plane behind the same masses.

    A source and its clumps share their rays. All families of an entry have one profile, as many masses in front and
    S members; entries and families come in an order that does not depend on the rest of the batch. Lights with
    nothing in front stay alone: they share nothing.
    """
    lights, count = batch.lights, deflection.count
    key = np.stack([lights.object[rows], lights.role[rows], lights.profile[rows], count, np.zeros_like(count)], axis=1)
    key[count == 0, 4] = np.flatnonzero(count == 0)
    z = np.where(count > 0, lights.z[rows], 0.0)
    order = np.lexsort((*key.T[::-1][:1], z, *key.T[::-1][1:]))
    new = np.any(np.diff(key[order], axis=0, prepend=-1), axis=1) | (np.diff(z[order], prepend=-1.0) != 0)
    start = np.flatnonzero(new)
    size = np.diff(np.append(start, len(order)))
    kind = np.stack([count[order[start]], lights.profile[rows[order[start]]], size], axis=1)
    found = []
    for one in np.unique(kind, axis=0):
        of = start[np.all(kind == one, axis=1)]
        found.append(order[of[:, None] + np.arange(one[2])])
    return found


@dataclass(frozen=True)
class Tiles:
    """Squares of blocks. ``family``: row of the families; ``size`` in blocks; ``row``, ``column``: first block;
    ``fine``: whether its cells may be split; ``hole``: the tile of the same family that covers its middle, or -1;
    ``far``: whether the family's wings beyond the tile are interpolated. Ordered: fine ones first, then by size."""

    family: Index
    size: Index
    row: Index
    column: Index
    fine: NDArray[np.bool_]
    hole: Index
    far: NDArray[np.bool_]


def tile_families(shape: Shape, deflection: Deflection, members: Index) -> Tiles:
    """One tile per family, or a fine one inside a coarse one for lights that are smooth and faint far out.

    All images of a source lie within the greatest deflection of its own place (plus its extent and what shear adds).
    """

    def frame(extent: Array) -> tuple[Array, Array, Array]:
        bent = deflection.reach + deflection.shear * np.hypot(shape.x, shape.y)
        half = (bent + extent) / (1 - np.minimum(deflection.shear, 0.5))
        low, high = (np.stack([(at + sign * half)[members] for at in (shape.x, shape.y)]) for sign in (-1, 1))
        left, right = low.min(axis=2), high.max(axis=2)
        x, y = (left + right) / 2
        return x, y, (right - left).max(axis=0) / 2

    sizes = np.array(_SIZES)

    def fit(radius: Array) -> Index:
        return sizes[np.minimum(np.searchsorted(sizes, 2 * radius / BLOCK + 1), len(sizes) - 1)]

    whole = frame(shape.extent)
    core = frame(np.minimum(np.maximum(shape.need[:, 0] * shape.unit, 0.0) + 0.15, shape.extent))
    outer, inner = fit(whole[2]), fit(core[2])
    wider = sizes[np.minimum(np.searchsorted(sizes, inner) + 1, len(sizes) - 1)]
    near_wings = np.maximum(fit(frame(np.minimum(shape.far * shape.unit, shape.extent))[2]), wider)
    far = (outer >= 23) & (near_wings < 0.7 * outer) & (deflection.count[members[:, 0]] == 0)
    outer = np.where(far, near_wings, outer)
    two = (outer > inner) & ((outer > 9) | far)
    near = np.where(two, inner, outer)
    if shape.profile[0] == POINT:
        near[:], two[:] = 3, False
    family = np.concatenate([np.arange(len(near)), np.flatnonzero(two)])
    size = np.concatenate([near, outer[two]])
    fine = np.concatenate([np.ones(len(near), dtype=bool), np.zeros(int(two.sum()), dtype=bool)])

    def begin(inside: Array, outside: Array) -> Index:
        # The whole stamp where the tile is as large; else about the light, be it far outside.
        centre = np.concatenate([np.where(two, inside, outside), outside[two]])
        at = np.clip((centre - EDGE) / BLOCK - size / 2, -1e6, 1e6)
        return np.where(size == BLOCKS, -1, np.rint(at)).astype(np.int64)

    row, column = begin(core[1], whole[1]), begin(core[0], whole[0])
    order = np.lexsort((size, ~fine))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    hole = np.concatenate([np.full(len(near), -1), place[: len(near)][two]])
    far = far[family] & ~fine
    return Tiles(family[order], size[order], row[order], column[order], fine[order], hole[order], far[order])
