"""What evaluate.py and interpret.py take as networks and data."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
from astropy.table import Table

from lensfind import LensFinder, LensfindError
from lensfind.data import Store, finish, write_shard
from lensfind.inputs import data_for, device, load_networks, rows_of, seen
from tests.conftest import compose, noise_stamps

CPU = torch.device("cpu")


def weights(path, architecture="ou66", bands=("J", "Y", "H")):
    """A weight file in the published format, of a network that nobody trained."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(LensFinder(architecture, bands).net.state_dict(), path)
    return path


def other_run(trained, folder, change):
    """The folder of a run with a checkpoint like that of ``trained``, changed."""
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    change(content)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(content, folder / "checkpoints" / "best.ckpt")


def test_one_path_or_many(tmp_path, trained):
    a, b = weights(tmp_path / "files" / "a.pt"), weights(tmp_path / "files" / "b.pt", "ou200", ("VIS",))
    (tmp_path / "files" / "notes.txt").write_text("no network")
    one = load_networks(str(a), CPU)
    assert [network.name for network in one] == ["a"]
    assert one[0].sha256 == hashlib.sha256(a.read_bytes()).hexdigest()
    assert [network.path for network in load_networks([str(b), str(a)], CPU)] == [b, a]  # in the order given
    assert [network.path for network in load_networks(str(tmp_path / "files"), CPU)] == [a, b]
    assert load_networks(str(trained), CPU)[0].path == trained / "checkpoints" / "best.ckpt"


def test_a_sweeps_folder_names_its_runs(tmp_path, trained):
    for name in ("rate-1", "rate-2"):
        other_run(trained, tmp_path / "sweep" / name, lambda content, name=name: content["lensfind"].update(note=name))
    (tmp_path / "sweep" / "unfinished").mkdir()
    networks = load_networks(str(tmp_path / "sweep"), CPU)
    assert [network.name for network in networks] == ["ou66-jyh (rate-1)", "ou66-jyh (rate-2)"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "an empty list"),
        ([3], "got 3"),
        ("empty", "none of"),
        ("not/there.pt", "not there"),
        (["a.pt", "a.pt"], "twice"),
    ],
)
def test_wrong_checkpoints(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    weights(tmp_path / "a.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LensfindError, match=message):
        load_networks(given, CPU)


def test_wrong_device():
    with pytest.raises(LensfindError, match="device=nonsense"):
        device("nonsense")


def vis_store(root):
    """Twelve objects in VIS alone."""
    table = Table({"id": np.arange(12), "label": np.arange(12) % 2})
    write_shard(root, 0, noise_stamps(12, bands=("VIS",)), table)
    finish(root, {"app": "test"}, shards=1, lens_rule="none")
    return root


def test_a_band_that_the_data_lack_names_network_and_data(tmp_path):
    root = vis_store(tmp_path / "store")
    files = [weights(tmp_path / "vis.pt", "ou200", ("VIS",)), weights(tmp_path / "jyh.pt")]
    networks = load_networks([str(file) for file in files], CPU)
    cfg = compose("evaluate", "checkpoint=x", "data=shards", f"data.root={root}")
    with pytest.raises(LensfindError, match=r"bands J, Y, H of jyh .* VIS \(no J, Y, H\)"):
        data_for(cfg, networks)
    data = data_for(cfg, networks[:1])
    assert data.bands == ("VIS",)
    assert len(rows_of("all", data)) == len(rows_of("test", data)) == 12
    assert not len(rows_of("val", data))
    with pytest.raises(LensfindError, match="rows to be"):
        rows_of("some", data)


def test_networks_of_one_run_keep_its_split(trained, store):
    networks = load_networks(str(trained), CPU)
    own = data_for(compose("evaluate", "checkpoint=x"), networks)
    named = data_for(compose("evaluate", "checkpoint=x", "data=shards", f"data.root={store}"), networks)
    assert own.root == named.root == store
    assert (own.splits == named.splits).all()
    assert {"train", "val", "test"} <= set(own.splits)


def test_networks_of_different_data_must_be_told(tmp_path, trained, store):
    split = "datamodule_hyper_parameters"
    other_run(trained, tmp_path / "other", lambda content: content[split]["split"].update(seed=7))
    networks = load_networks([str(trained), str(tmp_path / "other")], CPU)
    with pytest.raises(LensfindError, match="split .* of .* and .*Name data that none of them has seen"):
        data_for(compose("evaluate", "checkpoint=x"), networks)
    with pytest.raises(LensfindError, match="keep one split"):
        data_for(compose("evaluate", "checkpoint=x", "data=shards", f"data.root={store}"), networks)


def test_a_copy_of_a_network_is_refused(tmp_path):
    a = weights(tmp_path / "a.pt")
    shutil.copy(a, tmp_path / "b.pt")
    with pytest.raises(LensfindError, match=r"b\.pt, a copy of .*a\.pt"):
        load_networks([str(a), str(tmp_path / "b.pt")], CPU)


@pytest.mark.parametrize("way", ["moved", "linked"])
def test_the_split_is_kept_wherever_the_data_lie(trained, store, tmp_path, way):
    """Else rows of the training would pass for test rows."""
    if way == "moved":
        shutil.copytree(store, tmp_path / "copy")
    else:
        (tmp_path / "copy").symlink_to(store)
    networks = load_networks(str(trained), CPU)
    here = data_for(compose("evaluate", "checkpoint=x"), networks)
    rule = "data.lens_rule='theta_e > 1.2'"  # other labels do not move the rows from part to part
    for more in ([], [rule]):
        there = data_for(
            compose("evaluate", "checkpoint=x", "data=shards", f"data.root={tmp_path / 'copy'}", *more), networks
        )
        assert (there.splits == here.splits).all()
    assert (seen(networks, there)["ou66-jyh"] == here.splits).all()


def test_store_is_read_once_for_all_bands(tmp_path, store):
    files = [weights(tmp_path / "vis.pt", "ou200", ("VIS",)), weights(tmp_path / "jyh.pt")]
    cfg = compose("evaluate", "checkpoint=x", "data=shards", f"data.root={store}")
    data = data_for(cfg, load_networks([str(file) for file in files], CPU))
    assert set(data.bands) == {"J", "Y", "H", "VIS"} == set(Store(store).bands)
