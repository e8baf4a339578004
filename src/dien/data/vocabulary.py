"""From raw ids and features to row numbers, vocabulary ids and standardised numbers.

Axes: R rows of a table (0 padding, 1 unknown, from 2 on the ids of the log in sorted order), M entries of a
multi-valued feature.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dien.data.storage import write_array, write_frame
from dien.raw_ids import EXACT, FIRST_ID, UNKNOWN

_AT_ONCE = 1 << 20


def sorted_ids(events: pl.Series, features: pl.DataFrame | None) -> pl.Series:
    """All ids of a log, those without events included; number `i` gets row `i + FIRST_ID`."""
    ids = events.unique()
    if features is not None:
        ids = pl.concat([ids, features[events.name]]).unique()
    return ids.sort()


def is_whole(numbers: pl.Series) -> pl.Series:
    """Which floats are whole numbers, below those that floats skip."""
    return numbers.is_finite() & (numbers == numbers.floor()) & (numbers.abs() < EXACT)


def spelled(raw: pl.Series) -> pl.Series:
    """Raw ids as text by the rule of `dien.raw_ids`; null for what is no id."""
    if raw.dtype.is_float():
        raw = raw.set(~is_whole(raw), None).cast(pl.Int64)
    elif not (raw.dtype.is_integer() or raw.dtype in (pl.String, pl.Categorical, pl.Enum)):
        return pl.Series(raw.name, [None] * len(raw), dtype=pl.String)
    return raw.cast(pl.String).replace("", None)


def rows_of(values: pl.Series, ids: pl.Series) -> NDArray[np.int32]:
    """Row number of every raw id; UNKNOWN for one that is not among `ids`."""
    table = pl.DataFrame({"id": ids, "row": np.arange(FIRST_ID, FIRST_ID + len(ids), dtype=np.int32)})
    row_N = np.empty(len(values), np.int32)
    size = max(_AT_ONCE, len(ids))  # a join needs several times the memory of its result
    for first in range(0, len(values), size):
        part = pl.DataFrame({"id": values[first : first + size]})
        found = part.join(table, on="id", how="left", maintain_order="left")["row"]
        row_N[first : first + size] = found.fill_null(UNKNOWN).to_numpy()
    return row_N


def write_table(
    folder: Path,
    kind: str,
    ids: pl.Series,
    count_R: NDArray[np.int64],
    features: pl.DataFrame | None,
    min_count: int,
) -> list[dict[str, Any]]:
    """Write the id table, the vocabularies and the feature columns of the items or of the users.

    Vocabulary ids go by descending number of training events, ties by raw value; a value with fewer than
    `min_count` of them (or none) is unknown, and so is a missing value. A missing or non-finite float is 0
    after standardising.

    Args:
        folder: where `KINDs.parquet`, `KIND_column_I.npy` and `KIND_vocabulary_I.parquet` go.
        kind: `item` or `user`.
        ids: sorted raw ids.
        count_R: number of training events of every row.
        features: the log's feature table, its first column any, one of them `KIND_id`.
        min_count: see `Protocol`.

    Returns:
        What `dataset.json` says of each column, the id column first.
    """
    id_name = f"{kind}_id"
    vocabulary_R, size = _id_vocabulary(count_R, min_count)
    rows = np.arange(FIRST_ID, len(count_R), dtype=np.int32)
    frame = pl.DataFrame({id_name: ids, "row": rows, "vocabulary_id": vocabulary_R[FIRST_ID:].astype(np.int32)})
    write_frame(folder, f"{kind}s", frame)
    write_array(folder, f"{kind}_column_0", vocabulary_R.astype(np.int32))
    columns: list[dict[str, Any]] = [{"name": id_name, "kind": "categorical", "size": size}]
    if features is None:
        return columns
    values_R: NDArray[np.float32] | NDArray[np.int32]
    aligned = frame.select(id_name).join(features, on=id_name, how="left", maintain_order="left")
    weights = pl.Series("weight", count_R[FIRST_ID:])
    for i, name in enumerate((name for name in aligned.columns if name != id_name), start=1):
        values = aligned[name]
        if values.dtype.is_float():
            values_R, extra = _standardise(values, count_R)
            columns.append({"name": name, "kind": "float", "size": 1, **extra})
        else:
            multi = isinstance(values.dtype, pl.List)
            entries = _entries(values, weights)
            vocabulary = _vocabulary(entries, min_count)
            write_frame(folder, f"{kind}_vocabulary_{i}", vocabulary)
            ids_RM = _encode(entries, vocabulary, len(count_R))
            values_R = ids_RM if multi else ids_RM[:, 0]
            size = FIRST_ID + len(vocabulary)
            columns.append({"name": name, "kind": "multi" if multi else "categorical", "size": size})
        write_array(folder, f"{kind}_column_{i}", values_R)
    return columns


def _id_vocabulary(count_R: NDArray[np.int64], min_count: int) -> tuple[NDArray[np.int64], int]:
    known = np.flatnonzero(count_R >= min_count)
    known = known[np.argsort(-count_R[known], kind="stable")]
    vocabulary_R = np.full(len(count_R), UNKNOWN, np.int64)
    vocabulary_R[0] = 0
    vocabulary_R[known] = np.arange(FIRST_ID, FIRST_ID + len(known))
    return vocabulary_R, FIRST_ID + len(known)


def _standardise(values: pl.Series, count_R: NDArray[np.int64]) -> tuple[NDArray[np.float32], dict[str, float]]:
    """By mean and population standard deviation of the rows that occur in training; a constant gives 0."""
    numbers = values.cast(pl.Float64).fill_null(np.nan).to_numpy()
    finite = np.isfinite(numbers)
    training = numbers[finite & (count_R[FIRST_ID:] > 0)]
    mean = float(training.mean()) if len(training) else 0.0
    std = float(training.std()) if len(training) else 0.0
    values_R = np.zeros(len(count_R), np.float32)
    values_R[FIRST_ID:][finite] = (numbers[finite] - mean) / (std or 1.0)
    return values_R, {"mean": mean, "std": std or 1.0}


def _entries(values: pl.Series, weights: pl.Series) -> pl.DataFrame:
    """One row per entry: table row, place within it, value (null = missing), weight. [] has none."""
    rows = np.arange(FIRST_ID, FIRST_ID + len(values), dtype=np.int32)
    frame = pl.DataFrame({"row": rows, "value": values, "weight": weights})
    if isinstance(values.dtype, pl.List):
        frame = frame.with_columns(pl.col("value").list.drop_nulls())
        frame = frame.filter(pl.col("value").list.len().fill_null(1) > 0).explode("value")
    return frame.with_columns(place=pl.int_range(pl.len()).over("row"))


def _vocabulary(entries: pl.DataFrame, min_count: int) -> pl.DataFrame:
    counted = entries.drop_nulls("value").group_by("value").agg(count=pl.col("weight").sum())
    known = counted.filter(pl.col("count") >= min_count).sort(["count", "value"], descending=[True, False])
    ids = pl.Series("vocabulary_id", np.arange(FIRST_ID, FIRST_ID + len(known), dtype=np.int32))
    return known.select("value", ids, "count")


def _encode(entries: pl.DataFrame, vocabulary: pl.DataFrame, rows: int) -> NDArray[np.int32]:
    """Vocabulary ids [R, M], padded on the right with 0; row 1 is unknown."""
    found = entries.join(vocabulary.drop("count"), on="value", how="left", maintain_order="left")
    place = found["place"].to_numpy()
    ids_RM = np.zeros((rows, int(place.max(initial=0)) + 1), np.int32)
    ids_RM[UNKNOWN, 0] = UNKNOWN
    ids_RM[found["row"].to_numpy(), place] = found["vocabulary_id"].fill_null(UNKNOWN).to_numpy()
    return ids_RM
