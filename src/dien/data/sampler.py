"""The order of rows: a pure function of (seed, epoch, rank, number of ranks).

Axes: B rows of a batch.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from dien.data.dataset import RowBatch, SplitRows
from dien.errors import ConfigError, DataError


class RowSampler(Sampler[RowBatch]):
    """Cuts the rows of a split into batches, the same in every process, and yields this rank's share of each.

    A global batch is `batch_size * world_size` rows in the order of one process; rank `r` takes every
    `world_size`-th of them. Every row appears exactly once over all ranks, and all ranks make the same number
    of steps: a last global batch with fewer rows than ranks is joined to the one before.

    Args:
        rows: what is sampled. batch_size: rows per batch and rank. shuffle: a new order in every epoch
        (training), or the order of the dataset (evaluation). seed: of the order. bucket: 0, or the number k
        of batches per window: rows are ordered by history length within windows of k
            batches of the random order, and the batches of a window come in random order.
        rank: of this process.
        world_size: number of processes.

    Raises:
        DataError: there are fewer rows than processes.
    """

    def __init__(
        self,
        rows: SplitRows,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        bucket: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(rows) < world_size:
            raise DataError(f"The {rows.split} split has {len(rows)} rows, fewer than the {world_size} processes.")
        self.rows, self.global_batch, self.shuffle = rows, batch_size * world_size, shuffle
        self.seed, self.bucket, self.rank, self.world_size = seed, bucket, rank, world_size
        self.epoch = 0
        self._resume = (-1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls it."""
        self.epoch = epoch

    def position(self, batches_done: int) -> dict[str, int]:
        """Where training is after `batches_done` steps of this epoch (workers may have read further)."""
        return {
            "epoch": self.epoch,
            "batches": batches_done,
            "rows": len(self.rows),
            "batch": self.global_batch,
        }

    def resume(self, position: dict[str, int]) -> None:
        """Go on from a `position`: the next iteration of that epoch skips the batches already done.

        Raises:
            ConfigError: the dataset or the global batch is another, so batches would not be the same.
        """
        if (position["rows"], position["batch"]) != (len(self.rows), self.global_batch):
            raise ConfigError(
                f"The checkpoint was trained on {position['rows']} rows in global batches of "
                f"{position['batch']}, this run has {len(self.rows)} rows in batches of {self.global_batch}: "
                "resume with the same data, data.batch_size and number of processes."
            )
        self.epoch = position["epoch"]
        self._resume = (position["epoch"], position["batches"])

    def batch(self, epoch: int, number: int) -> NDArray[np.int64]:
        """The rows of this rank in one batch of an epoch: where a batch came from, found out afterwards."""
        batches = self._global_batches(epoch if self.shuffle else 0)
        return next(itertools.islice(batches, number, None))[self.rank :: self.world_size]

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[RowBatch]:
        epoch = self.epoch if self.shuffle else 0
        resume_epoch, done = self._resume
        self._resume = (-1, 0)
        for number, batch in enumerate(self._global_batches(epoch)):
            if epoch != resume_epoch or number >= done:
                yield RowBatch(epoch, batch[self.rank :: self.world_size])

    def _starts(self) -> NDArray[np.int64]:
        """First rows of the global batches."""
        starts = np.arange(0, len(self.rows), self.global_batch)
        return starts[:-1] if len(starts) > 1 and len(self.rows) - starts[-1] < self.world_size else starts

    def _global_batches(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        ends = np.append(self._starts()[1:], len(self.rows))
        if not self.shuffle:
            for first, last in zip(self._starts(), ends, strict=True):
                yield np.arange(first, last)
            return
        random = np.random.default_rng([self.seed, epoch])
        dtype = np.int32 if len(self.rows) <= np.iinfo(np.int32).max else np.int64
        order = np.arange(len(self.rows), dtype=dtype)
        random.shuffle(order)  # in place: `permutation` would copy what is the largest array of a training
        window = max(self.bucket, 1)
        for first in range(0, len(ends), window):
            cuts = ends[first : first + window]
            begin = first * self.global_batch
            rows = order[begin : cuts[-1]].astype(np.int64)
            if not self.bucket:
                yield rows
                continue
            rows = rows[np.argsort(self.rows.lengths(rows), kind="stable")]
            batches = np.split(rows, cuts[:-1] - begin)
            for choice in random.permutation(len(batches)):
                yield batches[choice]
