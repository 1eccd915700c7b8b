"""What each method writes: arrays, figures, GIFs and tables, with captions that say what they show and do not show."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lensfind import figures
from lensfind.data import LensData
from lensfind.files import whole_file, write_file
from lensfind.finder import LensFinder, probability
from lensfind.inputs import load_networks
from lensfind.interpretation import drawing
from lensfind.interpretation.dreams import field_of_view, transfer
from lensfind.interpretation.faithfulness import Verdict, randomisation, relevance
from lensfind.interpretation.gallery import Entry
from lensfind.interpretation.kernels import channel_means
from lensfind.interpretation.occlusion import spread
from lensfind.interpretation.optimise import Ascent
from lensfind.interpretation.probe import undisturbed

__all__ = ["Session", "class_image", "deep_dream", "gradients", "kernel_activation", "kernel_image"]

FAILS = "Fails the parameter-randomisation test (Adebayo+18): looks much the same with random weights."
GUIDED = ("guided_backprop", "guided_grad_cam")
NOTES = {
    "occlusion": "How the score changes when a square is covered. It shows which pixels the score hangs on; a square"
    " also makes edges that no sky has, and two regions that can each do alone hide one another.",
    "gradient": "How the score would change if a pixel were brighter. Local: it says nothing of large changes.",
    "integrated_gradients": "Contributions of the light above the sky; all together give score - score(baseline),"
    " which is the sky unless set to zero.",
    "grad_cam": "Where the maps of one layer speak for a lens. Coarse: by default"
    " one cell is about 0.6 (OU-66) or 0.4 arcsec (OU-200), deeper ones more.",
    "guided_backprop": "Sharp pictures of the edges in the stamp; see the warning before reading them as reasons.",
    "guided_grad_cam": "Guided backprop where Grad-CAM is large; inherits the former's defect.",
    "class_image": "Noise changed until the network is sure. It shows what the network answers to, not what lenses look"
    " like; if other networks are not convinced, it is adversarial.",
    "deep_dream": "Stamps changed until the network is sure of the other class or more sure of this one.",
    "kernel_image": "Textures that make one kernel answer most.",
    "kernel_activation": "What each kernel does over the data. A large effect size tells classes apart in these"
    " data; it does not say that the network uses it.",
    "kernels": "The first layer's weights.",
    "faithfulness": "Whether maps are about the network (randomisation), about the score (deletion, insertion,"
    " infidelity), about the lens (arc, twins), and stable (sensitivity).",
}


@dataclass
class Session:
    """One run of the app: what it looks at, and what it has made so far."""

    finder: LensFinder
    data: LensData
    rows: NDArray[np.int64]
    folder: Path
    some: NDArray[np.int64]
    judges: list[str] | str | None
    checkpoint: Path
    localisation: bool | None
    say: Callable[[str], None]
    entries: list[Entry] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    asked: bool = False
    settings: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = str(self.finder.provenance.get("name") or self.finder.name)
        self.ids = np.asarray(self.data.catalogue["id"])[self.rows]
        self.labels = self.data.labels[self.rows]
        self.stamps = self.data.store.read(self.rows, self.finder.bands)
        self.p_lens = self.finder.predict_proba(self.stamps).numpy()
        self.pictures = figures.composite(self.data.store.read(self.rows, self.data.store.bands))

    def title(self, k: int) -> str:
        """Of object k: id, truth and score."""
        return f"{self.ids[k]} ({'lens' if self.labels[k] else 'non-lens'})  P(lens) = {self.p_lens[k]:.3f}"

    def figure(self, section: str, name: str, figure: Figure, caption: str, warning: str = "") -> None:
        """Save a figure as ``name.png`` and put it into the gallery."""
        path = self.folder / f"{name}.png"
        with whole_file(path) as file:
            figure.savefig(file, format="png")
        self._enter(section, path, caption, warning)

    def gif(self, section: str, name: str, content: bytes, caption: str) -> None:
        """Save a GIF as ``name.gif`` and put it into the gallery."""
        write_file(self.folder / f"{name}.gif", content)
        self._enter(section, self.folder / f"{name}.gif", caption, "")

    def _enter(self, section: str, path: Path, caption: str, warning: str) -> None:
        self.notes.setdefault(section, NOTES[section])
        self.entries.append(Entry(section, path, caption, warning))

    def arrays(self, name: str, **arrays: Any) -> None:
        """Save arrays as ``name.npz``."""
        with whole_file(self.folder / f"{name}.npz", sum(np.asarray(a).nbytes for a in arrays.values())) as file:
            np.savez(file, **arrays)

    def table(self, section: str, name: str, rows: list[dict[str, Any]]) -> None:
        """Save rows as ``name.csv`` and put them into the gallery."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(self.folder / f"{name}.csv", text.getvalue())
        self.notes.setdefault(section, NOTES[section])
        self.tables[section] = rows

    @cached_property
    def masks(self) -> NDArray[np.uint8] | None:
        """The simulator's arcs of the chosen objects, if the data have them."""
        if "MASK" not in self.data.store.planes:
            return None
        masks: NDArray[np.uint8] = self.data.store.read(self.rows, ["MASK"])["MASK"]
        return masks

    @cached_property
    def others(self) -> dict[str, LensFinder]:
        """The networks that score what this one made."""
        paths: Any = self.judges
        if paths is None and self.finder.provenance.get("source") == "published":
            paths = [str(p) for p in sorted(self.checkpoint.parent.glob("OU_*_Weights.pt")) if p != self.checkpoint]
            self.say(f"judges: the {len(paths)} other published networks beside {self.checkpoint} (judges=[] for none)")
        if not paths:
            return {}
        made = {one.name: one.finder for one in load_networks(paths, self.finder.device)}
        return {f"{name} (judge)" if name == self.name else name: judge for name, judge in made.items()}

    def warning(self, method: str, settings: Mapping[str, Any]) -> str:
        """Whether a guided method fails the randomisation test, on eight objects: the chosen ones and others."""
        key = judged_as(method, settings)
        if key not in self.verdicts and method in GUIDED:
            rows = np.concatenate([self.rows, np.setdiff1d(self.some, self.rows)])[:8]
            images = self.finder.preprocess(self.data.store.read(rows, self.finder.bands))
            self.verdicts[key] = randomisation(self.finder, images, method, relevance(method, settings))
        verdict = self.verdicts.get(key)
        if verdict is not None and verdict.fails_randomisation:
            return FAILS
        if method == "guided_grad_cam" and self.warning("guided_backprop", _without_layer(settings)):
            return "Its sharp factor, guided backprop, fails the parameter-randomisation test (Adebayo+18)."
        return ""


