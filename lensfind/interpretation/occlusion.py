"""Occlusion maps (Zeiler & Fergus 2014, ECCV; as used by Wilde et al. 2022, MNRAS 512, 3464)."""

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from lensfind.errors import LensfindError
from lensfind.finder import LensFinder, Stamps, probability

__all__ = ["WINDOW", "occlusion"]

WINDOW = {"ou66": 1, "ou200": 4}
"""Side of the zero square in network pixels, in the paper; its stride is the same."""


@torch.no_grad()
def occlusion(
    finder: LensFinder,
    stamps: Stamps,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> NDArray[np.float32]:
    """P(lens | occluded) - P(lens) for a zero square that slides over all bands at once, in network pixels.

    Negative where the covered pixels speak for a lens, positive where they speak against it. The square covers the
    preprocessed image, so the min-max scaling stays that of the whole stamp. Square number k of an axis starts at pixel
    ``k * stride``; the last one is cut at the edge if the stride does not divide the rest.

    Args:
        finder: Any finder; it is used in eval mode and left as it was.
        stamps: Native stamps ``{band: (N, n, n)}`` in electron/s.
        window: Side of the square in network pixels; None takes the paper's (OU-66 1, OU-200 4).
        stride: Network pixels from square to square, at most ``window``, so that no pixel is left out;
            None takes ``window``.
        batch_size: Occluded images that pass through the network at once.
        progress: Show a progress bar.

    Returns:
        float32 (N, k, k), k = ceil((size - window) / stride) + 1: 50 for OU-200, 66 for OU-66 unless set otherwise.

    Raises:
        LensfindError: window, stride or batch_size do not fit; or see :meth:`LensFinder.preprocess`.
    """
    size = finder.net.size
    window = WINDOW[finder.hparams["architecture"]] if window is None else window
    if type(window) is not int or not 1 <= window <= size:
        raise LensfindError(f"a window of 1 to {size} network pixels", repr(window), "Set method.window=4, or null.")
    stride = window if stride is None else stride
    if type(stride) is not int or not 1 <= stride <= window:
        raise LensfindError(
            f"a stride of 1 to {window} (the window), which leaves no pixel out",
            repr(stride),
            "Set method.stride=null.",
        )
    if type(batch_size) is not int or batch_size < 1:
        raise LensfindError("a batch size of 1 or more", repr(batch_size), "Set batch_size=64.")
    starts = [k * stride for k in range(-(-(size - window) // stride) + 1)]
    corners = list(product(starts, starts))
    training = finder.training
    finder.eval()
    try:
        images = finder.preprocess(stamps)
        maps = [
            _one_map(finder, image, corners, window, batch_size)
            for image in track(images, "occlusion maps", total=len(images), disable=not progress)
        ]
    finally:
        finder.train(training)
    return torch.stack(maps).reshape(len(maps), len(starts), len(starts)).numpy()


def _one_map(finder: LensFinder, image: Tensor, corners: list[tuple[int, int]], window: int, batch_size: int) -> Tensor:
    """Map (len(corners),), float32 on the CPU, of one preprocessed image (C, S, S).

    Not captum's Occlusion: it gives every pixel the mean over the squares that cover it (here one value per square is
    wanted), and its full-size masks cost 11 s of CPU per OU-200 map, which alone doubles the time. The tests hold this
    loop against captum where the two define the same.
    """
    batch_size = min(batch_size, len(corners))
    canvas = image.expand(batch_size, *image.shape).contiguous(memory_format=torch.channels_last)
    whole = probability(finder.forward(canvas[:1]))
    differences = []
    for first in range(0, len(corners), batch_size):
        squares = corners[first : first + batch_size]
        for k, (row, column) in enumerate(squares):
            canvas[k, :, row : row + window, column : column + window] = 0
        differences.append(probability(finder.forward(canvas[: len(squares)])) - whole)
        for k, (row, column) in enumerate(squares):
            square = np.s_[:, row : row + window, column : column + window]
            canvas[k][square] = image[square]
    return torch.cat(differences).float().cpu()
