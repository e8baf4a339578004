"""What making a batch costs beside a training step, and what reading processes and length buckets give.

Rows of MovieLens 100K through `dien.data.DataModule`, histories of at most 100 clicks: full (all training rows) and
heavy (as many of them, drawn so that 5 % have 100 steps and the others 1 to 20). DIEN at the paper's sizes,
popularity-weighted negatives, one thread. Making a burst of batches and training on it take turns, as in dien-train;
their times are medians of processor time, which others on the machine hardly change. Rates are by the clock: they want
idle cores.

    python scripts/benchmark_batches.py
    python scripts/benchmark_batches.py --bucket        # and training with data.bucket=0 against 20
"""

import argparse
import statistics
import time
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from bench.arguments import positive
from bench.data import heavy_tailed
from numpy.typing import NDArray
from profile_step import network, train_step
from rich.console import Console
from rich.table import Table

from dien.batch import Batch
from dien.data.bursts import BURST
from dien.data.datamodule import DataModule
from dien.data.dataset import RowBatch, SplitRows
from dien.data.exclusion import EXCLUSIONS
from dien.data.negatives import Negatives
from dien.data.protocol import Split
from dien.data.sources.movielens import MovieLens
from dien.optimizer import Adam

HEAVY_MEAN = 10.0
BUCKET = 20

console = Console(width=130)


class ChosenRows(SplitRows):
    """Some rows of a split, in a number of their own; a row may be there several times."""

    def __init__(self, rows: SplitRows, chosen: NDArray[np.int64]) -> None:
        self.__dict__.update(rows.__dict__)
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def lengths(self, row_B: NDArray[np.int64]) -> NDArray[np.int64]:
        return super().lengths(self.chosen[row_B])

    def __getitem__(self, index: RowBatch) -> Batch:
        return super().__getitem__(RowBatch(index.epoch, self.chosen[index.row_B]))


class Data(DataModule):
    """MovieLens 100K, its training rows as they are or with heavy-tailed lengths."""

    def __init__(self, *, heavy: bool, exclude: str, **options: Any) -> None:
        source = MovieLens(item_features=("genres",), user_features=())
        super().__init__(name="ml_100k", source=source, negatives=Negatives(exclude=exclude), **options)
        self.heavy = heavy

    def rows(self, split: Split) -> SplitRows:
        rows = super().rows(split)
        if not self.heavy:
            return rows
        rng = np.random.default_rng(1)
        length_R = rows.lengths(np.arange(len(rows)))
        return ChosenRows(rows, rows_with(heavy_tailed(length_R, HEAVY_MEAN, rng), length_R, rng))


def rows_with(wanted_R: NDArray[np.int64], length_R: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each wanted length a row that has it."""
    order, count = np.argsort(length_R), np.bincount(length_R)
    first = np.cumsum(count) - count
    return order[first[wanted_R] + (rng.random(len(wanted_R)) * count[wanted_R]).astype(np.int64)]


class Trainer:
    """A fresh network and its optimizer."""

    def __init__(self, data: DataModule) -> None:
        torch.manual_seed(0)
        self.network = network(*data.tables())
        self.step = partial(train_step, self.network, Adam(self.network.parameters(), fused=True))


def milliseconds(data: DataModule, batches: int) -> tuple[float, float]:
    """Of making a batch, and of the training step on it: means over bursts of batches, medians over the bursts."""
    trainer, loader = Trainer(data), iter(data.train_dataloader())
    making, training = [], []
    for _ in range(2 + -(-batches // BURST)):
        begin = time.process_time()
        burst = list(islice(loader, BURST))
        if len(burst) < BURST:
            break
        made = time.process_time()
        for batch in burst:
            trainer.step(batch)
        making.append(1e3 * (made - begin) / BURST)
        training.append(1e3 * (time.process_time() - made) / BURST)
    return statistics.median(making[2:]), statistics.median(training[2:])


def rate(data: DataModule, batches: int, consume: Any = lambda batch: None) -> float:
    """Batches a second that a loader delivers to `consume`, once its processes are under way."""
    loader: Iterable[Batch] = data.train_dataloader()
    iterator = iter(loader)
    for batch in islice(iterator, BURST + 2 * data.num_workers):  # what was read ahead
        consume(batch)
    begin, count = time.perf_counter(), 0
    for batch in islice(iterator, batches):
        consume(batch)
        count += 1
    return count / (time.perf_counter() - begin)


def making(options: argparse.Namespace) -> Table:
    table = Table(title=f"batches of {options.batch} rows, 1 thread", title_justify="left")
    columns = ("mean history", "exclude", "ms to make", "ms to train", "share")
    for column in ("lengths", *columns, *(f"batches/s, {workers} workers" for workers in options.workers)):
        table.add_column(column, justify="right")
    for lengths in ("full", "heavy"):
        for exclude in options.exclude:
            open_data = partial(Data, heavy=lengths == "heavy", exclude=exclude, batch_size=options.batch)
            data = open_data()
            rows = data.rows("train")
            mean = rows.lengths(np.arange(len(rows))).mean()
            make, train = milliseconds(data, options.batches)
            rates = [rate(open_data(num_workers=workers), options.batches) for workers in options.workers]
            times = (f"{mean:.1f}", exclude, f"{make:.2f}", f"{train:.2f}", f"{make / (make + train):.1%}")
            table.add_row(lengths, *times, *(f"{r:,.0f}" for r in rates))
    return table


def bucketing(options: argparse.Namespace) -> Table:
    """Both ways take turns, each with a network of its own."""
    table = Table(title=f"samples/s of training, batches of {options.batch} rows, 1 thread", title_justify="left")
    for column in ("lengths", "data.bucket=0", f"data.bucket={BUCKET}", "times as fast"):
        table.add_column(column, justify="right")
    for lengths in ("full", "heavy"):
        shared = {"heavy": lengths == "heavy", "exclude": options.exclude[0], "batch_size": options.batch}
        ways = [Data(bucket=bucket, **shared) for bucket in (0, BUCKET)]
        trainers = [Trainer(data) for data in ways]
        rates: list[list[float]] = [[], []]
        for _ in range(options.rounds):
            for way, data in enumerate(ways):
                # Whole windows, or a round would have more of the long batches, or of the short.
                whole = max(options.batches // BUCKET, 1) * BUCKET - BURST
                rates[way].append(options.batch * rate(data, whole, trainers[way].step))
        plain, bucketed = map(statistics.median, rates)
        table.add_row(lengths, f"{plain:,.0f}", f"{bucketed:,.0f}", f"{bucketed / plain:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=positive, default=128, help="rows of a batch (default: %(default)s)")
    parser.add_argument("--batches", type=positive, default=100, help="timed batches (default: %(default)s)")
    parser.add_argument(
        "--exclude", nargs="+", choices=EXCLUSIONS, default=list(EXCLUSIONS), help="data.negatives.exclude"
    )
    parser.add_argument("--workers", nargs="*", type=int, choices=range(9), default=[0, 1, 2], help="reading processes")
    parser.add_argument("--bucket", action="store_true", help="also train with and without length buckets")
    parser.add_argument(
        "--rounds", type=positive, default=3, help="turns of each way with --bucket (default: %(default)s)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    console.print(making(options))
    if options.bucket:
        console.print(bucketing(options))


if __name__ == "__main__":
    main()
