"""Figures and GIFs of the interpretation, like ``lensfind.figures``: arrays in, ``Figure`` (or bytes) out."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from lensfind.figures.style import BLUE, ORANGE, RED
from lensfind.interpretation.faithfulness import Verdict
from lensfind.interpretation.kernels import KernelStatistics

__all__ = [
    "activation_strip",
    "contact_sheet",
    "gif",
    "judgement",
    "kernel_statistics",
    "kernel_weights",
    "relevance_maps",
]

_DPI = 130
_EXTENT = (-10.0, 10.0, -10.0, 10.0)
"""arcsec. The network's grid is the VIS stamp's 20 arcsec; of a network on NISP alone 19.8, drawn as 20."""


def relevance_maps(
    image: ArrayLike,
    maps: ArrayLike,
    names: Sequence[str],
    title: str,
    unit: str,
    *,
    warning: str = "",
    signs: tuple[str, str] = ("against", "for a lens"),
    mask: ArrayLike | None = None,
) -> Figure:
    """A stamp beside its maps, one per band or one for all, on one symmetric scale: white is zero.

    Args:
        image: (n, n) or (n, n, 3).
        maps: (M, k, k); colours run from red (negative) to blue (positive relevance for a lens).
        names: M names, e.g. the bands.
        title: Above the stamp.
        unit: Of the colour bar.
        warning: Printed in red under the figure's title, e.g. that the method fails the randomisation test.
        signs: What red and blue mean.
        mask: (m, m), outlined where True: the simulator's arc.
    """
    maps = np.asarray(maps, dtype=np.float64)
    figure = Figure((2.9 + 2.5 * len(maps), 3.3 if warning else 3.0), dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, 1 + len(maps), sharey=True)
    axes[0].imshow(np.asarray(image), origin="lower", extent=_EXTENT, cmap="gray")
    axes[0].set(ylabel="offset [arcsec]")
    axes[0].set_title(title, fontsize=8)
    # A few pixels at the edge of the range would leave all others white; what lies beyond is saturated.
    limit = float(np.quantile(np.abs(maps), 0.999)) or float(np.abs(maps).max()) or 1e-12
    shown = None
    for ax, one, name in zip(axes[1:], maps, names, strict=True):
        shown = ax.imshow(one, origin="lower", extent=_EXTENT, cmap="RdBu", vmin=-limit, vmax=limit)
        ax.set_title(name, fontsize=8)
    if mask is not None:
        for ax in axes[1:]:
            ax.contour(np.asarray(mask, float), [0.5], extent=_EXTENT, colors="black", linewidths=0.5)
    for ax in axes:
        ax.set_xlabel("offset [arcsec]", fontsize=8)
        ax.tick_params(labelsize=7)
    assert shown is not None
    bar = figure.colorbar(shown, ax=axes[1:], extend="both")
    bar.set_label(f"{unit}\nred {signs[0]}, blue {signs[1]}", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    bar.ax.yaxis.get_offset_text().set_fontsize(6)
    if warning:
        figure.suptitle(warning, color=RED, fontsize=8)
    return figure


def contact_sheet(
    images: ArrayLike, titles: Sequence[str], columns: int, cmap: str = "gray", suptitle: str = "", size: float = 1.3
) -> Figure:
    """Small pictures (M, k, k) with titles, ``columns`` in a row, each on its own scale."""
    images = np.asarray(images)
    rows = -(-len(images) // columns)
    figure = Figure((size * columns, (size + 0.22) * rows + (0.3 if suptitle else 0)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image, origin="lower", cmap=cmap, interpolation="nearest")
        ax.set_title(title, fontsize=6, pad=2)
    if suptitle:
        figure.suptitle(suptitle, fontsize=8)
    return figure


def kernel_weights(weights: NDArray[np.float32], bands: Sequence[str]) -> Figure:
    """The first layer's weights (kernel, band, k, k): a row per band, kernels side by side, one symmetric scale."""
    count = len(weights)
    columns = 25
    blocks = -(-count // columns)
    figure = Figure((9, 0.42 * blocks * (len(bands) + 0.6) + 0.3), dpi=_DPI)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    rows = blocks * len(bands)
    axes = figure.subplots(rows, columns, squeeze=False)
    limit = float(np.abs(weights).max())
    for block in range(blocks):
        for b, band in enumerate(bands):
            for column in range(columns):
                ax, kernel = axes[block * len(bands) + b, column], block * columns + column
                ax.set(xticks=[], yticks=[])
                if kernel >= count:
                    ax.set_axis_off()
                    continue
                ax.imshow(weights[kernel, b], origin="lower", cmap="RdBu", vmin=-limit, vmax=limit)
                if b == 0:
                    ax.set_title(str(kernel), fontsize=5, pad=1)
                if column == 0:
                    ax.set_ylabel(band, fontsize=7, rotation=0, ha="right", va="center")
    figure.suptitle(f"first layer, {count} kernels; blue positive, red negative, to ±{limit:.2f}", fontsize=8)
    return figure


def kernel_statistics(statistics: KernelStatistics, layer: str) -> Figure:
    """Of one sub-layer: mean activation and share active per kernel for both classes, and the effect size."""
    figure = Figure((9, 4.6), dpi=_DPI, layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    x = np.arange(statistics.mean.shape[1])
    for label, colour, name, shift in ((0, ORANGE, "non-lenses", -0.15), (1, BLUE, "lenses", 0.15)):
        if statistics.count[label]:
            spread = np.sqrt(statistics.variance[label])
            text = f"{name} ({statistics.count[label]:,})"
            top.errorbar(x + shift, statistics.mean[label], spread, fmt=".", color=colour, lw=0.8, label=text)
            middle.plot(x + shift, statistics.active[label], ".", color=colour)
    top.set_ylabel("mean activation", fontsize=8)
    top.legend(frameon=False, fontsize=7)
    middle.set_ylabel("share active", fontsize=8)
    middle.set_ylim(-0.02, 1.02)
    bottom.bar(x, statistics.effect, color="0.4")
    bottom.axhline(0, color="0.7", lw=0.5)
    bottom.set_ylabel("Cohen's d", fontsize=8)
    bottom.set_xlabel(f"kernel of {layer}", fontsize=8)
    top.set_title(f"{layer}: bars are the spread from object to object; d > 0: stronger in lenses", fontsize=8)
    return figure


def activation_strip(means: Mapping[str, NDArray[np.float32]], title: str) -> Figure:
    """The paper's strip plot for one object: mean of every channel (K,) after every sub-layer, a row per sub-layer."""
    figure = Figure((9, 0.2 * len(means) + 0.9), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    width = max(len(values) for values in means.values())
    for number, values in enumerate(means.values()):
        # Every row on its own scale: outputs of the head are a hundred times those of the first layers.
        limit = float(np.abs(values).max()) or 1.0
        ax.imshow(
            np.asarray(values)[None] / limit,
            extent=(0, width, number + 0.45, number - 0.45),
            aspect="auto",
            cmap="RdBu",
            vmin=-1,
            vmax=1,
            interpolation="nearest",
        )
        ax.text(width * 1.005, number, f"{len(values)}, max {limit:.2g}", fontsize=5, va="center")
    ax.set(xlim=(0, width), ylim=(len(means) - 0.5, -0.5), xticks=[], yticks=range(len(means)))
    ax.set_yticklabels(list(means), fontsize=5)
    ax.set_title(f"{title}: mean of every channel; each row on its own scale, blue > 0, red < 0", fontsize=8)
    return figure


def judgement(verdicts: Sequence[Verdict]) -> Figure:
    """The tests side by side: the cascade, deletion and insertion, the arc, twins, and sensitivity."""
    figure = Figure((10, 6.6), dpi=_DPI, layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    names = [verdict.method.replace("_", "\n") for verdict in verdicts]
    colours = [f"C{number}" for number in range(len(verdicts))]
    for verdict, colour in zip(verdicts, colours, strict=True):
        style = "--" if verdict.fails_randomisation else "-"
        for ax, values in ((axes[0], verdict.spearman), (axes[1], verdict.ssim)):
            ax.plot(range(1, len(values) + 1), values, style, color=colour, marker=".", label=verdict.method)
    axes[0].legend(frameon=False, fontsize=6)
    axes[0].set_title("(a) |Spearman| with its own map", fontsize=8)
    axes[1].set_title("(a) SSIM with its own map (dashed: fails)", fontsize=8)
    for ax in axes[:2]:
        ax.axhline(0.5, color="0.7", lw=0.5)
        ax.set(ylim=(-0.05, 1.05))
        ax.set_xlabel("layers made random, from the head", fontsize=7)
    _bars(axes[2], names, colours, [_means(v.deletion) - _means(v.random_deletion) for v in verdicts], "//")
    _bars(axes[2], names, colours, [_means(v.insertion) - _means(v.random_insertion) for v in verdicts], "")
    axes[2].set_title(
        "(b) log-odds against a random ranking\nhatched deletion (< 0 good), plain insertion (> 0 good)", fontsize=8
    )
    _bars(axes[3], names, colours, [_means(v.mass) for v in verdicts], "")
    axes[3].plot(range(len(verdicts)), [_means(v.pointing) for v in verdicts], "k^", ms=5, label="pointing game")
    axes[3].plot(range(len(verdicts)), [_means(v.rank) for v in verdicts], "ko", ms=4, label="rank accuracy")
    axes[3].plot(range(len(verdicts)), [_means(v.chance) for v in verdicts], "r_", ms=14, label="chance")
    axes[3].set_title("(c) on the arc: bars relevance mass", fontsize=8)
    axes[3].legend(frameon=False, fontsize=6)
    _bars(axes[4], names, colours, [v.causal for v in verdicts], "")
    axes[4].set_title("(d) Spearman: score lost without the source\nand relevance on the arc", fontsize=8)
    _bars(axes[5], names, colours, [_means(v.sensitivity) for v in verdicts], "")
    # A map that is nearly empty changes by a thousand times its norm.
    axes[5].set_yscale("log")
    axes[5].set_title("(e) maximal sensitivity to noise (low is good)", fontsize=8)
    for ax in axes:
        ax.tick_params(labelsize=6)
    return figure


def _means(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _bars(ax: Axes, names: Sequence[str], colours: Sequence[str], values: Sequence[float], hatch: str) -> None:
    ax.bar(range(len(names)), values, color=colours, hatch=hatch, alpha=0.45 if hatch else 1, edgecolor="white")
    ax.axhline(0, color="0.5", lw=0.5)
    ax.set_xticks(range(len(names)), names, fontsize=5)


def gif(
    frames: NDArray[np.float32],
    lines: Sequence[str],
    bands: Sequence[str],
    *,
    side: int = 120,
    greys: int = 48,
    seconds: float = 0.35,
) -> bytes:
    """An ascent as an animated GIF: bands side by side in grey, one line of text per frame; the last frame stays.

    Args:
        frames: (F, C, S, S) in about [0, 1]; each panel from its 0.5th to its 99.5th percentile.
        lines: F lines, e.g. step and score.
        bands: C names.
        side: Pixels of a panel.
        greys: Levels; fewer make a smaller file.
        seconds: Per frame.
    """
    pictures = []
    text = max(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(line) for line in lines)
    width = max(len(bands) * (side + 2), int(np.ceil(text)) + 6)
    for frame, line in zip(frames, lines, strict=True):
        picture = Image.new("L", (width, side + 28), 255)
        draw = ImageDraw.Draw(picture)
        draw.text((3, 1), line, fill=0)
        for number, (panel, band) in enumerate(zip(frame, bands, strict=True)):
            low, high = np.quantile(panel, [0.005, 0.995])
            grey = np.clip((panel - low) / max(float(high - low), 1e-12), 0, 1)
            grey = np.round(grey[::-1] * (greys - 1)) * (255 // (greys - 1))  # FITS rows count upwards
            tile = Image.fromarray(grey.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(tile, (number * (side + 2), 28))
            draw.text((number * (side + 2) + 3, 14), band, fill=0)
        pictures.append(picture)
    content = io.BytesIO()
    durations = [int(1000 * seconds)] * (len(pictures) - 1) + [2500]
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return content.getvalue()
