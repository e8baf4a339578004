"""The feature tables of one dataset in the vocabulary of another: what a network trained on the latter can read.

A network knows vocabulary ids, which depend on what its training split held. The same log under another split, or
another log, numbers the same values differently; without translation a checkpoint would load and score nonsense.

Axes: R rows of the dataset that is read (0 padding, 1 unknown), M entries of a multi-valued feature.
"""

from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from dien.data.dataset import Prepared
from dien.data.vocabulary import rows_of
from dien.errors import DataError
from dien.tables import FIRST_ID, UNKNOWN, Column, Table


def translated(data: Prepared, trained: Prepared) -> tuple[Table, Table]:
    """The item and user tables of `data`, its rows in the vocabulary and the scale of `trained`.

    An id that `trained` has keeps all that `trained` knew of it. Of any other id the features are translated by
    their values; a value that `trained` does not have is unknown, as is one too rare in `data` to have an id there.

    Raises:
        DataError: the two have other features, ids of another type, or no item in common.
    """
    return _table(data, trained, "item"), _table(data, trained, "user")


def _table(data: Prepared, trained: Prepared, kind: str) -> Table:
    key = f"{kind}_columns"
    here, there = ([(column["name"], column["kind"]) for column in one.manifest[key]] for one in (data, trained))
    if here != there:
        raise DataError(
            f"{data.name} has the {kind} features {_list(here)}, but the run was trained with {_list(there)}: "
            "its network cannot read the former."
        )
    ids, known = (one.item_ids() if kind == "item" else one.user_ids() for one in (data, trained))
    if ids.dtype != known.dtype:
        raise DataError(
            f"{data.name} has {kind} ids of type {ids.dtype}, but the run was trained with {known.dtype}: "
            "no id would be known."
        )
    row_R = np.concatenate([[0, UNKNOWN], rows_of(ids, known)]).astype(np.int64)
    if kind == "item" and not (row_R >= FIRST_ID).any():
        raise DataError(f"no item of {data.name} occurs in the data that the run was trained on.")
    old, new = data.tables()[kind == "user"], trained.tables()[kind == "user"]
    return tuple(
        _column(data, trained, f"{kind}_vocabulary_{i}", data.manifest[key][i], trained.manifest[key][i], *pair, row_R)
        for i, pair in enumerate(zip(old, new, strict=True))
    )


def _column(
    data: Prepared,
    trained: Prepared,
    vocabulary: str,
    here: dict[str, Any],
    there: dict[str, Any],
    old: Column,
    new: Column,
    row_R: NDArray[np.int64],
) -> Column:
    """One column: rows of `trained` where it has them (`row_R`), else the values of `data` in its terms."""
    values_R = new.values.numpy()[row_R]
    strangers = np.flatnonzero(row_R[FIRST_ID:] == UNKNOWN) + FIRST_ID
    if old.kind == "float":
        raw_R = old.values.numpy()[strangers] * here["std"] + here["mean"]
        values_R[strangers] = (raw_R - there["mean"]) / there["std"]
    elif (data.folder / f"{vocabulary}.parquet").exists():
        id_of = _ids_of(data, trained, vocabulary, old.size)
        mine = id_of[old.values.numpy()[strangers]]
        if old.kind == "multi":
            width = max(values_R.shape[1], mine.shape[1])
            values_R, mine = _widened(values_R, width), _widened(mine, width)
        values_R[strangers] = mine
    return Column(new.name, new.kind, new.size, torch.from_numpy(np.ascontiguousarray(values_R)))


def _ids_of(data: Prepared, trained: Prepared, vocabulary: str, size: int) -> NDArray[np.int64]:
    """For every vocabulary id of `data`, that of the same value in `trained`; 1 if it has none."""
    here, there = (pl.read_parquet(one.folder / f"{vocabulary}.parquet") for one in (data, trained))
    there = there.with_columns(pl.col("value").cast(here.schema["value"], strict=False))
    found = here.join(there, on="value", how="left", suffix="_trained")
    id_of = np.full(size, UNKNOWN, np.int64)
    id_of[0] = 0
    id_of[found["vocabulary_id"].to_numpy()] = found["vocabulary_id_trained"].fill_null(UNKNOWN).to_numpy()
    return id_of


def _widened(values_RM: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return np.pad(values_RM, ((0, 0), (0, width - values_RM.shape[1])))


def _list(columns: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in columns)


def trained_on(data: Prepared, trained: Prepared) -> float | None:
    """Share of the test events of `data` that were training events of `trained`; None if the logs differ."""
    same = len(data.event_item) == len(trained.event_item) and all(
        np.array_equal(getattr(data, name), getattr(trained, name))
        for name in ("event_user", "event_item", "event_time")
    )
    if not same:
        return None
    return float(np.isin(data.samples("test"), trained.samples("train")).mean())
