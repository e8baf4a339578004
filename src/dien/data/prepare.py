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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from dien.cache import cache_root
from dien.data.blocks import Events, Given
from dien.data.event_arrays import Counts, lengths, write_events
from dien.data.log import Log
from dien.data.protocol import SPLITS, Protocol
from dien.data.references import references
from dien.data.sources.base import Source, validate
from dien.data.storage import FORMAT, alone, atomic_folder, check_fingerprint, write_manifest
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
    with ThreadPoolExecutor() as pool:
        item_ids, user_ids = pool.map(sorted_ids, (columns["item_id"], columns["user_id"]), (log.items, log.users))
    if len(item_ids) < 2:
        raise DataError("The log has a single item, so nothing can be told from it: it needs at least two.")
    counts = Counts.of(users=len(user_ids) + FIRST_ID, items=len(item_ids) + FIRST_ID)
    names = list(scores)
    events = _numbered(columns, scores, item_ids, user_ids)
    stage("histories and samples")
    write_events(folder, events, protocol, counts)
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
            "history": {split: lengths(counts.length_L[split]) for split in SPLITS},
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
