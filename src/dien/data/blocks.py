"""The events of a log as numbers, and block after block of whole users in order.

Axes: E events, N the events of a log in any order, U user rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 18
"""Events of a block, and of what is counted at a time: temporaries that fit the cache."""
_MOST_BLOCKS = 128


class Given(NamedTuple):
    """What a log itself says of its splits."""

    part_E: NDArray[np.int8]
    """TRAIN, VAL or TEST for every event"""
    sample_E: NDArray[np.bool_]
    """which events are samples; the others are history"""


@dataclass(frozen=True)
class Events:
    """Row numbers and time of events, and what else the log says of each."""

    user_E: NDArray[np.int32]
    item_E: NDArray[np.int32]
    time_E: NDArray[np.int64]
    label_E: NDArray[np.int8] | None = None
    given: Given | None = None
    scores: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user_E)

    def take(self, place_E: NDArray[np.integer]) -> "Events":
        """The events at these places."""
        return Events(
            self.user_E[place_E],
            self.item_E[place_E],
            self.time_E[place_E],
            None if self.label_E is None else self.label_E[place_E],
            None if self.given is None else Given(*(values_E[place_E] for values_E in self.given)),
            {name: score_E[place_E] for name, score_E in self.scores.items()},
        )

    def in_order(self, user_offsets: NDArray[np.int64]) -> Iterator["Events"]:
        """All events by (user, time, place), in blocks of whole users that are put in order one at a time.

        Args:
            user_offsets: number of events of the users before each user row.
        """
        size = max(_AT_ONCE, -(-len(self) // _MOST_BLOCKS))
        block_E = (user_offsets[:-1] // size).astype(np.uint8)[self.user_E]
        for block in range(-(-len(self) // size)):
            place_E = np.flatnonzero(block_E == block)
            if len(place_E):  # a user of more than a block leaves none to the next
                yield self.take(place_E[np.lexsort((self.time_E[place_E], self.user_E[place_E]))])


def count(row_N: NDArray[np.int32], rows: int, where: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """How often every row number occurs (`where` is true), without a copy of all in the type that numpy counts."""
    counts = np.zeros(rows, np.int64)
    size = max(_AT_ONCE, rows)
    for first in range(0, len(row_N), size):
        part = row_N[first : first + size]
        counts += np.bincount(part if where is None else part[where[first : first + size]], minlength=rows)
    return counts
