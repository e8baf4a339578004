"""Where logs come from: each source is a class with `load` and `fingerprint`."""

from dien.data.sources.amazon import Amazon
from dien.data.sources.authors import AuthorsFiles
from dien.data.sources.base import Source, validate
from dien.data.sources.complete_journey import CompleteJourney, CompleteJourneySample
from dien.data.sources.movielens import MovieLens
from dien.data.sources.recbole import RecBoleAtomic
from dien.data.sources.synthetic import Synthetic
from dien.data.sources.table import Table

__all__ = [
    "Amazon",
    "AuthorsFiles",
    "CompleteJourney",
    "CompleteJourneySample",
    "MovieLens",
    "RecBoleAtomic",
    "Source",
    "Synthetic",
    "Table",
    "validate",
]
