"""One door for every file that holds a network: our checkpoints and the published weights of Wilde et al. 2022.

``load`` never runs code from a file: it reads tensors and plain values only (``weights_only=True``), names no class by
a string out of the file, and checks each value before use.
"""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensfind.bands import BAND_SETS, check_bands
from lensfind.errors import LensfindError
from lensfind.finder import LensFinder
from lensfind.nets import ARCHITECTURES, LensNet

__all__ = ["PUBLISHED", "fingerprint", "load"]

PUBLISHED: Mapping[str, tuple[str, str, str]] = {
    "e67c5843a6de017d": ("OU-J", "ou66", "j"),
    "4a677b7f9713c5dc": ("OU-Y", "ou66", "y"),
    "50a47a0f67686496": ("OU-H", "ou66", "h"),
    "369cd3c17cf5b613": ("OU-JYH", "ou66", "jyh"),
    "e1200fdb085159a6": ("OU-66", "ou66", "all"),
    "e7e9d751c9264ce2": ("OU-VIS", "ou200", "vis"),
    "f4b3f388f4f7eb35": ("OU-200", "ou200", "all"),
}
"""Fingerprint of each published file: name, architecture and band set. OU-J, OU-Y and OU-H have the same shapes, so
only the numbers themselves can tell them apart."""

_WAY_OUT = (
    "Give a checkpoint that train.py wrote (RUN_DIR/checkpoints/best.ckpt) or a weight file of Wilde et al. 2022."
)


def fingerprint(weights: Sequence[Tensor]) -> str:
    """SHA-256 (first 16 hex digits) of the float32 little-endian bytes of the tensors in the order given."""
    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(tensor.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def load(path: str | Path, bands: Sequence[str] | None = None) -> LensFinder:
    """A finder in eval mode on the CPU, from a checkpoint of ours or published weights, told by content.

    Args:
        path: The file, or a run folder (its ``checkpoints/best.ckpt`` is taken).
        bands: Only for weights in the published format that are none of the seven files and whose shape leaves
            open which bands they read (one NISP band).

    Returns:
        The finder; ``finder.provenance["source"]`` is ``"lensfind"``, ``"published"`` or ``"published format"``.

    Raises:
        LensfindError: No such file, empty, truncated, not ours, or it asks to run code (which it does not).
    """
    if not isinstance(path, str | Path):
        raise LensfindError("the path of one checkpoint", repr(path), _WAY_OUT)
    path = Path(path)
    if path.is_dir() and (path / "checkpoints" / "best.ckpt").is_file():
        path = path / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise LensfindError(
            "a checkpoint file", f"{path}, which is {'a folder' if path.is_dir() else 'not there'}", _WAY_OUT
        )
    if path.stat().st_size == 0:
        raise LensfindError("a checkpoint file", f"{path}, which is empty", _WAY_OUT)
    try:
        if zipfile.is_zipfile(path):  # torch does not look at the checksums
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"bad checksum of {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile or damaged file provokes in the parser means the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise LensfindError(
            "a whole checkpoint of tensors and plain values",
            f"{path}, which is damaged or asks to run code; it was not run ({type(error).__name__}: {reason})",
            _WAY_OUT,
        ) from error
    if isinstance(content, Mapping) and {"state_dict", "hyper_parameters", "lensfind"} <= content.keys():
        finder = _from_checkpoint(content, path)
    elif isinstance(content, Mapping) and content and all(map(_is_weight, content.items())):
        finder = _from_published(content, path, bands)
    else:
        raise LensfindError("a lensfind checkpoint or published weights", f"{path}, which is neither", _WAY_OUT)
    for name, parameter in finder.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise LensfindError("finite weights", f"NaN or infinity in {name} of {path}", _WAY_OUT)
    return finder.eval()


def _is_weight(item: tuple[object, object]) -> bool:
    name, value = item
    plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return isinstance(name, str) and plain and value.is_floating_point() and not value.is_quantized  # type: ignore[attr-defined]


def _from_checkpoint(content: Mapping[str, Any], path: Path) -> LensFinder:
    settings, weights, provenance = (content[key] for key in ("hyper_parameters", "state_dict", "lensfind"))
    known = {"architecture", "bands", "learning_rate", "dropout", "class_weights"}
    if not isinstance(settings, Mapping) or set(settings) != known or not isinstance(provenance, Mapping):
        got = sorted(map(str, settings)) if isinstance(settings, Mapping) else type(settings).__name__
        raise LensfindError(f"the hyper-parameters {sorted(known)}", f"{got} in {path}", _WAY_OUT)
    try:
        finder = LensFinder(**settings)
    except (LensfindError, TypeError) as error:
        raise LensfindError("hyper-parameters of a LensFinder", f"{path} with {error}", _WAY_OUT) from error
    _fill(finder, weights, path)
    finder.provenance = dict(provenance)
    data = content.get("datamodule_hyper_parameters")
    if isinstance(data, Mapping):
        finder.provenance["data"] = dict(data)
    return finder


def _from_published(content: Mapping[str, Tensor], path: Path, bands: Sequence[str] | None) -> LensFinder:
    # The published OU-VIS calls its body VIS_layer instead of layer.
    weights = {"net." + key.replace("VIS_layer.", "layer.", 1): tensor for key, tensor in content.items()}
    name, architecture, band_set = PUBLISHED.get(fingerprint(list(weights.values())), ("", "", ""))
    if not name:
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        channels = shapes.get("net.layer.0.weight", (0, 0))[1:2]
        matching = [
            key
            for key in ARCHITECTURES
            for count in channels
            if 1 <= count <= 4
            and shapes == {f"net.{k}": tuple(v.shape) for k, v in LensNet(key, count).state_dict().items()}
        ]
        if not matching:
            raise LensfindError(
                "a lensfind checkpoint or published weights",
                f"{path}, whose tensors fit neither OU-66 nor OU-200",
                _WAY_OUT,
            )
        architecture = matching[0]
        guess = {("ou66", 3): "jyh", ("ou66", 4): "all", ("ou200", 1): "vis", ("ou200", 4): "all"}
        if bands is None and (architecture, channels[0]) not in guess:
            raise LensfindError(
                f"to know which {channels[0]} band(s) the network reads",
                f"{path}, {architecture} weights that are none of the published files",
                'Say so: lensfind.load(path, bands=["H"]).',
            )
        chosen = BAND_SETS[guess[architecture, channels[0]]] if bands is None else check_bands(bands)
        if len(chosen) != channels[0]:
            raise LensfindError(f"{channels[0]} band(s)", f"bands={list(chosen)}", f"Name the bands that {path} reads.")
    else:
        chosen = BAND_SETS[band_set]
    finder = LensFinder(architecture, chosen)
    _fill(finder, weights, path)
    finder.provenance = {"source": "published" if name else "published format", "name": name or path.stem}
    return finder


def _fill(finder: LensFinder, weights: object, path: Path) -> None:
    try:
        finder.load_state_dict(weights)  # type: ignore[arg-type]
    except (RuntimeError, TypeError, AttributeError) as error:
        raise LensfindError(
            f"the weights of {finder.hparams['architecture']} with bands {', '.join(finder.bands)}",
            f"{path} with other tensors ({str(error).splitlines()[-1].strip()[:200]})",
            _WAY_OUT,
        ) from error
