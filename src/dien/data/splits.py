"""Which part of the dataset every event belongs to, and which events are samples.

Axes: E events of whole users, sorted by (user, time, input order); N all events in any order; U user rows.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dien.data.blocks import Events, count
from dien.data.hashing import derive, stream
from dien.data.protocol import Protocol
from dien.errors import DataError

TRAIN, VAL, TEST = 0, 1, 2

Assign = Callable[[Events, NDArray[np.bool_]], NDArray[np.int8]]


def unit_starts(user_E: NDArray[np.int32], time_E: NDArray[np.int64], ties: str) -> NDArray[np.bool_]:
    """True where a unit begins: at every event (`order`), or where user or timestamp change (`strict`)."""
    starts_E = np.ones(len(user_E), bool)
    if ties == "strict":
        starts_E[1:] = (user_E[1:] != user_E[:-1]) | (time_E[1:] != time_E[:-1])
    return starts_E


def assigner(protocol: Protocol, log: Events, events_U: NDArray[np.int64]) -> Assign:
    """How to tell TRAIN, VAL or TEST for every event, sample or not; vocabularies are made of the TRAIN events.

    What depends on the whole log is worked out here, once.

    Args:
        protocol: see `Protocol`.
        log: all events, in any order.
        events_U: number of events of every user row.

    Returns:
        A function of some events, all those of their users in order, and of where their units begin.

    Raises:
        DataError: `by_user` with fewer than three users, or `given` with a log that says nothing.
    """
    if protocol.split == "last_out":
        return lambda events, starts_E: _last_out(events.user_E, starts_E)
    if protocol.split == "temporal":
        cuts = _cuts(protocol, log.time_E)
        return lambda events, _: np.searchsorted(cuts, events.time_E, side="right").astype(np.int8)
    if protocol.split == "by_user":
        part_U = _by_user(protocol, np.flatnonzero(events_U))
        return lambda events, _: part_U[events.user_E]
    return _given(protocol, log, len(events_U))


def select_samples(
    protocol: Protocol, events: Events, part_E: NDArray[np.int8], length_E: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Places of the samples of train, validation and test among events of whole users, each ascending.

    Args:
        protocol: see `Protocol`.
        events: all events of their users, in order.
        part_E: what `assigner` says of them.
        length_E: number of clicks in every event's history.
    """
    qualifies_E = length_E >= protocol.min_history
    if protocol.split == "given" and events.given is not None:
        qualifies_E &= events.given.sample_E
    samples = []
    for part in (TRAIN, VAL, TEST):
        place_S = np.flatnonzero(qualifies_E & (part_E == part))
        if protocol.samples == "last" and len(place_S):
            user_S = events.user_E[place_S]
            place_S = place_S[np.append(user_S[1:] != user_S[:-1], True)]
        samples.append(place_S)
    return samples


def check_samples(protocol: Protocol, numbers: Sequence[int], longest: int) -> None:
    """See that no split is empty; a run could then not be trained, chosen or tested.

    Args:
        protocol: see `Protocol`.
        numbers: of samples for training, validation and test.
        longest: the most clicks that any event has in its history.

    Raises:
        DataError: a split has no sample.
    """
    if not any(numbers):
        raise DataError(
            f"No event has data.min_history={protocol.min_history} earlier clicks of its user (the most is "
            f"{longest}), so there is no sample: lower data.min_history, or use data.ties=order if "
            "all events of a user share one timestamp."
        )
    for number, name in zip(numbers, ("training", "validation", "test"), strict=True):
        if not number:
            raise DataError(f"data.split={protocol.split} leaves no {name} sample: {_advice(protocol)}.")


def _advice(protocol: Protocol) -> str:
    history = f"with data.min_history={protocol.min_history} earlier clicks"
    match protocol.split:
        case "last_out":
            return f"no event {history} lies there (a user's last is test, the one before validation)"
        case "by_user":
            return (
                f"none of its users has an event {history}; change data.test_fraction, data.val_fraction or "
                "data.split_seed"
            )
        case "given":
            return f"no event that the log names for it is {history}"
        case _:
            return (
                f"no event {history} lies in its time; change data.val_from={protocol.val_from} or "
                f"data.test_from={protocol.test_from}"
            )


def _last_out(user_E: NDArray[np.int32], starts_E: NDArray[np.bool_]) -> NDArray[np.int8]:
    unit_E = np.cumsum(starts_E) - 1
    first_E = np.append(True, user_E[1:] != user_E[:-1])
    last_E = np.append(first_E[1:], True)
    nth_user_E = np.cumsum(first_E) - 1
    last_unit_E = unit_E[last_E][nth_user_E]
    units_E = last_unit_E - unit_E[first_E][nth_user_E] + 1
    part_E = np.full(len(user_E), TRAIN, np.int8)
    part_E[(unit_E == last_unit_E - 1) & (units_E >= 3)] = VAL
    part_E[(unit_E == last_unit_E) & (units_E >= 2)] = TEST
    return part_E


def _by_user(protocol: Protocol, users: NDArray[np.int64]) -> NDArray[np.int8]:
    if len(users) < 3:
        raise DataError(f"data.split=by_user needs at least 3 users, but the log has {len(users)}.")
    shuffled = users[np.argsort(derive(stream(protocol.split_seed), users), kind="stable")]
    tests = min(max(round(protocol.test_fraction * len(users)), 1), len(users) - 2)
    vals = min(max(round(protocol.val_fraction * (len(users) - tests)), 1), len(users) - tests - 1)
    part_U = np.full(users[-1] + 1, TRAIN, np.int8)
    part_U[shuffled[:tests]] = TEST
    part_U[shuffled[tests : tests + vals]] = VAL
    return part_U


def _given(protocol: Protocol, log: Events, rows: int) -> Assign:
    if log.given is None:
        raise DataError(
            "data.split=given needs a log that names its samples, such as data=authors: choose last_out, by_user or "
            "temporal."
        )
    held_out_U = np.zeros(rows, bool)
    if not (log.given.part_E == VAL).any():
        users = np.flatnonzero(count(log.user_E, rows, log.given.sample_E & (log.given.part_E == TRAIN)))
        if len(users) < 2:
            raise DataError(f"The log has {len(users)} training users: validation users cannot be taken from them.")
        shuffled = users[np.argsort(derive(stream(protocol.split_seed), users), kind="stable")]
        vals = min(max(round(protocol.val_fraction * len(users)), 1), len(users) - 1)
        held_out_U[shuffled[:vals]] = True

    def assign(events: Events, starts_E: NDArray[np.bool_]) -> NDArray[np.int8]:
        assert events.given is not None
        part_E = events.given.part_E
        return np.where(held_out_U[events.user_E] & (part_E == TRAIN), np.int8(VAL), part_E)

    return assign


def _cuts(protocol: Protocol, time_N: NDArray[np.int64]) -> NDArray[np.int64]:
    cuts = [protocol.val_from, protocol.test_from]
    if protocol.cuts_are_fractions:
        ranks = [int(cut * len(time_N)) for cut in cuts]
        cuts = list(np.partition(time_N, ranks)[ranks])
    return np.asarray(cuts, np.int64)
