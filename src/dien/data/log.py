"""A log of events: what every source returns and all that preparing a dataset needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

OPTIONAL_COLUMNS = ("label", "part", "sample")
"""Of the events."""


@dataclass(frozen=True)
class Log:
    """Events in input order, and what is known of items and users.

    Feature columns of `items` and `users` are categorical (string or integer), multi-valued categorical (list of
    those) or float, by their dtype; nulls are allowed in features and nowhere else.
    """

    events: pl.DataFrame
    """`user_id`, `item_id` (string or Int64), `timestamp` (Int64) and, if the log has impressions without a click,
    `label` (Int8, 1 = click). A log that was split by somebody else has `part` (Int8, 0 train, 1 validation, 2 test)
    and `sample` (Boolean: a sample, or only history), which `data.split=given` reads."""
    items: pl.DataFrame | None = None
    """`item_id` (unique) and its features; items of the events that are missing here have unknown features."""
    users: pl.DataFrame | None = None
    """`user_id` (unique) and its features."""
    report: Mapping[str, int] = field(default_factory=dict)
    """What the source counted while it read, such as lines that it left out; kept in `dataset.json`."""
    scores: pl.DataFrame | None = None
    """What is known of the events, row by row, if anything is: float columns such as the probability of a click in a
    synthetic log. Their quality as predictions comes with the prepared dataset (`dien.data.references`)."""
