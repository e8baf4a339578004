"""The rows every system is measured on, read from the archive that `bench.data` wrote.

Axes: B rows, T history steps (oldest first, padded on the right with 0). Ids of users, items and categories: 0 is
padding, 1 is unknown, real ones count from 2. Neither this module nor the adapters of the peers import `dien`: they
run in environments that need not have it.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

HISTORY_LENGTH = 100
"""T, for every batch: peers differ in whether they can shorten it to the longest history of a batch."""


class Catalogue(NamedTuple):
    """Sizes of the vocabularies, padding and unknown included, and the one category of every item."""

    users: int
    items: int
    categories: int
    category_of_item: Tensor
    """int64 [items]"""


class Rows(NamedTuple):
    """Samples; int64 but for the label, which is float32."""

    user_B: Tensor
    target_B: Tensor
    label_B: Tensor
    length_B: Tensor
    """1 to T"""
    history_BT: Tensor
    negative_BT: Tensor
    """An item not clicked in place of each click of the history."""


class RowSet:
    """The samples of one split of one archive, in the order in which they are trained on or predicted."""

    def __init__(self, path: Path, split: Literal["train", "test"]) -> None:
        with np.load(path, allow_pickle=False) as archive:
            self._columns = [torch.from_numpy(archive[f"{split}_{name}"]) for name in Rows._fields]

    def __len__(self) -> int:
        return len(self._columns[0])

    def batch(self, first: int, size: int) -> Rows:
        """The `size` rows from row `first` on; the set is read as a ring."""
        index_B = torch.arange(first, first + size) % len(self)
        rows = Rows(*(column[index_B].long() for column in self._columns))
        return rows._replace(label_B=rows.label_B.float())


def read_catalogue(path: Path) -> Catalogue:
    """The vocabularies of an archive."""
    with np.load(path, allow_pickle=False) as archive:
        users, items, categories = archive["sizes"].tolist()
        return Catalogue(users, items, categories, torch.from_numpy(archive["category_of_item"]).long())
