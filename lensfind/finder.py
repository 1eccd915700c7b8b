"""The finder: preprocessing, network, loss, metrics and optimiser in one LightningModule, and how to load one again.

A finder takes native stamps in electron/s and returns P(lens). Choice of bands, resampling and min-max scaling live
here and nowhere else, so that nobody can normalise twice. It reads no FITS.
"""

import functools
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from scipy import ndimage
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryPrecision,
    BinaryRecall,
)
from torchmetrics.utilities.distributed import gather_all_tensors

from lensfind.bands import BANDS, band_set_name, check_bands
from lensfind.errors import LensfindError
from lensfind.nets import ARCHITECTURES, LensNet

__all__ = ["METRICS", "LensFinder", "Stamps", "resample", "resampling_matrix"]

Stamps = Mapping[str, Tensor | NDArray[Any]]
"""Native stamps ``{band: (N, n, n)}`` in electron/s."""


METRICS = ("loss", "auroc", "average_precision", "f1", "precision", "recall", "accuracy")
"""Logged as ``train/...``, ``val/...`` and ``test/...``."""


@functools.cache
def resampling_matrix(size_in: int, size_out: int) -> Tensor:
    """The linear map (size_out, size_in) of skimage's ``resize`` along one axis: order 1, anti-aliased when shrinking.

    ``skimage.transform.resize`` smooths with a Gaussian of sigma = (factor - 1) / 2 and interpolates linearly on pixel
    areas, mirrored at the edges. Both steps are linear and separable, so scipy's own operators applied to the unit
    matrix give the map exactly.
    """
    rows = np.eye(size_in)
    if size_out < size_in:
        rows = ndimage.gaussian_filter1d(rows, (size_in / size_out - 1) / 2, axis=0, mode="mirror")
    rows = ndimage.zoom(rows, (size_out / size_in, 1), order=1, mode="mirror", grid_mode=True)
    return torch.from_numpy(rows).float()


def resample(images: Tensor, size: int) -> Tensor:
    """Images (N, n, n) on a grid of ``size`` pixels, (N, size, size), edges on edges, like skimage's ``resize``."""
    if images.shape[-1] == size:
        return images
    matrix = resampling_matrix(images.shape[-1], size).to(images)
    return matrix @ images @ matrix.T


def _metrics(split: str) -> MetricCollection:
    """Metrics of P(lens) against the label; torchmetrics' usual threshold of 0.5 where one is needed."""
    metrics: dict[str, Metric | MetricCollection] = {
        "auroc": BinaryAUROC(),
        "average_precision": BinaryAveragePrecision(),
        "f1": BinaryF1Score(),
        "precision": BinaryPrecision(),
        "recall": BinaryRecall(),
        "accuracy": BinaryAccuracy(),
    }
    return MetricCollection(metrics, prefix=f"{split}/")


