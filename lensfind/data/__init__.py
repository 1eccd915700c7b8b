"""Stores of stamps and their catalogues: written, read, checked, split and fed to a network.

``LensData`` is imported when first asked for: it brings Lightning, which neither ``python -m lensfind.data verify`` nor
the many processes that write shards should wait for.
"""

from typing import TYPE_CHECKING, Any

from lensfind.data.catalogue import assign_splits, lens_labels
from lensfind.data.store import Damage, Store, finish, shard_done, stamp_fault, verify, write_shard

if TYPE_CHECKING:
    from lensfind.data.module import LensData

__all__ = [
    "Damage",
    "LensData",
    "Store",
    "assign_splits",
    "finish",
    "lens_labels",
    "shard_done",
    "stamp_fault",
    "verify",
    "write_shard",
]


def __getattr__(name: str) -> Any:
    if name == "LensData":
        from lensfind.data.module import LensData

        return LensData
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
