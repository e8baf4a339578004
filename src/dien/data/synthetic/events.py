"""The events of the synthetic world, written to disk block after block of users in bounded memory.

Every random number is a pure function of (seed, purpose, user, session, impression), so users are the same whatever
block they are in. Axes: U users of a block, S sessions, N sessions that happen, E events, C categories, Q ranks.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dien.data.hashing import derive, stream, uniform
from dien.data.synthetic.belief import beliefs
from dien.data.synthetic.world import FIRST_OF_USERS, World

TASTE, SESSIONS, START, JUMP, MOVE, AFRESH, INSIDE, CATEGORY, RANK, CLICK, PLACE = range(
    FIRST_OF_USERS, FIRST_OF_USERS + 11
)
_SECONDS = 3600
"""Between two sessions of a user."""
_STATES_AT_ONCE = 1 << 21


def write_events(world: World, path: Path, *, block: int | None = None) -> None:
    """Write all events as an Arrow file, sorted by user and time.

    Columns: `user_id`, `item_id`, `timestamp`, `label`, and what is known: `oracle`, P(click) given the user's hidden
    interest, and `ceiling`, P(click) given the user's earlier clicks.

    Args:
        world: the law.
        path: of the file; a file that is there is replaced.
        block: users at a time; None for as many as need some 120 MB. It changes nothing but memory and speed.
    """
    users = block or max(1, _STATES_AT_ONCE // (world.max_sessions * world.categories * max(1, world.tastes // 4)))
    writer = None
    try:
        for first in range(0, world.users, users):
            table = users_events(world, np.arange(first, min(first + users, world.users))).to_arrow()
            writer = writer or pa.ipc.new_file(str(path), table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def users_events(world: World, user_U: NDArray[np.int64]) -> pl.DataFrame:
    """The events of some users; see `write_events`."""
    taste_U = (_draw(world, TASTE, user_U) * world.tastes).astype(np.int64)
    range_of_sessions = world.max_sessions - world.min_sessions + 1
    sessions_U = world.min_sessions + (_draw(world, SESSIONS, user_U) * range_of_sessions).astype(np.int64)
    start_U = (_draw(world, START, user_U) * world.max_sessions * _SECONDS).astype(np.int64)
    interest_SU = _interests(world, user_U, taste_U, int(sessions_U.max()))

    nth_N, session_N = np.nonzero(np.arange(len(interest_SU)) < sessions_U[:, None])  # users' sessions, in order
    key_N = user_U[nth_N] * world.max_sessions + session_N
    interest_N = interest_SU[session_N, nth_N]
    where_E, category_E, rank_E, label_E = _impressions(world, key_N, interest_N)
    clicked_SU = np.zeros_like(interest_SU)
    click = label_E == 1
    clicked_SU[session_N[where_E[click]], nth_N[where_E[click]]] = category_E[click]
    believed_E = beliefs(world, clicked_SU)[session_N[where_E], category_E, nth_N[where_E]]
    return pl.DataFrame(
        {
            "user_id": user_U[nth_N[where_E]],
            "item_id": world.item_CQ[category_E, rank_E],
            "timestamp": start_U[nth_N[where_E]] + session_N[where_E] * _SECONDS,
            "label": label_E,
            "oracle": world.click_probability(category_E == interest_N[where_E], rank_E),
            "ceiling": world.expected_probability(believed_E, rank_E),
        },
        schema_overrides={"oracle": pl.Float32, "ceiling": pl.Float32},
    )


def _draw(world: World, purpose: int, counter: NDArray[np.int64]) -> NDArray[np.float64]:
    return uniform(derive(stream(world.seed, purpose), counter))


def _interests(world: World, user_U: NDArray[np.int64], taste_U: NDArray[np.int64], sessions: int) -> NDArray[np.int64]:
    """The hidden interest of every session [S, U], a place in the cycle of the categories."""
    cumulative_UC = np.cumsum(world.taste_KC, axis=1)[taste_U]
    interest_SU = np.empty((sessions, len(user_U)), np.int64)
    for session in range(sessions):
        key_U = user_U * world.max_sessions + session
        afresh_U = (cumulative_UC <= _draw(world, AFRESH, key_U)[:, None] * cumulative_UC[:, -1:]).sum(1)
        interest_SU[session] = np.minimum(afresh_U, world.categories - 1)
        if session:
            moves_U = _draw(world, MOVE, key_U) < world.speed
            followed_U = (interest_SU[session - 1] + moves_U) % world.categories
            follows_U = _draw(world, JUMP, key_U) < world.order
            interest_SU[session] = np.where(follows_U, followed_U, interest_SU[session])
    return interest_SU


def _impressions(
    world: World, key_N: NDArray[np.int64], interest_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Show items until each session has its click: session number, category, rank and label of every event."""
    rounds = list(_rounds(world, key_N, interest_N))
    length_N = np.bincount(np.concatenate([where_E for where_E, *_ in rounds]), minlength=len(key_N))
    first_N = np.cumsum(length_N) - length_N
    events = int(length_N.sum())
    where_E = np.repeat(np.arange(len(key_N)), length_N)
    category_E, rank_E = np.empty(events, np.int64), np.empty(events, np.int64)
    label_E = np.zeros(events, np.int8)
    # The click, which came last, changes places with a random impression of its session: all else are alike anyway.
    place_N = (_draw(world, PLACE, key_N) * length_N).astype(np.int64)
    for number, (session_E, round_category_E, round_rank_E) in enumerate(rounds):
        last_E = length_N[session_E] == number + 1
        place_E = np.where(place_N[session_E] == number, length_N[session_E] - 1, number)
        place_E = np.where(last_E, place_N[session_E], place_E) + first_N[session_E]
        category_E[place_E], rank_E[place_E], label_E[place_E] = round_category_E, round_rank_E, last_E
    return where_E, category_E, rank_E, label_E


def _rounds(
    world: World, key_N: NDArray[np.int64], interest_N: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """The first impressions of all sessions, the second ones of those without a click yet, and so on."""
    cumulative_Q = np.cumsum(world.shown_Q)
    left = np.arange(len(key_N))
    number = 0
    while len(left):
        draws = {}
        for purpose in (INSIDE, CATEGORY, RANK, CLICK):
            session_key = derive(stream(world.seed, purpose), key_N[left])
            draws[purpose] = uniform(derive(session_key, np.full(len(left), number)))
        inside_E = draws[INSIDE] < world.shown_inside
        distance_E = 1 + (draws[CATEGORY] * (world.categories - 1)).astype(np.int64)
        category_E = (interest_N[left] + np.where(inside_E, 0, distance_E)) % world.categories
        rank_E = np.searchsorted(cumulative_Q, draws[RANK] * cumulative_Q[-1], side="right")
        rank_E = np.minimum(rank_E, world.items_per_category - 1)
        yield left, category_E, rank_E
        left = left[draws[CLICK] >= world.click_probability(inside_E, rank_E)]
        number += 1
