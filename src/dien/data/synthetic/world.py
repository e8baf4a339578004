"""The law of the synthetic world: its parameters, and the probabilities that follow from them.

`docs/synthetic.md` states the model in full. Axes: C categories in the order of their cycle, K tastes, Q popularity
ranks of the items of a category (0 = most popular).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dien.data.hashing import derive, stream
from dien.errors import ConfigError, check_at_least, check_whole

TASTES, CATEGORIES, ITEMS = 0, 1, 2  # purposes of the world's own random streams; those of users follow
FIRST_OF_USERS = 3

_FEWEST = {
    "users": 3,
    "categories": 2,
    "items_per_category": 1,
    "tastes": 1,
    "min_sessions": 1,
    "max_sessions": 3,
    "seed": 0,
}
_SHARES = ("order", "speed", "targeting", "noise", "click")
_MOST_SKEW = 10.0
_RAREST_CLICK = 0.001
_MOST_STATES = 100_000


@dataclass(frozen=True, kw_only=True)
class World:
    """Users whose hidden interest, one category at a time, moves from session to session.

    Raises:
        ConfigError: a parameter is out of its range; the message names the key as the user writes it.
    """

    users: int = 1_000
    categories: int = 12
    items_per_category: int = 10
    order: float = 0.9
    """How much the order of the clicks says: the probability that the next interest follows from the present one.
    Otherwise it is drawn afresh from the user's taste. 0 turns drift off: sessions are then exchangeable, and counts
    of categories say all there is."""
    speed: float = 0.5
    """How fast interests drift: the probability that an interest that follows from the present one is the next
    category of the cycle, and not the same category again."""
    tastes: int = 4
    """K kinds of users; each kind is a distribution over the categories."""
    concentration: float = 0.3
    """Of the Dirichlet distribution of the tastes: small for users who like few categories."""
    min_sessions: int = 10
    """A user has this many sessions to `max_sessions`, evenly; each ends with its one click."""
    max_sessions: int = 30
    targeting: float = 0.5
    """Share of impressions that come from the category of the interest; the others come from all categories."""
    click: float = 0.8
    """Probability of a click on the most appealing item of the category of the interest."""
    noise: float = 0.1
    """Clicks outside of the interest, relative to those inside: 0 for none, 1 for interests that do not matter."""
    popularity: float = 1.0
    """Zipf exponent of the impressions of a category's items over their popularity ranks."""
    appeal: float = 0.2
    """Exponent with which clicks, too, become rarer along the popularity ranks."""
    seed: int = 0
    """Of the world; runs with different seeds see the same one."""

    def __post_init__(self) -> None:
        for name, fewest in _FEWEST.items():
            check_whole(f"data.source.{name}", getattr(self, name), fewest)
        for name in _SHARES:
            _check_range(f"data.source.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("popularity", "appeal"):
            _check_range(f"data.source.{name}", getattr(self, name), 0.0, _MOST_SKEW)
        _check_range("data.source.concentration", self.concentration, 0.01, 1000.0)
        if self.max_sessions < self.min_sessions:
            raise ConfigError(
                f"data.source.max_sessions={self.max_sessions} is below data.source.min_sessions={self.min_sessions}."
            )
        if self.categories * self.tastes > _MOST_STATES:
            raise ConfigError(
                f"data.source.categories={self.categories} and data.source.tastes={self.tastes} make more than "
                f"{_MOST_STATES:,} hidden states."
            )
        if self.click_rate < _RAREST_CLICK:
            raise ConfigError(
                f"data.source.click={self.click} with data.source.targeting={self.targeting}, "
                f"data.source.noise={self.noise} and data.source.appeal={self.appeal} gives one click in "
                f"{1 / max(self.click_rate, 1e-12):,.0f} impressions: make it at least one in {1 / _RAREST_CLICK:,.0f}."
            )

    @property
    def items(self) -> int:
        return self.categories * self.items_per_category

    @property
    def shown_inside(self) -> float:
        """Probability that an impression is of the category of the interest."""
        return self.targeting + (1 - self.targeting) / self.categories

    @property
    def shown_outside(self) -> float:
        """Probability that an impression is of one given other category."""
        return (1 - self.targeting) / self.categories

    @cached_property
    def shown_Q(self) -> NDArray[np.float64]:
        """Distribution of the impressions of a category over its items, by rank."""
        weight_Q = np.arange(1.0, self.items_per_category + 1) ** -self.popularity
        return weight_Q / weight_Q.sum()

    @cached_property
    def appeal_Q(self) -> NDArray[np.float64]:
        """Appeal of the item of each rank, 1 for the first."""
        return np.arange(1.0, self.items_per_category + 1) ** -self.appeal

    @property
    def click_rate(self) -> float:
        """Clicks per impression; by symmetry the same for every interest."""
        appeal = float(self.shown_Q @ self.appeal_Q)
        return appeal * self.click * (self.shown_inside + self.noise * (1 - self.shown_inside))

    @cached_property
    def taste_KC(self) -> NDArray[np.float64]:
        """Distributions over the categories, drawn from a symmetric Dirichlet distribution."""
        random = np.random.default_rng([self.seed, TASTES])
        return random.dirichlet(np.full(self.categories, self.concentration), self.tastes)

    @cached_property
    def label_C(self) -> NDArray[np.int64]:
        """The category's public number: places in the cycle are shuffled, so that numbers tell nothing."""
        return np.argsort(derive(stream(self.seed, CATEGORIES), np.arange(self.categories)))

    @cached_property
    def item_CQ(self) -> NDArray[np.int64]:
        """Item ids, shuffled likewise."""
        order = np.argsort(derive(stream(self.seed, ITEMS), np.arange(self.items)))
        return order.reshape(self.categories, self.items_per_category)

    def click_probability(self, inside_N: NDArray[np.bool_], rank_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(click) of impressions whose category is that of the interest or not, and the item's rank."""
        return self.click * self.appeal_Q[rank_N] * np.where(inside_N, 1.0, self.noise)

    def expected_probability(self, believed_N: NDArray[np.float64], rank_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(click) of impressions for whom the item's category is the interest with probability `believed_N`.

        The impression itself is evidence: a recommender with `targeting` > 0 shows more of the interest.
        """
        inside_N = believed_N * self.shown_inside
        outside_N = (1 - believed_N) * self.shown_outside
        share_N = (inside_N + self.noise * outside_N) / (inside_N + outside_N)
        return self.click * self.appeal_Q[rank_N] * share_N


def _check_range(key: str, value: object, low: float, high: float) -> None:
    check_at_least(key, value, low)
    if isinstance(value, int | float) and value > high:
        raise ConfigError(f"{key}={value!r} is out of range: it must be a number of at most {high:g}.")
