"""From a log to a prepared dataset: a folder of memory-mapped arrays in which a sample is a pointer.

Axes: E events, sorted by (user, time, input order); C clicks, the events that histories are made of, in the
same order; R item rows, U user rows (0 padding, 1 unknown, from 2 on the sorted raw ids).

Files (`.npy`; row `r` of an offsets array owns `offsets[r]:offsets[r + 1]`):

| file | content |
| --- | --- |
| `event_user`, `event_item`, `event_time` | per event |
| `event_label` | per event; no such file in a log without labels |
| `event_history_end` | per event: one past the last click of its history |
| `user_offsets`, `click_offsets` | events and clicks of every user row |
| `click_item`, `click_time`, `click_basket` | per click; a basket is a user's clicks at one timestamp |
| `basket_offsets` | clicks of every basket |
| `basket_keys` | sorted `basket * R + item`: is an item in a basket? |
| `user_keys`, `user_first_click` | sorted `user * R + item`, first such click: had a user clicked an item? |
| `skip_item`, `event_skip_end`, `skip_offsets` | with labels: the events of label 0, as the clicks above |
| `item_clicks`, `item_train_clicks` | clicks of every item row, in the whole log and in its training part |
| `samples_train`, `samples_val`, `samples_test` | positions of events |
| `event_score_NAME` | per event: a known score, if the log has any |
| `items.parquet`, `users.parquet` | raw id, row, vocabulary id of training |
| `item_column_I`, `user_column_I` | feature columns; `*_vocabulary_I.parquet`: value, id, training count |
| `dataset.json` | format, name, fingerprint, protocol, counts, columns, size and SHA-256 of every file |
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dien.cache import cache_root
from dien.data.blocks import Events, Given, count
from dien.data.log import Log
from dien.data.protocol import SPLITS, Protocol
from dien.data.references import references
from dien.data.sources.base import Source, validate
from dien.data.splits import TRAIN, Assign, assigner, check_samples, select_samples, unit_starts
from dien.data.storage import (
    FORMAT,
    Arrays,
    alone,
    atomic_folder,
    check_fingerprint,
    write_array,
    write_manifest,
)
from dien.data.vocabulary import rows_of, sorted_ids, write_table
from dien.errors import DataError
from dien.progress import stage, stages
from dien.tables import FIRST_ID


def prepare(
    source: Source,
    protocol: Protocol,
    *,
    name: str,
    cache: str | Path | None = None,
    folder: str | Path | None = None,
) -> Path:
    """Prepare a dataset, unless it is there already, and return its folder.

    Atomic (a folder is whole or absent), idempotent, deterministic to the byte; of several processes that want the
    same dataset one prepares it and the others wait. Besides
    the log, memory holds some 20 bytes an event and one block of users.

    Args:
        source: where the log comes from; it is loaded only if the dataset is not there yet.
        protocol: which events become samples of which split.
        name: of the dataset, for people.
        cache: root of the prepared datasets; see `cache_root`. The folder's name holds `name` and the fingerprint.
        folder: an explicit place instead.

    Raises:
        DataError: the log cannot be used, a split has no sample, the place cannot be written, holds another
            dataset, or holds a damaged one.
    """
    fingerprint = dataset_fingerprint(source, protocol)
    place = place_of(fingerprint, name=name, cache=cache, folder=folder)
    if check_fingerprint(place, fingerprint):
        return place
    with alone(place):
        if check_fingerprint(place, fingerprint):  # somebody else has made it meanwhile
            return place
        with stages(f"preparing {name}", 4):
            stage("reading the log")
            log = validate(source.load())
            # The frames are let go of, so that each column can be as soon as it is an array of numbers.
            columns, scores = log.events.to_dict(), {} if log.scores is None else log.scores.to_dict()
            log = replace(log, events=log.events.clear(), scores=None)
            with atomic_folder(place, fingerprint) as temporary:
                report = {"input": dict(log.report)} if log.report else {}
                description = {"name": name, "fingerprint": fingerprint, **report}
                _write(log, columns, scores, protocol, description, temporary)
    return place


def place_of(fingerprint: str, *, name: str, cache: str | Path | None, folder: str | Path | None) -> Path:
    """Where `prepare` keeps the dataset of this fingerprint."""
    return Path(folder) if folder is not None else cache_root(cache) / f"{name}-{fingerprint[:16]}"


def dataset_fingerprint(source: Source, protocol: Protocol) -> str:
    """SHA-256 over the source's fingerprint, the options that shape the dataset and the format's version."""
    text = json.dumps([FORMAT, source.fingerprint(), protocol.relevant()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(
    log: Log,
    columns: dict[str, pl.Series],
    scores: dict[str, pl.Series],
    protocol: Protocol,
    description: dict[str, Any],
    folder: Path,
) -> None:
    stage("numbering users and items")
    item_ids = sorted_ids(columns["item_id"], log.items)
    user_ids = sorted_ids(columns["user_id"], log.users)
    if len(item_ids) < 2:
        raise DataError("The log has a single item, so nothing can be told from it: it needs at least two.")
    counts = _Counts.of(users=len(user_ids) + FIRST_ID, items=len(item_ids) + FIRST_ID)
    names = list(scores)
    events = _numbered(columns, scores, item_ids, user_ids)
    stage("histories and samples")
    _write_events(folder, events, protocol, counts)
    del events

    stage("feature tables and checksums")
    write_manifest(
        folder,
        {
            **description,
            "protocol": protocol.relevant(),
            "users": len(user_ids),
            "items": len(item_ids),
            "events": counts.events,
            "clicks": counts.clicks,
            "labels": counts.labels,
            "most_items_of_a_user": counts.most_items,
            "samples": {split: int(counts.length_L[split].sum()) for split in SPLITS},
            "history": {split: _lengths(counts.length_L[split]) for split in SPLITS},
            "item_columns": write_table(folder, "item", item_ids, counts.item_R, log.items, protocol.min_count),
            "user_columns": write_table(folder, "user", user_ids, counts.user_U, log.users, protocol.min_count),
            **({"references": references(folder, names, log.items, item_ids)} if names else {}),
        },
    )


def _numbered(
    columns: dict[str, pl.Series], scores: dict[str, pl.Series], item_ids: pl.Series, user_ids: pl.Series
) -> Events:
    """The columns as arrays; each is taken out of its dictionary, so that it is not in memory twice for long."""
    if "label" in columns and columns["label"].min() == 1:
        raise DataError(
            "Every label of the log is 1, so there is nothing to tell clicks from: leave the column "
            "out and negatives are sampled."
        )
    return Events(
        user_E=rows_of(columns.pop("user_id"), user_ids),
        item_E=rows_of(columns.pop("item_id"), item_ids),
        time_E=columns.pop("timestamp").to_numpy(),
        label_E=columns.pop("label").to_numpy() if "label" in columns else None,
        given=Given(columns.pop("part").to_numpy(), columns.pop("sample").to_numpy()) if "part" in columns else None,
        scores={name: scores.pop(name).to_numpy() for name in list(scores)},
    )


@dataclass
class _Counts:
    """What is counted over the blocks of a log."""

    item_R: NDArray[np.int64]
    """training events of every item row"""
    item_click_R: NDArray[np.int64]
    """those that are clicks"""
    user_U: NDArray[np.int64]
    """training events of every user row"""
    length_L: dict[str, NDArray[np.int64]]
    """samples of every split with histories of 0, 1, 2, ... clicks"""
    longest: int = 0
    """clicks in the history of any event"""
    most_items: int = 0
    """different ones that a user clicked"""
    events: int = 0
    clicks: int = 0
    baskets: int = 0
    labels: bool = False

    @classmethod
    def of(cls, *, users: int, items: int) -> "_Counts":
        item_R, item_click_R = np.zeros(items, np.int64), np.zeros(items, np.int64)
        return cls(item_R, item_click_R, np.zeros(users, np.int64), {split: np.zeros(1, np.int64) for split in SPLITS})


def _write_events(folder: Path, log: Events, protocol: Protocol, counts: _Counts) -> None:
    """Write all that is as long as the log, block after block, and fill `counts`."""
    items, users = len(counts.item_R), len(counts.user_U)
    click_N = None if log.label_E is None else log.label_E == 1
    events_U = count(log.user_E, users)
    clicks_U = events_U if click_N is None else count(log.user_E, users, click_N)
    event_offsets, click_offsets = (np.append(0, np.cumsum(counts_U)) for counts_U in (events_U, clicks_U))
    write_array(folder, "user_offsets", event_offsets)
    write_array(folder, "click_offsets", click_offsets)
    write_array(folder, "item_clicks", count(log.item_E, items, click_N))
    if click_N is not None:
        write_array(folder, "skip_offsets", event_offsets - click_offsets)
    del click_N
    counts.events, counts.clicks, counts.labels = len(log), int(click_offsets[-1]), log.label_E is not None

    assign = assigner(protocol, log, events_U)
    with Arrays(folder) as arrays:
        for events in log.in_order(event_offsets):
            _write_block(arrays, events, event_offsets, click_offsets, protocol, assign, counts)
        arrays.append("basket_offsets", click_offsets[-1:])
    write_array(folder, "item_train_clicks", counts.item_click_R)
    check_samples(protocol, [int(counts.length_L[split].sum()) for split in SPLITS], counts.longest)


def _write_block(
    arrays: Arrays,
    events: Events,
    event_offsets: NDArray[np.int64],
    click_offsets: NDArray[np.int64],
    protocol: Protocol,
    assign: Assign,
    counts: _Counts,
) -> None:
    """Write the events of some whole users, which follow on those that are written, and add them to `counts`."""
    user_E, item_E, time_E = events.user_E, events.item_E, events.time_E
    user, end = user_E[0], user_E[-1] + 1
    event, click = event_offsets[user], click_offsets[user]
    click_E = np.ones(len(events), bool) if events.label_E is None else events.label_E == 1
    starts_E = unit_starts(user_E, time_E, protocol.ties)
    first_E = np.flatnonzero(starts_E)[np.cumsum(starts_E) - 1]
    history_end_E = click + (np.cumsum(click_E) - click_E)[first_E]
    length_E = history_end_E - click_offsets[user_E]
    part_E = assign(events, starts_E)

    block = {
        "event_user": user_E,
        "event_item": item_E,
        "event_time": time_E,
        "event_history_end": history_end_E,
        **_click_arrays(user_E[click_E], item_E[click_E], time_E[click_E], len(counts.item_R), click, counts.baskets),
        **{f"event_score_{name}": score_E for name, score_E in events.scores.items()},
    }
    if events.label_E is not None:
        block["event_label"] = events.label_E
        block["skip_item"] = item_E[~click_E]
        block["event_skip_end"] = event + first_E - history_end_E  # events before the unit that are not clicks
    for split, place_S in zip(SPLITS, select_samples(protocol, events, part_E, length_E), strict=True):
        block[f"samples_{split}"] = event + place_S
        counts.length_L[split] = _sum(counts.length_L[split], np.bincount(length_E[place_S]))
    for name, values in block.items():
        arrays.append(name, values)

    train_E = part_E == TRAIN
    counts.item_R += np.bincount(item_E[train_E], minlength=len(counts.item_R))
    counts.item_click_R += np.bincount(item_E[train_E & click_E], minlength=len(counts.item_R))
    counts.user_U[user:end] = np.bincount(user_E[train_E] - user, minlength=end - user)
    distinct = np.bincount(block["user_keys"] // len(counts.item_R) - user)
    counts.most_items = max(counts.most_items, int(distinct.max(initial=0)))
    counts.longest = max(counts.longest, int(length_E.max()))
    counts.baskets += len(block["basket_offsets"])


def _click_arrays(
    user_C: NDArray[np.int32],
    item_C: NDArray[np.int32],
    time_C: NDArray[np.int64],
    items: int,
    click: np.int64,
    basket: int,
) -> dict[str, NDArray[Any]]:
    """What histories and the sampler of negatives look up.

    Args:
        user_C: of the clicks of some whole users, as `item_C` and `time_C`.
        items: R.
        click: the number of clicks before these.
        basket: the number of baskets before these.
    """
    new_C = unit_starts(user_C, time_C, "strict")
    basket_C = basket + np.cumsum(new_C) - 1
    key_C = user_C.astype(np.int64) * items + item_C
    order = np.argsort(key_C, kind="stable")
    key_C = key_C[order]
    first_C = np.diff(key_C, prepend=-1) != 0
    basket_key_C = np.sort(basket_C * items + item_C)
    return {
        "click_item": item_C,
        "click_time": time_C,
        "click_basket": basket_C.astype(np.int32),
        "basket_offsets": click + np.flatnonzero(new_C),
        "basket_keys": basket_key_C[np.diff(basket_key_C, prepend=-1) != 0],
        "user_keys": key_C[first_C],
        "user_first_click": click + order[first_C],
    }


def _sum(one_L: NDArray[np.int64], other_L: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of counts that go on with zeros."""
    short, long = sorted((one_L, other_L), key=len)
    return long + np.pad(short, (0, len(long) - len(short)))


def _lengths(count_L: NDArray[np.int64]) -> dict[str, float]:
    """Of histories, from how many there are of each length."""
    number, up_to_L = int(count_L.sum()), np.cumsum(count_L)
    middle = np.searchsorted(up_to_L, [(number - 1) // 2, number // 2], side="right")
    return {
        "mean": round(int(count_L @ np.arange(len(count_L))) / number, 3),
        "median": float(middle.mean()),
        "longest": int(np.flatnonzero(count_L)[-1]),
    }
