"""Exposures: noiseless light to noisy stamps, every object's noise from its own address."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lensfind.bands import BANDS
from lensfind.simulation.draws import generator
from lensfind.simulation.instrument import BandSurvey
from lensfind.simulation.scenario import Scenario

__all__ = ["LIGHT", "expose", "sum_of"]

Image = NDArray[np.float32]

LIGHT: Mapping[str, tuple[str, ...]] = {"base": ("lens", "middle", "field"), "arc": ("source", "source2")}
"""What a twin keeps, and what it lacks, by the engine's roles."""


def sum_of(planes: Mapping[str, Mapping[str, Image]], light: str, band: str) -> Image:
    """The planes of :data:`LIGHT` ``light`` together, in an order that decides the last bit."""
    first, *others = (planes[role][band] for role in LIGHT[light])
    for other in others:
        first = first + other
    return first


def expose(
    seed: int,
    scenario: Scenario,
    origin: int,
    band: str,
    one: BandSurvey,
    base: Image,
    arc: Image | None,
    like: Image | None = None,
    noise: float = 1.0,
    keep: NDArray[np.bool_] | None = None,
) -> Image:
    """One noisy stamp from its light without and with the arc.

    Photons of the arc are a Poisson process of their own: so a twin keeps all other noise of its lens.

    Args:
        seed, scenario, origin: The address.
        band, one: Name and survey of the band.
        base, arc: (n, n) noiseless electron/s; an arc of None is a twin's.
        like, noise: Of :meth:`BandSurvey.expose`; ``noise`` also multiplies that of the arc.
        keep: (n, n), where the arc is seen; None: everywhere.
    """
    k = list(BANDS).index(band)
    rng = generator(seed, scenario.number, origin, 3, k)
    stamp = one.expose(base, BANDS[band], rng, noise=noise, like=like)
    if arc is not None and arc.any():
        electrons = np.maximum(arc, 0).astype(np.float64) * one.time
        counts = generator(seed, scenario.number, origin, 4, k).poisson(electrons) - electrons
        seen = arc + (noise * one.noise_scale(BANDS[band]) * counts / one.time).astype(np.float32)
        stamp += seen if keep is None else np.where(keep, seen, np.float32(0))
    return stamp
