"""Logits of one image with a small square covered, computed only where the square changes anything."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lensfind.finder import LensFinder
from lensfind.nets import LensNet

__all__ = ["Incremental"]


class Incremental:
    """The network on copies of one image that differ in a square each; exact, up to rounding.

    A 4 x 4 square changes a few cells of the first maps only, and these take nearly all the time. So the maps of the
    whole image are kept; behind each layer only the cells that the square can reach are computed, with their
    surroundings out of the kept map, until computing the rest in full is cheaper. Multiply-adds per square: OU-200
    7 instead of 659 million, OU-66 9 instead of 74 (benchmarks/interpret.py has the seconds).

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
        self.cut = _cut(finder.net, window, len(image))
        x = image[None].contiguous(memory_format=torch.channels_last)
        self.maps = [x]
        if self.cut:
            for module in list(finder.net.layer)[: self.cut]:
                self.maps.append(module(self.maps[-1]))

    def __call__(self, corners: Sequence[tuple[int, int]]) -> Tensor:
        """Logits (K, 2) for squares with the given first (row, column)."""
        if not self.cut:
            covered = self.image.repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
            for k, (row, column) in enumerate(corners):
                covered[k, self.channels, row : row + self.window, column : column + self.window] = self.level
            return self.finder.forward(covered)
        net, size = self.finder.net, self.image.shape[-1]
        # A square cut at the edge is the square that begins within the stamp, with its first cells as they were.
        wanted = torch.tensor(corners, device=self.image.device)
        first = wanted.clamp(0, size - self.window)
        cells = _surroundings(self.maps[0], first, self.window)
        inside = (first[:, :, None] + torch.arange(self.window, device=first.device)) >= wanted[:, :, None]
        square = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
        cells[:, self.channels] = torch.where(square, self.level.to(cells), cells[:, self.channels])
        for kept, module in zip(self.maps, list(net.layer)[: self.cut], strict=False):
            if isinstance(module, nn.Conv2d | nn.MaxPool2d):
                first, cells = _through(module, kept, first, cells)
            else:
                cells = module(cells)
        whole = self.maps[-1].repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        logits: Tensor = net.fc_layer(net.layer[self.cut :](_paste(whole, first, cells)).flatten(1))
        return logits


def _through(module: nn.Module, kept: Tensor, first: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Behind a convolution or pool: first (row, column) (K, 2) and values of the cells that can have changed."""
    side_in, changed = kept.shape[-1], cells.shape[-1]
    if isinstance(module, nn.Conv2d):
        kernel = module.kernel_size[0]
        side = side_in - kernel + 1
        count = min(changed + kernel - 1, side)
        out = (first - kernel + 1).clamp(0, side - count)
        start, crop = out, count + kernel - 1
    else:
        side = side_in // 2
        count = min(changed // 2 + 1, side)
        out = (first // 2).clamp(0, side - count)
        start, crop = 2 * out, 2 * count
    around = _paste(_surroundings(kept, start, crop), first - start, cells)
    return out, module(around)


def _surroundings(kept: Tensor, start: Tensor, side: int) -> Tensor:
    """Squares (K, C, side, side) of the kept map (1, C, S, S), first cells at start (K, 2); channels last in memory."""
    steps = torch.arange(side, device=kept.device)
    rows, columns = start[:, :1] + steps, start[:, 1:] + steps
    squares = kept[0].permute(1, 2, 0)[rows[:, :, None], columns[:, None, :]]
    return squares.permute(0, 3, 1, 2)


def _paste(onto: Tensor, first: Tensor, cells: Tensor) -> Tensor:
    """``onto`` (K, C, n, n) with the cells (K, C, m, m) at first (K, 2); what lies beyond its edge is dropped.

    That happens where a pool leaves out the last row of a map with an odd side.
    """
    n, m = onto.shape[-1], cells.shape[-1]
    steps = torch.arange(m, device=onto.device)
    rows, columns = (first[:, k, None] + steps for k in (0, 1))
    number = torch.arange(len(onto), device=onto.device)[:, None, None]
    there, new = onto.permute(0, 2, 3, 1), cells.permute(0, 2, 3, 1)
    if int(first.max()) + m <= n:
        there[number, rows[:, :, None], columns[:, None, :]] = new
    else:
        fits = (rows < n)[:, :, None] & (columns < n)[:, None, :]
        k, i, j = fits.nonzero(as_tuple=True)
        there[k, rows[k, i], columns[k, j]] = new[k, i, j]
    return onto


def _cut(net: nn.Module, window: int, channels: int) -> int:
    """Modules of the body to compute locally: the number with the fewest multiply-adds per square."""
    if not isinstance(net, LensNet):
        return 0
    modules = list(net.layer)
    best, cut = _work(modules, net.size, channels), 0
    local, side, changed, width = 0, net.size, window, channels
    for number, module in enumerate(modules, start=1):
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0]
            side -= kernel - 1
            changed = min(changed + kernel - 1, side)
            local += changed**2 * width * module.out_channels * kernel**2
            width = module.out_channels
        elif isinstance(module, nn.MaxPool2d):
            side //= 2
            changed = min(changed // 2 + 1, side)
        if local + _work(modules[number:], side, width) < best:
            best, cut = local + _work(modules[number:], side, width), number
    return cut


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
