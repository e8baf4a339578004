"""Which part of the dataset every event belongs to, and which events are samples.

Axes: E events, sorted by (user, time, input order), U user rows.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dien.data.hashing import derive, stream
from dien.data.protocol import Protocol
from dien.errors import DataError

TRAIN, VAL, TEST = 0, 1, 2


def unit_starts(user_E: NDArray[np.int32], time_E: NDArray[np.int64], ties: str) -> NDArray[np.bool_]:
    """True where a unit begins: at every event (`order`), or where user or timestamp change (`strict`)."""
    starts_E = np.ones(len(user_E), bool)
    if ties == "strict":
        starts_E[1:] = (user_E[1:] != user_E[:-1]) | (time_E[1:] != time_E[:-1])
    return starts_E


class Given(NamedTuple):
    """What a log itself says of its splits."""

    part_E: NDArray[np.int8]
    """TRAIN, VAL or TEST for every event"""
    sample_E: NDArray[np.bool_]
    """which events are samples; the others are history"""


def assign_parts(
    protocol: Protocol,
    user_E: NDArray[np.int32],
    time_E: NDArray[np.int64],
    starts_E: NDArray[np.bool_],
    given: Given | None = None,
) -> NDArray[np.int8]:
    """TRAIN, VAL or TEST for every event, sample or not; vocabularies are made of the TRAIN events.

    Raises:
        DataError: `by_user` with fewer than three users, or `given` with a log that says nothing.
    """
    if protocol.split == "given":
        return _given(protocol, user_E, given)
    if protocol.split == "last_out":
        return _last_out(user_E, starts_E)
    if protocol.split == "by_user":
        return _by_user(protocol, user_E)
    return _temporal(protocol, time_E)


def select_samples(
    protocol: Protocol,
    user_E: NDArray[np.int32],
    part_E: NDArray[np.int8],
    length_E: NDArray[np.int64],
    given: Given | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the samples of train, validation and test, each ascending.

    Args:
        protocol: see `Protocol`.
        user_E: user row of every event.
        part_E: what `assign_parts` returned.
        length_E: number of clicks in every event's history.
        given: what the log says, for `split="given"`.

    Raises:
        DataError: a split has no sample; a run could then not be trained, chosen or tested.
    """
    qualifies_E = length_E >= protocol.min_history
    if protocol.split == "given" and given is not None:
        qualifies_E &= given.sample_E
    if not qualifies_E.any():
        raise DataError(
            f"No event has data.min_history={protocol.min_history} earlier clicks of its user (the most is "
            f"{length_E.max()}), so there is no sample: lower data.min_history, or use data.ties=order if "
            "all events of a user share one timestamp."
        )
    samples = []
    for part, name in ((TRAIN, "training"), (VAL, "validation"), (TEST, "test")):
        position_S = np.flatnonzero(qualifies_E & (part_E == part))
        if protocol.samples == "last" and len(position_S):
            user_S = user_E[position_S]
            position_S = position_S[np.append(user_S[1:] != user_S[:-1], True)]
        if not len(position_S):
            raise DataError(f"data.split={protocol.split} leaves no {name} sample: {_advice(protocol)}.")
        samples.append(position_S)
    return samples[0], samples[1], samples[2]


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


def _by_user(protocol: Protocol, user_E: NDArray[np.int32]) -> NDArray[np.int8]:
    users = np.unique(user_E)
    if len(users) < 3:
        raise DataError(f"data.split=by_user needs at least 3 users, but the log has {len(users)}.")
    shuffled = users[np.argsort(derive(stream(protocol.split_seed), users), kind="stable")]
    tests = min(max(round(protocol.test_fraction * len(users)), 1), len(users) - 2)
    vals = min(max(round(protocol.val_fraction * (len(users) - tests)), 1), len(users) - tests - 1)
    part_U = np.full(users[-1] + 1, TRAIN, np.int8)
    part_U[shuffled[:tests]] = TEST
    part_U[shuffled[tests : tests + vals]] = VAL
    return part_U[user_E]


def _given(protocol: Protocol, user_E: NDArray[np.int32], given: Given | None) -> NDArray[np.int8]:
    if given is None:
        raise DataError(
            "data.split=given needs a log that names its samples, such as data=authors: choose last_out, by_user or "
            "temporal."
        )
    part_E = given.part_E.copy()
    if (part_E == VAL).any():
        return part_E
    users = np.unique(user_E[given.sample_E & (part_E == TRAIN)])
    if len(users) < 2:
        raise DataError(f"The log has {len(users)} training users: validation users cannot be taken from them.")
    shuffled = users[np.argsort(derive(stream(protocol.split_seed), users), kind="stable")]
    vals = min(max(round(protocol.val_fraction * len(users)), 1), len(users) - 1)
    held_out_U = np.zeros(user_E.max() + 1, bool)
    held_out_U[shuffled[:vals]] = True
    part_E[held_out_U[user_E] & (part_E == TRAIN)] = VAL
    return part_E


def _temporal(protocol: Protocol, time_E: NDArray[np.int64]) -> NDArray[np.int8]:
    cuts = [protocol.val_from, protocol.test_from]
    if protocol.cuts_are_fractions:
        ranks = [int(cut * len(time_E)) for cut in cuts]
        cuts = list(np.partition(time_E, ranks)[ranks])
    return np.searchsorted(np.asarray(cuts, np.int64), time_E, side="right").astype(np.int8)
