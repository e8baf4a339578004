"""Sampled negatives: which items, which not, and from which random stream.

A negative is a pure function of (seed, epoch, sample, step, k, purpose): whoever draws it, it is the same.

Axes: N draws (one per sampled target, or one per step and auxiliary negative), I items that can be drawn, R
item rows.
"""

from __future__ import annotations  # those of the functions made for each batch cost as much as their calls

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dien.data.alias import AliasTable
from dien.data.exclusion import EXCLUSIONS, Positives
from dien.data.hashing import derive, stream, uniform
from dien.errors import ConfigError, DataError, check_at_least, check_choice, check_whole
from dien.tables import FIRST_ID

if TYPE_CHECKING:
    from dien.data.dataset import Prepared

STRATEGIES = ("uniform", "popularity", "observed")
EXCLUDES = tuple(EXCLUSIONS)
COUNTS = ("log", "train")

_TARGET, _AUXILIARY = 0, 1  # purposes: the last coordinate of a split's streams
_OBSERVED = 8  # numbers 0..7 of a draw's stream propose observed negatives,
_EXACT = 24  # 8..23 items by weight, and number 24 is for the exact draw
_ROUND_BITS = 5
_K_BITS = 11
_MOST_AUXILIARY = 1 << _K_BITS
_CHECKED_AT_ONCE = 1 << 16
_AT_ONCE = 1 << 10  # draws that cost no more together than the calls for one of them

_Propose = Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """How negatives are sampled. Sampled targets exist only in logs without labels.

    Raises:
        ConfigError: an option is out of its range; the message names the key as the user writes it.
    """

    strategy: str = "popularity"
    """`uniform`: over all items of the log and of its item table. `popularity`: clicks (`counts` says which) to
    the power `exponent`; an item nobody clicked is never drawn. `observed` (logs with
    labels): auxiliary negatives are the user's own events of label 0 before the sample, and popular items
    where there is none or none turned up in 8 draws."""
    exponent: float = 1.0
    """Of `popularity`; 0 is uniform over the clicked items."""
    counts: str = "log"
    """Which clicks make an item popular: those of the whole `log`, as in the paper, or those of the `train` part
    only, so that nothing of the future is known under `data.split=temporal`."""
    exclude: str = "positive"
    """What is no negative besides the positive. `positive`: nothing. `history`: the user's clicks before the
    sample (all of them, whatever `history_length`) and, for a sampled target, its basket. `basket`: what the
    user clicked at the timestamp of the positive."""
    train: int = 1
    """Sampled targets per click in training."""
    eval: int = 1
    """Sampled targets per click in validation and test; the same in every run."""
    auxiliary: int = 1
    """K, auxiliary negatives per history step in training; 0 if there is no auxiliary loss."""
    eval_strategy: str | None = None
    """`strategy` of validation and test; None for the same."""
    eval_exponent: float | None = None
    """`exponent` of validation and test; None for the same."""
    eval_counts: str | None = None
    """`counts` of validation and test; None for the same."""
    eval_exclude: str | None = None
    """`exclude` of validation and test; None for the same."""

    def __post_init__(self) -> None:
        check_choice("data.negatives.strategy", self.strategy, STRATEGIES)
        check_choice("data.negatives.counts", self.counts, COUNTS)
        check_choice("data.negatives.exclude", self.exclude, EXCLUDES)
        check_at_least("data.negatives.exponent", self.exponent, 0)
        check_whole("data.negatives.train", self.train, 1)
        check_whole("data.negatives.eval", self.eval, 1)
        check_whole("data.negatives.auxiliary", self.auxiliary, 0)
        if self.auxiliary > _MOST_AUXILIARY:
            raise ConfigError(f"data.negatives.auxiliary={self.auxiliary} is above {_MOST_AUXILIARY}.")
        if self.eval_strategy is not None:
            check_choice("data.negatives.eval_strategy", self.eval_strategy, STRATEGIES)
        if self.eval_counts is not None:
            check_choice("data.negatives.eval_counts", self.eval_counts, COUNTS)
        if self.eval_exclude is not None:
            check_choice("data.negatives.eval_exclude", self.eval_exclude, EXCLUDES)
        if self.eval_exponent is not None:
            check_at_least("data.negatives.eval_exponent", self.eval_exponent, 0)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How many negatives the rows of a split have and which random streams they come from.

    The same evaluation rows result from `fixed=True` whatever the run's seed and the epoch.
    """

    targets: int
    auxiliary: int
    seed: int = 0
    fixed: bool = False

    def stream(self, epoch: int) -> int:
        """Key of this split's draws in an epoch."""
        return stream(0, 0, 1) if self.fixed else stream(self.seed, epoch, 0)


