"""`dien-predict RUN --input impressions.parquet --output scores.parquet`: a probability of a click for every row.

Axes: B rows of a batch, T history steps.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dien.allocator import keep_freed_memory
from dien.batch import Batch
from dien.config import mistakes_in_one_sentence
from dien.data.datamodule import DataModule
from dien.data.sources.convert import ids
from dien.data.sources.reading import FILE, ROW
from dien.data.vocabulary import spelled
from dien.errors import DataError, DienError, check_whole
from dien.histories import Clock, Columns, Histories, PreparedHistories, TableHistories
from dien.impressions import Writer, pieces, schema_of
from dien.options import add_override
from dien.runs.model import LoadedRun, load_model
from dien.signals import ended_by_signals
from dien.tables import UNKNOWN
from dien.trained import is_weights

PIECE = 1 << 16
"""Rows held in memory at a time, about."""
USUAL = {"user_id": ("user_id", "user"), "item_id": ("item_id", "item"), "timestamp": ("timestamp", "time")}
"""Names that columns go by where nothing else is said."""
ADDED = ("score", "unknown_user", "unknown_item")


class Counts(NamedTuple):
    """What was scored."""

    rows: int
    unknown_users: int
    unknown_items: int
    empty_histories: int


def predict(
    run: str | Path,
    *,
    input: str | Path,
    output: str | Path,
    history: str | Path | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    checkpoint: str = "best.ckpt",
    batch_size: int | None = None,
    overrides: Sequence[str] = (),
) -> Counts:
    """Score a table of (user, item[, time]) with the network of a run.

    Each row is scored with its user's clicks strictly before its time, or all of them if the table has no time: the
    latest `data.history_length` of the run, from its prepared dataset or from `history`. The output has the rows and
    columns of the input, and `score`, `unknown_user`, `unknown_item`; it appears when it is whole.

    Args:
        run: a run folder.
        input: Parquet, CSV or JSON lines, by suffix.
        output: as `input`; both may differ in format.
        history: a table of (user, item[, time[, label]]) to take the histories from instead.
        user: name of the column of user ids; None for what the run's own log calls it, `user_id` or `user`.
        item: of item ids, likewise.
        time: of times, likewise; read as the run's log was read. Without such a column there is no time.
        checkpoint: see `runs.load_model`.
        batch_size: rows a forward pass; None for the run's `data.eval_batch_size`.
        overrides: see `runs.load_model`.

    Raises:
        DienError: for any mistake in the arguments, the run or the tables.
    """
    source, target = Path(input), Path(output)
    _check_places(source, target)
    if is_weights(run):
        raise DienError(
            f"{run} was written by dien-export or dien-convert and lacks the prepared dataset that dien-predict needs: "
            "give the run folder, or rank with dien.Ranker."
        )
    schema = schema_of(source)
    if taken := [name for name in ADDED if name in schema]:
        raise DataError(f"{source}: the column {taken[0]} is there already, and would be overwritten: rename it.")
    loaded = load_model(run, checkpoint=checkpoint, overrides=overrides)
    data, clock = loaded.data.data, _clock(loaded.data)
    asked = Columns(user or "", item or "", time)
    columns = _columns(loaded.config, source, schema.names(), asked)
    if history is None:
        histories: Histories = PreparedHistories(data)
    else:
        there = schema_of(Path(history)).names()
        theirs = _columns(loaded.config, Path(history), there, asked)
        if columns.time is not None and theirs.time is None:
            raise DataError(f"{history}: there is no column of times, but {source} has {columns.time!r}.")
        histories = TableHistories(Path(history), theirs, clock, data, labelled="label" in there)
    size = loaded.data.eval_batch_size if batch_size is None else batch_size
    check_whole("--batch-size", size, 1)
    score = _Scoring(loaded, histories, columns, clock, source, size)
    counts = Counts(0, 0, 0, 0)
    with Writer(target) as writer, _progress(source) as advance:
        for frame, share in pieces(source, max(PIECE // size, 1) * size, schema):
            with _rows_not_lines(source):
                scored, empty = score(frame, counts.rows)
            writer.write(scored)
            counts = Counts(
                counts.rows + len(scored),
                counts.unknown_users + int(scored["unknown_user"].sum()),
                counts.unknown_items + int(scored["unknown_item"].sum()),
                counts.empty_histories + empty,
            )
            advance(counts.rows, share)
        if not counts.rows:
            raise DataError(f"{source}: there are no rows in it.")
    return counts


class _Scoring:
    """From a piece of the input to its scores.

    Args:
        loaded: the run.
        histories: where the clicks of users are.
        columns: of the input.
        clock: how its times are written.
        source: the input, for messages.
        size: rows of a forward pass.
    """

    def __init__(
        self, loaded: LoadedRun, histories: Histories, columns: Columns, clock: Clock, source: Path, size: int
    ) -> None:
        self.network, self.data, self.length = loaded.network, loaded.data.data, loaded.data.history_length
        item_table, user_table = loaded.data.tables()
        self.unknown_item_R = item_table[0].values.numpy() == UNKNOWN
        self.unknown_user_R = user_table[0].values.numpy() == UNKNOWN
        self.histories, self.columns, self.clock, self.source, self.size = histories, columns, clock, source, size

    def __call__(self, frame: pl.DataFrame, before: int) -> tuple[pl.DataFrame, int]:
        """A piece with its three new columns, and how many histories are empty; `before` rows came earlier."""
        first, columns = before + 1, self.columns
        located = frame.with_columns(
            pl.lit(str(self.source)).alias(FILE), pl.int_range(first, first + pl.len(), dtype=pl.UInt32).alias(ROW)
        )
        user_raw, item_raw = (_ids(located, name) for name in (columns.user, columns.item))
        user_R, item_R = self.data.user_rows(user_raw), self.data.item_rows(item_raw)
        time_R = None
        if columns.time is not None:
            time_R = self.clock.read(_no_empty_text(located, columns.time), columns.time)
        whose_R = self.histories.user(user_raw)
        logits, empty = [], 0
        for start in range(0, len(frame), self.size):
            part = slice(start, start + self.size)
            time_B = None if time_R is None else time_R[part]
            click_N, length_B = self.histories.find(whose_R[part], time_B, self.length)
            empty += int((length_B == 0).sum())
            with torch.inference_mode():
                logits.append(self.network(_batch(user_R[part], item_R[part], click_N, length_B)).logit_B)
        scored = frame.with_columns(
            pl.Series("score", torch.cat(logits).sigmoid().numpy()),
            pl.Series("unknown_user", self.unknown_user_R[user_R]),
            pl.Series("unknown_item", self.unknown_item_R[item_R]),
        )
        return scored, empty


@contextmanager
def _rows_not_lines(source: Path) -> Iterator[None]:
    """A message counts rows: blank lines of text are none, and a field may go over several lines."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(f"{source}, line ", f"{source}, row ")) from error


