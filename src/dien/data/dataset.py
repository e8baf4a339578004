"""A prepared dataset as a memory-mapped view, and its rows as batches.

Axes: B rows of a batch, T history steps (oldest first, padded on the right with 0), K auxiliary negatives a
step, N real steps of a batch (flat, row after row), S samples of a split. An *event* is a position in the
event arrays, a *click* one in the click arrays (`dien.data.prepare` lists the files).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dien.batch import Batch
from dien.data.negatives import Draws, NegativeSampler
from dien.data.protocol import Split
from dien.data.storage import read_manifest
from dien.data.vocabulary import rows_of, spelled
from dien.raw_ids import FIRST_ID, spelling
from dien.tables import Column, Table


class Prepared:
    """A prepared dataset: arrays that stay on disk until they are touched, shared by all processes that read
    them.

    Pickling it costs nothing: only the path travels and the reader opens it again.

    Args:
        folder: what `prepare` returned.
        verify: also compare the SHA-256 of every file, which reads them all.

    Raises:
        DataError: the folder is no prepared dataset, or a file of it is missing or damaged.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = read_manifest(self.folder, verify=verify)
        self.name: str = self.manifest["name"]
        self.fingerprint: str = self.manifest["fingerprint"]
        self.has_labels: bool = self.manifest["labels"]
        self.references: dict[str, float] = self.manifest.get("references", {})
        """What can be reached, and what counting reaches, where the log comes with the truth; see `references`."""
        self.n_items: int = self.manifest["items"] + FIRST_ID
        """Rows of the item table, padding and unknown included."""
        self.n_users: int = self.manifest["users"] + FIRST_ID
        """Rows of the user table, padding and unknown included."""
        self.event_user: NDArray[np.int32] = self._array("event_user")
        self.event_item: NDArray[np.int32] = self._array("event_item")
        self.event_time: NDArray[np.int64] = self._array("event_time")
        self.event_history_end: NDArray[np.int64] = self._array("event_history_end")
        self.user_offsets: NDArray[np.int64] = self._array("user_offsets")
        self.click_offsets: NDArray[np.int64] = self._array("click_offsets")
        self.click_item: NDArray[np.int32] = self._array("click_item")
        self.click_time: NDArray[np.int64] = self._array("click_time")
        self.click_basket: NDArray[np.int32] = self._array("click_basket")
        self.basket_offsets: NDArray[np.int64] = self._array("basket_offsets")
        self.basket_keys: NDArray[np.int64] = self._array("basket_keys")
        self.user_keys: NDArray[np.int64] = self._array("user_keys")
        self.user_first_click: NDArray[np.int64] = self._array("user_first_click")
        self.item_clicks: NDArray[np.int64] = self._array("item_clicks")
        self.item_train_clicks: NDArray[np.int64] = self._array("item_train_clicks")
        if self.has_labels:
            self.event_label: NDArray[np.int8] = self._array("event_label")
            self.skip_item: NDArray[np.int32] = self._array("skip_item")
            self.skip_offsets: NDArray[np.int64] = self._array("skip_offsets")
            self.event_skip_end: NDArray[np.int64] = self._array("event_skip_end")

    def __reduce__(self) -> tuple[type["Prepared"], tuple[Path]]:
        return Prepared, (self.folder,)

    def samples(self, split: Split) -> NDArray[np.int64]:
        """Events that are samples of a split [S], ascending, so those of one user are adjacent."""
        return self._array(f"samples_{split}")

    def tables(self) -> tuple[Table, Table]:
        """The feature tables of the items and of the users, loaded into memory."""
        return self._table("item"), self._table("user")

    def item_rows(self, item_ids: Iterable[object] | pl.Series) -> NDArray[np.int64]:
        """Rows of raw item ids (see `dien.raw_ids`); 1 for one that the log does not have."""
        return self._rows("item", item_ids)

    def user_rows(self, user_ids: Iterable[object] | pl.Series) -> NDArray[np.int64]:
        """Rows of raw user ids (see `dien.raw_ids`); 1 for one that the log does not have."""
        return self._rows("user", user_ids)

    def item_ids(self) -> pl.Series:
        """Raw ids of the item rows from row 2 on."""
        return pl.read_parquet(self.folder / "items.parquet")["item_id"]

    def user_ids(self) -> pl.Series:
        """Raw ids of the user rows from row 2 on."""
        return pl.read_parquet(self.folder / "users.parquet")["user_id"]

    def user_id(self, row: int) -> str | int:
        """Raw id of one user row (from 2 on); also safe in a forked worker, where polars is not."""
        ids = pq.read_table(self.folder / "users.parquet", columns=["user_id"], use_threads=False)
        found: str | int = ids["user_id"][row - FIRST_ID].as_py()
        return found

    def history(self, event_B: NDArray[np.int64], history_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Latest `history_length` clicks before each event: flat clicks [N], oldest first, lengths [B]."""
        end_B = self.event_history_end[event_B]
        start_B = np.maximum(self.click_offsets[self.event_user[event_B]], end_B - history_length)
        length_B = end_B - start_B
        first_B = np.cumsum(length_B) - length_B
        click_N = np.repeat(start_B - first_B, length_B)
        click_N += np.arange(len(click_N))
        return click_N, length_B

    def history_lengths(self, event_B: NDArray[np.int64], history_length: int) -> NDArray[np.int64]:
        """Lengths [B] of what `history` returns."""
        full_B = self.event_history_end[event_B] - self.click_offsets[self.event_user[event_B]]
        return np.minimum(full_B, history_length)

    def _array(self, name: str) -> Any:
        mapped = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return np.asarray(mapped)  # still mapped, but indexed without the overhead of the memmap class

    def _table(self, kind: str) -> Table:
        columns = []
        for i, column in enumerate(self.manifest[f"{kind}_columns"]):
            dtype = np.float32 if column["kind"] == "float" else np.int64
            values = torch.from_numpy(self._array(f"{kind}_column_{i}").astype(dtype))
            columns.append(Column(column["name"], column["kind"], column["size"], values))
        return tuple(columns)

    def _rows(self, kind: str, raw: Iterable[object] | pl.Series) -> NDArray[np.int64]:
        ids = self.item_ids() if kind == "item" else self.user_ids()
        given = raw if isinstance(raw, pl.Series) else pl.Series(list(map(spelling, raw)), dtype=pl.String)
        return rows_of(spelled(given), spelled(ids)).astype(np.int64)


class RowBatch(NamedTuple):
    """What a sampler asks of a `SplitRows`: which rows, and the epoch that their negatives depend on."""

    epoch: int
    row_B: NDArray[np.int64]


class SplitRows(Dataset[Batch]):
    """The rows of one split; an index is a whole `RowBatch`, the result a `Batch`.

    With labels every sample is one row. Without, sample `s` has the rows `s * (1 + n) + k`: its click (k = 0)
    and its `n` sampled negative targets (k >= 1).

    Args:
        prepared: the dataset.
        split: `train`, `val` or `test`.
        sampler: draws the negatives.
        draws: how many, and from which streams.
        history_length: histories keep their latest clicks up to this many.
    """

    def __init__(
        self, prepared: Prepared, split: Split, *, sampler: NegativeSampler, draws: Draws, history_length: int
    ) -> None:
        self.prepared, self.split, self.sampler = prepared, split, sampler
        self.draws, self.history_length = draws, history_length
        self.samples = prepared.samples(split)
        self.rows_per_sample = 1 if prepared.has_labels else 1 + draws.targets

    def __len__(self) -> int:
        return len(self.samples) * self.rows_per_sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "samples": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.samples = self.prepared.samples(self.split)

    def lengths(self, row_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """History lengths of rows, for batches of similar length."""
        return self.prepared.history_lengths(self.samples[row_B // self.rows_per_sample], self.history_length)

    def targets(
        self, epoch: int, row_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.integer[Any] | np.bool_]]:
        """Samples (as events), targets and labels of rows, all [B]."""
        sample_B, k_B = np.divmod(row_B, self.rows_per_sample)
        event_B = self.samples[sample_B]
        target_B = self.prepared.event_item[event_B].astype(np.int64)
        sampled = np.flatnonzero(k_B)
        if len(sampled):
            target_B[sampled] = self.sampler.targets(self.draws.stream(epoch), event_B[sampled], k_B[sampled])
        return event_B, target_B, self.prepared.event_label[event_B] if self.prepared.has_labels else k_B == 0

    def __getitem__(self, index: RowBatch) -> Batch:
        data, draws, epoch = self.prepared, self.draws, index.epoch
        event_B, target_B, label_B = self.targets(epoch, index.row_B)
        k_B = index.row_B % self.rows_per_sample
        click_N, length_B = data.history(event_B, self.history_length)

        real_BT = np.arange(length_B.max(initial=0)) < length_B[:, None]
        history_BT = np.zeros(real_BT.shape, np.int64)
        history_BT[real_BT] = data.click_item[click_N]
        negative_BT = np.zeros(real_BT.shape + ((draws.auxiliary,) if draws.auxiliary > 1 else ()), np.int64)
        if draws.auxiliary:
            negative_NK = self.sampler.auxiliary(draws.stream(epoch), event_B, k_B, click_N, length_B, draws.auxiliary)
            negative_BT[real_BT] = negative_NK if draws.auxiliary > 1 else negative_NK[:, 0]
        return Batch(
            user_B=torch.from_numpy(data.event_user[event_B].astype(np.int64)),
            history_BT=torch.from_numpy(history_BT),
            negative_BT=torch.from_numpy(negative_BT),
            length_B=torch.from_numpy(length_B),
            target_B=torch.from_numpy(target_B),
            label_B=torch.from_numpy(label_B.astype(np.float32)),
        )
