"""Feature tables: what is known of every item and of every user, looked up by row number inside the network.

Row 0 is padding and row 1 the unknown item or user. The first column of a table is the id itself (`item_id`,
`user_id`); its values are ids of the training vocabulary, so rows never seen in training stay distinct and keep their
features while sharing the unknown id 1.
"""

from typing import Literal, NamedTuple

from torch import Tensor

PADDING = 0
UNKNOWN = 1
FIRST_ID = 2  # the first row or vocabulary id that stands for something real

Kind = Literal["categorical", "multi", "float"]


class Column(NamedTuple):
    """One feature of every row of a table (R rows)."""

    name: str
    kind: Kind
    size: int
    """Number of vocabulary ids, padding and unknown included; 1 for `float`."""
    values: Tensor
    """`categorical`: int64 [R]; `multi`: int64 [R, M], right-padded with 0; `float`: float32 [R], standardised."""


Table = tuple[Column, ...]
