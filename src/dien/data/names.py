"""What the items of a prepared dataset are called, for people: their raw ids and features."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dien.data.dataset import Prepared
from dien.errors import DataError
from dien.tables import FIRST_ID

TELLING = ("title", "name", "product_type", "category", "genres", "genre")
"""Features that say best what an item is, best first; without one of them the first categorical feature does."""
UNKNOWN_NAME = "unknown"


def item_features(prepared: Prepared, row_N: NDArray[np.int64]) -> pl.DataFrame:
    """Raw id and categorical features of item rows, in their order; entries of a multi-valued one joined by `, `.

    A value that training did not know is `unknown`, as it is for the network.
    """
    ids = prepared.item_ids().cast(pl.String)
    known_N = row_N >= FIRST_ID
    names = ids.gather(np.where(known_N, row_N - FIRST_ID, 0)).to_list()
    columns = {"item_id": [name if known else UNKNOWN_NAME for name, known in zip(names, known_N, strict=True)]}
    table, _ = prepared.tables()
    for i, column in enumerate(table[1:], start=1):
        if column.kind == "float":
            continue
        vocabulary = pl.read_parquet(prepared.folder / f"item_vocabulary_{i}.parquet")
        value_of = dict(zip(vocabulary["vocabulary_id"], vocabulary["value"].cast(pl.String), strict=True))
        entries_NM = column.values.numpy()[row_N].reshape(len(row_N), -1)
        columns[column.name] = [
            ", ".join(value_of.get(entry, UNKNOWN_NAME) for entry in entries if entry)
            for entries in entries_NM.tolist()
        ]
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def item_names(prepared: Prepared, row_N: NDArray[np.int64]) -> list[str]:
    """One name an item: its most telling feature, else its raw id."""
    features = item_features(prepared, row_N)
    telling = next((name for name in TELLING if name in features.columns), features.columns[min(1, features.width - 1)])
    return [name or id_ for name, id_ in zip(features[telling], features["item_id"], strict=True)]


def row_of(prepared: Prepared, kind: str, raw_id: str) -> int:
    """The row of an item or user (`kind`) whose raw id was typed by somebody.

    Raises:
        DataError: if the log does not have it.
    """
    ids = prepared.item_ids() if kind == "item" else prepared.user_ids()
    row = int((prepared.item_rows if kind == "item" else prepared.user_rows)([raw_id])[0])
    if row < FIRST_ID:
        raise DataError(f"--{kind} {raw_id} is not in {prepared.name}, whose {kind} ids are such as {ids[0]}.")
    return row