def judged_as(method: str, settings: Mapping[str, Any]) -> str:
    """Key of a verdict: it holds for a method with these settings and no others (``target=lens`` is the usual)."""
    return f"{method} {sorted((k, v) for k, v in settings.items() if (k, v) != ('target', 'lens'))}"


def _without_layer(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "layer"}


def keywords(method: partial[Any]) -> dict[str, Any]:
    return {key: value for key, value in method.keywords.items() if key not in ("batch_size", "progress")}


def occlusion(session: Session, name: str, method: partial[Any]) -> None:
    """A map per object, or one per band."""
    maps = method(session.finder, session.stamps, progress=True)
    session.arrays(name, id=session.ids, label=session.labels, p_lens=session.p_lens, map=maps)
    kind, bands = method.keywords.get("score", "p_lens"), method.keywords.get("bands", "all")
    names = list(session.finder.bands) if bands == "each" else [f"{bands} bands" if bands == "all" else str(bands)]
    where = {key: method.keywords[key] for key in ("window", "stride", "grid") if key in method.keywords}
    spread_out = spread(session.finder, torch.from_numpy(maps), **where).numpy()
    for k, number in enumerate(session.ids):
        one = spread_out[k]
        if kind == "p_lens" and bands == "all":
            figure = figures.occlusion(session.pictures[k], one, session.p_lens[k], session.title(k).split("  ")[0])
        else:
            unit = {"p_lens": "P(lens)", "log_odds": "log-odds", "logit": "logit"}[kind]
            shown = -(one if one.ndim == 3 else one[None])
            label = f"{unit} lost when covered"
            figure = drawing.relevance_maps(session.pictures[k], shown, names, session.title(k), label)
        session.figure(name, f"{name}_{number}", figure, f"{session.title(k)}. Blue: covering it costs lens score.")


