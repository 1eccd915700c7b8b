"""Training steps per second: the plain way (float32, contiguous, torch's dropout) against ours, in one run.

    python benchmarks/train.py [--model ou66|ou200] [--bands 4] [--batch 100] [--steps 3]

Prints images per second and the ratio to the plain way. No data are needed: the network's time does not depend on them.
"""

import argparse
import time

import torch
from torch import nn

from lensfind.nets import ARCHITECTURES, Dropout, LensNet


def images_per_second(net: LensNet, images: torch.Tensor, steps: int, bf16: bool) -> float:
    """Forward, backward and Adam step, after one step to warm up."""
    net.train()
    optimiser = torch.optim.Adam(net.parameters())
    labels = torch.randint(0, 2, (len(images),))
    start = 0.0
    for step in range(steps + 1):
        if step == 1:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(net(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return steps * len(images) / (time.perf_counter() - start)


def with_torch_dropout(net: LensNet) -> LensNet:
    """The same network with ``nn.Dropout``."""
    for name, module in net.layer.named_children():
        if isinstance(module, Dropout):
            setattr(net.layer, name, nn.Dropout(module.p))
    return net


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=ARCHITECTURES, default="ou66")
    parser.add_argument("--bands", type=int, default=4)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    images = torch.rand(args.batch, args.bands, ARCHITECTURES[args.model].size, ARCHITECTURES[args.model].size)
    last = images.to(memory_format=torch.channels_last)
    ways = {
        "plain: float32, contiguous, torch's dropout": (with_torch_dropout, images, False),
        "float32, channels last, torch's dropout": (with_torch_dropout, last, False),
        "float32, channels last, our dropout (trainer=cpu)": (lambda net: net, last, False),
        "bfloat16, channels last, our dropout (trainer.precision=bf16-mixed)": (lambda net: net, last, True),
    }
    plain = 0.0
    for name, (change, x, bf16) in ways.items():
        rate = images_per_second(change(LensNet(args.model, args.bands)), x, args.steps, bf16)
        plain = plain or rate
        print(f"{rate:8.1f} images/s   {rate / plain:5.2f} x   {name}")


if __name__ == "__main__":
    main()
