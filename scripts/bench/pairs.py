"""Rows of independent (history, candidate) pairs: how every peer ranks.

Axes: R rows, T history steps.
"""

from pathlib import Path

import numpy as np

from bench.rows import HISTORY_LENGTH

USERS, ITEMS, CATEGORIES = 10_000, 20_000, 200


def write_pairs(path: Path, *, users: int, candidates: int, seed: int = 1) -> Path:
    """Archive of `users` full histories with `candidates` random targets each, row after row, in the form of `rows`."""
    rng = np.random.default_rng(seed)
    rows = users * candidates
    history_UT = rng.integers(2, ITEMS, (users, HISTORY_LENGTH), dtype=np.int32)
    arrays = {
        "user": np.repeat(rng.integers(2, USERS, users, dtype=np.int32), candidates),
        "target": rng.integers(2, ITEMS, rows, dtype=np.int32),
        "label": np.zeros(rows, np.int8),
        "length": np.full(rows, HISTORY_LENGTH, np.int16),
        "history": np.repeat(history_UT, candidates, axis=0),
        "negative": np.zeros((rows, HISTORY_LENGTH), np.int32),
    }
    fields = {"user": "user_B", "target": "target_B", "label": "label_B", "length": "length_B"}
    fields |= {"history": "history_BT", "negative": "negative_BT"}
    category = rng.integers(2, CATEGORIES, ITEMS, dtype=np.int32)
    category[:2] = 0, 1
    np.savez(
        path,
        sizes=np.array([USERS, ITEMS, CATEGORIES]),
        category_of_item=category,
        **{f"train_{fields[name]}": values for name, values in arrays.items()},
    )
    return path
