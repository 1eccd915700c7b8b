"""Images that a network makes: class images, deep dreams, kernel images; and what other networks say of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lensfind.errors import LensfindError
from lensfind.finder import LensFinder, Stamps, probability, resample
from lensfind.interpretation.optimise import PAPER, Ascent, Recipe, optimise, recipe
from lensfind.interpretation.probe import choice, find_layer, score, undisturbed

__all__ = ["class_image", "deep_dream", "field_of_view", "kernel_image", "transfer"]

RECIPES = ("default", "paper")
_CLASS = Recipe()
_DREAM = Recipe(steps=60, rate=0.003, jitter=2, flips=False, tv=50.0, distance=10000.0)
_KERNEL = Recipe(steps=64, rate=0.05, flips=False, tv=0.02)  # flips would blur oriented kernels
_KERNEL_PAPER = Recipe(steps=50, rate=0.1, scale="none", jitter=0, flips=False, tv=0.0, weight_decay=1e-6)


def class_image(
    finder: LensFinder,
    *,
    target: str = "lens",
    recipe: str = "default",
    n: int = 4,
    seed: int = 0,
    start: str | NDArray[np.float32] | Tensor | None = None,
    every: int = 10,
    progress: bool = False,
    **changes: Any,
) -> Ascent:
    """Noise changed until the network calls it ``target`` (Simonyan et al. 2014; Wilde et al. 2022, section 5).

    Args:
        finder: Any finder; it is left as it was.
        target: ``lens`` or ``non_lens``.
        recipe: ``paper``: the released update on the logit. ``default``: Adam on the log-odds with the scaling of
            training, random shifts and flips, and a total-variation penalty.
        n: Images at once, from the noise of seeds (seed, 0), (seed, 1), ...; both targets start from the same noise.
        seed: Of noise and augmentation.
        start: Instead of noise: (n, C, S, S) in [0, 1], or the path of such an ``.npy``.
        every: Steps from frame to frame.
        progress: Show a progress bar.
        **changes: Fields of :class:`~lensfind.interpretation.optimise.Recipe` that differ.

    Raises:
        LensfindError: A setting does not fit.
    """
    choice("target", target, ("lens", "non_lens"))
    if type(n) is not int or n < 1 or type(seed) is not int or seed < 0:
        raise LensfindError("n of 1 or more images and a seed >= 0", f"n={n!r}, seed={seed!r}", "Set n=4 seed=0.")
    shape = (len(finder.bands), finder.net.size, finder.net.size)
    noise = _noise(n, shape, seed) if start is None else _start(start, shape)
    return _ascend(finder, noise, target, _settings(recipe, _CLASS, PAPER, changes), seed, every, progress)


def deep_dream(
    finder: LensFinder,
    stamps: Stamps,
    *,
    target: str = "lens",
    recipe: str = "default",
    seed: int = 0,
    every: int = 10,
    progress: bool = False,
    **changes: Any,
) -> Ascent:
    """Stamps changed until the network calls them ``target`` (Wilde et al. 2022).

    Args:
        finder, target, seed, every, progress: As for :func:`class_image`.
        stamps: Native stamps ``{band: (N, n, n)}`` in electron/s, all changed at once.
        recipe: As for :func:`class_image`; the default also keeps near the stamp (``distance``).
        **changes: Fields of :class:`~lensfind.interpretation.optimise.Recipe` that differ.

    Raises:
        LensfindError: A setting does not fit; or see :meth:`LensFinder.preprocess`.
    """
    choice("target", target, ("lens", "non_lens"))
    settings = _settings(recipe, _DREAM, PAPER, changes)
    return _ascend(finder, finder.preprocess(stamps), target, settings, seed, every, progress)


def kernel_image(
    finder: LensFinder,
    *,
    layer: str = "layer.0",
    kernels: Sequence[int] | int | None = None,
    recipe: str = "default",
    seed: int = 0,
    every: int = 10,
    progress: bool = False,
    **changes: Any,
) -> Ascent:
    """Noise changed until a kernel's mean output is large, for all asked kernels in one batch (Wilde et al. 2022).

    Args:
        finder, seed, every, progress: As for :func:`class_image`; every kernel starts from the same noise.
        layer: A convolution by name, ``layer.0``.
        kernels: Numbers of its output channels; None for all.
        recipe: ``paper``: Adam of rate 0.1, weight decay 1e-6, 50 steps; ``default`` as for class images.
        **changes: Fields of :class:`~lensfind.interpretation.optimise.Recipe` that differ.

    Raises:
        LensfindError: Unknown layer or kernel, or another setting that does not fit.
    """
    name, module = find_layer(finder, layer, nn.Conv2d)
    width = int(module.out_channels)  # type: ignore[arg-type]
    chosen = list(range(width)) if kernels is None else [kernels] if isinstance(kernels, int) else list(kernels)
    unknown = [k for k in chosen if type(k) is not int or not 0 <= k < width]
    if unknown or not chosen:
        raise LensfindError(
            f"kernels of {name}, 0 to {width - 1}",
            f"{unknown or 'none'}",
            "Set method.kernel_image.kernels=[0,1], or null for all.",
        )
    shape = (len(finder.bands), finder.net.size, finder.net.size)
    noise = _noise(1, shape, seed).expand(len(chosen), *shape).to(finder.device)
    body = finder.net.layer[: int(name.rpartition(".")[2]) + 1]
    index = torch.arange(len(chosen)), torch.tensor(chosen)

    def objective(images: Tensor) -> Tensor:
        means: Tensor = body(images).mean((2, 3))[index]
        return means

    with undisturbed(finder):
        settings = _settings(recipe, _KERNEL, _KERNEL_PAPER, changes)
        return optimise(
            objective, noise, settings, seed=seed, every=every, progress=f"kernels of {name}" if progress else ""
        )


def field_of_view(finder: LensFinder, layer: str) -> int:
    """Side in pixels of what one output of ``layer.N`` sees."""
    field, stride = 1, 1
    body = list(finder.net.layer)[: int(layer.rpartition(".")[2]) + 1]
    for module in body:
        if isinstance(module, nn.Conv2d):
            field += (module.kernel_size[0] - 1) * stride
        elif isinstance(module, nn.MaxPool2d):
            field, stride = field + stride, 2 * stride
    return field


@torch.no_grad()
def transfer(
    images: NDArray[np.float32], finder: LensFinder, judges: Mapping[str, LensFinder], batch_size: int = 64
) -> dict[str, NDArray[np.float64] | None]:
    """P(lens) that networks give to images made by another: does what fools one convince the others?

    Args:
        images: (N, C, S, S), channels and grid of ``finder``.
        finder: Made them.
        judges: Networks by name.
        batch_size: Images at once.

    Returns:
        name -> (N,) float64; None for a network that needs bands which the images lack. Images are resampled to its
        grid and scaled band by band, as its own stamps are.
    """
    made = torch.from_numpy(np.ascontiguousarray(images))
    scores: dict[str, NDArray[np.float64] | None] = {}
    for name, judge in judges.items():
        if not set(judge.bands) <= set(finder.bands):
            scores[name] = None
            continue
        with undisturbed(judge):
            bands = [
                resample(made[:, finder.bands.index(band)].to(judge.device), judge.net.size) for band in judge.bands
            ]
            x = torch.stack(bands, dim=1)
            low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
            x = (x - low) / (high - low).clamp_min(1e-12)
            p_lens = torch.cat([probability(judge.forward(chunk)).cpu() for chunk in torch.split(x, batch_size)])
            scores[name] = p_lens.double().numpy()
    return scores


def _ascend(
    finder: LensFinder, start: Tensor, target: str, settings: Recipe, seed: int, every: int, progress: bool
) -> Ascent:
    # The released rule climbs the logit; log-odds do not reward raising both.
    kind = "logit" if settings.optimiser == "gradient" else "log_odds"
    with undisturbed(finder):
        return optimise(
            lambda images: score(finder.forward(images), kind, target),
            start.to(finder.device),
            settings,
            seed=seed,
            every=every,
            progress=target if progress else "",
        )


def _settings(name: str, usual: Recipe, paper: Recipe, changes: Mapping[str, Any]) -> Recipe:
    choice("recipe", name, RECIPES)
    unknown = [key for key in changes if key not in Recipe.__dataclass_fields__]
    if unknown:
        raise LensfindError(
            f"settings out of {', '.join(Recipe.__dataclass_fields__)}", ", ".join(unknown), "Check method.NAME.KEY."
        )
    return recipe(paper if name == "paper" else usual, **changes)


def _noise(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Noise like the released one: uniform on 66 x 66 pixels, resampled to the network's grid, the same in all bands.

    Noise of single OU-200 pixels gives that network gradients of exactly zero: no image could ever leave it.
    """
    if type(seed) is not int or seed < 0:
        raise LensfindError("a seed of 0 or more", repr(seed), "Set seed=0.")
    draws = (np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(k,))) for k in range(n))
    coarse = torch.from_numpy(np.stack([rng.random((66, 66), dtype=np.float32) for rng in draws]))
    return resample(coarse, shape[-1])[:, None].repeat(1, shape[0], 1, 1)


def _start(start: str | NDArray[np.float32] | Tensor, shape: tuple[int, ...]) -> Tensor:
    way_out = "Give an .npy of shape (n, C, S, S) with values in [0, 1], or start=null for noise."
    if isinstance(start, str):
        try:
            start = np.load(start, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise LensfindError("an image to start from", f"{start} ({error})", way_out) from error
    images = torch.as_tensor(start).float()
    if images.dim() != 4 or tuple(images.shape[1:]) != shape or not bool(torch.isfinite(images).all()):
        raise LensfindError(f"finite images (n, {', '.join(map(str, shape))})", f"{tuple(images.shape)}", way_out)
    return images
