"""Which items are no negatives of a click, by set lookups in the sorted keys of the prepared dataset.

Axes: N clicks, G runs of neighbouring clicks with the same history, R item rows.
"""

from __future__ import annotations  # those of the functions made for each batch cost as much as their calls

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dien.data.dataset import Prepared

_LARGEST_TABLE = 1 << 22  # cells of one byte: beyond a few MB, touching its pages costs more than searching
_FEW_CLICKS = 1 << 11  # are in a table sooner than the first of any draws is looked for

Forbids = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""`forbids(at, item)`: whether each item is excluded for the click at place `at` of the positives."""


class Positives(NamedTuple):
    """The clicks that negatives are drawn against, their users, and how far their histories count."""

    click_N: NDArray[np.int64]
    user_N: NDArray[np.int32]
    limit_N: NDArray[np.int64]
    """One past the last click of the user that `history` knows of; at least one click is before it."""

    def take(self, index: NDArray[np.int64]) -> Positives:
        """Those at `index`."""
        return Positives(self.click_N[index], self.user_N[index], self.limit_N[index])


class Exclusion(Protocol):
    """Which items may not be drawn; the positive never may."""

    def __init__(self, data: Prepared) -> None: ...

    def against(self, positives: Positives) -> Forbids:
        """The test of items drawn against these positives."""
        ...

    def group(self, positives: Positives) -> NDArray[np.int64]:
        """Equal numbers for positives that exclude the same items."""
        ...

    def items(self, positives: Positives) -> NDArray[np.int32]:
        """All items that the first of the positives excludes."""
        ...


class ExcludePositive:
    """Only the clicked item itself, as in the paper."""

    def __init__(self, data: Prepared) -> None:
        self.data = data

    def against(self, positives: Positives) -> Forbids:
        positive_N = self.data.click_item[positives.click_N]
        return lambda at, item: positive_N[at] == item

    def group(self, positives: Positives) -> NDArray[np.int64]:
        return self.data.click_item[positives.click_N].astype(np.int64)

    def items(self, positives: Positives) -> NDArray[np.int32]:
        return self.data.click_item[positives.click_N[:1]]


class ExcludeBasket:
    """Everything the user clicked at the timestamp of the click."""

    def __init__(self, data: Prepared) -> None:
        self.data = data

    def against(self, positives: Positives) -> Forbids:
        positive_N = self.data.click_item[positives.click_N]
        basket_N = self.group(positives)
        larger_N = self.data.basket_offsets[basket_N + 1] - self.data.basket_offsets[basket_N] > 1

        def forbids(at: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.bool_]:
            forbidden = positive_N[at] == item
            search = np.flatnonzero(larger_N[at])  # most baskets of most logs are one click: nothing to look up
            key = basket_N[at[search]] * self.data.n_items + item[search]
            forbidden[search] = _find(self.data.basket_keys, key) >= 0
            return forbidden

        return forbids

    def group(self, positives: Positives) -> NDArray[np.int64]:
        return self.data.click_basket[positives.click_N].astype(np.int64)

    def items(self, positives: Positives) -> NDArray[np.int32]:
        basket = self.data.click_basket[positives.click_N[0]]
        return self.data.click_item[self.data.basket_offsets[basket] : self.data.basket_offsets[basket + 1]]


class ExcludeHistory:
    """Everything the user had clicked before the limit."""

    def __init__(self, data: Prepared) -> None:
        self.data = data

    def against(self, positives: Positives) -> Forbids:
        """A table [G, R] of what is excluded if it is small, else a search: the steps of a row share their history."""
        data = self.data
        new_N = np.ones(len(positives.limit_N), bool)
        np.not_equal(positives.limit_N[1:], positives.limit_N[:-1], out=new_N[1:])
        limit_G = positives.limit_N[new_N]
        count_G = limit_G - data.click_offsets[positives.user_N[new_N]]
        cells, clicks = len(limit_G) * data.n_items, count_G.sum()
        if cells > _LARGEST_TABLE or clicks > 8 * len(new_N) + _FEW_CLICKS:
            return self._searching(positives)

        click = (limit_G - count_G.cumsum()).repeat(count_G) + np.arange(clicks)
        first_G = np.arange(0, cells, data.n_items)
        table = np.zeros(cells, bool)
        table[first_G.repeat(count_G) + data.click_item[click]] = True
        row_N = first_G[new_N.cumsum() - 1]
        return lambda at, item: table[row_N[at] + item]

    def _searching(self, positives: Positives) -> Forbids:
        key_N = positives.user_N.astype(np.int64) * self.data.n_items

        def forbids(at: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.bool_]:
            found = _find(self.data.user_keys, key_N[at] + item)
            return (found >= 0) & (self.data.user_first_click[found] < positives.limit_N[at])

        return forbids

    def group(self, positives: Positives) -> NDArray[np.int64]:
        return positives.limit_N  # ends within the user's own clicks, so it tells the user too

    def items(self, positives: Positives) -> NDArray[np.int32]:
        start = self.data.click_offsets[positives.user_N[0]]
        return self.data.click_item[start : positives.limit_N[0]]


EXCLUSIONS: dict[str, type[Exclusion]] = {
    "positive": ExcludePositive,
    "history": ExcludeHistory,
    "basket": ExcludeBasket,
}


def _find(keys: NDArray[np.int64], wanted_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of `wanted_N` in the sorted `keys`, -1 for those that are not there."""
    place_N = np.searchsorted(keys, wanted_N)
    place_N[place_N == len(keys)] = 0
    return np.where(keys[place_N] == wanted_N, place_N, -1)
