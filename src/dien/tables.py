"""Feature tables: what is known of every item and of every user, looked up by row number inside the network.

Row 0 is padding and row 1 the unknown item or user. The first column of a table is the id itself (`item_id`,
`user_id`); its values are ids of the training vocabulary, so rows never seen in training stay distinct and keep their
features while sharing the unknown id 1.
"""

from typing import Literal, NamedTuple

from torch import Tensor

from dien.raw_ids import FIRST_ID as FIRST_ID
from dien.raw_ids import PADDING as PADDING
from dien.raw_ids import UNKNOWN as UNKNOWN

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


def untrained_rows(table: Table) -> list[int]:
    """Rows whose ids training did not know: their embedding is the unknown one."""
    rows: list[int] = (table[0].values == UNKNOWN).nonzero().flatten().tolist()
    return rows
