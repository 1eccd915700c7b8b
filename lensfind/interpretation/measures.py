"""Measures of one relevance map, or of one method: what faithfulness.py puts into its table.

A relevance map is (S, S) on the network's grid, larger where the method sees more evidence for a lens.
"""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from lensfind.finder import LensFinder
from lensfind.interpretation.probe import score, sky

__all__ = ["Relevance", "cascade", "deletion_insertion", "localisation", "similarity"]

Relevance = Callable[[LensFinder, Tensor], Tensor]
"""(finder, preprocessed images (N, C, S, S)) -> maps (N, C or 1, S, S)."""


def cascade(finder: LensFinder, seed: int) -> Iterator[tuple[str, LensFinder]]:
    """Copies of a finder with its layers made random one after the other, from the head down (Adebayo et al. 2018).

    The last copy has no trained weight left. Weights are drawn as before training (Kaiming normal, zero biases). The
    finder itself is not touched.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [name for name, module in finder.net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    random = copy.deepcopy(finder)
    for name in reversed(layers):
        module = random.net.get_submodule(name)
        assert isinstance(module, nn.Conv2d | nn.Linear)
        with torch.no_grad():
            fresh = torch.empty_like(module.weight, device="cpu")
            nn.init.kaiming_normal_(fresh, generator=generator)
            module.weight.copy_(fresh)
            if module.bias is not None:
                module.bias.zero_()
        yield name, random


def similarity(one: Tensor, other: Tensor) -> tuple[float, float]:
    """|Spearman's rank correlation| and SSIM of two maps (C, S, S) with their signs, means over the bands.

    With signs, because without them every map of a galaxy on empty sky resembles every other: large where there is
    light. SSIM is taken on [-1, 1] after division by each map's 99.5th percentile (relevance has long tails). A
    constant map has nothing in common with any other: 0 and 0.
    """
    ranks, structures = [], []
    for pair in zip(one.cpu().double(), other.cpu().double(), strict=True):
        if any(float(m.max() - m.min()) == 0 for m in pair):
            ranks.append(0.0)
            structures.append(0.0)
            continue
        ranks.append(abs(float(spearmanr(*(m.numpy().ravel() for m in pair)).statistic)))
        scales = [m.abs().quantile(0.995) for m in pair]
        scaled = [(m / (s if s > 0 else m.abs().max())).clamp(-1, 1) for m, s in zip(pair, scales, strict=True)]
        ssim = structural_similarity_index_measure(scaled[0][None, None], scaled[1][None, None], data_range=2.0)
        assert isinstance(ssim, Tensor)
        structures.append(float(ssim))
    return float(np.mean(ranks)), float(np.mean(structures))


def localisation(relevance: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Pointing game (Zhang et al. 2018), relevance mass and rank accuracy (Arras et al. 2022) on the arc's mask.

    Args:
        relevance: (S, S); only its positive part counts as mass.
        mask: (S, S) with at least one pixel; its share of the stamp is what chance scores on average.

    Returns:
        1 or 0 whether the largest value lies on the mask (a share where several are largest); the mask's share of the
        positive relevance (0 if there is none); the share of the mask among the pixels of rank up to its size.
    """
    mass = np.clip(relevance, 0, None)
    top = relevance == relevance.max()
    pointing = float(mask[top].mean())
    share = float(mass[mask].sum() / mass.sum()) if mass.sum() > 0 else 0.0
    # Ties by chance would depend on the order of pixels: shared ranks count by their share.
    ranks = rankdata(-relevance, method="min").reshape(relevance.shape)
    size = int(mask.sum())
    sure = ranks + np.bincount(ranks.ravel().astype(int))[ranks.astype(int)] - 1 <= size
    edge = (ranks <= size) & ~sure
    hits = mask[sure].sum() + (mask[edge].mean() * (size - sure.sum()) if edge.any() else 0.0)
    return pointing, share, float(hits / size)


@torch.no_grad()
def deletion_insertion(
    finder: LensFinder, image: Tensor, relevance: NDArray[np.float64], *, steps: int = 16, batch_size: int = 32
) -> tuple[float, float]:
    """Mean log-odds while pixels are replaced by sky, most relevant first (deletion; lower is better), and while they
    are put back onto bare sky in that order (insertion; higher is better) (Petsiuk et al. 2018).

    Args:
        finder: In eval mode.
        image: (C, S, S) preprocessed.
        relevance: (S, S); ties go in the order of pixels.
        steps: Shares of pixels k^2 / steps^2, k = 0 ... steps: closest where an arc's few pixels go. The mean is
            taken over k, so small shares weigh more than on a linear axis.
    """
    size = image.shape[-1]
    order = np.argsort(-relevance.ravel(), kind="stable")
    place = np.empty(size * size, dtype=np.int64)
    place[order] = np.arange(size * size)
    counts = np.round((np.arange(steps + 1) / steps) ** 2 * size * size)
    first = torch.from_numpy(place.reshape(size, size)[None] < counts[:, None, None])[:, None].to(image.device)
    blank = sky(image[None]).expand(1, *image.shape)
    curves = []
    for keep in (~first, first):
        images = torch.where(keep, image[None], blank)
        logits = torch.cat([finder.forward(chunk) for chunk in torch.split(images, batch_size)])
        curves.append(float(np.trapezoid(score(logits).cpu().double().numpy(), dx=1 / steps)))
    return curves[0], curves[1]
