"""Preparing random ragged logs against plain Python over their events."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dien.data import blocks
from dien.data.dataset import Prepared
from dien.data.log import Log
from dien.data.prepare import prepare
from dien.data.protocol import Protocol
from dien.errors import DataError

Event = tuple[int, int, int, int]  # user, item, time, label


@dataclass
class MemorySource:
    log: Log

    def load(self) -> Log:
        return self.log

    def fingerprint(self) -> str:
        return "memory"


@contextmanager
def prepared(events: list[Event], labels: bool, protocol: Protocol) -> Iterator[Prepared]:
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp", "label"], orient="row")
    frame = frame.with_columns(pl.col("label").cast(pl.Int8))
    source = MemorySource(Log(frame if labels else frame.drop("label")))
    with tempfile.TemporaryDirectory() as root:
        try:
            folder = prepare(source, protocol, name="n", folder=Path(root) / "one")
        except DataError:
            assume(False)
        with patch.object(blocks, "_AT_ONCE", 3):  # a block for nearly every user
            again = prepare(source, protocol, name="n", folder=Path(root) / "two")
        for path in folder.iterdir():
            assert path.read_bytes() == (again / path.name).read_bytes()
        yield Prepared(folder, verify=True)


events_of_a_log = st.lists(
    st.tuples(st.integers(0, 5), st.integers(-3, 6), st.integers(-4, 12), st.integers(0, 1)),
    min_size=8,
    max_size=60,
)
protocols = st.builds(
    Protocol,
    split=st.sampled_from(["last_out", "by_user", "temporal"]),
    ties=st.sampled_from(["strict", "order"]),
    samples=st.sampled_from(["all", "last"]),
    min_history=st.integers(0, 2),
    min_count=st.integers(1, 3),
    split_seed=st.integers(0, 3),
    val_from=st.just(4),
    test_from=st.just(8),
)


def units(user_events: list[Event], ties: str) -> list[list[Event]]:
    """A user's events in order, those that belong together in one list."""
    found: list[list[Event]] = []
    for event in user_events:
        if ties == "strict" and found and found[-1][0][2] == event[2]:
            found[-1].append(event)
        else:
            found.append([event])
    return found


def split_of(protocol: Protocol, unit: int, n_units: int, time: int, part_of_user: str) -> str:
    if protocol.split == "by_user":
        return part_of_user
    if protocol.split == "temporal":
        return "train" if time < protocol.val_from else "val" if time < protocol.test_from else "test"
    if unit == n_units - 1 and n_units >= 2:
        return "test"
    return "val" if unit == n_units - 2 and n_units >= 3 else "train"


@settings(max_examples=80, deadline=None)
@given(events=events_of_a_log, labels=st.booleans(), protocol=protocols)
def test_samples_histories_and_vocabulary_equal_a_loop_over_users(events, labels, protocol):
    with prepared(events, labels, protocol) as data:
        items = [None, None, *data.item_ids()]
        users = [None, None, *data.user_ids()]
        found = {
            split: [
                (users[data.event_user[e]], items[data.event_item[e]], data.event_time[e], history(data, e, items))
                for e in data.samples(split)
            ]
            for split in ("train", "val", "test")
        }
        held_out = {users[data.event_user[e]]: split for split in ("val", "test") for e in data.samples(split)}

        expected = {"train": [], "val": [], "test": []}
        count: Counter[int] = Counter()
        for user in sorted({event[0] for event in events}):
            own = sorted((e for e in events if e[0] == user), key=lambda e: e[2])
            grouped = units(own, protocol.ties)
            clicked: list[int] = []
            of_user = {"train": [], "val": [], "test": []}
            for number, unit in enumerate(grouped):
                split = split_of(protocol, number, len(grouped), unit[0][2], held_out.get(user, "train"))
                for _, item, time, _ in unit:
                    count[item] += split == "train"
                    if len(clicked) >= protocol.min_history:
                        of_user[split].append((user, item, time, list(clicked)))
                clicked += [item for _, item, _, label in unit if label or not labels]
            for split, rows in of_user.items():
                expected[split] += rows[-1:] if protocol.samples == "last" else rows
        assert found == expected
        if protocol.split == "by_user":
            return  # a held-out user without a sample cannot be told from a training user here
        known = sorted((i for i in count if count[i] >= protocol.min_count), key=lambda i: (-count[i], i))
        vocabulary = {item: number for number, item in enumerate(known, start=2)}
        assert data.tables()[0][0].values.tolist() == [0, 1] + [vocabulary.get(i, 1) for i in items[2:]]


def history(data: Prepared, event: int, items: list[int]) -> list[int]:
    click_N, _ = data.history(np.array([event]), 1000)
    return [items[row] for row in data.click_item[click_N]]
