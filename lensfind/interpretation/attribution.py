"""Maps from gradients, by captum: gradient, integrated gradients, Grad-CAM, guided backprop, guided Grad-CAM.

All give float32 (N, C, S, S) on the network's grid (Grad-CAM one channel), for the preprocessed stamps: positive where
more light would raise the score (for integrated gradients: where the light that is there raises it above the sky).
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from captum.attr import GuidedBackprop, IntegratedGradients, LayerAttribution, LayerGradCam, Saliency
from numpy.typing import NDArray
from torch import Tensor, nn

from lensfind.errors import LensfindError
from lensfind.finder import LensFinder, Stamps
from lensfind.interpretation.probe import choice, find_layer, score, sky, undisturbed

__all__ = ["grad_cam", "gradient", "guided_backprop", "guided_grad_cam", "integrated_gradients", "network_maps"]

Method = Callable[[LensFinder, Tensor], Tensor]


def network_maps(finder: LensFinder, stamps: Stamps | Tensor, method: Method, batch_size: int) -> NDArray[np.float32]:
    """Maps (N, ...) of stamps from a method of preprocessed images (B, C, S, S), batch by batch."""
    if type(batch_size) is not int or batch_size < 1:
        raise LensfindError("a batch size of 1 or more", repr(batch_size), "Set batch_size=16.")
    with undisturbed(finder):
        images = stamps if isinstance(stamps, Tensor) else finder.preprocess(stamps)
        parts = [method(finder, chunk).detach().float().cpu() for chunk in torch.split(images, batch_size)]
    return torch.cat(parts).numpy()


def gradient(
    finder: LensFinder, stamps: Stamps | Tensor, *, score: str = "log_odds", target: str = "lens", batch_size: int = 16
) -> NDArray[np.float32]:
    """d score / d pixel (Simonyan et al. 2014, arXiv:1312.6034), with its sign.

    Args:
        finder: Any finder; it is left as it was.
        stamps: Native stamps ``{band: (N, n, n)}`` in electron/s; or images that are preprocessed, (N, C, S, S).
        score: ``log_odds``, ``logit`` or ``p_lens``.
        target: ``lens`` or ``non_lens``.
        batch_size: Stamps at once.

    Raises:
        LensfindError: A setting does not fit; or see :meth:`LensFinder.preprocess`.
    """

    def method(finder: LensFinder, x: Tensor) -> Tensor:
        return _captum(Saliency(_scorer(finder, score, target)), x, abs=False)

    return network_maps(finder, stamps, method, batch_size)


def integrated_gradients(
    finder: LensFinder,
    stamps: Stamps | Tensor,
    *,
    baseline: str = "sky",
    steps: int = 32,
    score: str = "log_odds",
    target: str = "lens",
    batch_size: int = 4,
) -> NDArray[np.float32]:
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365): they sum to score(stamp) - score(baseline).

    Args:
        finder, stamps, score, target, batch_size: As for :func:`gradient`.
        baseline: ``sky``: each band's sky level; ``zero`` of the scaled image.
        steps: Points of the Gauss-Legendre quadrature between the two.

    Raises:
        LensfindError: As for :func:`gradient`.
    """
    choice("baseline", baseline, ("sky", "zero"))
    if type(steps) is not int or steps < 1:
        raise LensfindError("steps of 1 or more", repr(steps), "Set method.integrated_gradients.steps=32.")

    def method(finder: LensFinder, x: Tensor) -> Tensor:
        start = sky(x).expand_as(x) if baseline == "sky" else torch.zeros_like(x)
        explain = IntegratedGradients(_scorer(finder, score, target))
        return _captum(explain, x, baselines=start, n_steps=steps, internal_batch_size=max(len(x), 32))

    return network_maps(finder, stamps, method, batch_size)


