"""How a finder is held while one looks into it: scores, layers, baselines, and nothing left behind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lensfind.errors import LensfindError
from lensfind.finder import LensFinder, probability

__all__ = ["SCORES", "TARGETS", "choice", "default_layer", "find_layer", "score", "sky", "undisturbed"]

SCORES = ("log_odds", "logit", "p_lens")
TARGETS = ("lens", "non_lens")
FINE = 30
"""Cells along a side that a feature map needs for Grad-CAM: 0.67 arcsec each, about an Einstein radius."""


@contextmanager
def undisturbed(finder: LensFinder) -> Iterator[None]:
    """Eval mode (no dropout) and frozen parameters inside; every module's mode and every flag as before outside."""
    modes = [(module, module.training) for module in finder.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in finder.parameters()]
    finder.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def score(logits: Tensor, kind: str = "log_odds", target: str = "lens") -> Tensor:
    """One number (N,) per object from logits (N, 2).

    Args:
        logits: Class 1 = lens.
        kind: ``log_odds`` = logit(target) - logit(other), which does not saturate; ``logit`` = logit(target), as the
            released code; ``p_lens`` = P(target).
        target: ``lens`` or ``non_lens``.

    Raises:
        LensfindError: Another kind or target.
    """
    choice("score", kind, SCORES)
    choice("target", target, TARGETS)
    this, other = (logits[:, 1], logits[:, 0]) if target == "lens" else (logits[:, 0], logits[:, 1])
    if kind == "p_lens":
        p_lens = probability(logits)
        return p_lens if target == "lens" else 1 - p_lens
    return this - other if kind == "log_odds" else this


def choice(key: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of ``allowed``."""
    if value not in allowed:
        raise LensfindError(
            f"{key} to be one of {', '.join(allowed)}", repr(value), f"Set method.NAME.{key}={allowed[0]}."
        )


def find_layer(finder: LensFinder, name: str | None, kind: type[nn.Module] | None = None) -> tuple[str, nn.Module]:
    """A layer of the network by its name in ``finder.net`` (``layer.20``), with that name; None: the default.

    Args:
        finder: Any finder.
        name: As in the state dict; None takes :func:`default_layer`.
        kind: What it must be, e.g. ``nn.Conv2d``.

    Raises:
        LensfindError: No layer of that name or kind; the message lists those there are.
    """
    layers = {key: module for key, module in finder.net.named_modules() if key and not list(module.children())}
    name = default_layer(finder) if name is None else name
    fitting = {key: m for key, m in layers.items() if kind is None or isinstance(m, kind)}
    if name not in fitting:
        names = ", ".join(f"{key} ({type(module).__name__})" for key, module in fitting.items())
        raise LensfindError(
            f"a layer of {finder.name}: {names or 'it has none of this kind'}",
            repr(name),
            "Choose one with method.NAME.layer=layer.N.",
        )
    return name, fitting[name]


@torch.no_grad()
def default_layer(finder: LensFinder) -> str:
    """Name of the deepest ReLU of the body whose map still has 30 x 30 cells (OU-66 ``layer.5``, OU-200 ``layer.9``).

    Cells of deeper maps are too large to tell an arc from its galaxy. A network without so large a map gives the ReLU
    with the largest one.

    Raises:
        LensfindError: The body has no ReLU module.
    """
    body = getattr(finder.net, "layer", None)
    sides: dict[str, int] = {}
    if isinstance(body, nn.Sequential):
        parameter = next(finder.net.parameters())
        x = torch.zeros(1, len(finder.bands), finder.net.size, finder.net.size).to(parameter)
        with undisturbed(finder):
            for key, module in body.named_children():
                x = module(x)
                if isinstance(module, nn.ReLU):
                    sides[f"layer.{key}"] = x.shape[-1]
    if not sides:
        raise LensfindError(
            "a network with nn.ReLU modules in its body", type(finder.net).__name__, "Name a layer: method.NAME.layer=."
        )
    fine = [name for name, side in sides.items() if side >= FINE]
    return fine[-1] if fine else max(sides, key=lambda name: sides[name])


def sky(images: Tensor) -> Tensor:
    """Sky level (N, C, 1, 1) of images (N, C, n, n): the median of the outer tenth of the stamp on all sides."""
    n = images.shape[-1]
    edge = max(n // 10, 1)
    frame = torch.ones(n, n, dtype=torch.bool, device=images.device)
    frame[edge:-edge, edge:-edge] = False
    return images[..., frame].median(dim=-1).values[..., None, None]
