"""The fast engine: rays and light of many objects at once, float32 torch, deflections once for all bands."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensfind.bands import BANDS, check_bands
from lensfind.simulation.components import ROLES, Batch
from lensfind.simulation.engines import plan
from lensfind.simulation.engines.canvas import Canvas
from lensfind.simulation.engines.sampling import Group, one_thread
from lensfind.simulation.instrument import Survey

__all__ = ["render", "sie_deflection"]

_OBJECTS = 32  # at a time: enough to fill the vectors, few enough for the caches


def sie_deflection(x: Tensor, y: Tensor, b: Tensor, q: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection of a singular isothermal ellipsoid along its axes (Keeton & Kochanek 1998, ApJ 495, 157, eq. 8).

    alpha_x = b/e atan(e x / psi), alpha_y = b/e atanh(e y / psi), psi^2 = q^2 x^2 + y^2, e^2 = 1 - q^2; softened by
    lenstronomy's 1e-10 arcsec, so that the centre deflects nothing. atan and atanh are exact to an ulp near 0: with
    e >= 1e-4 from float64, as lenstronomy has it (q <= 0.99999999), float32 holds as q -> 1.

    Args:
        x, y: Arcsec from the centre along the major and the minor axis.
        b: theta_e sqrt(q), arcsec.
        q: Axis ratio.
        e: sqrt(1 - q^2), at least 1e-4.
    """
    psi = torch.sqrt(q * q * (x * x + 1e-20) + y * y) + 1e-10
    scale = b / e
    return torch.atan(x * e / psi) * scale, torch.atanh(y * e / psi) * scale


