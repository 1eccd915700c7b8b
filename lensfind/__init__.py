"""lensfind: simulate strong lenses, train small CNNs to find them, measure what they find and miss, see what they look at.

The whole public surface for use in a script is small::

    finder = lensfind.load("runs/ou66-all/checkpoints/best.ckpt")
    p_lens = finder.predict_proba({"J": j, "Y": y, "H": h, "VIS": vis})
"""

from importlib.metadata import version

from lensfind.checkpoint import load
from lensfind.errors import LensfindError
from lensfind.finder import LensFinder

__all__ = ["LensFinder", "LensfindError", "__version__", "load"]
__version__ = version("lensfind")
