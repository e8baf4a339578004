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
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dien.cache import cache_root
from dien.data.log import OPTIONAL_COLUMNS, Log
from dien.data.protocol import SPLITS, Protocol
from dien.data.references import write_references
from dien.data.sources.base import Source, validate
from dien.data.splits import TRAIN, Given, assign_parts, select_samples, unit_starts
from dien.data.storage import (
    FORMAT,
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
    same dataset one prepares it and the others wait. Needs memory and disk proportional to the number of events.

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
        with stages(f"preparing {name}", 5):
            stage("reading the log")
            log = validate(source.load())
            with atomic_folder(place, fingerprint) as temporary:
                description = {"name": name, "fingerprint": fingerprint}
                _write(log, protocol, description | ({"input": dict(log.report)} if log.report else {}), temporary)
    return place


def place_of(fingerprint: str, *, name: str, cache: str | Path | None, folder: str | Path | None) -> Path:
    """Where `prepare` keeps the dataset of this fingerprint."""
    return Path(folder) if folder is not None else cache_root(cache) / f"{name}-{fingerprint[:16]}"


def dataset_fingerprint(source: Source, protocol: Protocol) -> str:
    """SHA-256 over the source's fingerprint, the options that shape the dataset and the format's version."""
    text = json.dumps([FORMAT, source.fingerprint(), protocol.relevant()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(log: Log, protocol: Protocol, description: dict[str, Any], folder: Path) -> None:
    stage("sorting the events")
    item_ids = sorted_ids(log.events["item_id"], log.items)
    user_ids = sorted_ids(log.events["user_id"], log.users)
    items, users = len(item_ids) + FIRST_ID, len(user_ids) + FIRST_ID
    if len(item_ids) < 2:
        raise DataError("The log has a single item, so nothing can be told from it: it needs at least two.")
    user_E, item_E, time_E, label_E, given = _sorted_events(log, item_ids, user_ids)

    stage("histories and samples")
    click_E = np.ones(len(user_E), bool) if label_E is None else label_E == 1
    starts_E = unit_starts(user_E, time_E, protocol.ties)
    first_E = np.flatnonzero(starts_E)[np.cumsum(starts_E) - 1]
    click_offsets_U = _offsets(user_E[click_E], users)
    history_end_E = (np.cumsum(click_E) - click_E)[first_E]
    length_E = history_end_E - click_offsets_U[user_E]
    part_E = assign_parts(protocol, user_E, time_E, starts_E, given)
    samples = select_samples(protocol, user_E, part_E, length_E, given)

    arrays = {
        "event_user": user_E,
        "event_item": item_E,
        "event_time": time_E,
        "event_history_end": history_end_E,
        "user_offsets": _offsets(user_E, users),
        "click_offsets": click_offsets_U,
        "item_clicks": np.bincount(item_E[click_E], minlength=items),
        "item_train_clicks": np.bincount(item_E[click_E & (part_E == TRAIN)], minlength=items),
        **_click_arrays(user_E[click_E], item_E[click_E], time_E[click_E], items),
        **{f"samples_{split}": position_S for split, position_S in zip(SPLITS, samples, strict=True)},
    }
    if label_E is not None:
        arrays["event_label"] = label_E
        arrays["skip_item"] = item_E[~click_E]
        arrays["skip_offsets"] = _offsets(user_E[~click_E], users)
        arrays["event_skip_end"] = first_E - history_end_E  # events before the unit that are not clicks
    stage("writing the arrays")
    for name, values in arrays.items():
        write_array(folder, name, values)
    references = {}
    if log.scores is not None:
        references["references"] = write_references(folder, log, arrays, item_ids)

    stage("feature tables and checksums")
    item_count = np.bincount(item_E[part_E == TRAIN], minlength=items)
    user_count = np.bincount(user_E[part_E == TRAIN], minlength=users)
    distinct = np.bincount(arrays["user_keys"] // items)
    write_manifest(
        folder,
        {
            **description,
            "protocol": protocol.relevant(),
            "users": len(user_ids),
            "items": len(item_ids),
            "events": len(user_E),
            "clicks": int(click_E.sum()),
            "labels": label_E is not None,
            "most_items_of_a_user": int(distinct.max()),
            "samples": {split: len(position_S) for split, position_S in zip(SPLITS, samples, strict=True)},
            "history": {split: _lengths(length_E[s]) for split, s in zip(SPLITS, samples, strict=True)},
            "item_columns": write_table(folder, "item", item_ids, item_count, log.items, protocol.min_count),
            "user_columns": write_table(folder, "user", user_ids, user_count, log.users, protocol.min_count),
            **references,
        },
    )


def _sorted_events(
    log: Log, item_ids: pl.Series, user_ids: pl.Series
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.int8] | None, Given | None]:
    events = pl.DataFrame(
        {
            "user": rows_of(log.events["user_id"], user_ids),
            "item": rows_of(log.events["item_id"], item_ids),
            "time": log.events["timestamp"],
        }
    )
    if "label" in log.events.columns and log.events["label"].min() == 1:
        raise DataError(
            "Every label of the log is 1, so there is nothing to tell clicks from: leave the column "
            "out and negatives are sampled."
        )
    events = events.with_columns(log.events[name] for name in OPTIONAL_COLUMNS if name in log.events.columns)
    events = events.sort("user", "time", maintain_order=True)
    label = events["label"].to_numpy() if "label" in events.columns else None
    given = None
    if "part" in events.columns:
        given = Given(events["part"].to_numpy(), events["sample"].to_numpy())
    return events["user"].to_numpy(), events["item"].to_numpy(), events["time"].to_numpy(), label, given


def _click_arrays(
    user_C: NDArray[np.int32], item_C: NDArray[np.int32], time_C: NDArray[np.int64], items: int
) -> dict[str, np.ndarray]:
    """What histories and the sampler of negatives look up; `items` is R."""
    new_C = unit_starts(user_C, time_C, "strict")
    basket_C = np.cumsum(new_C) - 1
    key_C = user_C.astype(np.int64) * items + item_C
    order = np.argsort(key_C, kind="stable")
    key_C = key_C[order]
    first = np.append(True, key_C[1:] != key_C[:-1])
    return {
        "click_item": item_C,
        "click_time": time_C,
        "click_basket": basket_C.astype(np.int32),
        "basket_offsets": np.append(np.flatnonzero(new_C), len(new_C)),
        "basket_keys": np.unique(basket_C * items + item_C),
        "user_keys": key_C[first],
        "user_first_click": order[first],
    }


def _offsets(row_N: NDArray[np.int32], rows: int) -> NDArray[np.int64]:
    return np.append(0, np.cumsum(np.bincount(row_N, minlength=rows)))


def _lengths(length_S: NDArray[np.int64]) -> dict[str, float]:
    return {
        "mean": round(float(length_S.mean()), 3),
        "median": float(np.median(length_S)),
        "longest": int(length_S.max()),
    }
