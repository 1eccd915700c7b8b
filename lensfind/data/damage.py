"""Damage of a shard, found by its checksums and named down to the object."""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from astropy.io import fits

from lensfind.data.shards import BAD_FITS, WHOLE, Hdu, layout, ones_sum

__all__ = ["Damage", "shard_damage"]

_BLOCK = 8 << 20  # bytes held at a time


@dataclass(frozen=True)
class Damage:
    """One damaged place of a store."""

    shard: str
    """File name."""
    hdu: str
    """Name of the HDU; empty where the file as a whole is meant."""
    id: int | None
    """Object, where one can be named."""
    reason: str

    def __str__(self) -> str:
        place = [self.shard, *([self.hdu] if self.hdu else []), *([] if self.id is None else [f"object {self.id}"])]
        return f"{' '.join(place)}: {self.reason}"


def shard_damage(path: Path, names: Sequence[str]) -> Iterator[Damage]:
    """Damage of one shard whose HDUs should be ``names``."""
    hdus: dict[str, Hdu] = {}
    with open(path, "rb") as file:
        try:
            for name, hdu in zip(names, layout(file), strict=True):
                hdus[name] = hdu  # noqa: PERF403  a comprehension would lose those before an unreadable one
        except BAD_FITS as error:  # what can be reached is checked all the same
            yield Damage(path.name, names[min(len(hdus), len(names) - 1)], None, f"header cannot be read: {error}")
        for name, hdu in list(hdus.items()):
            file.seek(hdu.start)
            try:
                total = ones_sum(file.read(hdu.data - hdu.start), int(hdu.header["DATASUM"]))
            except BAD_FITS:
                total = 0
            if total != WHOLE or hdu.name != name:
                reason = (
                    "its checksum is wrong" if total != WHOLE else f"it is of {hdu.name}, other than the manifest says"
                )
                yield Damage(path.name, name, None, f"header: {reason}")
                del hdus[name]  # its size can no longer be trusted
        ids: list[int] = []
        crcs: dict[str, list[int]] = {}
        if "CATALOGUE" in hdus:  # first, because it knows the ids and CRCs of the cubes before it
            hdu = hdus["CATALOGUE"]
            file.seek(hdu.start)
            table = fits.BinTableHDU.fromstring(file.read(hdu.end - hdu.start)).data
            ids = table["id"].tolist() if len(table) else []
            crcs = {name: table[f"crc_{name}"].tolist() for name in names if f"crc_{name}" in table.names}
            crcs["CATALOGUE"] = table["crc_row"].tolist()
        for name, hdu in hdus.items():
            total, found = _sums(file, hdu, tail=8 if name == "CATALOGUE" else 0)
            expected = crcs.get(name, found)
            bad = [i for i, crc in enumerate(found) if crc != expected[i]]
            for i in bad:
                yield Damage(path.name, name, ids[i] if ids else None, f"data of row {i} of the shard have changed")
            if not bad and total != int(hdu.header["DATASUM"]):
                yield Damage(path.name, name, None, "data: the checksum is wrong")


def _sums(file: BinaryIO, hdu: Hdu, tail: int) -> tuple[int, list[int]]:
    """DATASUM of an HDU, and the CRC-32 of each of its rows or planes less ``tail`` bytes, block by block."""
    axes = [hdu.header[f"NAXIS{axis + 1}"] for axis in range(hdu.header["NAXIS"])]
    count = axes[-1] if axes else 0
    item = math.prod(axes[:-1]) * abs(hdu.header["BITPIX"]) // 8
    step = max(1, _BLOCK // max(4 * item, 1)) * 4  # in fours, so that every block is whole 32-bit words
    total, crcs = 0, list[int]()
    file.seek(hdu.data)
    while file.tell() < hdu.end:
        block = memoryview(file.read(min(step * item or _BLOCK, hdu.end - file.tell())))
        total = ones_sum(block, total)
        for k in range(min(step, count - len(crcs))):
            crcs.append(zlib.crc32(block[k * item : (k + 1) * item - tail]))
    return total, crcs
