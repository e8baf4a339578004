"""dien: Deep Interest Evolution Networks, for research on click-through-rate prediction from behaviour sequences."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dien.rank import Ranker

__all__ = ["Ranker", "__version__"]
__version__ = version("dien")


def __getattr__(name: str) -> Any:
    """The ranker brings torch and the model, which most of the package's modules do without."""
    if name == "Ranker":
        from dien.rank import Ranker

        return Ranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
