"""LensData: batches, orders over devices, labels, and what it refuses."""

import io
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from lensfind.bands import BANDS
from lensfind.data import LensData, Store, finish, write_shard
from lensfind.errors import LensfindError

N = 46
SPLIT = {"kind": "rows", "train": 25, "val": 11, "test": 10}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "store"
    rng = np.random.default_rng(0)
    for number in range(2):
        ids = np.arange(23) + 23 * number
        stamps = {b: rng.normal(size=(23, BANDS[b].size, BANDS[b].size)).astype(np.float32) for b in ("J", "H")}
        write_shard(root, number, stamps, Table({"id": ids + 100, "label": ids % 2, "theta_e": ids / 10}))
    finish(root, {}, shards=2, lens_rule="")
    return root


def data(root: Path, **options: Any) -> LensData:
    made = LensData(root, ["J"], **{"split": SPLIT, "batch_size": 4, **options})
    made.setup()
    return made


def rows(loader: Iterable[Any]) -> list[list[int]]:
    return [batch["row"].tolist() for batch in loader]


def test_batches(root: Path) -> None:
    made = data(root)
    store = Store(root)
    seen = []
    for batch in made.train_dataloader():
        assert set(batch) == {"stamps", "label", "row"}
        assert batch["stamps"]["J"].dtype == torch.float32
        assert batch["label"].dtype == batch["row"].dtype == torch.int64
        np.testing.assert_array_equal(batch["stamps"]["J"], store.read(batch["row"], ["J"])["J"])
        np.testing.assert_array_equal(batch["label"], store.catalogue["label"][batch["row"]])
        seen += batch["row"].tolist()
    assert sorted(seen) == list(range(25))
    assert seen != sorted(seen)
    assert rows(made.val_dataloader()) == [[25, 26, 27, 28], [29, 30, 31, 32], [33, 34, 35]]
    assert rows(made.test_dataloader()) == [[36, 37, 38, 39], [40, 41, 42, 43], [44, 45]]
    assert rows(made.loader([45, 0, 7, 7, 3])) == [[45, 0, 7, 7], [3]]
    assert made.class_counts() == (13, 12)
    assert made.rows("unused").tolist() == []


