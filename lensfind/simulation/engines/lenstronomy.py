"""The reference engine: lenstronomy's rays and light in float64, one component at a time, on the same cells.

The Gaussian annulus is the one profile that lenstronomy lacks; it is written out here, at lenstronomy's rays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.param_util import phi_q2_ellipticity
from numpy.typing import NDArray
from torch import Tensor

from lensfind.bands import BANDS, check_bands
from lensfind.simulation.components import ROLES, Batch
from lensfind.simulation.cosmology import COSMOLOGY
from lensfind.simulation.engines import plan
from lensfind.simulation.engines.canvas import Canvas
from lensfind.simulation.engines.sampling import Group, one_thread
from lensfind.simulation.instrument import Survey

__all__ = ["render"]

Array = NDArray[np.float64]
Rays = Callable[[Array, Array], tuple[Array, Array]]
Brightness = Callable[[Array, Array], Array]


def _rays(batch: Batch, light: int) -> Rays:
    """Ray shooting to the plane of a light: MultiPlane with the object's z_source_convention, or nothing in front."""
    masses, z = batch.masses, float(batch.lights.z[light])
    owner = batch.lights.object[light]
    front = np.flatnonzero((masses.object == owner) & (masses.z < z))
    if not len(front):
        return lambda x, y: (x, y)
    convention = float(batch.z_convention[owner])
    kwargs: list[dict[str, Any]] = []
    for m in front:
        kwargs.append(
            {
                "theta_E": masses.theta_e[m],
                "e1": masses.e1[m],
                "e2": masses.e2[m],
                "center_x": masses.x[m],
                "center_y": masses.y[m],
            }
        )
        kwargs.append({"gamma1": masses.gamma1[m], "gamma2": masses.gamma2[m], "ra_0": 0.0, "dec_0": 0.0})
    models = ["SIE", "SHEAR"] * len(front)
    if len(front) == 1 and z == convention:
        model = LensModel(models)
    else:
        model = LensModel(
            models,
            z_source=z,
            lens_redshift_list=list(np.repeat(masses.z[front], 2)),
            z_source_convention=convention,
            multi_plane=True,
            cosmo=COSMOLOGY,
        )
    return lambda x, y: model.ray_shooting(x, y, kwargs)


def _brightness(batch: Batch, light: int) -> Brightness:
    """Surface brightness per arcsec^2 of a light at unit total flux."""
    lights = batch.lights
    x0, y0, r_e, n, q, angle = (float(getattr(lights, key)[light]) for key in ("x", "y", "r_e", "n", "q", "angle"))
    kind = int(lights.profile[light])
    if kind == plan.RING:
        width = n * r_e
        whole = np.exp(-0.5 / n**2) * width**2
        whole += r_e * width * np.sqrt(2 * np.pi) * _normal(1 / n)

        def annulus(x: Array, y: Array) -> Array:
            along = np.cos(angle) * (x - x0) + np.sin(angle) * (y - y0)
            across = np.cos(angle) * (y - y0) - np.sin(angle) * (x - x0)
            radius = np.sqrt(q * along**2 + across**2 / q)
            return np.asarray(np.exp(-0.5 * ((radius - r_e) / width) ** 2) / (2 * np.pi * whole))

        return annulus
    if kind == plan.IMAGE:
        image, scale = batch.images[int(n)]
        model = LightModel(["INTERPOL"])
        kwargs = {"image": np.asarray(image), "amp": 1.0, "center_x": x0, "center_y": y0, "phi_G": angle}
        kwargs["scale"] = scale
        kwargs["amp"] = 1 / scale**2
    else:
        model = LightModel(["SERSIC_ELLIPSE"])
        e1, e2 = phi_q2_ellipticity(angle, q)
        kwargs = {"amp": 1.0, "R_sersic": r_e, "n_sersic": n, "e1": e1, "e2": e2, "center_x": x0, "center_y": y0}
        kwargs["amp"] = 1 / model.total_flux([kwargs])[0]
    return lambda x, y: np.asarray(model.surface_brightness(x, y, [kwargs]))


def _normal(x: float) -> float:
    """Standard normal distribution function."""
    from scipy.stats import norm

    return float(norm.cdf(x))


class _Single:
    """Rays and light of one light, float64."""

    def __init__(self, batch: Batch, light: int, shape: plan.Shape) -> None:
        self._shoot, self._brightness = _rays(batch, light), _brightness(batch, light)
        self._matrix, self._x, self._y = shape.matrix[0], float(shape.x[0]), float(shape.y[0])

    def trace(self, family: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See ``sampling.Rays``."""
        beta = self._shoot(x.numpy().ravel(), y.numpy().ravel())
        return torch.from_numpy(beta[0]).view(x.shape), torch.from_numpy(beta[1]).view(x.shape)

    def light(self, member: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``sampling.Rays``."""
        value = torch.from_numpy(self._brightness(x.numpy().ravel(), y.numpy().ravel())).view(x.shape)
        dx, dy, m = x - self._x, y - self._y, self._matrix
        return value, m[0] * dx + m[1] * dy, m[2] * dx + m[3] * dy


def render(
    batch: Batch,
    survey: Survey,
    bands: Sequence[str] = tuple(BANDS),
    *,
    roles: Sequence[str] | None = None,
    oversampling: int = 3,
    device: str = "cpu",
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Noiseless stamps of every object, as :func:`lensfind.simulation.engines.torch.render`; CPU only.

    ``device`` is there for the common signature and must be "cpu".
    """
    if device != "cpu":
        raise ValueError(f"lenstronomy runs on the CPU, not on {device}")
    bands, wanted = check_bands(bands), ROLES if roles is None else tuple(roles)
    canvas = Canvas(batch, survey, bands, wanted, oversampling)
    asked = np.isin(batch.lights.role, [ROLES.index(role) for role in wanted])
    one = np.zeros((1, 1), dtype=np.int64)
    with one_thread():
        for light in np.flatnonzero(asked):
            rows = np.array([light])
            shape, deflection = plan.shapes(batch, rows), plan.deflections(batch, rows)
            rays = _Single(batch, int(light), shape)
            canvas.draw(Group(shape, deflection, one, None, rays, torch.float64, torch.device("cpu")), rows)
            canvas.develop()
    return canvas.stamps
