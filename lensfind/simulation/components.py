"""Components: the masses and lights of a batch of objects, as arrays; what the scene hands to a rendering engine.

Structure of arrays, numpy, float64. Angles in radians from x to y, lengths in arcsec from the stamp's centre.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROFILES", "ROLES", "Batch", "Lights", "Masses"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

ROLES = ("lens", "source", "source2", "middle", "field")
"""Noiseless planes: the front galaxy (or whatever stands in the middle), the lensed source, the farther of two, the
galaxy between deflector and source, and everything that does not belong to the system."""

PROFILES = ("sersic", "ring", "point", "image")


@dataclass(frozen=True)
class Masses:
    """One row per deflecting mass: a singular isothermal ellipsoid with an external shear.

    ``object`` (M,): index in the batch, ascending. ``z``. ``theta_e`` arcsec: REDUCED, the Einstein radius for a
    source at ``z_convention`` of its object. ``e1, e2``: ellipticity, ``x, y`` arcsec: centre in its own plane;
    ``gamma1, gamma2``: shear about (0, 0). All in lenstronomy's conventions (SIE, SHEAR).
    """

    object: Index
    z: Array
    theta_e: Array
    e1: Array
    e2: Array
    x: Array
    y: Array
    gamma1: Array
    gamma2: Array

    def __len__(self) -> int:
        return len(self.object)


@dataclass(frozen=True)
class Lights:
    """One row per component of light.

    ``object`` (L,): index in the batch, ascending. ``role``: index into :data:`ROLES`, the plane it adds to. ``z``: it
    is lensed by every mass of its object with smaller z; NaN: never lensed. ``profile``: index into :data:`PROFILES`.

    - sersic: ``r_e`` arcsec, half-light radius as the geometric mean of the axes; ``n`` index (0.5: a Gaussian clump);
      ``q`` axis ratio; ``angle`` of the major axis;
    - ring: Gaussian annulus of radius ``r_e`` and sigma ``n`` * ``r_e``, on ellipses of ``q`` and ``angle``;
    - point: a star at (x, y);
    - image: entry ``n`` of the batch's images, centred on (x, y) and turned by ``angle``; ``r_e`` and ``q`` unused.

    ``magnitudes`` (L, 4): AB, in the order of BANDS, of the whole component before lensing.
    """

    object: Index
    role: Index
    z: Array
    profile: Index
    x: Array
    y: Array
    r_e: Array
    n: Array
    q: Array
    angle: Array
    magnitudes: Array

    def __len__(self) -> int:
        return len(self.object)


@dataclass(frozen=True)
class Batch:
    """Objects to render. ``z_convention`` (N,): redshift to which each object's reduced deflections belong;
    ``images``: (array (ny, nx) of sum 1, pixel scale in arcsec) of real galaxies."""

    n_objects: int
    z_convention: Array
    masses: Masses
    lights: Lights
    images: tuple[tuple[Array, float], ...] = ()

    def take(self, objects: Index) -> "Batch":
        """The batch of some of the objects (indices, each once), in the order given."""
        place = np.full(self.n_objects, -1, dtype=np.int64)
        place[objects] = np.arange(len(objects))

        def rows(table: Masses | Lights) -> dict[str, NDArray[np.float64]]:
            new = place[table.object]
            order = np.argsort(new, kind="stable")
            order = order[new[order] >= 0]
            taken = {field.name: getattr(table, field.name)[order] for field in fields(table)}
            return taken | {"object": new[order]}

        masses, lights = Masses(**rows(self.masses)), Lights(**rows(self.lights))  # type: ignore[arg-type]
        return Batch(len(objects), self.z_convention[objects], masses, lights, self.images)
