"""Batches made several in a row, by the process that trains on them."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from dien.batch import Batch

BURST = 8
"""Batches in a row: the next one finds code and tables in the caches, which a training step empties. It is made in half
the time."""


class BurstLoader(DataLoader[Batch]):
    """A `DataLoader` without reading processes that reads up to `BURST` batches ahead."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        while burst := deque(islice(batches, BURST)):
            while burst:
                yield burst.popleft()  # and hold it no longer