# A spawned worker imports Lightning: seconds. That a Store itself survives spawn is in test_store.py.
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_bring_the_same_batches(root: Path, context: str) -> None:
    alone, made = data(root), data(root, num_workers=2)
    next(iter(made.loader([0]).dataset))  # maps are open here, in the parent
    loader = made.test_dataloader()
    loader.multiprocessing_context = context
    for one, two in zip(alone.test_dataloader(), loader, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def on(made: LensData, rank: int, devices: int) -> LensData:
    root_device = SimpleNamespace(root_device=torch.device("cpu"))
    made.trainer = SimpleNamespace(world_size=devices, global_rank=rank, strategy=root_device)  # type: ignore[assignment]
    return made


def test_two_devices_see_the_global_batches_of_one(root: Path) -> None:
    one, first, second = data(root), on(data(root), 0, 2), on(data(root), 1, 2)
    for epoch in range(2):
        loaders = [made.train_dataloader() for made in (one, first, second)]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        alone, a, b = map(rows, loaders)
        assert [len(batch) for batch in a][:-1] == [2] * 6
        for k in range(6):
            assert set(alone[k]) == {*a[k], *b[k]}
        assert alone == rows(loaders[0])
    loaders[0].sampler.set_epoch(0)  # type: ignore[attr-defined]
    assert alone != rows(loaders[0]), "every epoch has its own order"
    for kind, n in (("val", 11), ("test", 10)):
        parts = [
            row for made in (first, second) for batch in rows(getattr(made, f"{kind}_dataloader")()) for row in batch
        ]
        assert sorted(parts) == made_rows(one, kind)
        assert len(parts) == n, "no row dropped, none repeated"


def made_rows(made: LensData, kind: str) -> list[int]:
    return [int(row) for row in made.rows(kind)]


def test_a_batch_that_devices_cannot_share(root: Path) -> None:
    with pytest.raises(LensfindError, match=r"3 devices can share evenly; got 4. Set data.batch_size=3"):
        on(data(root), 0, 3).train_dataloader()


def test_the_seed_makes_the_order(root: Path) -> None:
    assert rows(data(root).train_dataloader()) == rows(data(root).train_dataloader())
    assert rows(data(root).train_dataloader()) != rows(data(root, shuffle_seed=1).train_dataloader())


def test_labels_by_a_rule(root: Path) -> None:
    made = data(root, lens_rule="theta_e > 1.95", split={"kind": "none"})
    assert made.labels.tolist() == [0] * 20 + [1] * 26
    assert made.catalogue["label"].tolist() == made.labels.tolist()
    assert next(iter(made.test_dataloader()))["label"].tolist() == [0, 0, 0, 0]
    assert Store(root).catalogue["label"].tolist() == [0, 1] * 23
    with pytest.raises(LensfindError, match="column mag"):
        data(root, lens_rule="mag > 1")


class Seen(LightningModule):
    """Notes the rows that pass, with one parameter so that it can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[int]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.seen["train"] += batch["row"].tolist()
        return self.weight.sum()

    def validation_step(self, batch: Any, index: int) -> None:
        self.seen["val"] += batch["row"].tolist()

    def test_step(self, batch: Any, index: int) -> None:
        self.seen["test"] += batch["row"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_runs_it_and_its_checkpoint_is_plain(root: Path, tmp_path: Path) -> None:
    made: list[Path] = []
    datamodule = LensData(root, ("J",), split=SPLIT, batch_size=4, make=made.append)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    model = Seen()
    trainer.fit(model, datamodule=datamodule)
    trainer.test(model, datamodule=datamodule, verbose=False)
    first, second = model.seen["train"][:25], model.seen["train"][25:]
    assert sorted(first) == sorted(second) == list(range(25))
    assert first != second, "Lightning moves the epoch on"
    assert model.seen["val"] == 2 * list(range(25, 36))
    assert model.seen["test"] == list(range(36, 46))
    assert made == [root], "made once, not again for the test"
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert saved["root"] == str(root)
    assert saved["bands"] == ["J"]
    assert saved["split"] == SPLIT
    assert "make" not in saved
    buffer = io.BytesIO()
    torch.save(dict(datamodule.hparams), buffer)


def test_damage_is_named_before_training(root: Path, tmp_path: Path) -> None:
    for path in root.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "shard-00001.fits"
    whole = bytearray(path.read_bytes())
    whole[2 * 2880 + 4 * 66 * 66 * 3 + 50] ^= 1  # in the cube of J, fourth stamp
    path.write_bytes(whole)
    made = LensData(tmp_path, ["J"], split=SPLIT)
    with pytest.raises(
        LensfindError, match=r"1 damaged place, first shard-00001.fits J object 126.*lensfind.data verify"
    ):
        made.prepare_data()
    LensData(tmp_path, ["J"], split=SPLIT, verify=False).prepare_data()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "data.batch_size of 1"),
        ({"batch_size": 2.5}, "data.batch_size of 1"),
        ({"num_workers": -1}, "data.num_workers of 0"),
        ({"shuffle_seed": None}, "data.shuffle_seed"),
        ({"bands": ["J", "X"]}, "bands out of"),
        ({"bands": []}, "bands out of"),
        ({"split": {"kind": "fraction", "trian": 0.5}}, "trian"),
    ],
)
def test_bad_options_are_refused_at_once(root: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(LensfindError, match=words):
        LensData(**{"root": root, "bands": ["J"], "split": SPLIT, **options})


def test_what_setup_and_loaders_refuse(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LensfindError, match=r"only J, H .missing: VIS"):
        LensData(root, ["VIS"], split=SPLIT).setup()
    with pytest.raises(LensfindError, match="does not exist"):
        LensData(tmp_path / "no", ["J"], split=SPLIT).prepare_data()
    with pytest.raises(LensfindError, match="at least 60000 rows"):
        data(root, split={"kind": "rows", "train": 45000, "val": 3000, "test": 12000})
    with pytest.raises(LensfindError, match="rows in the split train; got none of 46"):
        data(root, split={"kind": "none"}).train_dataloader()
    with pytest.raises(LensfindError, match="train, val, test, unused"):
        data(root).rows("trian")
    assert data(root, split={"kind": "rows", "train": 46}).val_dataloader() == []
    empty = {"J": np.zeros((0, 66, 66), np.float32)}
    write_shard(tmp_path / "empty", 0, empty, Table(), [("1", "constant")])
    finish(tmp_path / "empty", {}, shards=1, lens_rule="")
    with pytest.raises(LensfindError, match="objects in .*rejects.csv"):
        data(tmp_path / "empty")


def test_loaders_are_plain_dataloaders(root: Path) -> None:
    assert isinstance(data(root).loader([0]), DataLoader)
