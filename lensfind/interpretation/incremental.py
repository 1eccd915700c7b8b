"""Logits of one image with a small square covered, computed only where the square changes anything."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lensfind.finder import LensFinder
from lensfind.nets import LensNet

__all__ = ["Incremental"]


class Incremental:
    """The network on copies of one image that differ in a square each; exact, up to rounding.

    The first layers of OU-66 and OU-200 take nearly all the time, and there a 4 x 4 square changes a few cells of the
    map only. So the body is cut in two: its first part runs on crops around the squares, whose results are pasted into
    the map of the whole image, and the second part runs on that. The cut is where it saves most: OU-200 does 36 of 659
    million multiply-adds per square, OU-66 24 of 74.

    Args:
        finder: In eval mode. A network that is no ``LensNet`` is computed in full.
        image: Preprocessed (C, S, S).
        window: Side of the square in pixels.
        level: (C,) what the square is filled with.
        channels: Channels that it covers.
    """

    def __init__(self, finder: LensFinder, image: Tensor, window: int, level: Tensor, channels: Sequence[int]) -> None:
        self.finder, self.image, self.window = finder, image, window
        self.channels, self.level = list(channels), level[list(channels)][:, None, None]
        self.cut, self.stride, self.field, self.cells = _cut(finder.net, window, len(image))
        if self.cut:
            self.map = finder.net.layer[: self.cut](image[None].contiguous(memory_format=torch.channels_last))

    def __call__(self, corners: Sequence[tuple[int, int]]) -> Tensor:
        """Logits (K, 2) for squares with the given first (row, column)."""
        if not self.cut:
            covered = self.image.repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
            for k, (row, column) in enumerate(corners):
                covered[k, self.channels, row : row + self.window, column : column + self.window] = self.level
            return self.finder.forward(covered)
        net, side = self.finder.net, self.map.shape[-1]
        crop = self.stride * (self.cells - 1) + self.field
        # Cell j sees the pixels [stride * j, stride * j + field): the first that sees the square, and `cells` from it.
        firsts = [
            tuple(min(max(-(-(a - self.field + 1) // self.stride), 0), side - self.cells) for a in corner)
            for corner in corners
        ]
        crops = torch.empty(len(corners), len(self.image), crop, crop, dtype=self.image.dtype, device=self.image.device)
        crops = crops.contiguous(memory_format=torch.channels_last)
        for k, ((row, column), (i, j)) in enumerate(zip(corners, firsts, strict=True)):
            top, left = i * self.stride, j * self.stride
            crops[k] = self.image[:, top : top + crop, left : left + crop]
            rows, columns = (slice(max(a - b, 0), max(a - b + self.window, 0)) for a, b in ((row, top), (column, left)))
            crops[k, self.channels, rows, columns] = self.level
        pieces = net.layer[: self.cut](crops)
        maps = self.map.repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        for k, (i, j) in enumerate(firsts):
            maps[k, :, i : i + self.cells, j : j + self.cells] = pieces[k]
        logits: Tensor = net.fc_layer(net.layer[self.cut :](maps).flatten(1))
        return logits


def _cut(net: nn.Module, window: int, channels: int) -> tuple[int, int, int, int]:
    """Modules before the cut, their stride and field of view in pixels, and cells that a square can change.

    Of all cuts the one with the fewest multiply-adds per square; 0 modules if no cut saves any.
    """
    if not isinstance(net, LensNet):
        return 0, 1, 1, 1
    best, chosen = _work(list(net.layer), net.size, channels), (0, 1, 1, 1)
    stride, field, side = 1, 1, net.size
    modules = list(net.layer)
    for number, module in enumerate(modules, start=1):
        if isinstance(module, nn.Conv2d):
            field, side = field + (module.kernel_size[0] - 1) * stride, side - module.kernel_size[0] + 1
        elif isinstance(module, nn.MaxPool2d):
            field, stride, side = field + stride, 2 * stride, side // 2
        cells = (window + field - 2) // stride + 1
        if cells > side:
            break
        crop = stride * (cells - 1) + field
        width = next((m.out_channels for m in reversed(modules[:number]) if isinstance(m, nn.Conv2d)), channels)
        work = _work(modules[:number], crop, channels) + _work(modules[number:], side, width)
        if work < best:
            best, chosen = work, (number, stride, field, cells)
    return chosen


def _work(modules: Sequence[nn.Module], side: int, channels: int) -> int:
    """Multiply-adds of a row of layers on a square input."""
    work = 0
    for module in modules:
        if isinstance(module, nn.Conv2d):
            side -= module.kernel_size[0] - 1
            work += side * side * channels * module.out_channels * module.kernel_size[0] ** 2
            channels = module.out_channels
        elif isinstance(module, nn.MaxPool2d):
            side //= 2
    return work
