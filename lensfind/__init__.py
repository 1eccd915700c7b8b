"""lensfind: simulate strong lenses, train small CNNs to find them, measure what they miss, see what they look at.

The whole public surface for use in a script is small::

    finder = lensfind.load("runs/ou66-all/checkpoints/best.ckpt")
    p_lens = finder.predict_proba({"J": j, "Y": y, "H": h, "VIS": vis})

``load`` and ``LensFinder`` are imported when first asked for: the processes that simulate need no torch.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lensfind.errors import LensfindError

if TYPE_CHECKING:
    from lensfind.checkpoint import load
    from lensfind.finder import LensFinder

__all__ = ["LensFinder", "LensfindError", "__version__", "load"]
__version__ = version("lensfind")


def __getattr__(name: str) -> Any:
    if name == "load":
        from lensfind.checkpoint import load

        return load
    if name == "LensFinder":
        from lensfind.finder import LensFinder

        return LensFinder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
