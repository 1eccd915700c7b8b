"""Detect: what of a lens can be seen, measured on noiseless images; the columns that label rules are made of."""

import numpy as np
from lenstronomy.LensModel.Solver.lens_equation_solver import LensEquationSolver
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.simulation.instrument import Survey
from lensfind.simulation.population import Galaxies
from lensfind.simulation.render import lens_kwargs, lens_model
from lensfind.simulation.scene import Mass

__all__ = ["detectability", "image_count"]


def image_count(mass: Mass, source: Galaxies) -> int:
    """Number of images of the source's centre (1, 2 or 4; the SIE's central image has no flux).

    The lens equation of SIE and shear solved by lenstronomy's analytical solver, which finds no image
    of a source exactly on the axis of an ellipse without other shear; random sources never are.
    """
    if mass.e1 == mass.e2 == mass.gamma1 == mass.gamma2 == 0:  # the solver's quartic degenerates for a sphere
        return 2 if np.hypot(source.x[0], source.y[0]) < mass.theta_e else 1
    x, _ = LensEquationSolver(lens_model()).image_position_from_source(
        source.x[0], source.y[0], lens_kwargs(mass), solver="analytical"
    )
    return len(x)


def detectability(
    arc: NDArray[np.float32], centre: NDArray[np.float32], survey: Survey, source_flux: float
) -> dict[str, float]:
    """Visibility of the lensed light in VIS.

    Args:
        arc: Noiseless VIS image of the lensed source alone, electron/s.
        centre: The same of the deflector's light.
        survey: Its VIS noise is the measure.
        source_flux: Unlensed source, electron/s.

    Returns:
        ``mag_eff``: lensed over unlensed flux. ``n_pix_source``: pixels in which the arc is above 1 sigma of the blank
        noise. ``arc_snr``: over those pixels, sum of the arc over its noise, which includes the photons of deflector
        and arc (as Collett 2015). ``contrast``: over those pixels, arc over arc + deflector light.
    """
    vis, band = survey.bands["VIS"], BANDS["VIS"]
    sigma = vis.sigma(band)
    seen = arc > sigma
    signal, other = float(arc[seen].sum(dtype=np.float64)), float(centre[seen].sum(dtype=np.float64))
    variance = seen.sum() * sigma**2 + vis.noise_scale(band) ** 2 * (signal + other) / vis.time
    return {
        "mag_eff": float(arc.sum(dtype=np.float64)) / source_flux,
        "n_pix_source": int(seen.sum()),
        "arc_snr": signal / float(np.sqrt(variance)) if signal > 0 else 0.0,
        "contrast": signal / (signal + other) if signal > 0 else 0.0,
    }