def gradients(session: Session, name: str, method: partial[Any]) -> None:
    """Maps per object and band."""
    settings = keywords(method)
    maps = method(session.finder, session.stamps)
    warning = session.warning(name, settings)
    session.arrays(name, id=session.ids, label=session.labels, p_lens=session.p_lens, map=maps)
    names = ["all bands"] if maps.shape[1] == 1 < len(session.finder.bands) else list(session.finder.bands)
    for k, number in enumerate(session.ids):
        mask = None if session.masks is None or not session.masks[k].any() else session.masks[k]
        figure = drawing.relevance_maps(
            session.pictures[k],
            maps[k],
            names,
            session.title(k),
            f"{name.replace('_', ' ')} ({settings.get('score', 'log_odds')} of {settings.get('target', 'lens')})",
            warning=warning,
            signs=("against", f"for {settings.get('target', 'lens')}"),
            mask=mask,
        )
        caption = session.title(k) + (". Outlined: the lensed source." if mask is not None else ".")
        session.figure(name, f"{name}_{number}", figure, caption, warning)


def _probabilities(session: Session, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """P(lens) of network images (M, C, S, S) as they are."""
    with undisturbed(session.finder), torch.no_grad():
        chunks = torch.split(torch.from_numpy(images).to(session.finder.device), 64)
        return torch.cat([probability(session.finder.forward(chunk)).cpu() for chunk in chunks]).double().numpy()


def _ascents(
    session: Session, name: str, made: Mapping[str, Ascent], titles: Sequence[str], ids: Sequence[Any]
) -> None:
    """Final images, GIFs and scores of ascents towards both classes."""
    bands = session.finder.bands
    rows: list[dict[str, Any]] = []
    for target, ascent in made.items():
        frames, n = ascent.frames, ascent.images.shape[0]
        p_lens = _probabilities(session, frames.reshape(-1, *frames.shape[2:])).reshape(len(frames), n)
        scores = transfer(ascent.images, session.finder, session.others)
        session.arrays(f"{name}_{target}", id=np.array(ids), image=ascent.images, steps=ascent.steps, p_lens=p_lens)
        panels = ascent.images.reshape(-1, *ascent.images.shape[2:])
        labels = [f"{title} {band}" for title in titles for band in bands]
        sheet = drawing.contact_sheet(panels, labels, 2 * len(bands) if len(bands) < 4 else 4, suptitle=f"to {target}")
        last = ", ".join(f"{p:.3f}" for p in p_lens[-1])
        session.figure(name, f"{name}_{target}", sheet, f"{target}: last images, P(lens) = {last}.")
        for k, number in enumerate(ids):
            lines = [
                f"{session.name} to {target}, step {step}: P(lens) = {p:.4f}"
                for step, p in zip(ascent.steps, p_lens[:, k], strict=True)
            ]
            caption = f"{titles[k]} to {target}: P(lens) from {p_lens[0, k]:.3f} to {p_lens[-1, k]:.3f}."
            session.gif(name, f"{name}_{target}_{number}", drawing.gif(frames[:, k], lines, bands), caption)
            judged = {judge: float("nan") if p is None else float(p[k]) for judge, p in scores.items()}
            rows.append({"image": titles[k], "target": target, session.name: float(p_lens[-1, k]), **judged})
    session.table(name, f"{name}_scores", rows)
    for row in rows:
        heard = [float(value) for value in list(row.values())[3:] if np.isfinite(value)]
        if heard:
            agree = sum((value > 0.5) == (row["target"] == "lens") for value in heard)
            session.say(f"{name}: {agree} of {len(heard)} other networks call {row['image']} a {row['target']}")


def class_image(session: Session, name: str, method: partial[Any]) -> None:
    """Class images of both classes from the same noise."""
    made = {t: method(session.finder, target=t, progress=True) for t in ("lens", "non_lens")}
    n = len(made["lens"].images)
    _ascents(session, name, made, [f"noise {k}" for k in range(n)], list(range(n)))


def deep_dream(session: Session, name: str, method: partial[Any]) -> None:
    """Dreams of every chosen object towards both classes."""
    made = {t: method(session.finder, session.stamps, target=t, progress=True) for t in ("lens", "non_lens")}
    titles = [
        f"{number} ({'lens' if label else 'non-lens'})"
        for number, label in zip(session.ids, session.labels, strict=True)
    ]
    _ascents(session, name, made, titles, session.ids.tolist())


def kernel_image(session: Session, name: str, method: partial[Any]) -> None:
    """A contact sheet of one layer."""
    ascent = method(session.finder, progress=True)
    layer = method.keywords.get("layer", "layer.0")
    chosen = method.keywords.get("kernels")
    numbers = range(len(ascent.images)) if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    session.arrays(name, image=ascent.images, kernel=np.array(numbers), objective=ascent.objective)
    side = min(4 * field_of_view(session.finder, layer), ascent.images.shape[-1])
    first = (ascent.images.shape[-1] - side) // 2
    middle = ascent.images[..., first : first + side, first : first + side]
    bands = list(session.finder.bands)
    # Red, green, blue = H, the mean of Y and J, VIS, as in the pictures of the stamps.
    shown = middle.mean(1) if len(bands) < 3 else np.stack([middle[:, -2], middle[:, :-2].mean(1), middle[:, -1]], -1)
    titles = [f"{k}: {value:.2f}" for k, value in zip(numbers, ascent.objective[-1], strict=True)]
    figure = drawing.contact_sheet(shown, titles, 10, suptitle=f"{session.name} {layer}: kernel and its mean output")
    caption = f"Kernels of {layer}, the middle {side} pixels, with the mean output reached."
    session.figure(name, f"{name}_{layer}", figure, caption)


def kernel_activation(session: Session, name: str, method: partial[Any]) -> None:
    """Statistics over the data, a figure per sub-layer with kernels of its own, and the strip of each object."""
    found = method(session.finder, session.data.loader(session.some), progress=True)
    ids = np.asarray(session.data.catalogue["id"])
    rows = []
    for layer, s in found.items():
        if not isinstance(session.finder.net.get_submodule(layer), torch.nn.Dropout):  # the same as the layer before
            caption = f"{layer}: {s.count[1]:,} lenses and {s.count[0]:,} non-lenses."
            session.figure(name, f"{name}_{layer}", drawing.kernel_statistics(s, layer), caption)
        for kernel in range(s.mean.shape[1]):
            row: dict[str, Any] = {"layer": layer, "kernel": kernel, "effect_size": float(s.effect[kernel])}
            for label, kind in ((1, "lens"), (0, "non_lens")):
                row |= {
                    f"{what}_{kind}": float(getattr(s, what)[label, kernel]) if s.count[label] else float("nan")
                    for what in ("mean", "maximum", "active")
                }
                best = [str(ids[r]) for r in s.top_row[label, :, kernel] if r >= 0]
                row[f"top_{kind}"] = " ".join(best)
            rows.append(row)
    text = session.tables.get(name, [])
    session.table(name, name, rows)
    strongest = sorted((r for r in rows if np.isfinite(r["effect_size"])), key=lambda r: -abs(r["effect_size"]))
    session.tables[name] = text + strongest[:20]
    means = channel_means(session.finder, session.stamps)
    session.arrays(name, id=session.ids, **means)
    for k, number in enumerate(session.ids):
        strip = drawing.activation_strip({layer: values[k] for layer, values in means.items()}, session.title(k))
        session.figure(
            name,
            f"{name}_{number}",
            strip,
            f"{session.title(k)}: all {sum(v.shape[1] for v in means.values()):,} channels.",
        )


def kernels(session: Session, name: str, method: partial[Any]) -> None:
    """The first layer's weights."""
    weights = method(session.finder)
    session.arrays(name, weight=weights, band=np.array(session.finder.bands))
    caption = f"{len(weights)} kernels of {session.name}, one row of small squares per band."
    session.figure(name, name, drawing.kernel_weights(weights, session.finder.bands), caption)
