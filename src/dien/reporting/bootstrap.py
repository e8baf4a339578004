"""`dien-report --bootstrap A B`: the difference of two runs on the same test rows, resampling the test users."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dien import runs
from dien.errors import DataError
from dien.reporting.tables import Table, metric_name
from dien.statistics import Floats, bootstrap_users


class Scored(NamedTuple):
    """The test rows of a run (S) in the order of the evaluation, users and items by their rows in the dataset."""

    score_S: Floats
    label_S: Floats
    user_S: NDArray[np.int64]
    target_S: NDArray[np.int64]
    fingerprint: str
    """Of the prepared dataset."""


def score_test_rows(folder: Path) -> Scored:
    """Score the test split again with the best checkpoint of a run, in the batches of its evaluation.

    Raises:
        DienError: see `load_model`.
    """
    run = runs.load_model(folder)
    with torch.inference_mode():
        parts = [
            (run.network(batch).logit_B.float(), batch.label_B, batch.user_B, batch.target_B)
            for batch in run.data.test_dataloader()
        ]
    score_S, label_S, user_S, target_S = (torch.cat(columns).numpy() for columns in zip(*parts, strict=True))
    return Scored(score_S.astype(float), label_S.astype(float), user_S, target_S, run.data.data.fingerprint)


def bootstrap_table(a: Path, b: Path, *, rounds: int = 1000, seed: int = 0) -> Table:
    """AUC and GAUC of two runs, their difference and its 95 % interval.

    Raises:
        DataError: if the two were not tested on the same rows.
        DienError: if one cannot be loaded.
    """
    one, other = score_test_rows(a), score_test_rows(b)
    same = one.fingerprint == other.fingerprint and all(
        np.array_equal(mine, yours) for mine, yours in zip(one[1:4], other[1:4], strict=True)
    )
    if not same:
        raise DataError(f"{a} and {b} were not tested on the same rows: their data or test negatives differ.")
    rows, users = [], 0
    for metric in ("auc", "gauc"):
        found = bootstrap_users(
            one.score_S, other.score_S, one.label_S, one.user_S, metric=metric, rounds=rounds, seed=seed
        )
        users = found.users
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        rows.append([metric_name(f"test/{metric}"), f"{found.a:.4f}", f"{found.b:.4f}", f"{found.difference:+.4f}"])
        rows[-1].append(interval)
    title = f"A: {a}, B: {b}; {users:,} test users resampled {rounds:,} times"
    return Table(title, ["metric", "A", "B", "A - B", "95 % interval"], rows)