class _Masses:
    """The masses in front of some lights that all have as many, as float32 columns (light,)."""

    def __init__(self, batch: Batch, deflection: plan.Deflection, device: str) -> None:
        masses = batch.masses
        self.planes: list[dict[str, Tensor]] = []

        def put(column: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(column)).to(device=device, dtype=torch.float32)

        for i in range(deflection.mass.shape[1]):
            m = deflection.mass[:, i]
            size = np.minimum(np.hypot(masses.e1[m], masses.e2[m]), 0.9999)
            angle = np.arctan2(masses.e2[m], masses.e1[m]) / 2
            q = np.minimum((1 - size) / (1 + size), 0.99999999)
            columns = {
                "x": masses.x[m],
                "y": masses.y[m],
                "cos": np.cos(angle),
                "sin": np.sin(angle),
                "b": masses.theta_e[m] * np.sqrt(q),
                "q": q,
                "e": np.sqrt(1 - q * q),
                "gamma1": masses.gamma1[m],
                "gamma2": masses.gamma2[m],
                "behind": deflection.behind[:, i],
            }
            columns |= {f"to{j}": deflection.between[:, j, i] for j in range(i + 1, deflection.mass.shape[1])}
            self.planes.append({key: put(column) for key, column in columns.items()})

    def trace(self, light: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where the rays (x, y), (9, C) arcsec, meet the planes of the lights (C,)."""
        bent: list[tuple[Tensor, Tensor]] = []
        planes = [{key: column.index_select(0, light) for key, column in plane.items()} for plane in self.planes]
        for j, mass in enumerate(planes):
            at_x, at_y = x, y
            for i, (alpha_x, alpha_y) in enumerate(bent):
                at_x, at_y = at_x - planes[i][f"to{j}"] * alpha_x, at_y - planes[i][f"to{j}"] * alpha_y
            dx, dy, cos, sin = at_x - mass["x"], at_y - mass["y"], mass["cos"], mass["sin"]
            major, minor = sie_deflection(cos * dx + sin * dy, cos * dy - sin * dx, mass["b"], mass["q"], mass["e"])
            shear_x = mass["gamma1"] * at_x + mass["gamma2"] * at_y
            shear_y = mass["gamma2"] * at_x - mass["gamma1"] * at_y
            bent.append((cos * major - sin * minor + shear_x, sin * major + cos * minor + shear_y))
        for mass, (alpha_x, alpha_y) in zip(planes, bent, strict=True):
            x, y = x - mass["behind"] * alpha_x, y - mass["behind"] * alpha_y
        return x, y


def _images(batch: Batch) -> tuple[Tensor, Tensor]:
    """All real-galaxy images in one flat array with a dark brim, and (image, 3): where each begins, height, width."""
    pixels, table, begin = [np.zeros(1)], [], 1
    for image, _ in batch.images:
        padded = np.pad(np.asarray(image, dtype=np.float64), 1)
        pixels.append(padded.ravel())
        table.append((begin, *padded.shape))
        begin += padded.size
    return torch.from_numpy(np.concatenate(pixels)).float(), torch.tensor(table, dtype=torch.int64)


class _Batched:
    """Rays and light, float32, of families of one profile with equally many masses in front."""

    def __init__(
        self, batch: Batch, shape: plan.Shape, deflection: plan.Deflection, members: NDArray[np.int64], device: str
    ) -> None:
        self._masses = _Masses(batch, deflection.take(members[:, 0]), device)
        self._kind = int(shape.profile[0])
        table = {"x": shape.x, "y": shape.y, "amp": shape.amp, **{f"m{k}": shape.matrix[:, k] for k in range(4)}}
        if self._kind == plan.SERSIC:
            table |= {"log": np.log(shape.amp), "b": shape.b, "power": 0.5 / shape.n}
            table |= {"least": (1e-4 / _r_e(shape)) ** 2}
        elif self._kind == plan.RING:
            table |= {"width": -0.5 / shape.n**2}
        self._columns = {
            key: torch.from_numpy(np.ascontiguousarray(value)).float().to(device) for key, value in table.items()
        }
        if self._kind == plan.IMAGE:
            self._pixels, self._corners = (part.to(device) for part in _images(batch))
            self._which = torch.from_numpy(shape.n.astype(np.int64)).to(device)

    def trace(self, family: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See ``sampling.Rays``."""
        return self._masses.trace(family, x, y)

    def light(self, member: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``sampling.Rays``."""
        of = {key: column.index_select(0, member) for key, column in self._columns.items()}
        dx, dy = x - of["x"], y - of["y"]
        u, v = of["m0"] * dx + of["m1"] * dy, of["m2"] * dx + of["m3"] * dy
        if self._kind == plan.IMAGE:
            begin, high, wide = self._corners.index_select(0, self._which.index_select(0, member)).unbind(1)
            return of["amp"] * _bilinear(self._pixels, begin, high, wide, u, v), u, v
        t = u * u + v * v
        if self._kind == plan.RING:
            step = torch.sqrt(t) - 1
            return of["amp"] * torch.exp(torch.clamp(step * step * of["width"], min=-80.0)), u, v
        t = torch.pow(torch.maximum(t, of["least"]), of["power"])
        # exp of less would be denormal numbers, which are slow and nothing to see.
        return torch.exp(torch.clamp(of["log"] - of["b"] * t, min=-80.0)), u, v


def _r_e(shape: plan.Shape) -> NDArray[np.float64]:
    """Half-light radius, arcsec, of Sersics: their matrix has the determinant 1 / r_e^2."""
    m = shape.matrix
    return np.asarray((m[:, 0] * m[:, 3] - m[:, 1] * m[:, 2]) ** -0.5)


def _bilinear(pixels: Tensor, begin: Tensor, high: Tensor, wide: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Images between their pixels; (u, v) in pixels from each image's centre, its columns along u; dark beyond."""
    column, row = u + (wide - 1) * 0.5, v + (high - 1) * 0.5
    inside = (column >= 0) & (column <= wide - 1) & (row >= 0) & (row <= high - 1)
    left = torch.minimum(torch.clamp(column.floor().to(torch.int64), min=0), wide - 2)
    top = torch.minimum(torch.clamp(row.floor().to(torch.int64), min=0), high - 2)
    right_part, low_part = column - left, row - top
    at = begin + top * wide + left
    upper = pixels[at] * (1 - right_part) + pixels[at + 1] * right_part
    lower = pixels[at + wide] * (1 - right_part) + pixels[at + wide + 1] * right_part
    return torch.where(inside, upper * (1 - low_part) + lower * low_part, torch.zeros_like(u))


def render(
    batch: Batch,
    survey: Survey,
    bands: Sequence[str] = tuple(BANDS),
    *,
    roles: Sequence[str] | None = None,
    oversampling: int = 3,
    device: str = "cpu",
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Noiseless stamps of every object: role -> band -> (N, n, n) float32 electron/s in native pixels.

    An object's pixels are the same to the last bit whatever the batch around it (on one device and machine).

    Args:
        batch: Masses and lights.
        survey: PSF and zero points.
        bands: Wanted bands.
        roles: Wanted planes out of ROLES; None: all.
        oversampling: Rendering cells per VIS pixel: 1, 3 or 9.
        device: Of torch.

    Raises:
        LensfindError: Unknown band or impossible oversampling.
    """
    bands, wanted = check_bands(bands), ROLES if roles is None else tuple(roles)
    canvas = Canvas(batch, survey, bands, wanted, oversampling)
    ask = np.isin(batch.lights.role, [ROLES.index(role) for role in wanted])
    several = _OBJECTS if all(survey.bands[band].separable for band in bands) else 4
    with torch.inference_mode(), one_thread():
        for first in range(0, batch.n_objects, several):
            owner = batch.lights.object
            rows = np.flatnonzero(ask & (owner >= first) & (owner < first + several))
            if len(rows):
                _draw_rows(canvas, batch, rows, device)
            canvas.develop()
    return canvas.stamps


def _draw_rows(canvas: Canvas, batch: Batch, rows: NDArray[np.int64], device: str) -> None:
    whole, bent = plan.shapes(batch, rows), plan.deflections(batch, rows)
    flux = canvas.fluxes(rows)
    for families in plan.families(batch, rows, bent):
        of = families.ravel()
        members = np.arange(families.size).reshape(families.shape)
        shape, deflection = whole.take(of), bent.take(of)
        rays = _Batched(batch, shape, deflection, members, device)
        weights = flux[:, of] if families.shape[1] > 1 else None
        group = Group(shape, deflection, members, weights, rays, torch.float32, torch.device(device))
        canvas.draw(group, rows[of])
