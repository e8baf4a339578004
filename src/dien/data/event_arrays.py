"""Everything of a prepared dataset that is as long as its log, written block after block of whole users.

Axes: E events of a block, sorted by (user, time, input order); C clicks, S samples of them; N all events in any order;
L lengths of histories; R item rows, U user rows. `dien.data.prepare` lists the files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dien.data.ahead import ahead
from dien.data.blocks import Events, count
from dien.data.protocol import SPLITS, Protocol
from dien.data.splits import TRAIN, Assign, assigner, check_samples, select_samples, unit_starts
from dien.data.storage import Arrays, write_array


@dataclass
class Counts:
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
    def of(cls, *, users: int, items: int) -> "Counts":
        item_R, item_click_R = np.zeros(items, np.int64), np.zeros(items, np.int64)
        return cls(item_R, item_click_R, np.zeros(users, np.int64), {split: np.zeros(1, np.int64) for split in SPLITS})


def write_events(folder: Path, log: Events, protocol: Protocol, counts: Counts) -> None:
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
        for events in ahead(log.in_order(event_offsets)):
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
    counts: Counts,
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


def lengths(count_L: NDArray[np.int64]) -> dict[str, float]:
    """Of histories, from how many there are of each length."""
    number, up_to_L = int(count_L.sum()), np.cumsum(count_L)
    middle = np.searchsorted(up_to_L, [(number - 1) // 2, number // 2], side="right")
    return {
        "mean": round(int(count_L @ np.arange(len(count_L))) / number, 3),
        "median": float(middle.mean()),
        "longest": int(np.flatnonzero(count_L)[-1]),
    }
