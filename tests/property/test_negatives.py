"""Batches of random ragged logs against plain Python: histories, and negatives against set arithmetic."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dien.data.dataset import Prepared, RowBatch, SplitRows
from dien.data.log import Log
from dien.data.negatives import Draws, NegativeSampler
from dien.data.prepare import prepare
from dien.data.protocol import Protocol
from dien.errors import DataError


@dataclass
class MemorySource:
    log: Log

    def load(self) -> Log:
        return self.log

    def fingerprint(self) -> str:
        return "memory"


@dataclass
class Place:
    """A click: what its user had clicked before it, in its basket, and in total."""

    item: int
    before: list[int]
    basket: set[int]


def open_log(events: list[tuple[int, ...]], ties: str, root: str) -> Prepared:
    names = ["user_id", "item_id", "timestamp", "label"][: len(events[0])]
    frame = pl.DataFrame(events, schema=names, orient="row")
    if "label" in names:
        frame = frame.with_columns(pl.col("label").cast(pl.Int8))
    protocol = Protocol(ties=ties, min_history=0)
    try:
        return Prepared(prepare(MemorySource(Log(frame)), protocol, name="n", folder=Path(root) / "data"))
    except DataError:
        assume(False)
        raise


def clicks_of(data: Prepared, user: int) -> list[tuple[int, int]]:
    first, last = data.user_offsets[user], data.user_offsets[user + 1]
    label = data.event_label if data.has_labels else np.ones(len(data.event_user))
    return [(int(data.event_item[e]), int(data.event_time[e])) for e in range(first, last) if label[e]]


def forbidden(exclude: str, clicks: list[tuple[int, int]], position: int, seen: int) -> set[int]:
    """Items excluded for the click at `position`, of a sample that sees the first `seen` clicks of its user."""
    item, time = clicks[position]
    if exclude == "positive":
        return {item}
    if exclude == "basket":
        return {other for other, when in clicks if when == time}
    return {other for other, _ in clicks[:seen]} | {item}


users_items_times = st.tuples(st.integers(0, 4), st.integers(0, 7), st.integers(0, 9))


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(users_items_times, min_size=5, max_size=60),
    ties=st.sampled_from(["strict", "order"]),
    strategy=st.sampled_from(["uniform", "popularity"]),
    exclude=st.sampled_from(["positive", "history", "basket"]),
    history_length=st.integers(1, 12),
    targets=st.integers(1, 3),
    auxiliary=st.integers(0, 3),
    seed=st.integers(0, 5),
    largest_table=st.sampled_from([0, 1 << 22]),  # sets by search, or by table
)
def test_batches_equal_a_loop(events, ties, strategy, exclude, history_length, targets, auxiliary, seed, largest_table):
    with tempfile.TemporaryDirectory() as root, patch("dien.data.exclusion._LARGEST_TABLE", largest_table):
        data = open_log(events, ties, root)
        try:
            sampler = NegativeSampler(data, strategy=strategy, exponent=0.75, exclude=exclude)
            draws = Draws(targets=targets, auxiliary=auxiliary, seed=seed)
            rows = SplitRows(data, "train", sampler=sampler, draws=draws, history_length=history_length)
            batch = rows[RowBatch(seed, np.arange(len(rows)))]
        except DataError as error:
            if "no negative" not in str(error):  # a user may have clicked everything
                raise
            return
        for row in range(len(rows)):
            sample, k = divmod(row, 1 + targets)
            event = int(rows.samples[sample])
            user = int(data.event_user[event])
            clicks = clicks_of(data, user)
            position = event - int(data.user_offsets[user])
            time = clicks[position][1]
            seen = sum(when < time for _, when in clicks) if ties == "strict" else position
            basket_end = sum(when <= time for _, when in clicks)

            expected = [item for item, _ in clicks[:seen]][-history_length:]
            length = int(batch.length_B[row])
            assert batch.user_B[row] == user
            assert batch.history_BT[row].tolist() == expected + [0] * (batch.history_BT.shape[1] - length)
            assert length == len(expected)
            assert batch.label_B[row] == (k == 0)
            target = int(batch.target_B[row])
            if k == 0:
                assert target == clicks[position][0]
            else:
                assert 2 <= target < data.n_items
                assert target not in forbidden(exclude, clicks, position, basket_end)
            drawn = batch.negative_BT[row].reshape(batch.history_BT.shape[1], max(auxiliary, 1))
            assert not drawn[length:].any()
            for step in range(length if auxiliary else 0):
                excluded = forbidden(exclude, clicks, seen - length + step, seen)
                assert len(drawn[step]) == auxiliary
                assert all(item >= 2 and item not in excluded for item in drawn[step].tolist())


@settings(max_examples=100, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 9), st.integers(0, 1)),
        min_size=8,
        max_size=60,
    ),
    ties=st.sampled_from(["strict", "order"]),
    exclude=st.sampled_from(["positive", "basket"]),
    epoch=st.integers(0, 3),
)
def test_observed_negatives_are_earlier_skips_where_any_are_allowed(events, ties, exclude, epoch):
    with tempfile.TemporaryDirectory() as root:
        data = open_log(events, ties, root)
        try:
            sampler = NegativeSampler(data, strategy="observed", exponent=1.0, exclude=exclude)
            rows = SplitRows(data, "train", sampler=sampler, draws=Draws(targets=1, auxiliary=1), history_length=99)
            batch = rows[RowBatch(epoch, np.arange(len(rows)))]
        except DataError as error:
            if "no negative" not in str(error):
                raise
            return
        assert len(rows) == len(rows.samples)
        for row, event in enumerate(rows.samples.tolist()):
            user, time = int(data.event_user[event]), int(data.event_time[event])
            first = int(data.user_offsets[user])
            earlier = [e for e in range(first, event) if ties == "order" or int(data.event_time[e]) < time]
            clicks = clicks_of(data, user)
            skips = {int(data.event_item[e]) for e in earlier if not data.event_label[e]}
            seen = sum(bool(data.event_label[e]) for e in earlier)
            assert batch.target_B[row] == data.event_item[event]
            assert batch.label_B[row] == data.event_label[event]
            assert batch.length_B[row] == seen
            for step in range(seen):
                item = int(batch.negative_BT[row, step])
                excluded = forbidden(exclude, clicks, step, seen)
                assert item not in excluded
                if skips and not skips & excluded:  # nothing is ever rejected, so there is no falling back
                    assert item in skips
                elif not skips:
                    assert data.item_clicks[item] > 0
