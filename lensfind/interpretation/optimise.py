"""One core for all images that are made by changing pixels until a network answers: class images, dreams, kernels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from lensfind.errors import LensfindError

__all__ = ["PAPER", "Ascent", "Recipe", "optimise", "recipe"]

Objective = Callable[[Tensor], Tensor]
"""Images (N, C, S, S) in [0, 1] -> what is to grow, (N,)."""


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


@dataclass(frozen=True)
class Recipe:
    """How the pixels climb.

    Attributes:
        steps: Updates.
        rate: Step size: of plain gradient ascent, or of Adam.
        optimiser: ``gradient`` (x + rate * gradient, as released) or ``adam``.
        scale: What happens to the image before each gradient. ``band``: every band of every image min-max scaled,
            as in training, the gradient taken through it. ``global``: all of the array by one minimum and maximum, and
            the gradient taken behind it, as released. ``none``.
        jitter: Largest random shift in pixels before each gradient; shifted back for the next.
        flips: Random flips and quarter turns before each gradient.
        tv: Weight of the total variation (mean absolute difference of neighbours).
        distance: Weight of the mean squared distance from the start.
        weight_decay: Of Adam.
        fourier: Climb in Fourier coefficients with 1/frequency amplitudes instead of pixels (Olah et al. 2017,
            Distill): smooth images without a total-variation term.
    """

    steps: int = 100
    rate: float = 0.02
    optimiser: str = "adam"
    scale: str = "band"
    jitter: int = 4
    flips: bool = True
    tv: float = 200.0
    distance: float = 0.0
    weight_decay: float = 0.0
    fourier: bool = False

    def __post_init__(self) -> None:
        wrong = [
            (key, getattr(self, key))
            for key, good in (
                ("steps", type(self.steps) is int and self.steps >= 1),
                ("rate", _number(self.rate) and self.rate > 0),
                ("optimiser", self.optimiser in ("adam", "gradient")),
                ("scale", self.scale in ("band", "global", "none")),
                ("jitter", type(self.jitter) is int and self.jitter >= 0),
                ("flips", type(self.flips) is bool),
                ("tv", _number(self.tv) and self.tv >= 0),
                ("distance", _number(self.distance) and self.distance >= 0),
                ("weight_decay", _number(self.weight_decay) and self.weight_decay >= 0),
                ("fourier", type(self.fourier) is bool),
            )
            if not good
        ]
        if wrong:
            key, value = wrong[0]
            raise LensfindError(
                "steps >= 1, rate > 0, optimiser adam|gradient, scale band|global|none, jitter and weights >= 0",
                f"{key}={value!r}",
                f"Set method.NAME.{key}, or recipe=default without it.",
            )


PAPER = Recipe(steps=99, rate=0.1, optimiser="gradient", scale="global", jitter=0, flips=False, tv=0.0)
"""Wilde et al. 2022: min-max of the whole array, x <- clip(x + 0.1 * d logit / dx, 0, 1)."""


def recipe(base: Recipe, **changes: Any) -> Recipe:
    """``base`` with those settings that are not None."""
    return replace(base, **{key: value for key, value in changes.items() if value is not None})


@dataclass(frozen=True)
class Ascent:
    """What came out: the last images and how they got there.

    Attributes:
        images: (N, C, S, S) float32 in [0, 1], scaled as the recipe says.
        frames: (F, N, C, S, S) float32: the start, every ``every``-th step, and the last.
        steps: (F,) step of each frame, from 0.
        objective: (T, N) what grew, at every step before its update.
    """

    images: NDArray[np.float32]
    frames: NDArray[np.float32]
    steps: NDArray[np.int64]
    objective: NDArray[np.float64]


def optimise(
    objective: Objective,
    start: Tensor,
    recipe: Recipe,
    *,
    seed: int = 0,
    every: int = 10,
    progress: str = "",
) -> Ascent:
    """Change images until ``objective`` is large.

    The images of a batch do not touch each other (except under ``scale="global"`` with more than one image, where the
    released rule takes one minimum and maximum *per image* here), so that a batch equals single runs.

    Args:
        objective: Called with gradients enabled; must not depend on other images of the batch.
        start: (N, C, S, S) in [0, 1].
        recipe: How.
        seed: Of jitter and flips: image k draws from (seed, k).
        every: Steps from frame to frame.
        progress: Text of a progress bar; empty for none.

    Raises:
        LensfindError: The objective became NaN or infinite, or nothing in the start changes it.
    """
    if type(every) is not int or every < 1 or type(seed) is not int or seed < 0:
        raise LensfindError(
            "every of 1 or more steps and a seed >= 0", f"every={every!r}, seed={seed!r}", "Set every=10 seed=0."
        )
    draws = [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(k,))) for k in range(len(start))]
    start = start.detach().float()
    free = (_to_fourier(start) if recipe.fourier else start.clone()).requires_grad_()
    adam = torch.optim.Adam([free], lr=recipe.rate, weight_decay=recipe.weight_decay)
    kept: dict[int, Tensor] = {}
    history = []
    for step in track(range(recipe.steps + 1), progress, disable=not progress, transient=True):
        if recipe.scale == "global":
            with torch.no_grad():
                free.copy_(_min_max(free, (1, 2, 3)))
        images = _images(free, recipe, start.shape[-1])
        if step % every == 0 or step == recipe.steps:
            kept[step] = images.detach().clone()
        if step == recipe.steps:
            break
        value = objective(_augment(images, recipe, draws))
        if not bool(torch.isfinite(value).all()):
            raise LensfindError(
                "a finite objective", f"NaN or infinity at step {step}", "Lower the rate, or check the weights."
            )
        history.append(value.detach().cpu().double())
        cost = -value.sum() + recipe.tv * _variation(images).sum()
        if recipe.distance:
            cost = cost + recipe.distance * ((images - start) ** 2).mean((1, 2, 3)).sum()
        (slope,) = torch.autograd.grad(value.sum() if step == 0 else cost, free, retain_graph=step == 0)
        if step == 0:
            if not bool(slope.any()):
                raise LensfindError(
                    "a start from which the score can climb",
                    "gradients of exactly zero (no ReLU behind it answers)",
                    "Try another seed, or start=FILE.npy; the paper's noise is smooth.",
                )
            (slope,) = torch.autograd.grad(cost, free)
        if recipe.optimiser == "gradient":
            with torch.no_grad():
                free.copy_(
                    (free - recipe.rate * slope).clamp(0, 1) if not recipe.fourier else free - recipe.rate * slope
                )
        else:
            free.grad = slope
            adam.step()
            if not recipe.fourier and recipe.scale == "none":
                with torch.no_grad():
                    free.clamp_(0, 1)
    frames = torch.stack(list(kept.values())).cpu().numpy()
    return Ascent(frames[-1], frames, np.array(list(kept)), torch.stack(history).numpy())


def _images(free: Tensor, recipe: Recipe, size: int) -> Tensor:
    x = _from_fourier(free, size) if recipe.fourier else free
    return _min_max(x, (2, 3)) if recipe.scale == "band" else x


def _min_max(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-12)


def _augment(images: Tensor, recipe: Recipe, draws: list[np.random.Generator]) -> Tensor:
    if not recipe.jitter and not recipe.flips:
        return images
    moved = []
    for image, rng in zip(images, draws, strict=True):
        if recipe.jitter:
            down, right = rng.integers(-recipe.jitter, recipe.jitter + 1, 2)
            image = image.roll((int(down), int(right)), (1, 2))
        if recipe.flips:
            image = torch.rot90(image, int(rng.integers(4)), (1, 2))
            image = image.flip(2) if rng.integers(2) else image
        moved.append(image)
    return torch.stack(moved)


def _variation(images: Tensor) -> Tensor:
    return images.diff(dim=2).abs().mean((1, 2, 3)) + images.diff(dim=3).abs().mean((1, 2, 3))


def _amplitudes(size: int, device: torch.device) -> Tensor:
    rows, columns = torch.fft.fftfreq(size, device=device), torch.fft.rfftfreq(size, device=device)
    frequency: Tensor = (rows[:, None] ** 2 + columns[None] ** 2).sqrt()
    return 1 / frequency.clamp_min(1 / size) / size


def _to_fourier(images: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(images, norm="ortho")
    return torch.view_as_real(spectrum / _amplitudes(images.shape[-1], images.device))


def _from_fourier(free: Tensor, size: int) -> Tensor:
    spectrum = torch.view_as_complex(free.contiguous()) * _amplitudes(size, free.device)
    images: Tensor = torch.fft.irfft2(spectrum, s=(size, size), norm="ortho")
    return images