def grad_cam(
    finder: LensFinder,
    stamps: Stamps | Tensor,
    *,
    layer: str | None = None,
    score: str = "log_odds",
    target: str = "lens",
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): ReLU of the layer's maps weighted by their mean gradients.

    Args:
        finder, stamps, score, target, batch_size: As for :func:`gradient`.
        layer: By name (``layer.20`` is the paper's for OU-200); None: the deepest ReLU with 30 x 30 cells or more.

    Returns:
        float32 (N, 1, S, S), upsampled bilinearly to the network's grid; never negative.

    Raises:
        LensfindError: Unknown layer, or one that is no map; or as for :func:`gradient`.
    """

    def method(finder: LensFinder, x: Tensor) -> Tensor:
        return _grad_cam(finder, x, layer, _scorer(finder, score, target))

    return network_maps(finder, stamps, method, batch_size)


def guided_backprop(
    finder: LensFinder,
    stamps: Stamps | Tensor,
    *,
    score: str = "logit",
    target: str = "lens",
    guide_head: bool = False,
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """Guided backpropagation (Springenberg et al. 2015, arXiv:1412.6806): ReLUs let only positive gradients back.

    It fails the parameter-randomisation test of Adebayo et al. 2018 (arXiv:1810.03292): it shows edges of the stamp
    rather than what the network learnt.

    Args:
        finder, stamps, score, target, batch_size: As for :func:`gradient`; the released code takes the logit.
        guide_head: Guide the head's ReLU too, as captum does; the released code does not.

    Raises:
        LensfindError: The network has no ``nn.ReLU`` modules, which is all that the rule can reach; or as for
            :func:`gradient`.
    """

    def method(finder: LensFinder, x: Tensor) -> Tensor:
        return _guided(finder, x, score, target, guide_head)

    return network_maps(finder, stamps, method, batch_size)


def guided_grad_cam(
    finder: LensFinder,
    stamps: Stamps | Tensor,
    *,
    layer: str | None = None,
    score: str = "logit",
    target: str = "lens",
    guide_head: bool = False,
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """Guided backprop times Grad-CAM (Selvaraju et al. 2017): sharp, but no more faithful than its first factor.

    Args:
        finder, stamps, layer, score, target, guide_head, batch_size: As for :func:`grad_cam`, :func:`guided_backprop`.

    Raises:
        LensfindError: As for these two.
    """

    def method(finder: LensFinder, x: Tensor) -> Tensor:
        cam = _grad_cam(finder, x, layer, _scorer(finder, score, target))
        return cam * _guided(finder, x, score, target, guide_head)

    return network_maps(finder, stamps, method, batch_size)


def _scorer(finder: LensFinder, kind: str, target: str) -> Callable[[Tensor], Tensor]:
    return lambda x: score(finder.forward(x), kind, target)


def _captum(explain: object, x: Tensor, **settings: object) -> Tensor:
    x = x.detach().clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(requires_grad|required_grads|backward hooks)")
        maps: Tensor = explain.attribute(x, **settings)  # type: ignore[attr-defined]
    return maps.detach()


def _grad_cam(finder: LensFinder, x: Tensor, layer: str | None, forward: Callable[[Tensor], Tensor]) -> Tensor:
    name, module = find_layer(finder, layer)
    if not name.startswith("layer."):
        raise LensfindError(
            "a layer of the body, whose output is a map", name, "Choose one of its ReLUs: method.NAME.layer=layer.N."
        )
    maps = _captum(LayerGradCam(forward, module), x, relu_attributions=True)
    upsampled: Tensor = LayerAttribution.interpolate(maps, tuple(x.shape[2:]), interpolate_mode="bilinear")
    return upsampled


class _Scored(nn.Module):
    """The finder's score as captum's GuidedBackprop wants it: a module, whose registered ReLUs are guided."""

    def __init__(self, finder: LensFinder, kind: str, target: str, guide_head: bool) -> None:
        super().__init__()
        self.guided = finder.net if guide_head else finder.net.layer
        self.rest = (finder, kind, target)  # in a tuple, so that it is not registered

    def forward(self, x: Tensor) -> Tensor:
        finder, kind, target = self.rest
        return score(finder.forward(x), kind, target)


def _guided(finder: LensFinder, x: Tensor, kind: str, target: str, guide_head: bool) -> Tensor:
    body = getattr(finder.net, "layer", None)
    searched = finder.net if guide_head else body
    if searched is None or not any(isinstance(module, nn.ReLU) for module in searched.modules()):
        raise LensfindError(
            "a network whose body has nn.ReLU modules, which guided backprop replaces the gradients of",
            f"{type(finder.net).__name__} without any",
            "Use method=gradient or method=occlusion, which work for any network.",
        )
    scored = _Scored(finder, kind, target, guide_head)
    return _captum(GuidedBackprop(scored), x)