def _ids(located: pl.DataFrame, name: str) -> pl.Series:
    """Ids as they are spelled; null for an empty one (also NaN), which is nobody's.

    Raises:
        DataError: the column holds what no id can be, such as fractions or dates.
    """
    raw = located[name]
    there = raw.fill_nan(None).is_not_null() if raw.dtype.is_float() else raw.is_not_null()
    if raw.dtype != pl.Null:
        ids(located.select(name, FILE, ROW).filter(there), name)
    return spelled(raw)


def _no_empty_text(located: pl.DataFrame, name: str) -> pl.DataFrame:
    return located.with_columns(pl.col(name).replace("", None)) if located[name].dtype == pl.String else located


def _batch(
    user_B: NDArray[np.int64], target_B: NDArray[np.int64], click_N: NDArray[np.int64], length_B: NDArray[np.int64]
) -> Batch:
    real_BT = np.arange(length_B.max(initial=0)) < length_B[:, None]
    history_BT = np.zeros(real_BT.shape, np.int64)
    history_BT[real_BT] = click_N
    return Batch(
        user_B=torch.from_numpy(user_B),
        history_BT=torch.from_numpy(history_BT),
        negative_BT=torch.zeros(history_BT.shape, dtype=torch.int64),
        length_B=torch.from_numpy(length_B),
        target_B=torch.from_numpy(target_B),
        label_B=torch.zeros(len(user_B)),
    )


