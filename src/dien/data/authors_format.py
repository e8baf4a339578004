"""The samples of a prepared dataset in the text format of the DIEN authors, which their own scripts train on.

Axes: B rows written at a time, N steps of their histories (flat, row after row), R item rows, U user rows.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dien.data.dataset import Prepared, SplitRows
from dien.data.log import Log
from dien.data.protocol import SPLITS, Split
from dien.data.sources.amazon import DEFAULT_CATEGORY
from dien.data.sources.authors import COLUMNS, FILES, SEPARATOR, TABLES
from dien.data.sources.reading import readable
from dien.errors import DataError
from dien.tables import FIRST_ID

DEFAULT_ITEM = "default_mid"
ROWS = 1 << 15
"""Rows that are written at a time."""


def write(rows: Mapping[Split, SplitRows], log: Log, folder: Path) -> None:
    """Write `local_{train,val,test}_splitByUser` and the tables of ids into `folder`, which appears when it is whole.

    Of each sample the negatives come first and then the click, as the authors write them: those of training are the
    draws of epoch 0, those of validation and test the ones of every run. Histories are whole; the authors cut them
    when they read. Files of a dataset with `data.ties=order` can be read again with `data=authors`. The category is
    the item feature of that name, or the first with one value an item; `default_cat` where there is none. Ids of the
    tables count down from the most frequent in the training file; 0 is the default.

    Args:
        rows: of every split.
        log: that the dataset was prepared from; the dataset knows the categories of training only.
        folder: a new place.

    Raises:
        DataError: there is something at this place, it cannot be written, or a name holds a character that separates.
    """
    prepared = rows["train"].prepared
    if folder.exists():
        raise DataError(f"{folder} is there already: name a new folder.")
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    names = _Names(prepared, log)
    try:
        with readable(folder):
            temporary.mkdir(parents=True)
            for split, file in zip(SPLITS, FILES, strict=True):
                count = names.count if split == "train" else lambda *_: None
                _write_split(rows[split], names, temporary / file, count)
            for name, table in zip(TABLES.values(), names.tables(), strict=True):
                (temporary / name).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Names:
    """Names of users, items and categories by their rows, and how often the training file holds them."""

    def __init__(self, prepared: Prepared, log: Log) -> None:
        missing = pl.Series([None] * FIRST_ID, dtype=pl.String)
        self.user = pl.concat([missing, prepared.user_ids().cast(pl.String)])
        self.item = pl.concat([missing, prepared.item_ids().cast(pl.String)])
        self.category = _categories(prepared, log)
        for names in (self.user, self.item, self.category):
            if (bad := names.drop_nulls().filter(names.drop_nulls().str.contains("[\t\n\r\x02]"))).len():
                raise DataError(f"The name {bad[0]!r} holds a tab, a line end or \\x02, which separate in this format.")
        self.user_count = np.zeros(len(self.user), np.int64)
        self.item_count = np.zeros(len(self.item), np.int64)

    def count(self, user_B: NDArray[np.int64], item_N: NDArray[np.int64]) -> None:
        self.user_count += np.bincount(user_B, minlength=len(self.user))
        self.item_count += np.bincount(item_N, minlength=len(self.item))

    def tables(self) -> list[dict[str, int]]:
        """Users from 0; items and categories from 1, after the default."""
        users, items = _ranked(self.user, self.user_count), _ranked(self.item, self.item_count)
        categories = [name for name in _ranked(self.category, self.item_count) if name != DEFAULT_CATEGORY]
        return [
            {name: number for number, name in enumerate(users)},
            {name: number for number, name in enumerate([DEFAULT_ITEM, *items])},
            {name: number for number, name in enumerate([DEFAULT_CATEGORY, *categories])},
        ]


def _categories(prepared: Prepared, log: Log) -> pl.Series:
    items, ids = log.items, prepared.item_ids()
    single = [] if items is None else [name for name in items.columns if _is_category(items, name)]
    missing = pl.Series("category", [None] * FIRST_ID, dtype=pl.String)
    if items is None or not single:
        return pl.concat([missing, pl.Series("category", [DEFAULT_CATEGORY] * len(ids))])
    column = "category" if "category" in single else single[0]
    known = items.select("item_id", category=pl.col(column).cast(pl.String))
    names = ids.to_frame().join(known, on="item_id", how="left", maintain_order="left")["category"]
    return pl.concat([missing, names.fill_null(DEFAULT_CATEGORY)])


def _is_category(items: pl.DataFrame, name: str) -> bool:
    dtype = items.schema[name]
    return name != "item_id" and (dtype == pl.String or dtype.is_integer())


def _ranked(names: pl.Series, count: NDArray[np.int64]) -> list[str]:
    """Names that were counted, the most frequent first, ties by name."""
    counted = (
        pl.DataFrame({"name": names, "count": count}).drop_nulls("name").group_by("name").agg(pl.col("count").sum())
    )
    return counted.filter(pl.col("count") > 0).sort(["count", "name"], descending=[True, False])["name"].to_list()


def _write_split(
    rows: SplitRows, names: _Names, path: Path, count: Callable[[NDArray[np.int64], NDArray[np.int64]], None]
) -> None:
    data, each = rows.prepared, rows.rows_per_sample
    with path.open("wb") as file:
        for start in range(0, len(rows), ROWS // each * each):
            row_B = np.arange(start, min(start + ROWS // each * each, len(rows)))
            row_B = row_B - row_B % each + (row_B + 1) % each  # the click, row 0 of a sample, goes last
            event_B, target_B, label_B = rows.targets(0, row_B)
            click_N, length_B = data.history(event_B, len(data.click_item))
            item_N = data.click_item[click_N].astype(np.int64)
            user_B = data.event_user[event_B].astype(np.int64)
            count(user_B, np.append(target_B, item_N))
            step = pl.DataFrame(
                {
                    "row": np.repeat(np.arange(len(row_B)), length_B),
                    "history": names.item.gather(item_N),
                    "categories": names.category.gather(item_N),
                }
            )
            history = step.group_by("row").agg(pl.col("history", "categories").str.join(SEPARATOR))
            lines = pl.DataFrame(
                {
                    "row": np.arange(len(row_B)),
                    "label": label_B.astype(np.int8),
                    "user_id": names.user.gather(user_B),
                    "item_id": names.item.gather(target_B),
                    "category": names.category.gather(target_B),
                }
            )
            lines = lines.join(history, on="row", how="left", maintain_order="left").select(COLUMNS)
            lines.write_csv(file, include_header=False, separator="\t", quote_style="never")
