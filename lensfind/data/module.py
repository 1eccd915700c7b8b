"""LensData: a store as the train, val and test loaders of Lightning."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from lensfind.bands import check_bands
from lensfind.data.catalogue import PARTS, assign_splits, check_split, lens_labels
from lensfind.data.store import Store, verify
from lensfind.errors import LensfindError
from lensfind.files import locked

__all__ = ["LensData"]

Batch = dict[str, Any]


class _Objects(Dataset[Batch]):
    """Rows of a store, fetched a batch at a time."""

    def __init__(self, store: Store, bands: Sequence[str], labels: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self.store, self.bands, self.labels, self.rows = store, bands, labels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = self.rows[indices]
        return {
            "stamps": {band: torch.from_numpy(cube) for band, cube in self.store.read(rows, self.bands).items()},
            "label": torch.from_numpy(self.labels[rows]),
            "row": torch.from_numpy(rows),
        }


def _as_is(batch: Any) -> Any:  # __getitems__ has put it together already
    return batch


class LensData(LightningDataModule):
    """The objects of a store in splits and batches.

    Args:
        root: Folder of the store.
        bands: Bands to load, in any order; the store must have them.
        split: See :func:`lensfind.data.catalogue.assign_splits`.
        batch_size: Over all devices together.
        num_workers: Loader processes per device.
        shuffle_seed: Of the order of the training rows; the epoch enters too.
        lens_rule: Make the labels anew from catalogue columns (:func:`lensfind.data.catalogue.lens_labels`); None takes
            the catalogue's own.
        verify: Check every checksum of the store before the first use.
        make: Makes the store at ``root`` if it is not there yet (it must be cheap if it is). Called once, on rank zero.

    A batch is ``{"stamps": {band: (B, n, n) float32}, "label": (B,) int64, "row": (B,) int64}``: native pixels,
    electron/s; 1 = lens; row of the catalogue.

    After ``setup`` there are ``store``, ``catalogue`` (whose ``label`` follows ``lens_rule``), ``labels`` (N,) int64
    and ``splits`` (N,) of ``"train" | "val" | "test" | "unused"``.

    Every row of val and test comes exactly once, on any number of devices. The training order is the same on any
    number of devices that divides ``batch_size``, up to the repeats that fill the last batch.

    Raises:
        LensfindError: From the constructor for a bad option; from ``prepare_data`` for a damaged store; from ``setup``
            for a store that cannot be read, lacks the bands, is empty or cannot be split.
    """

    store: Store
    catalogue: Table
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]

    def __init__(
        self,
        root: str | Path,
        bands: Sequence[str],
        *,
        split: Mapping[str, Any],
        batch_size: int = 500,
        num_workers: int = 0,
        shuffle_seed: int = 0,
        lens_rule: str | None = None,
        verify: bool = True,
        make: Callable[[Path], None] | None = None,
    ) -> None:
        super().__init__()
        self.root = Path(root).absolute()  # the checkpoint keeps it, and may be used in another folder
        self.bands = check_bands(bands)
        check_split(split)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("shuffle_seed", shuffle_seed, 0),
        ):
            if type(value) is not int or value < least:
                raise LensfindError(f"data.{name} of {least} or more", f"{value!r:.60}", f"Set data.{name}={least}.")
        # Only plain values: a checkpoint with others does not load safely. `make` can be code, so it stays out.
        self.save_hyperparameters(
            {
                "root": str(self.root),
                "bands": list(self.bands),
                "split": dict(split),
                "batch_size": batch_size,
                "num_workers": num_workers,
                "shuffle_seed": shuffle_seed,
                "lens_rule": lens_rule,
                "verify": verify,
            },
            logger=False,
        )
        self.prepare_data_per_node = False  # one store, written once, also on a cluster's shared disk
        self._make = make
        self._prepared = False

    def prepare_data(self) -> None:
        """Make the store if need be and check its bytes, the first time. Lightning calls it on rank zero only."""
        if self._prepared:
            return
        if self._make is not None:
            with locked(self.root):
                self._make(self.root)
        damage = verify(self.root, progress=True) if self.hparams["verify"] else []
        if damage:
            raise LensfindError(
                f"a sound store in {self.root}",
                f"{len(damage)} damaged {'place' if len(damage) == 1 else 'places'}, first {damage[0]}",
                f"List all with: python -m lensfind.data verify {self.root}. Then copy those shards again, or delete "
                "them and the manifest and repeat the command that made the store.",
            )
        self._prepared = True

    def setup(self, stage: str | None = None) -> None:
        """Open the store and divide its rows; any ``stage`` does all of it, once."""
        if hasattr(self, "splits"):
            return
        store = Store(self.root)
        check_bands(self.bands, offered=store.bands, by=str(self.root))
        if len(store) == 0:
            raise LensfindError(f"objects in {self.root}", "none", "See its rejects.csv for the reasons.")
        catalogue = store.catalogue
        if self.hparams["lens_rule"] is not None:
            catalogue = catalogue.copy()
            catalogue["label"] = lens_labels(catalogue, self.hparams["lens_rule"])
        self.store, self.catalogue = store, catalogue
        self.labels = np.asarray(catalogue["label"], dtype=np.int64)
        self.splits = assign_splits(self.labels, self.hparams["split"], catalogue)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Catalogue rows of ``"train"``, ``"val"``, ``"test"`` or ``"unused"``, ascending."""
        if split not in (*PARTS, "unused"):
            raise LensfindError("a split out of train, val, test, unused", repr(split), "Choose one of these.")
        return np.flatnonzero(self.splits == split)

    def class_counts(self) -> tuple[int, int]:
        """(non-lenses, lenses) of the training rows."""
        lenses = int(self.labels[self.rows("train")].sum())
        return len(self.rows("train")) - lenses, lenses

    def loader(self, rows: ArrayLike) -> DataLoader[Batch]:
        """Any catalogue rows (R,), in the order given, e.g. for scoring; all of them in this process."""
        return self._loader(self._objects(np.asarray(rows, dtype=np.int64)), self.hparams["batch_size"], None)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training rows, shuffled anew each epoch."""
        rows = self._some("train")
        replicas, rank = self._place()
        # Interleaved over the ranks: rank r of R takes r, r + R, ..., so the ranks' k-th batches together are the k-th
        # batch of one process.
        objects, size = self._objects(rows), self._local_batch()
        sampler: DistributedSampler[Batch] = DistributedSampler(
            objects, replicas, rank, shuffle=True, seed=self.hparams["shuffle_seed"]
        )
        # It repeats rows until all devices have as many; DDP needs that only if one would have a batch more.
        if len(rows) % replicas and (len(rows) // replicas) % size:
            sampler.total_size, sampler.num_samples = len(rows), len(range(rank, len(rows), replicas))
        return self._loader(objects, size, sampler)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Validation rows in catalogue order; no loader if there are none."""
        return self._unrepeated(self.rows("val")) if len(self.rows("val")) else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test rows in catalogue order."""
        return self._unrepeated(self._some("test"))

    def _some(self, split: str) -> NDArray[np.int64]:
        rows = self.rows(split)
        if not len(rows):
            raise LensfindError(
                f"rows in the split {split}",
                f"none of {len(self.splits)} with data.split={self.hparams['split']}",
                "Choose another split, e.g. split=fraction.",
            )
        return rows

    def _unrepeated(self, rows: NDArray[np.int64]) -> DataLoader[Batch]:
        replicas, rank = self._place()
        if len(rows) < replicas:
            raise LensfindError(
                f"at least one row of val and of test for each of {replicas} devices",
                f"{len(rows)}",
                f"Set trainer.devices={len(rows)}, or use more data.",
            )
        objects = self._objects(rows)
        sampler = UnrepeatedDistributedSampler(objects, replicas, rank, shuffle=False)
        return self._loader(objects, self._local_batch(), sampler)

    def _place(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _local_batch(self) -> int:
        batch_size, replicas = self.hparams["batch_size"], self._place()[0]
        if batch_size % replicas:
            raise LensfindError(
                f"a batch size that {replicas} devices can share evenly",
                f"{batch_size}",
                f"Set data.batch_size={max(1, batch_size // replicas) * replicas}.",
            )
        return int(batch_size // replicas)

    def _objects(self, rows: NDArray[np.int64]) -> _Objects:
        return _Objects(self.store, self.bands, self.labels, rows)

    def _loader(self, objects: _Objects, size: int, sampler: Sampler[Any] | None) -> DataLoader[Batch]:
        workers = self.hparams["num_workers"]
        return DataLoader(
            objects,
            batch_size=size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            # Its own: a loader seeds its workers from torch's default generator, which would shift the dropout that is
            # drawn from there, and not by the same in a resumed run.
            generator=torch.Generator().manual_seed(self.hparams["shuffle_seed"]),
            collate_fn=_as_is,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )
