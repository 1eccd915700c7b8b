"""What a finder looks at, and how far the answer can be trusted: methods take (finder, stamps) and give arrays."""

from lensfind.interpretation.attribution import (
    grad_cam,
    gradient,
    guided_backprop,
    guided_grad_cam,
    integrated_gradients,
)
from lensfind.interpretation.dreams import class_image, deep_dream, kernel_image, transfer
from lensfind.interpretation.faithfulness import Truth, Verdict, faithfulness, randomisation
from lensfind.interpretation.kernels import KernelStatistics, channel_means, kernel_activation, kernels
from lensfind.interpretation.occlusion import occlusion
from lensfind.interpretation.optimise import Ascent, Recipe, optimise

__all__ = [
    "Ascent",
    "KernelStatistics",
    "Recipe",
    "Truth",
    "Verdict",
    "channel_means",
    "class_image",
    "deep_dream",
    "faithfulness",
    "grad_cam",
    "gradient",
    "guided_backprop",
    "guided_grad_cam",
    "integrated_gradients",
    "kernel_activation",
    "kernel_image",
    "kernels",
    "occlusion",
    "optimise",
    "randomisation",
    "transfer",
]
