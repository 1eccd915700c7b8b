"""Occlusion maps (Zeiler & Fergus 2014, ECCV; as used by Wilde et al. 2022, MNRAS 512, 3464)."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from lensfind.bands import BANDS, check_bands
from lensfind.errors import LensfindError
from lensfind.finder import LensFinder, Stamps, resample
from lensfind.interpretation.incremental import Incremental
from lensfind.interpretation.probe import choice, score, sky, undisturbed

__all__ = ["WINDOW", "occlude", "occlusion", "spread"]

WINDOW = {"ou66": 1, "ou200": 4}
"""Side of the zero square in network pixels, in the paper; its stride is the same."""
_KEY = "method.occlusion"


@torch.no_grad()
def occlusion(
    finder: LensFinder,
    stamps: Stamps,
    *,
    window: int | None = None,
    stride: int | None = None,
    grid: str = "network",
    bands: str | Sequence[str] = "all",
    baseline: str = "zero",
    score: str = "p_lens",
    batch_size: int = 128,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Score(occluded) - score for a square that slides over the stamp; by default the paper's map of P(lens).

    Negative where the covered pixels speak for a lens, positive where they speak against it. The min-max scaling stays
    that of the whole stamp. Square number k of an axis starts at pixel ``k * stride``; the last one is cut at the edge
    if the stride does not divide the rest.

    Args:
        finder: Any finder; it is left as it was.
        stamps: Native stamps ``{band: (N, n, n)}`` in electron/s.
        window: Side of the square in pixels of ``grid``; None takes the paper's (OU-66 1, OU-200 4 network pixels).
        stride: Pixels from square to square, at most ``window``, so that no pixel is left out; None takes ``window``.
        grid: ``network`` covers the network's own input; ``native`` covers the stamps before they are resampled, in
            pixels of the finder's finest band: in other bands those pixels whose centre lies in the square.
        bands: ``all`` bands at once; ``each`` band alone; or a list, covered together.
        baseline: ``zero`` of the scaled image (the darkest pixel, as published) or the stamp's ``sky``.
        score: ``p_lens``, ``log_odds`` (which does not saturate for confident networks) or ``logit``.
        batch_size: Occluded images that pass through the network at once.
        progress: Show a progress bar.

    Returns:
        float32 (N, k, k), k = ceil((size - window) / stride) + 1: 50 for OU-200, 66 for OU-66 unless set otherwise.
        For ``bands="each"`` (N, C, k, k).

    Raises:
        LensfindError: A setting does not fit; or see :meth:`LensFinder.preprocess`.
    """
    choice("grid", grid, ("network", "native"))
    covered = _covered(finder, bands)
    with undisturbed(finder):
        images = finder.preprocess(stamps)
        native = None
        if grid == "native":
            cubes = (stamps[band] for band in finder.bands)
            native = [
                (c if isinstance(c, Tensor) else torch.as_tensor(np.asarray(c, np.float32))).to(images) for c in cubes
            ]
        maps = [
            occlude(
                finder,
                image,
                channels,
                native=None if native is None else [band[number] for band in native],
                window=window,
                stride=stride,
                baseline=baseline,
                score=score,
                batch_size=batch_size,
            )
            for number, channels in track(
                list(product(range(len(images)), covered)), "occlusion maps", disable=not progress
            )
            for image in (images[number],)
        ]
    together = torch.stack(maps).numpy()
    return together.reshape(len(images), len(covered), *together.shape[1:]) if bands == "each" else together


def spread(
    finder: LensFinder, maps: Tensor, *, window: int | None = None, stride: int | None = None, grid: str = "network"
) -> Tensor:
    """Maps of squares on the pixels of ``grid``: in each pixel the mean over the squares that cover it, as captum does.

    Args:
        finder: Whose maps they are.
        maps: float32 (..., k, k), a value per square, of :func:`occlusion` with the same settings.
        window, stride, grid: As for :func:`occlusion`.

    Returns:
        float32 (..., n, n), n pixels a side of ``grid``: of the network, or of the finest of its bands.
    """
    size = finder.net.size if grid == "network" else max(BANDS[band].size for band in finder.bands)
    window, starts = _squares(size, window, stride, WINDOW[finder.hparams["architecture"]])
    pixel, start = torch.arange(size)[:, None], torch.tensor(starts)
    covers = ((start <= pixel) & (pixel < start + window)).to(maps)
    covers /= covers.sum(1, keepdim=True)
    return covers @ maps @ covers.T


def _covered(finder: LensFinder, bands: str | Sequence[str]) -> list[list[int]]:
    """Channels that each map covers."""
    if bands == "each":
        return [[channel] for channel in range(len(finder.bands))]
    if bands == "all":
        return [list(range(len(finder.bands)))]
    chosen = check_bands([bands] if isinstance(bands, str) else bands, offered=finder.bands, by=finder.name)
    return [[finder.bands.index(band) for band in chosen]]


