"""Kernel statistics, streamed, against the same numbers from all activations held at once."""

import numpy as np
import pytest
import torch

from lensfind import LensFinder, LensfindError
from lensfind.interpretation import channel_means, kernel_activation
from tests.conftest import noise_stamps


def batches(stamps, label, size):
    for first in range(0, len(label), size):
        yield {
            "stamps": {band: torch.from_numpy(cube[first : first + size]) for band, cube in stamps.items()},
            "label": torch.from_numpy(label[first : first + size]),
            "row": torch.arange(first, min(first + size, len(label))) + 100,
        }


@pytest.mark.parametrize(("architecture", "bands", "total"), [("ou66", ("J",), 2292), ("ou200", ("VIS",), 1382)])
def test_the_papers_number_of_channels(architecture, bands, total):
    means = channel_means(LensFinder(architecture, bands), noise_stamps(1, bands=bands))
    assert sum(values.shape[1] for values in means.values()) == total


def test_streamed_statistics_are_those_of_the_whole():
    torch.manual_seed(0)
    finder = LensFinder("ou66", ("H",)).train()
    stamps, label = noise_stamps(13, bands=("H",)), np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 0])
    found = kernel_activation(finder, batches(stamps, label, 4), top=3)
    assert all(module.training for module in finder.modules())
    finder.eval()
    with torch.no_grad():
        maps = finder.net.layer[:8](finder.preprocess(stamps)).double().numpy()
    means, s = maps.mean((2, 3)), found["layer.7"]
    for kind in (0, 1):
        mine = label == kind
        assert s.count[kind] == mine.sum()
        np.testing.assert_allclose(s.mean[kind], means[mine].mean(0), atol=1e-6)
        np.testing.assert_allclose(s.variance[kind], means[mine].var(0, ddof=1), rtol=1e-4)
        np.testing.assert_allclose(s.maximum[kind], maps[mine].max((0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(s.active[kind], (maps[mine] > 0).mean((0, 2, 3)), atol=1e-3)
        order = np.argsort(-means[mine], axis=0)[:3]
        np.testing.assert_array_equal(s.top_row[kind], np.flatnonzero(mine)[order] + 100)
    freedom = np.array([(label == 0).sum() - 1, (label == 1).sum() - 1])
    pooled = np.sqrt((freedom[:, None] * np.stack([means[label == k].var(0, ddof=1) for k in (0, 1)])).sum(0) / 11)
    effect = (means[label == 1].mean(0) - means[label == 0].mean(0)) / pooled
    np.testing.assert_allclose(s.effect, effect, rtol=1e-3, atol=1e-4)
    one = kernel_activation(finder, batches(stamps, label, 13), top=3, batch_size=5)["fc_layer.1"]
    np.testing.assert_allclose(found["fc_layer.1"].mean, one.mean, rtol=1e-4, atol=1e-6)


def test_one_class_alone_has_no_effect_size_and_an_empty_set_is_refused():
    finder, stamps = LensFinder("ou66", ("H",)), noise_stamps(2, bands=("H",))
    found = kernel_activation(finder, batches(stamps, np.array([1, 1]), 2))
    assert found["layer.0"].count.tolist() == [0, 2]
    assert np.isnan(found["layer.0"].effect).all()
    with pytest.raises(LensfindError, match="objects to look at"):
        kernel_activation(finder, [])
    with pytest.raises(LensfindError, match="top of 1"):
        kernel_activation(finder, [], top=0)
