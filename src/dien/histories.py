"""The clicks of users up to a time, from the prepared dataset or from a table.

Axes: B impressions, N clicks of their histories (flat, oldest first), U users, E clicks (sorted by user and time).
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dien.data.dataset import Prepared
from dien.data.sources.convert import TimeUnit, ids, labels, timestamps
from dien.data.sources.reading import FILE, Dialect, read_columns
from dien.data.vocabulary import spelled
from dien.errors import DataError

Ints = NDArray[np.int64]

FAR = 100
"""Times that are all as many times later than the last click, or earlier than the first, are in another unit."""


class Columns(NamedTuple):
    """Names of columns in the user's table; None where there is no such column."""

    user: str
    item: str
    time: str | None


class Clock(NamedTuple):
    """How the user's tables write times; see `dien.data.sources.table.Table`."""

    format: str | None = None
    unit: TimeUnit = "s"
    first: int = 0
    """Time of the first click of the prepared dataset, and of its last one."""
    last: int = 0

    def read(self, frame: pl.DataFrame, name: str, *, called: str | None = None) -> Ints:
        """The column `name` (of messages: `called`) as the prepared dataset counts time.

        Raises:
            DataError: a time cannot be read, or all of them are in another unit than the log's.
        """
        time_N = timestamps(frame, name, time_format=self.format, time_unit=self.unit).to_numpy().astype(np.int64)
        # Integers are taken as they are: those of another unit would see clicks that came later, or none at all.
        if len(time_N) and 0 < self.first <= self.last:
            low, high = int(time_N.min()), int(time_N.max())
            if low > FAR * self.last or high * FAR < self.first:
                raise DataError(
                    f"{frame[FILE][0]}: the column {called or name} has times from {low} to {high}, but the clicks of "
                    f"the run's log lie between {self.first} and {self.last}: write its times in the unit of the log."
                )
        return time_N


class Histories(Protocol):
    """Whose clicks lie where: those of user row u are `item[offsets[u]:offsets[u + 1]]`, by time."""

    def user(self, raw: pl.Series) -> Ints:
        """Which of these histories is each user's, [B]; one that is always empty for an unknown user."""

    def find(self, user_B: Ints, time_B: Ints | None, length: int) -> tuple[Ints, Ints]:
        """Item rows [N] of the latest `length` clicks before each time (of all if None), and their numbers [B]."""


class Clicks:
    """Clicks as arrays: `offsets` [U + 1], `item` [E], `time` [E]."""

    def __init__(self, offsets: Ints, item: NDArray[np.integer], time: NDArray[np.int64] | None) -> None:
        self.offsets, self.item, self.time = offsets, item, time

    def find(self, user_B: Ints, time_B: Ints | None, length: int) -> tuple[Ints, Ints]:
        start_B, end_B = self.offsets[user_B], self.offsets[user_B + 1]
        if time_B is not None:
            assert self.time is not None
            end_B = first_not_before(self.time, start_B, end_B, time_B)
        start_B = np.maximum(start_B, end_B - length)
        length_B = end_B - start_B
        click_N = np.repeat(start_B - (np.cumsum(length_B) - length_B), length_B) + np.arange(length_B.sum())
        return self.item[click_N].astype(np.int64), length_B


class PreparedHistories(Clicks):
    """The clicks of the prepared dataset; they stay on disk until they are touched."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared.click_offsets, prepared.click_item, prepared.click_time)
        self._prepared = prepared

    def user(self, raw: pl.Series) -> Ints:
        return self._prepared.user_rows(raw)


class TableHistories(Clicks):
    """The clicks of a table that the user gives; a user whom the model does not know may have a history in it.

    Args:
        path: the table.
        columns: of users, items and times.
        labelled: whether its column `label` says which of the rows are clicks.
        clock: how its times are written.
        prepared: the dataset of the model.

    Raises:
        DataError: the table cannot be read, lacks a column, or has no time where impressions have one.
    """

    def __init__(self, path: Path, columns: Columns, clock: Clock, prepared: Prepared, *, labelled: bool) -> None:
        wanted = {"user": columns.user, "item": columns.item}
        wanted |= {} if columns.time is None else {"time": columns.time}
        rows = read_columns(
            [path], wanted | ({"label": "label"} if labelled else {}), key="--history", dialect=Dialect()
        )
        if rows.is_empty():
            raise DataError(f"{path}: the history is empty: there are no clicks in it.")
        if labelled:  # an impression without a click is never history
            rows = rows.filter(labels(rows, "label", threshold=None) == 1)
        frame = pl.DataFrame({"user": spelled(ids(rows, "user")), "item": ids(rows, "item")})
        time = None if columns.time is None else clock.read(rows, "time", called=columns.time)
        frame = frame.with_columns(time=pl.Series(time if time is not None else np.zeros(len(frame), np.int64)))
        frame = frame.sort("user", "time", maintain_order=True)
        self._users = frame["user"].unique(maintain_order=True)
        counts = frame.group_by("user", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
        # History 0 is that of a user who has none.
        offsets = np.concatenate([[0, 0], np.cumsum(counts)])
        super().__init__(offsets, prepared.item_rows(frame["item"]), None if time is None else frame["time"].to_numpy())

    def user(self, raw: pl.Series) -> Ints:
        table = pl.DataFrame({"id": self._users, "row": np.arange(1, len(self._users) + 1)})
        found = pl.DataFrame({"id": spelled(raw)}).join(table, on="id", how="left", maintain_order="left")
        return found["row"].fill_null(0).to_numpy().astype(np.int64)


def first_not_before(time: NDArray[np.int64], start_B: Ints, end_B: Ints, time_B: Ints) -> Ints:
    """In each sorted stretch `time[start:end]`, the first position whose time is not before `time_B`; binary search."""
    low_B, high_B = start_B.astype(np.int64), end_B.astype(np.int64)
    while (open_B := low_B < high_B).any():
        middle_B = (low_B + high_B) // 2
        before_B = open_B & (time[np.where(open_B, middle_B, 0)] < time_B)
        low_B = np.where(before_B, middle_B + 1, low_B)
        high_B = np.where(open_B & ~before_B, middle_B, high_B)
    return low_B
