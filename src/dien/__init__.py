"""dien: Deep Interest Evolution Networks, for research on click-through-rate prediction from behaviour sequences."""

from importlib.metadata import version

__version__ = version("dien")