def _check_places(source: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise DienError(f"{target} cannot be written: there is no folder {target.parent}.")
    if target.is_dir():
        raise DienError(f"{target} cannot be written: it is a folder.")
    if not source.exists():
        raise DataError(f"{source}: there is no such file.")
    if target.exists() and source.samefile(target):
        raise DienError(f"--input and --output are the same file, {target}: name another output.")


def _columns(config: DictConfig, path: Path, there: list[str], asked: Columns) -> Columns:
    """Which columns hold users, items and times: as asked, else as in the run's log, else by the usual names."""
    log = OmegaConf.to_container(config.data.source) if "source" in config.data else {}
    own: dict[str, Any] = (log.get("columns") or {}) if isinstance(log, dict) else {}
    found: list[str | None] = []
    for key, name, option in zip(USUAL, asked, ("--user", "--item", "--time"), strict=True):
        if name and name not in there:
            raise DataError(f"{path}: there is no column {name!r} for {option}, only {', '.join(there)}.")
        choices = [name] if name else [own.get(key), *USUAL[key]]
        found.append(next((choice for choice in choices if choice in there), None))
        if found[-1] is None and key != "timestamp":
            wanted = ", ".join(str(choice) for choice in dict.fromkeys(choices) if choice)
            raise DataError(
                f"{path}: none of its columns {', '.join(there)} is called {wanted}: say with {option} which it is."
            )
    return Columns(str(found[0]), str(found[1]), found[2])


def _clock(data: DataModule) -> Clock:
    """As the run's log was read; sources that say nothing of a unit count seconds, or nothing that has a unit."""
    source, time_E = data.source, data.data.click_time
    first, last = (int(time_E.min()), int(time_E.max())) if len(time_E) else (0, 0)
    return Clock(getattr(source, "time_format", None), getattr(source, "time_unit", "s"), first, last)


@contextmanager
def _progress(path: Path) -> Iterator[Any]:
    """`advance(rows, share)`: a bar on a terminal, else a line every ten seconds."""
    console = Console(stderr=True)
    if console.is_terminal:
        text = TextColumn("{task.description} {task.fields[rows]:,} rows")
        with Progress(
            text, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=console
        ) as bar:
            task = bar.add_task(path.name, total=1.0, rows=0)
            yield lambda rows, share: bar.update(task, completed=share, rows=rows)
        return
    said = time.monotonic()

    def line(rows: int, share: float) -> None:
        nonlocal said
        if time.monotonic() - said >= 10:
            said = time.monotonic()
            print(f"{path.name}: {rows:,} rows, {share:.0%}", file=sys.stderr, flush=True)

    yield line


def main() -> None:
    """`dien-predict`"""
    parser = argparse.ArgumentParser(prog="dien-predict", description=__doc__.partition("\n")[0])
    parser.add_argument("run", metavar="RUN", help="a run folder of dien-train")
    tables = "Parquet, CSV or JSON lines, by suffix; text also .gz"
    parser.add_argument("--input", required=True, metavar="FILE", help=f"rows of (user, item[, time]): {tables}")
    parser.add_argument("--output", required=True, metavar="FILE", help="its rows and columns, with score: as --input")
    parser.add_argument(
        "--history",
        metavar="FILE",
        help="clicks of (user, item[, time]) to take histories from, instead of the prepared dataset of the run",
    )
    parser.add_argument("--user", metavar="COLUMN", help="of user ids, if not that of the run's log, user_id or user")
    parser.add_argument("--item", metavar="COLUMN", help="of item ids, likewise item_id or item")
    parser.add_argument(
        "--time", metavar="COLUMN", help="of times, likewise timestamp or time; without one the whole history counts"
    )
    parser.add_argument(
        "--checkpoint", default="best.ckpt", metavar="NAME", help="in checkpoints/ (default: best.ckpt)"
    )
    parser.add_argument("--batch-size", type=int, metavar="ROWS", help="of a forward pass (default: the run's)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    add_override(parser)
    options = vars(parser.parse_args())
    with mistakes_in_one_sentence("dien-predict"), ended_by_signals():
        threads = options.pop("threads")
        check_whole("--threads", threads, 1)
        torch.set_num_threads(threads)
        keep_freed_memory()
        counts = predict(options.pop("run"), overrides=options.pop("override"), **options)
        print(
            f"{counts.rows:,} rows scored ({counts.unknown_users:,} of unknown users, {counts.unknown_items:,} of "
            f"unknown items, {counts.empty_histories:,} with an empty history): {options['output']}"
        )


if __name__ == "__main__":
    main()
