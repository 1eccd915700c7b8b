"""Two engines behind one signature: noiseless planes of a batch, by batched torch or by lenstronomy.

Both sample the same cells (:mod:`.sampling`) through the same PSF and pixels (:mod:`.tiles`); what differs is who
traces the rays and evaluates the light, and in which precision.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfind.errors import LensfindError

__all__ = ["ENGINES", "Engine", "get_engine"]

Engine = Callable[..., Mapping[str, Mapping[str, NDArray[np.float32]]]]
"""``render(batch, survey, bands, *, roles=None, oversampling=3, device="cpu")`` -> role -> band -> (N, n, n) float32,
noiseless electron/s in native pixels; only the roles and bands asked for."""

ENGINES = ("torch", "lenstronomy")


def get_engine(name: str, **options: Any) -> Engine:
    """The ``render`` of an engine, with ``options`` (``oversampling``, ``device``) set.

    Raises:
        LensfindError: No such engine.
    """
    if name == "torch":
        from lensfind.simulation.engines.torch import render
    elif name == "lenstronomy":
        from lensfind.simulation.engines.lenstronomy import render
    else:
        raise LensfindError(f"engine.name out of {', '.join(ENGINES)}", str(name), "Set engine=torch.")
    return partial(render, **options) if options else render
