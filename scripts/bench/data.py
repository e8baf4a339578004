"""Builds the two sets of the benchmark from MovieLens 100K, and writes each as one archive of arrays.

A sample is a position in a user's clicks, in time order: everything before it is the history (at most T = 100), the
click itself the target. Each positive has one negative with the same history, drawn by popularity. The last clicks
of every user are the test rows.

Axes: R rows, T history steps.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.rows import HISTORY_LENGTH, Rows
from dien.data.sources.movielens import MovieLens

TRAIN_CLICKS = 40_000
"""Twice as many rows. An epoch over half of them ends while every system has hardly begun to learn."""
TEST_CLICKS = 4
"""Of each user: 943 users make 7,544 test rows, and the standard error of an AUC about 0.005."""
LONG_SHARE = 0.05
SHORT_LENGTH = 20
FIRST_ID = 2

Ints = NDArray[np.int64]


class Clicks(NamedTuple):
    """All clicks, by user and time; row r is the `position[r]`-th click of `user[r]`, counted from 0."""

    user: Ints
    item: Ints
    position: Ints
    remaining: Ints
    """Clicks of the same user from this one on."""
    category_of_item: Ints


def write_sets(folder: Path, heavy_mean: float, seed: int = 1) -> dict[str, Path]:
    """Write `full.npz` and `heavy.npz` to `folder`.

    Args:
        folder: made if it is missing.
        heavy_mean: mean history length of the heavy-tailed set, of which 5 % have 100 steps and others at most 20.
        seed: of everything that is drawn.

    Returns:
        The paths, by name of the set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clicks = _clicks()
    paths = {}
    for name in ("full", "heavy"):
        rng = np.random.default_rng(seed)
        arrays = {
            "category_of_item": clicks.category_of_item,
            "sizes": np.array([clicks.user.max() + 1, len(clicks.category_of_item), clicks.category_of_item.max() + 1]),
        }
        usable = clicks.position > 0  # a history of length 0 ends RecBole with an error
        test = np.flatnonzero(usable & (clicks.remaining <= TEST_CLICKS))
        train = np.flatnonzero(usable & (clicks.remaining > TEST_CLICKS))
        train = rng.choice(train, TRAIN_CLICKS, replace=False)
        for split, positives in (("train", train), ("test", test)):
            lengths = np.minimum(clicks.position[positives], HISTORY_LENGTH)
            if name == "heavy":
                lengths = heavy_tailed(lengths, heavy_mean, rng)
            rows = _rows(clicks, positives, lengths, rng)
            arrays |= {f"{split}_{field}": array for field, array in rows.items()}
        paths[name] = folder / f"{name}.npz"
        np.savez(paths[name], allow_pickle=False, **{key: array.astype(np.int32) for key, array in arrays.items()})
    return paths


def write_head(source: Path, target: Path, rows: int) -> Path:
    """Copy the archive with its first training rows only, so that data hardly counts when memory is measured."""
    with np.load(source, allow_pickle=False) as archive:
        arrays = {name: array[:rows] if name.startswith("train_") else array for name, array in archive.items()}
    np.savez(target, allow_pickle=False, **arrays)
    return target


def mean_length(path: Path) -> float:
    """Mean history length of the training rows of an archive."""
    with np.load(path, allow_pickle=False) as archive:
        return float(archive["train_length_B"].mean())


def _clicks() -> Clicks:
    log = MovieLens(item_features=("genres",), user_features=()).load()
    assert log.items is not None
    # A stable sort: rows of one second keep the order of the file.
    events = log.events.sort("user_id", "timestamp", maintain_order=True)
    genre = pl.col("genres").list.first().fill_null("unknown").rank("dense").cast(pl.Int64)
    items = log.items.sort("item_id").select("item_id", category=genre - 1 + FIRST_ID)
    item_row = pl.Series(np.arange(len(items)) + FIRST_ID)
    events = events.with_columns(
        user=pl.col("user_id").rank("dense").cast(pl.Int64) - 1 + FIRST_ID,
        item=pl.col("item_id").replace_strict(items["item_id"], item_row),
        position=pl.int_range(pl.len()).over("user_id"),
        remaining=pl.len().over("user_id").cast(pl.Int64) - pl.int_range(pl.len()).over("user_id"),
    )
    category_of_item = np.concatenate([np.arange(FIRST_ID), items["category"].to_numpy()])
    columns = {name: events[name].to_numpy().astype(np.int64) for name in Clicks._fields[:-1]}
    return Clicks(**columns, category_of_item=category_of_item)


def _rows(clicks: Clicks, positives: Ints, lengths: Ints, rng: np.random.Generator) -> dict[str, Ints]:
    """Each positive and its negative, shuffled; the keys are the fields of `Rows`."""
    step_T = np.arange(HISTORY_LENGTH)
    real_RT = step_T < lengths[:, None]
    # The newest `length` clicks before the target, oldest first.
    source_RT = np.where(real_RT, (positives - lengths)[:, None] + step_T, 0)
    history_RT = np.where(real_RT, clicks.item[source_RT], 0)
    target = clicks.item[positives]
    columns = {
        "user_B": np.tile(clicks.user[positives], 2),
        "target_B": np.concatenate([target, _popular(clicks, target, rng)]),
        "label_B": np.repeat([1, 0], len(positives)),
        "length_B": np.tile(lengths, 2),
        "history_BT": np.tile(history_RT, (2, 1)),
        "negative_BT": np.tile(real_RT, (2, 1)) * _popular(clicks, np.tile(history_RT, (2, 1)), rng),
    }
    assert tuple(columns) == Rows._fields
    order = rng.permutation(2 * len(positives))
    return {name: column[order] for name, column in columns.items()}


def _popular(clicks: Clicks, avoid: Ints, rng: np.random.Generator) -> Ints:
    """For every entry of `avoid` an item other than it, drawn from all clicks."""
    drawn = rng.choice(clicks.item, avoid.shape)
    while (equal := drawn == avoid).any():
        drawn[equal] = rng.choice(clicks.item, int(equal.sum()))
    return drawn


def heavy_tailed(lengths: Ints, mean: float, rng: np.random.Generator) -> Ints:
    """Shorten histories: 5 % of the rows keep T steps, the others get 1 to 20, geometrically distributed."""
    full = np.flatnonzero(lengths == HISTORY_LENGTH)
    longs = rng.choice(full, round(LONG_SHARE * len(lengths)), replace=False)
    short_mean = (mean - LONG_SHARE * HISTORY_LENGTH) / (1 - LONG_SHARE)
    more = 1 - rng.random(len(lengths))
    short = 1 + np.minimum(np.log(more) / np.log(_ratio(short_mean)), SHORT_LENGTH - 1).astype(np.int64)
    short = np.minimum(short, lengths)
    short[longs] = HISTORY_LENGTH
    return short


def _ratio(mean: float) -> float:
    """The q with `1 + q + ... + q^19 = mean`: that of a geometric length cut off at 20 with this mean."""
    if not 1 < mean < SHORT_LENGTH:
        raise ValueError(
            f"Short histories of mean length {mean:.1f} are impossible: it must lie in (1, {SHORT_LENGTH})."
        )
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if (middle ** np.arange(SHORT_LENGTH)).sum() < mean else (low, middle)
    return low
