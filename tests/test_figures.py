"""Figures, by the colour of known pixels and by the numbers behind the lines."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from lensfind import LensfindError, figures
from lensfind.bands import BANDS
from tests.conftest import noise_stamps


def star(band: str, x: float, y: float) -> np.ndarray:
    """A round source of 1 arcsec FWHM at an offset in arcsec from the stamp's centre; surface brightness 1."""
    geometry = BANDS[band]
    axis = (np.arange(geometry.size) - (geometry.size - 1) / 2) * geometry.pixel_scale
    squared = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2
    return np.exp(-squared / 0.36) * geometry.pixel_scale**2


def coloured_stamps() -> dict[str, np.ndarray]:
    """Offsets in arcsec: a red source at (4, 0), one that only VIS sees at (-4, 0), one in all bands at (0, 6)."""
    stamps = {band: cube.astype(np.float64) * 0.01 for band, cube in noise_stamps(1).items()}
    for band in stamps:
        stamps[band][0] += star(band, 0, 6)
    stamps["H"][0] += 5 * star("H", 4, 0)
    stamps["VIS"][0] += star("VIS", 4, 0) + 3 * star("VIS", -4, 0)
    return stamps


def at(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """Colour at an offset in arcsec, of a VIS picture."""
    return picture[round(99.5 + y * 10), round(99.5 + x * 10)]


def test_composite_colours_stand_where_the_light_is():
    picture = figures.composite(coloured_stamps())[0]
    assert picture.shape == (200, 200, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    red, blue = at(picture, 4, 0), at(picture, -4, 0)
    assert red[0] > 1.5 * red[2]
    assert blue[2] > 1.5 * blue[0]
    assert at(picture, 0, 6).min() > 0.3
    assert at(picture, 0, -6).max() < 0.3  # sky


def test_composite_of_any_linear_unit_is_the_same():
    stamps = coloured_stamps()
    small = {band: cube * 1e-10 for band, cube in stamps.items()}
    np.testing.assert_allclose(figures.composite(small), figures.composite(stamps), atol=1e-5)


def test_few_bands_are_grey():
    stamps = coloured_stamps()
    grey = figures.composite({band: stamps[band] for band in ("H", "VIS")})
    assert grey.shape == (1, 200, 200, 3)
    assert np.ptp(grey, axis=-1).max() < 1e-6
    assert figures.composite({band: stamps[band] for band in ("J", "Y", "H")}).shape == (1, 66, 66, 3)


def test_centres_coincide_between_grids():
    moved = figures.stamps._on_grid(star("H", 3, -2)[None], "H", "VIS")[0]
    row, column = np.unravel_index(moved.argmax(), moved.shape)
    assert abs((column - 99.5) / 10 - 3) < 0.16
    assert abs((row - 99.5) / 10 + 2) < 0.16


def test_mosaic_needs_one_title_each_and_few_objects():
    stamps = {"H": noise_stamps(3, bands=("H",))["H"]}
    figure = figures.mosaic(stamps, ["a", "b", "c"], columns=2)
    assert isinstance(figure, Figure)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", ""]
    with pytest.raises(LensfindError, match="3 objects and 1 titles"):
        figures.mosaic(stamps, ["a"])
    with pytest.raises(LensfindError, match="33 objects"):
        figures.mosaic({"H": noise_stamps(33, bands=("H",))["H"]})


def test_occlusion_is_blue_for_lens_evidence_and_red_against():
    difference = np.zeros((50, 50))
    difference[10, 5], difference[40, 30] = -0.2, 0.1
    figure = figures.occlusion(np.zeros((200, 200)), difference, 0.9, "id 7")
    stamp, shown, bar = figure.axes
    picture = shown.images[0]
    blue, red, zero = (picture.to_rgba(difference[p]) for p in ((10, 5), (40, 30), (0, 0)))
    assert blue[2] > blue[0] + 0.2
    assert red[0] > red[2] + 0.2
    np.testing.assert_allclose(zero[:3], zero[0], atol=0.02)  # zero is white
    assert picture.get_clim() == (-0.2, 0.2)
    assert picture.get_extent() == pytest.approx((-10, 10, -10, 10))
    assert bar.get_ylabel() == "P(lens | occluded) - P(lens)"
    assert "0.900" in stamp.get_title()
    assert "arcsec" in shown.get_xlabel()


def test_curves_pass_through_points_counted_by_hand():
    label, p_lens = [0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9]
    line = figures.roc_curve({"a": (label, p_lens)}).axes[0].lines[1]
    # From the top: lens, non-lens, lens, non-lens.
    np.testing.assert_allclose(line.get_xydata(), [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]])
    assert line.get_label() == "a: AUROC 0.750"
    line = figures.precision_recall_curve({"a": (label, p_lens)}).axes[0].lines[0]
    points = {(round(float(r), 3), round(float(p), 3)) for r, p in line.get_xydata()}
    assert points == {(0.5, 1.0), (0.5, 0.5), (1.0, 0.667), (1.0, 0.5)}
    assert line.get_label() == "a: AP 0.833"
    one_class = figures.roc_curve({"a": ([0, 0], [0.1, 0.2])}).axes[0]
    assert one_class.get_legend().get_texts()[1].get_text() == "a: undefined, one class only"


def test_confusion_matrix_counts():
    ax = figures.confusion_matrix([0, 0, 0, 1, 1], [0.1, 0.5, 0.7, 0.4, 0.9]).axes[0]
    assert [text.get_text().split("\n")[0] for text in ax.texts] == ["2", "1", "1", "1"]


def test_learning_curves_mark_the_best_epoch():
    epochs = [{"epoch": k, "train/loss": 1 / (k + 1), "val/loss": v, "val/auroc": 0.9} for k, v in enumerate((3, 1, 2))]
    loss, quality = figures.learning_curves(epochs).axes
    np.testing.assert_allclose(loss.lines[1].get_xydata(), [[1, 3], [2, 1], [3, 2]])
    assert loss.lines[2].get_label() == "best epoch (2)"
    assert quality.get_ylabel() == "validation metric"
    assert figures.learning_curves([]).axes  # a run stopped before its first epoch


def test_no_global_state_and_any_figure_saves():
    before = dict(matplotlib.rcParams)
    figure = figures.roc_curve({"a": ([0, 1], [0.1, 0.9])})
    figure.savefig(io.BytesIO(), format="png")
    assert dict(matplotlib.rcParams) == before
