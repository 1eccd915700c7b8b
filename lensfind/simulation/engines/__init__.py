"""Two engines behind one signature: noiseless planes of a batch, by batched torch or by lenstronomy.

Both sample the same cells (:mod:`.sampling`) through the same PSF and pixels (:mod:`.canvas`); what differs is who
traces the rays and evaluates the light, and in which precision.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfind.errors import LensfindError

__all__ = ["ENGINES", "Engine", "check_engine", "get_engine"]

Engine = Callable[..., Mapping[str, Mapping[str, NDArray[np.float32]]]]
"""``render(batch, survey, bands, *, roles=None, oversampling=3, device="cpu")`` -> role -> band -> (N, n, n) float32,
noiseless electron/s in native pixels; only the roles and bands asked for."""

ENGINES = ("torch", "lenstronomy")


def check_engine(name: Any, **options: Any) -> None:
    """Check an engine's name and options, but not whether its device is there.

    Raises:
        LensfindError: No such engine, device or oversampling, or another option.
    """
    if name not in ENGINES:
        raise LensfindError(f"engine.name out of {', '.join(ENGINES)}", str(name), "Set engine=torch.")
    for key in set(options) - {"device", "oversampling"}:
        raise LensfindError("an engine with the keys device, name, oversampling", key, f"Remove engine.{key}.")
    device, cells = options.get("device", "cpu"), options.get("oversampling", 3)
    devices = "cpu" if name == "lenstronomy" else r"cpu|cuda(:\d+)?"
    if not isinstance(device, str) or not re.fullmatch(devices, device):
        wanted = "cpu, the only one of lenstronomy" if name == "lenstronomy" else "cpu, cuda or cuda:N"
        raise LensfindError(f"engine.device {wanted}", str(device), "Set engine.device=cpu.")
    if not isinstance(cells, int) or cells not in (1, 3, 9) or cells is True:
        raise LensfindError("engine.oversampling 1, 3 or 9", repr(cells), "Set engine.oversampling=3.")


def get_engine(name: str, **options: Any) -> Engine:
    """The ``render`` of an engine, with ``options`` (``oversampling``, ``device``) set.

    Raises:
        LensfindError: See :func:`check_engine`; or its device is not there.
    """
    check_engine(name, **options)
    if name == "torch":
        import torch

        device = torch.device(options.get("device", "cpu"))
        if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
            raise LensfindError(
                f"the GPU of engine.device={device}",
                f"{torch.cuda.device_count()} that torch can use",
                "Set engine.device=cpu.",
            )
        from lensfind.simulation.engines.torch import render
    else:
        from lensfind.simulation.engines.lenstronomy import render
    return partial(render, **options) if options else render
