"""Export: a simulated store in the layout of the lens-finding challenge 2.0, for codes that read that."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from rich.progress import track

from lensfind.data.store import Store
from lensfind.files import write_file

__all__ = ["export_challenge"]

TRUTH = "image_catalog2.0train.csv"

_COMMENTS = """\
image catalogue of a set simulated by lensfind, in the columns of the lens-finding challenge 2.0
ID : of the images imageEUC_<BAND>-<ID>.fits, 1 + lensfind's id
x_crit, y_crit : centre of the deflector, pixels of VIS from the centre
source_ID : 1 where there is a source
z_source, z_lens : redshifts
mag_source : AB magnitude of the unlensed source, VIS
ein_area : area within the critical curve, arcsec^2
n_crit : critical curves
r_source : half-light radius of the unlensed source, arcsec
crit_area : as ein_area
n_pix_source : VIS pixels with lensed source above 1 sigma
source_flux : of the lensed source, VIS, electron/s
n_pix_lens : not measured
lens_flux : of the central galaxy, VIS, electron/s
n_source_im : images of the source
mag_eff : lensed over unlensed source flux
sb_contrast : lensed source over source + deflector where the source is above 1 sigma
color_diff : VIS - H of the source minus that of the central galaxy, mag
n_gal_3, n_gal_5, n_gal_10 : not measured
halo_mass, star_mass : not modelled
mag_lens : AB magnitude of the central galaxy, VIS
n_sources : lensed sources
objects without a source have blanks
1 arcsec is 10 pixels of VIS; magnitudes are AB
images: electron/s, VIS 200x200 of 0.1 arcsec, NISP 66x66 of 0.3 arcsec
kinds, labels and the rest of the truth: catalogue of the store beside this folder"""

_ZERO_POINT = 25.72


def export_challenge(store: Store, folder: Path) -> Path:
    """Write ``EUC_<BAND>/imageEUC_<BAND>-<ID>.fits`` and the truth table below ``folder``; the table last.

    ID is 1 + the store's id. An export that was stopped is begun again.

    Returns:
        The folder.

    Raises:
        LensfindError: The disk is full or cannot be written.
    """
    if (folder / TRUTH).is_file():
        return folder
    for band in store.bands:
        (folder / f"EUC_{band}").mkdir(parents=True, exist_ok=True)
    ids = np.asarray(store.catalogue["id"]) + 1
    for start in track(range(0, len(store), 100), description="exporting"):
        rows = np.arange(start, min(start + 100, len(store)))
        for band, stamps in store.read(rows, list(store.bands)).items():
            for row, stamp in zip(rows, stamps, strict=True):
                hdu = fits.PrimaryHDU(stamp)
                hdu.header["BUNIT"] = "electron/s"
                hdu.writeto(folder / f"EUC_{band}" / f"imageEUC_{band}-{ids[row]}.fits", overwrite=True)
    write_file(folder / TRUTH, _truth(store.catalogue, ids))
    return folder


def _truth(table: Table, ids: np.ndarray) -> str:
    lensed = np.isfinite(np.asarray(table["mag_source"], dtype=np.float64))

    def column(name: str) -> list[str]:
        return [f"{value:.6g}" if there else "" for value, there in zip(table[name], lensed, strict=True)]

    def flux(magnitude: np.ndarray) -> np.ndarray:
        return np.asarray(10 ** (-0.4 * (np.asarray(magnitude, dtype=np.float64) - _ZERO_POINT)))

    def where(values: np.ndarray) -> list[str]:
        return [f"{value:.6g}" if there else "" for value, there in zip(values, lensed, strict=True)]

    blank = [""] * len(table)
    source_colour = np.asarray(table["mag_source_VIS"]) - np.asarray(table["mag_source_H"])
    colour = source_colour - (np.asarray(table["mag_lens_VIS"]) - np.asarray(table["mag_lens_H"]))
    two = np.isfinite(np.asarray(table["z_source_2"], dtype=np.float64))
    columns = {
        "": [str(i) for i in range(len(table))],
        "ID": [str(i) for i in ids],
        "x_crit": where(np.zeros(len(table))),
        "y_crit": where(np.zeros(len(table))),
        "source_ID": where(np.ones(len(table))),
        "z_source": column("z_source"),
        "z_lens": [f"{z:.6g}" for z in table["z_lens"]],
        "mag_source": column("mag_source"),
        "ein_area": column("ein_area"),
        "n_crit": where(np.ones(len(table))),
        "r_source": column("r_source"),
        "crit_area": column("ein_area"),
        "n_pix_source": [str(int(n)) for n in table["n_pix_source"]],
        "source_flux": where(flux(table["mag_source"]) * np.asarray(table["mag_eff"])),
        "n_pix_lens": blank,
        "lens_flux": [f"{f:.6g}" for f in flux(table["mag_lens"])],
        "n_source_im": [str(int(n)) for n in table["n_source_im"]],
        "mag_eff": column("mag_eff"),
        "sb_contrast": column("contrast"),
        "color_diff": where(colour),
        "n_gal_3": blank,
        "n_gal_5": blank,
        "n_gal_10": blank,
        "halo_mass": blank,
        "star_mass": blank,
        "mag_lens": [f"{m:.6g}" for m in table["mag_lens"]],
        "n_sources": [str(int(a) + int(b)) for a, b in zip(lensed, two, strict=True)],
    }
    lines = [f"# {line}" for line in _COMMENTS.splitlines()] + [",".join(columns)]
    return "\n".join([*lines, *(",".join(row) for row in zip(*columns.values(), strict=True))]) + "\n"
