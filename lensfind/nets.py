"""OU-66 and OU-200, the two architectures of Wilde et al. 2022 (MNRAS 512, 3464), as plain ``nn.Module``s.

A network is a row of convolution blocks and a two-layer head, both read from one table. Parameter names
(``layer.N.*``, ``fc_layer.N.*``) and order are those of the published state dicts, so that weights can be exchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ARCHITECTURES", "OU66", "OU200", "Architecture", "Dropout", "LensNet"]


@dataclass(frozen=True)
class Architecture:
    """Table of one network: input side in pixels, ``(channels, kernel, pool)`` of each block, width of the head."""

    size: int
    blocks: tuple[tuple[int, int, bool], ...]
    hidden: int


# Wilde et al. 2022, section 3. Convolutions are valid (no padding); pool means a 2x2 maximum.
ARCHITECTURES: Mapping[str, Architecture] = {
    "ou66": Architecture(
        size=66,
        blocks=(
            (50, 3, True),
            (50, 3, False),
            (50, 3, False),
            (50, 3, False),
            (40, 3, True),
            (40, 3, False),
            (40, 3, False),
            (40, 3, False),
            (30, 3, True),
        ),
        hidden=500,
    ),
    "ou200": Architecture(
        size=200,
        blocks=((50, 5, True), (40, 5, True), (30, 3, True), (20, 3, True), (20, 3, False), (20, 3, False)),
        hidden=350,
    ),
}


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose mask on a CPU is cut from 64-bit random integers, four elements from each.

    The Bernoulli mask of torch takes half of a bf16 training step on a CPU (``benchmarks/train.py`` measures it).
    The probability is rounded to a multiple of 1/65536; draws come from torch's default generator as usual.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Input of any shape; the same shape and dtype."""
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        if not self.training or self.p == 0.0 or x.device.type != "cpu" or not (channels_last or x.is_contiguous()):
            return super().forward(x)
        drop = min(round(self.p * 65536), 65535)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.int16)[: x.numel()] >= drop - 32768
        # No order is meant in the mask, so it simply takes the memory layout of x.
        return x * keep.as_strided(x.shape, x.stride()) * (65536 / (65536 - drop))


class LensNet(nn.Module):
    """A network of :data:`ARCHITECTURES`.

    Args:
        architecture: Key of :data:`ARCHITECTURES`.
        bands: Number of input channels.
        dropout: Probability after every block.

    Shape: input ``(N, bands, size, size)``, float, every image min-max scaled to [0, 1]; output ``(N, 2)`` logits,
    class 1 = lens.
    """

    def __init__(self, architecture: str, bands: int, dropout: float = 0.2) -> None:
        super().__init__()
        table = ARCHITECTURES[architecture]
        self.size = table.size
        blocks: list[nn.Module] = []
        channels, side = bands, table.size
        for width, kernel, pool in table.blocks:
            blocks += [nn.Conv2d(channels, width, kernel), nn.ReLU()]
            channels, side = width, side - kernel + 1
            if pool:
                blocks.append(nn.MaxPool2d(2))
                side //= 2
            blocks.append(Dropout(dropout))
        self.layer = nn.Sequential(*blocks)
        self.fc_layer = nn.Sequential(
            nn.Linear(channels * side * side, table.hidden), nn.ReLU(), nn.Linear(table.hidden, 2)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 2)`` of images ``(N, bands, size, size)``."""
        logits: Tensor = self.fc_layer(self.layer(x).flatten(1))
        return logits


class OU66(LensNet):
    """OU-66 (OU-J, OU-Y, OU-H, OU-JYH, OU-66 of the paper): nine 3x3 convolutions on 66 x 66 pixels.

    >>> sum(p.numel() for p in OU66(bands=4).parameters())
    203192
    """

    def __init__(self, bands: int, dropout: float = 0.2) -> None:
        super().__init__("ou66", bands, dropout)


class OU200(LensNet):
    """OU-200 (OU-VIS, OU-200 of the paper): six convolutions on 200 x 200 pixels.

    >>> sum(p.numel() for p in OU200(bands=1).parameters())
    327882
    """

    def __init__(self, bands: int, dropout: float = 0.2) -> None:
        super().__init__("ou200", bands, dropout)
