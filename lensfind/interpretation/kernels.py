"""Kernels: the weights of the first layer, and what every kernel does over a whole data set, streamed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from lensfind.errors import LensfindError
from lensfind.finder import LensFinder, Stamps
from lensfind.interpretation.probe import undisturbed

__all__ = ["KernelStatistics", "channel_means", "kernel_activation", "kernels"]


def kernels(finder: LensFinder) -> NDArray[np.float32]:
    """The first convolution's weights (kernel, band, k, k), bands in the order of ``finder.bands``.

    Raises:
        LensfindError: The network has no convolution.
    """
    first = next((module for module in finder.net.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise LensfindError("a network with a convolution", type(finder.net).__name__, "Choose another checkpoint.")
    weights: NDArray[np.float32] = first.weight.detach().float().cpu().numpy()
    return weights


def _sub_layers(finder: LensFinder) -> list[tuple[str, nn.Module]]:
    found = []
    for part in ("layer", "fc_layer"):
        modules = getattr(finder.net, part, None)
        if not isinstance(modules, nn.Sequential):
            raise LensfindError(
                "a network with a body `layer` and a head `fc_layer`", type(finder.net).__name__, "Use another method."
            )
        found += [(f"{part}.{key}", module) for key, module in modules.named_children()]
    return found


def _walk(finder: LensFinder, x: Tensor) -> Iterable[tuple[str, Tensor]]:
    """Outputs of the sub-layers one after the other, without hooks; maps (N, K, h, w), vectors as (N, K, 1, 1)."""
    for name, module in _sub_layers(finder):
        if name == "fc_layer.0":
            x = x.flatten(1)
        x = module(x)
        yield name, x if x.dim() == 4 else x[..., None, None]


@torch.no_grad()
def channel_means(finder: LensFinder, stamps: Stamps) -> dict[str, NDArray[np.float32]]:
    """Mean of each channel after every sub-layer, head included (Wilde et al. 2022): sub-layer -> (N, K).

    2,292 values per object for OU-66, 1,382 for OU-200; in eval mode, where dropout does nothing.
    """
    with undisturbed(finder):
        x = finder.preprocess(stamps)
        return {name: maps.mean((2, 3)).float().cpu().numpy() for name, maps in _walk(finder, x)}


@dataclass
class KernelStatistics:
    """Of the kernels of one sub-layer over a data set; arrays (2, K) are for non-lenses and lenses.

    Attributes:
        count: (2,) objects.
        mean: (2, K) of the channel's mean over its map.
        variance: (2, K) of that mean from object to object.
        maximum: (2, K) largest value anywhere.
        active: (2, K) share of the map's cells above zero.
        top_value, top_row: (2, k, K) largest channel means and the catalogue rows that have them.
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    maximum: NDArray[np.float64]
    active: NDArray[np.float64]
    top_value: NDArray[np.float64]
    top_row: NDArray[np.int64]

    @property
    def effect(self) -> NDArray[np.float64]:
        """Cohen's d (K,): lenses minus non-lenses in pooled standard deviations; NaN where there is no spread."""
        freedom = np.maximum(self.count - 1, 0)[:, None]
        pooled = np.sqrt((freedom * self.variance).sum(0) / max(int(freedom.sum()), 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((pooled > 0) & (self.count > 0).all(), (self.mean[1] - self.mean[0]) / pooled, np.nan)


@torch.no_grad()
def kernel_activation(
    finder: LensFinder,
    loader: Iterable[Mapping[str, Any]],
    *,
    top: int = 5,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, KernelStatistics]:
    """Statistics of every channel after every sub-layer, one pass, nothing kept per object.

    Args:
        finder: Any finder; it is left as it was.
        loader: Batches of LensData: ``stamps``, ``label``, ``row``.
        top: Objects with the largest channel mean to remember, per class and kernel.
        batch_size: Stamps of a batch that pass through the network at once.
        progress: Show a progress bar.

    Returns:
        sub-layer -> statistics, in the order of the network.

    Raises:
        LensfindError: No objects, or top or batch_size is not positive.
    """
    if type(top) is not int or top < 1:
        raise LensfindError("top of 1 or more objects", repr(top), "Set method.kernel_activation.top=5.")
    if type(batch_size) is not int or batch_size < 1:
        raise LensfindError(
            "a batch size of 1 or more", repr(batch_size), "Set method.kernel_activation.batch_size=64."
        )
    found: dict[str, KernelStatistics] = {}
    with undisturbed(finder):
        for batch in track(loader, "kernel activation", disable=not progress, transient=True):
            for first in range(0, len(batch["label"]), batch_size):
                part = slice(first, first + batch_size)
                x = finder.preprocess({band: cube[part] for band, cube in batch["stamps"].items()})
                labels, rows = batch["label"][part], batch["row"][part]
                for name, maps in _walk(finder, x):
                    statistics = found.setdefault(name, _empty(maps.shape[1], top))
                    for label in (0, 1):
                        chosen = labels == label
                        if bool(chosen.any()):
                            _add(statistics, label, maps[chosen.to(maps.device)], rows[chosen].numpy())
    if not found:
        raise LensfindError("objects to look at", "an empty selection", "Choose rows=all or another split.")
    for statistics in found.values():
        statistics.variance /= np.maximum(statistics.count - 1, 1)[:, None]
    return found


def _empty(kernels: int, top: int) -> KernelStatistics:
    zero = np.zeros((2, kernels))
    return KernelStatistics(
        np.zeros(2, np.int64),
        zero.copy(),
        zero.copy(),
        np.full((2, kernels), -np.inf),
        zero.copy(),
        np.full((2, top, kernels), -np.inf),
        np.full((2, top, kernels), -1),
    )


def _add(s: KernelStatistics, label: int, maps: Tensor, rows: NDArray[np.int64]) -> None:
    """Add objects (n, K, h, w) of one class; ``variance`` holds the squares' sum (Chan et al. 1983)."""
    means = maps.mean((2, 3)).cpu().double().numpy()
    n, before = len(means), s.count[label]
    both = before + n
    shift = means.mean(0) - s.mean[label]
    s.variance[label] += ((means - means.mean(0)) ** 2).sum(0) + shift**2 * before * n / both
    s.mean[label] += shift * n / both
    active = (maps > 0).float().mean((2, 3)).cpu().double().mean(0).numpy()
    s.active[label] += (active - s.active[label]) * n / both
    s.maximum[label] = np.maximum(s.maximum[label], maps.amax((0, 2, 3)).cpu().double().numpy())
    s.count[label] = both
    values = np.concatenate([s.top_value[label], means])
    names = np.concatenate([s.top_row[label], np.broadcast_to(rows[:, None], means.shape)])
    order = np.argsort(-values, axis=0, kind="stable")[: len(s.top_row[label])]
    s.top_value[label] = np.take_along_axis(values, order, 0)
    s.top_row[label] = np.take_along_axis(names, order, 0)