def _squares(size: int, window: int | None, stride: int | None, usual: int) -> tuple[int, list[int]]:
    """Side and first pixels of the squares along one axis."""
    window = usual if window is None else window
    if type(window) is not int or not 1 <= window <= size:
        raise LensfindError(
            f"a window of 1 to {size} pixels of the grid", repr(window), f"Set {_KEY}.window=4, or null."
        )
    stride = window if stride is None else stride
    if type(stride) is not int or not 1 <= stride <= window:
        raise LensfindError(
            f"a stride of 1 to {window} (the window), which leaves no pixel out",
            repr(stride),
            f"Set {_KEY}.stride=null.",
        )
    return window, [k * stride for k in range(-(-(size - window) // stride) + 1)]


def occlude(
    finder: LensFinder,
    image: Tensor,
    channels: Sequence[int],
    *,
    native: Sequence[Tensor] | None = None,
    window: int | None = None,
    stride: int | None = None,
    baseline: str = "zero",
    score: str = "p_lens",
    batch_size: int = 128,
) -> Tensor:
    """Map (k, k), float32 on the CPU, of one preprocessed image (C, S, S); ``native`` are its bands before that.

    Not captum's Occlusion: it gives every pixel the mean over the squares that cover it (here one value per square is
    wanted), its full-size masks cost 11 s of CPU per OU-200 map, and it computes each image in full, where all but
    the surroundings of the square is known (:class:`Incremental`). The tests hold this against captum where the two
    define the same, and against brute force.
    """
    choice("baseline", baseline, ("zero", "sky"))
    if type(batch_size) is not int or batch_size < 1:
        raise LensfindError("a batch size of 1 or more", repr(batch_size), "Set batch_size=64.")
    level = sky(image[None])[0, :, 0, 0] if baseline == "sky" else torch.zeros(len(image)).to(image)
    usual = WINDOW[finder.hparams["architecture"]]
    if native is None:
        window, starts = _squares(finder.net.size, window, stride, usual)
        logits_of: Callable[[Sequence[tuple[int, int]]], Tensor] = Incremental(finder, image, window, level, channels)
    else:
        window, starts = _squares(max(band.shape[-1] for band in native), window, stride, usual)
        logits_of = _native_squares(finder, image, native, window, level, channels)
    corners = list(product(starts, starts))
    # Every square's images lie in memory channels last, which is faster.
    whole = _score(finder.forward(image[None].contiguous(memory_format=torch.channels_last)), score)
    parts = [
        _score(logits_of(corners[first : first + batch_size]), score) - whole
        for first in range(0, len(corners), batch_size)
    ]
    return torch.cat(parts).float().cpu().reshape(len(starts), len(starts))


def _score(logits: Tensor, kind: str) -> Tensor:
    return score(logits, kind)


def _native_squares(
    finder: LensFinder, image: Tensor, native: Sequence[Tensor], window: int, level: Tensor, channels: Sequence[int]
) -> Callable[[Sequence[tuple[int, int]]], Tensor]:
    """Logits of the stamp with squares cut out of its native pixels, scaled as the whole stamp is."""
    low, high = (torch.stack([bound(resample(b[None], finder.net.size)) for b in native]) for bound in (_low, _high))
    fill = level * (high - low) + low
    fine = min(BANDS[band].pixel_scale for band in finder.bands)
    size = max(band.shape[-1] for band in native)

    def inside(start: int, channel: int) -> slice:
        # Pixel p of a band has its centre at (p - (n - 1) / 2) * scale from the stamp's centre, in every band.
        n, ratio = native[channel].shape[-1], fine / BANDS[finder.bands[channel]].pixel_scale
        first, last = ((start + edge - size / 2) * ratio + n / 2 - 0.5 for edge in (0, window))
        return slice(max(int(np.ceil(first - 1e-9)), 0), max(int(np.ceil(last - 1e-9)), 0))

    def logits_of(corners: Sequence[tuple[int, int]]) -> Tensor:
        x = image.repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        for channel in channels:
            covered = native[channel].repeat(len(corners), 1, 1)
            for k, (row, column) in enumerate(corners):
                covered[k, inside(row, channel), inside(column, channel)] = fill[channel]
            scaled = (resample(covered, finder.net.size) - low[channel]) / (high[channel] - low[channel])
            x[:, channel] = scaled
        return finder.forward(x)

    return logits_of


def _low(x: Tensor) -> Tensor:
    return x.amin()


def _high(x: Tensor) -> Tensor:
    return x.amax()