class LensFinder(LightningModule):
    """A lens finder of Wilde et al. 2022 (MNRAS 512, 3464): native stamps in, P(lens) out.

    Args:
        architecture: ``"ou66"`` or ``"ou200"``.
        bands: Bands in channel order, out of ``J Y H VIS``.
        learning_rate: Of Adam; the paper's 3e-4.
        dropout: Probability after every block; the paper's 0.2.
        class_weights: Weights (non-lens, lens) of the cross-entropy. None takes, when training starts, the paper's
            ``[N_lens / N, N_nonlens / N]`` of the training split; the checkpoint keeps them.

    Raises:
        LensfindError: A value is not one of those.
    """

    def __init__(
        self,
        architecture: str = "ou66",
        bands: Sequence[str] = ("J", "Y", "H", "VIS"),
        learning_rate: float = 3e-4,
        dropout: float = 0.2,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
            raise LensfindError(
                f"architecture to be one of {', '.join(ARCHITECTURES)}", repr(architecture), "Choose model=ou66|ou200."
            )
        if not _is_number(learning_rate) or not 0 < learning_rate < float("inf"):
            raise LensfindError("learning_rate > 0", repr(learning_rate), "Set model.learning_rate=3e-4.")
        if not _is_number(dropout) or not 0 <= dropout < 1:
            raise LensfindError("dropout in [0, 1)", repr(dropout), "Set model.dropout=0.2.")
        if class_weights is not None and (
            not isinstance(class_weights, Sequence)
            or len(class_weights) != 2
            or not all(_is_number(w) and 0 < w < float("inf") for w in class_weights)
        ):
            raise LensfindError(
                "class_weights to be two positive numbers (non-lens, lens) or null",
                repr(class_weights),
                "Leave model.class_weights=null to take them from the training split.",
            )
        self.bands = check_bands(bands)
        # A checkpoint must load with weights_only=True: nothing but plain values may stand in it.
        self.save_hyperparameters(
            {
                "architecture": str(architecture),
                "bands": list(self.bands),
                "learning_rate": float(learning_rate),
                "dropout": float(dropout),
                "class_weights": None if class_weights is None else [float(w) for w in class_weights],
            }
        )
        self.net = LensNet(architecture, len(self.bands), dropout)
        # Not registered by Lightning as logged results before they are used, hence one collection per split.
        self.metrics = nn.ModuleDict({f"{split}_metrics": _metrics(split) for split in ("train", "val", "test")})
        self.losses = nn.ModuleDict({f"{split}_loss": MeanMetric() for split in ("train", "val", "test")})
        self.provenance: dict[str, Any] = {"source": "lensfind", "version": version("lensfind")}
        self.test_scores: Tensor | None = None
        """After ``trainer.test``: (N, 3) float64 columns row, label, P(lens), gathered from all devices."""
        self._scores: list[Tensor] = []

    @property
    def name(self) -> str:
        """Short name as in run folders: ``"ou200-vis"``."""
        return f"{self.hparams['architecture']}-{band_set_name(self.bands)}"

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers of the network."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    # ------------------------------------------------------------------------------------------------- in use

    def preprocess(self, stamps: Stamps) -> Tensor:
        """The network's input from native stamps: resampled to its grid, then every band min-max scaled to [0, 1].

        Args:
            stamps: ``{band: (N, n, n)}`` in electron/s (any linear unit gives the same result); more bands than the
                finder's are ignored.

        Returns:
            float32 (N, C, S, S) on the finder's device, channels in the order of ``self.bands``.

        Raises:
            LensfindError: A band is missing, a shape is not the band's, or a stamp is NaN, infinite or constant.
        """
        check_bands(self.bands, offered=[band for band in BANDS if band in stamps], by="the stamps")
        images = {band: torch.as_tensor(_native(stamps[band])).to(self.device) for band in self.bands}
        shapes = {band: tuple(image.shape) for band, image in images.items()}
        n = shapes[self.bands[0]][0] if shapes[self.bands[0]] else 0
        if n < 1 or any(shape != (n, BANDS[band].size, BANDS[band].size) for band, shape in shapes.items()):
            raise LensfindError(
                "stamps of one or more objects, "
                + ", ".join(f"{b} (N, {BANDS[b].size}, {BANDS[b].size})" for b in shapes),
                ", ".join(f"{band} {shape}" for band, shape in shapes.items()),
                "Cut native stamps: VIS 200 px at 0.1 arcsec, NISP 66 px at 0.3 arcsec; add an axis to a single stamp.",
            )
        # Half precision has no room for fluxes of 1e-11, so autocast ends where the network begins.
        with torch.autocast(self.device.type, enabled=False):
            x = torch.stack([resample(images[band].float(), self.net.size) for band in self.bands], dim=1)
            low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
            good = ((high > low) & torch.isfinite(high - low)).flatten(1)
            if not bool(good.all()):
                stamp, channel = (int(i) for i in (~good).nonzero()[0])
                raise LensfindError(
                    "finite stamps with structure",
                    f"NaN, infinite or constant pixels in band {self.bands[channel]} of stamp {stamp} of this batch"
                    f" ({int((~good).any(1).sum())} of {n} stamps are bad)",
                    "Leave such objects out; `python -m lensfind.data verify DIR` finds damage in a store.",
                )
            x = (x - low) / (high - low)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) of preprocessed images (N, C, S, S); class 1 = lens."""
        logits: Tensor = self.net(x)
        return logits

    def logits(self, stamps: Stamps) -> Tensor:
        """Logits (N, 2) of native stamps; channels last in memory, which is faster (benchmarks/train.py)."""
        x = self.preprocess(stamps).to(next(self.net.parameters()).dtype)
        return self.forward(x.contiguous(memory_format=torch.channels_last))

    def predict_proba(self, stamps: Stamps, batch_size: int = 64) -> Tensor:
        """P(lens) of native stamps: float64 (N,) on the CPU. Arguments and errors are those of :meth:`log_odds`."""
        return torch.sigmoid(self.log_odds(stamps, batch_size))

    @torch.no_grad()
    def log_odds(self, stamps: Stamps, batch_size: int = 64) -> Tensor:
        """ln P(lens) / P(non-lens) of native stamps, which still ranks objects whose P(lens) rounds to 1.

        Args:
            stamps: ``{band: (N, n, n)}`` in electron/s, N >= 1, numpy or torch.
            batch_size: Stamps that pass through the network at once.

        Returns:
            float64 (N,) on the CPU, without dropout whatever mode the finder is in.

        Raises:
            LensfindError: See :meth:`preprocess`.
        """
        if type(batch_size) is not int or batch_size < 1:
            raise LensfindError("a batch size of 1 or more", repr(batch_size), "Leave it out, or set batch_size=64.")
        training = self.training
        self.eval()
        try:
            mine = {band: stamps[band] for band in self.bands if band in stamps}
            n = max((len(stamp) for stamp in mine.values()), default=0)
            chunks = [
                {band: stamp[start : start + batch_size] if stamp.ndim == 3 else stamp for band, stamp in mine.items()}
                for start in range(0, max(n, 1), batch_size)
            ]
            logits = torch.cat([self.logits(chunk).cpu().double() for chunk in chunks])
            return logits[:, 1] - logits[:, 0]
        finally:
            self.train(training)

    # ------------------------------------------------------------------------------------------------- Lightning

    def setup(self, stage: str) -> None:
        """Take the class weights from the training split where none were given."""
        if stage == "fit" and self.hparams["class_weights"] is None:
            data = getattr(self.trainer, "datamodule", None)
            if data is None:
                raise LensfindError(
                    "class weights, or a LensData to take them from",
                    "class_weights=None and plain data loaders",
                    "Pass LensFinder(class_weights=[N_lens / N, N_nonlens / N]).",
                )
            non_lenses, lenses = data.class_counts()
            total = non_lenses + lenses
            self.hparams["class_weights"] = [lenses / total, non_lenses / total]

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Weighted cross-entropy of one batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Metrics of one validation batch."""
        self._step(batch, "val")

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Metrics and scores of one test batch."""
        self._step(batch, "test")

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """``row``, ``label`` and ``p_lens`` of one batch."""
        return {"row": batch["row"], "label": batch["label"], "p_lens": probability(self.logits(batch["stamps"]))}

    def _step(self, batch: Mapping[str, Any], split: str) -> Tensor:
        logits, label = self.logits(batch["stamps"]).float(), batch["label"]
        cross_entropy = nn.functional.cross_entropy(logits, label, reduction="none")
        weight = torch.tensor(self.hparams["class_weights"] or [1.0, 1.0], device=label.device)[label]
        p_lens = probability(logits.detach())
        loss_metric: Any = self.losses[f"{split}_loss"]
        metrics: Any = self.metrics[f"{split}_metrics"]
        # Weighted means over the whole epoch, so that neither batch size nor number of devices changes them.
        loss_metric.update(cross_entropy.detach(), weight)
        metrics.update(p_lens, label)
        n = len(label)
        self.log(f"{split}/loss", loss_metric, on_step=False, on_epoch=True, prog_bar=True, batch_size=n)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=n)
        if split == "test":
            self._scores.append(torch.stack([batch["row"].to(p_lens), label.to(p_lens), p_lens], dim=1))
        # DDP averages gradients over devices; dividing by the mean sum of weights makes that the whole batch's mean.
        total = self.all_gather(weight.sum()) if split == "train" else weight.sum()
        return (weight * cross_entropy).sum() / torch.as_tensor(total).mean()

    def on_test_epoch_start(self) -> None:
        """Forget earlier scores."""
        self._scores = []

    def on_test_epoch_end(self) -> None:
        """Gather the scores of all devices, in catalogue order."""
        scores = torch.cat(self._scores)
        if self.trainer.world_size > 1:
            scores = torch.cat(gather_all_tensors(scores))
        self.test_scores = scores[scores[:, 0].argsort()].cpu().double()
        self._scores = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as published."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say where the weights come from."""
        checkpoint["lensfind"] = self.provenance

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the training split's class weights of the run that goes on."""
        self.hparams["class_weights"] = checkpoint["hyper_parameters"]["class_weights"]


def probability(logits: Tensor) -> Tensor:
    """P(lens) of logits (N, 2), shape (N,): float64 where the device has it, so that confident objects stay ranked."""
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    return torch.softmax(logits.to(dtype), dim=-1)[:, 1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _native(stamp: Tensor | NDArray[Any]) -> Tensor | NDArray[Any]:
    """FITS arrays are big-endian, which torch does not take; a masked pixel is one without a value."""
    if isinstance(stamp, np.ma.MaskedArray):
        stamp = np.ma.filled(stamp.astype(np.float32), np.nan)
    return stamp if isinstance(stamp, Tensor) else np.ascontiguousarray(stamp, dtype=np.float32)