class NegativeSampler:
    """Draws negatives of one strategy: by rejection, and exactly for the few that keep being rejected.

    Args:
        prepared: the dataset.
        strategy: see `Negatives`.
        exponent: see `Negatives`.
        counts: see `Negatives`.
        exclude: see `Negatives`.

    Raises:
        ConfigError: `observed` for a log without labels.
        DataError: fewer than two items can be drawn.
    """

    def __init__(
        self, prepared: Prepared, *, strategy: str, exponent: float, exclude: str, counts: str = "log"
    ) -> None:
        if strategy == "observed" and not prepared.has_labels:
            raise ConfigError(
                "data.negatives.strategy=observed needs a log with a label column; use uniform or popularity."
            )
        self.data, self.exclude, self.observed = prepared, exclude, strategy == "observed"
        weight_R = np.zeros(prepared.n_items)
        if strategy == "uniform":
            weight_R[FIRST_ID:] = 1
        else:
            click_R = prepared.item_train_clicks if counts == "train" else prepared.item_clicks
            clicked = click_R > 0
            share = click_R[clicked] / click_R.max(initial=1)  # <= 1: no power overflows
            weight_R[clicked] = share**exponent
        self.items_I = np.flatnonzero(weight_R)
        if len(self.items_I) < 2:
            raise DataError(
                f"Only {len(self.items_I)} item can be drawn with data.negatives.strategy={strategy} and "
                f"data.negatives.counts={counts}, so there is no negative."
            )
        self.weight_I = weight_R[self.items_I]
        self.alias = AliasTable(self.weight_I)
        self.exclusion = EXCLUSIONS[exclude](prepared)

    def targets(self, key: int, event_N: NDArray[np.int64], k_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Negative target `k` (>= 1) of each event, which is a click of a log without labels.

        Raises:
            DataError: a user clicked everything that can be drawn.
        """
        limit_N = event_N + 1
        if self.exclude == "history":  # the basket, too; nothing else need touch 12 bytes an event for it
            limit_N = self.data.basket_offsets[self.data.click_basket[event_N].astype(np.int64) + 1]
        positives = Positives(event_N, self.data.event_user[event_N], limit_N)
        key_N = derive(derive(stream(key, _TARGET), event_N), k_N)
        return self._draw(key_N, np.zeros_like(event_N), positives)

    def auxiliary(
        self,
        key: int,
        event_B: NDArray[np.int64],
        k_B: NDArray[np.int64],
        click_N: NDArray[np.int64],
        length_B: NDArray[np.int64],
        negatives: int,
    ) -> NDArray[np.int64]:
        """K negatives for every history step [N, K].

        Args:
            key: of the epoch's stream.
            event_B: the sample of each row.
            k_B: which row of its sample it is.
            click_N: the clicks of the histories, row after row.
            length_B: how many of them each row owns.
            negatives: K.

        Raises:
            DataError: a user clicked everything that can be drawn.
        """
        row_N = np.repeat(np.arange(len(event_B)), length_B)
        user_B = self.data.event_user[event_B]
        key_B = derive(derive(stream(key, _AUXILIARY), event_B), k_B)
        step_N = click_N - self.data.click_offsets[user_B][row_N]  # counted from the user's first click
        positives = Positives(click_N, user_B[row_N], self.data.event_history_end[event_B][row_N])
        counter_NK = ((step_N << _K_BITS)[:, None] + np.arange(negatives)) << _ROUND_BITS
        if negatives > 1:
            row_N = np.repeat(row_N, negatives)
            positives = positives.take(np.repeat(np.arange(len(click_N)), negatives))
        skips = None
        if self.observed:
            skips = self.data.skip_offsets[user_B][row_N], self.data.event_skip_end[event_B][row_N]
        return self._draw(key_B[row_N], counter_NK.reshape(-1), positives, skips).reshape(-1, negatives)

    def check(self, draws: Draws, sample_S: NDArray[np.int64]) -> None:
        """Draw now for the samples of users who clicked nearly everything, if there are any.

        Raises:
            DataError: for one of them nothing is left to draw, which would otherwise end a run in its midst.
        """
        if self.exclude == "positive" or self.data.manifest["most_items_of_a_user"] < len(self.items_I):
            return
        distinct_U = np.bincount(self.data.user_keys // self.data.n_items, minlength=self.data.n_users)
        sample_S = sample_S[distinct_U[self.data.event_user[sample_S]] >= len(self.items_I)]
        for first in range(0, len(sample_S), _CHECKED_AT_ONCE):
            event_B = sample_S[first : first + _CHECKED_AT_ONCE]
            if not self.data.has_labels:
                self.targets(0, event_B, np.ones_like(event_B))
            if draws.auxiliary:
                click_N, length_B = self.data.history(event_B, 1)
                self.auxiliary(0, event_B, np.zeros_like(event_B), click_N, length_B, 1)

    def _draw(
        self,
        key_N: NDArray[np.uint64],
        counter_N: NDArray[np.int64],
        positives: Positives,
        skips: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> NDArray[np.int64]:
        """One item for each positive, from numbers `counter_N`, `counter_N + 1`, ... of its stream."""
        item_N = np.empty(len(key_N), np.int64)
        forbids = self.exclusion.against(positives)

        def propose(left: NDArray[np.int64], attempts: range, items: _Propose) -> NDArray[np.int64]:
            """The first allowed of the attempts: one after the other while many are left, those that remain at once."""
            for attempt in attempts:
                if not len(left):
                    break
                if attempt >= attempts.start + 2 and len(left) * (attempts.stop - attempt) <= _AT_ONCE:
                    return propose_together(left, np.arange(attempt, attempts.stop), items)
                drawn = items(left, uniform(derive(key_N[left], counter_N[left] + attempt)))
                item_N[left] = drawn
                left = left[forbids(left, drawn)]
            return left

        def propose_together(left: NDArray[np.int64], rest: NDArray[np.int64], items: _Propose) -> NDArray[np.int64]:
            at, number = left.repeat(len(rest)), (counter_N[left][:, None] + rest).ravel()
            drawn = items(at, uniform(derive(key_N[at], number)))
            allowed = ~forbids(at, drawn).reshape(-1, len(rest))
            item_N[left] = drawn.reshape(-1, len(rest))[np.arange(len(left)), allowed.argmax(1)]
            return left[~allowed.any(1)]

        left = np.arange(len(key_N))
        if skips is not None:
            start_N, count_N = skips[0], skips[1] - skips[0]

            def skipped(left: NDArray[np.int64], uniform_N: NDArray[np.float64]) -> NDArray[np.int64]:
                place_N = start_N[left] + (uniform_N * count_N[left]).astype(np.int64)
                return self.data.skip_item[place_N].astype(np.int64)

            rejected = propose(np.flatnonzero(count_N), range(_OBSERVED), skipped)
            left = np.append(np.flatnonzero(count_N == 0), rejected)
        left = propose(left, range(_OBSERVED, _EXACT), lambda _, u: self.items_I[self.alias.draw(u)])
        if len(left):
            uniform_N = uniform(derive(key_N[left], counter_N[left] + _EXACT))
            item_N[left] = self._draw_exactly(positives.take(left), uniform_N)
        return item_N

    def _draw_exactly(self, positives: Positives, uniform_N: NDArray[np.float64]) -> NDArray[np.int64]:
        """By the cumulative weights of the allowed items, worked out once for each set of excluded ones."""
        item_N = np.empty(len(uniform_N), np.int64)
        groups, group_N = np.unique(self.exclusion.group(positives), return_inverse=True)
        for group in range(len(groups)):
            same = np.flatnonzero(group_N == group)
            excluded = self.exclusion.items(positives.take(same[:1]))
            allowed = np.flatnonzero(~np.isin(self.items_I, excluded))
            if not len(allowed):
                user = self.data.user_id(int(positives.user_N[same[0]]))
                raise DataError(
                    f"User {user!r} leaves no negative with data.negatives.exclude={self.exclude}: it covers "
                    f"all {len(self.items_I)} items that can be drawn; choose another exclude or strategy."
                )
            cumulative = np.cumsum(self.weight_I[allowed])
            place = np.searchsorted(cumulative, uniform_N[same] * cumulative[-1], side="right")
            item_N[same] = self.items_I[allowed[np.minimum(place, len(allowed) - 1)]]
        return item_N
