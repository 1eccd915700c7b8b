"""Parts: collects masses and lights of many objects; galaxies made of several components."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensfind.simulation.components import PROFILES, ROLES, Batch, Lights, Masses
from lensfind.simulation.draws import Uniforms
from lensfind.simulation.population import Galaxies

__all__ = ["Images", "Parts", "fainter", "structured"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Images = tuple[tuple[Array, float], ...]

_LIGHT = ("z", "x", "y", "r_e", "n", "q", "angle")
_MASS = ("z", "theta_e", "e1", "e2", "x", "y", "gamma1", "gamma2")


class Parts:
    """Components of the objects of a batch, in any order; :meth:`batch` sorts them by object."""

    def __init__(self) -> None:
        self._lights: list[dict[str, NDArray[Any]]] = []
        self._masses: list[dict[str, NDArray[Any]]] = []

    def light(
        self,
        objects: Index,
        role: str,
        magnitudes: Array,
        profile: str = "sersic",
        *,
        z: ArrayLike = np.nan,
        x: ArrayLike = 0.0,
        y: ArrayLike = 0.0,
        r_e: ArrayLike = 1.0,
        n: ArrayLike = 1.0,
        q: ArrayLike = 1.0,
        angle: ArrayLike = 0.0,
    ) -> None:
        """One component for each of ``objects`` (N,); see :class:`~lensfind.simulation.components.Lights`."""
        size = len(objects)
        values = {"z": z, "x": x, "y": y, "r_e": r_e, "n": n, "q": q, "angle": angle}
        row: dict[str, NDArray[Any]] = {
            key: np.broadcast_to(np.asarray(value, dtype=np.float64), size) for key, value in values.items()
        }
        row |= {"object": objects, "magnitudes": magnitudes}
        row |= {"role": np.full(size, ROLES.index(role)), "profile": np.full(size, PROFILES.index(profile))}
        self._lights.append(row)

    def galaxies(self, objects: Index, role: str, galaxies: Galaxies, *, lensed: bool = False) -> None:
        """One Sersic galaxy for each of ``objects``; ``lensed``: by what stands in front of its redshift."""
        shape = {key: getattr(galaxies, key) for key in ("x", "y", "r_e", "n", "q", "angle")}
        self.light(objects, role, galaxies.magnitudes, z=galaxies.z if lensed else np.nan, **shape)

    def mass(
        self,
        objects: Index,
        z: Array,
        theta_e: Array,
        e1: ArrayLike = 0.0,
        e2: ArrayLike = 0.0,
        x: ArrayLike = 0.0,
        y: ArrayLike = 0.0,
        gamma1: ArrayLike = 0.0,
        gamma2: ArrayLike = 0.0,
    ) -> None:
        """One mass for each of ``objects``; see :class:`~lensfind.simulation.components.Masses`."""
        given = (z, theta_e, e1, e2, x, y, gamma1, gamma2)
        values = {
            key: np.broadcast_to(np.asarray(v, dtype=np.float64), len(objects))
            for key, v in zip(_MASS, given, strict=True)
        }
        self._masses.append({"object": objects, **values})

    def batch(self, n_objects: int, z_convention: Array, images: Images = ()) -> Batch:
        """What was collected; the components of one object keep the order in which they came."""
        light = self._table(self._lights, ("object", "role", "profile"), _LIGHT)
        magnitudes = np.concatenate([row["magnitudes"] for row in self._lights] or [np.empty((0, 4))])
        order = np.argsort(light["object"], kind="stable")
        lights = Lights(**{key: value[order] for key, value in light.items()}, magnitudes=magnitudes[order])
        mass = self._table(self._masses, ("object",), _MASS)
        order = np.argsort(mass["object"], kind="stable")
        masses = Masses(**{key: value[order] for key, value in mass.items()})
        return Batch(n_objects, z_convention, masses, lights, images)

    @staticmethod
    def _table(
        rows: list[dict[str, NDArray[Any]]], whole: tuple[str, ...], real: tuple[str, ...]
    ) -> dict[str, NDArray[Any]]:
        table = {key: np.concatenate([row[key] for row in rows] or [np.empty(0)]).astype(np.int64) for key in whole}
        return table | {key: np.concatenate([row[key] for row in rows] or [np.empty(0)]) for key in real}


def fainter(magnitudes: Array, share: ArrayLike) -> Array:
    """Magnitudes (N, 4) of a share (N,) of the light."""
    return np.asarray(magnitudes - 2.5 * np.log10(np.asarray(share, dtype=np.float64))[..., None])


_CLUMPS = 12
_SMALLEST = 0.02  # arcsec, half-light radius of a clump: smaller ones are points to VIS


def structured(
    parts: Parts, objects: Index, role: str, galaxies: Galaxies, draws: Uniforms, shares: dict[str, float]
) -> None:
    """Lensed disc galaxies with clumps or spiral arms, made of Gaussian clumps, in the galaxy's own plane.

    A clumpy galaxy has 3 to 8 clumps with 15 to 45 % of its light, a spiral two arms of six clumps with 30 to 60 %; a
    clump's half-light radius is 8 to 20 % of the galaxy's. (Shares and sizes are ours, after the look of z of about 1
    discs; no source.) The sum of all components is the galaxy's magnitude in every band. 53 numbers each.
    """
    kind, share, turn = draws.uniform(), draws.uniform(), draws.uniform(0, 2 * np.pi)
    pitch, number = np.deg2rad(draws.uniform(12, 30)), draws.integers(3, 8)
    radial, angular, size, weight = (draws.block(_CLUMPS) for _ in range(4))
    clumpy = (kind >= shares["smooth"]) & (kind < shares["smooth"] + shares["clumpy"])
    spiral = kind >= shares["smooth"] + shares["clumpy"]
    share = np.where(clumpy, 0.15 + 0.3 * share, np.where(spiral, 0.3 + 0.3 * share, 0.0))
    shape = {key: getattr(galaxies, key) for key in ("x", "y", "r_e", "n", "q", "angle")}
    parts.light(objects, role, fainter(galaxies.magnitudes, 1 - share), z=galaxies.z, **shape)
    k = np.arange(_CLUMPS)
    there = (clumpy[:, None] & (k < number[:, None])) | spiral[:, None]
    along = 0.4 + 1.8 * (k // 2 + radial) / (_CLUMPS / 2)  # radius in r_e of a clump on an arm
    arm = turn[:, None] + np.pi * (k % 2) + np.log(along / 0.4) / np.tan(pitch)[:, None] + 0.3 * (angular - 0.5)
    radius = np.where(spiral[:, None], along, 1.8 * np.sqrt(radial)) * galaxies.r_e[:, None]
    phi = np.where(spiral[:, None], arm, 2 * np.pi * angular)
    weight = np.where(there, np.exp(np.where(spiral[:, None], -along / 1.7, 0.0)) * (0.3 + weight), 0.0)
    weight = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-30)
    # The disc is round in its own plane and seen as an ellipse of axis ratio q with the same area.
    major, minor = (
        radius * np.cos(phi) / np.sqrt(galaxies.q)[:, None],
        radius * np.sin(phi) * np.sqrt(galaxies.q)[:, None],
    )
    cos, sin = np.cos(galaxies.angle)[:, None], np.sin(galaxies.angle)[:, None]
    x, y = galaxies.x[:, None] + major * cos - minor * sin, galaxies.y[:, None] + major * sin + minor * cos
    clump = np.maximum((0.08 + 0.12 * size) * galaxies.r_e[:, None], _SMALLEST)
    i, j = np.nonzero(there)
    parts.light(
        objects[i],
        role,
        fainter(galaxies.magnitudes[i], share[i] * weight[i, j]),
        z=galaxies.z[i],
        x=x[i, j],
        y=y[i, j],
        r_e=clump[i, j],
        n=0.5,
    )
