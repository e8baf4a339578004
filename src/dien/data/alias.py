"""Draws from a discrete distribution in constant time."""

import numpy as np
from numpy.typing import NDArray


class AliasTable:
    """Walker's alias method: column `i` holds item `i` up to `keep[i]` and item `alias[i]` above.

    Built by the sweep of Huebschle-Schneider and Sanders (arXiv 1903.00227): the columns below the average
    are filled up from the heavy items in turn, and a heavy item that thereby falls below it from the next
    heavy one. Which heavy item is current is read off cumulative sums, so there is no loop.

    Args:
        weight_I: positive weights of I items.
    """

    def __init__(self, weight_I: NDArray[np.float64]) -> None:
        share_I = weight_I * (len(weight_I) / weight_I.sum())
        light, heavy = np.flatnonzero(share_I <= 1), np.flatnonzero(share_I > 1)
        self.keep = np.minimum(share_I, 1.0)
        self.alias = np.arange(len(weight_I))
        if not len(heavy):
            return
        filled = np.append(0.0, np.cumsum(1 - share_I[light]))  # by the heavy items, before each light one
        given = np.cumsum(share_I[heavy] - 1)  # by each heavy item and those before it, at most
        current = np.minimum(np.searchsorted(given, filled[:-1], side="right"), len(heavy) - 1)
        self.alias[light] = heavy[current]
        spent = filled[np.minimum(np.searchsorted(filled, given, side="left"), len(light))]
        self.keep[heavy[:-1]] = np.clip(1 + given - spent, 0.0, 1.0)[:-1]
        self.alias[heavy[:-1]] = heavy[1:]

    def draw(self, uniform_N: NDArray[np.float64]) -> NDArray[np.int64]:
        """Items [N] for numbers in [0, 1), each of which chooses the column and the part of it."""
        scaled_N = uniform_N * len(self.keep)
        column_N = scaled_N.astype(np.int64)
        scaled_N -= column_N
        return np.where(scaled_N < self.keep[column_N], column_N, self.alias[column_N])
