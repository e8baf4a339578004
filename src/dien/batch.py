"""One mini-batch, the only thing that travels from the data to a network.

Axes: B rows, T history steps (oldest first, padded on the right with 0), K auxiliary negatives a step.
"""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Item and user entries are row numbers of the feature tables: 0 is padding, 1 is unknown."""

    user_B: Tensor
    """int64 [B]"""
    history_BT: Tensor
    """int64 [B, T]; T is the longest history of this batch and may be 0."""
    negative_BT: Tensor
    """int64 [B, T], or [B, T, K] for K > 1: items not clicked in place of `history_BT[:, t]`."""
    length_B: Tensor
    """int64 [B], 0 <= length <= T"""
    target_B: Tensor
    """int64 [B]"""
    label_B: Tensor
    """float32 [B], 1 for a click and 0 otherwise"""
