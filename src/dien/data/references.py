"""What a model's metrics can be measured against, where a log comes with known scores: the ceiling, and counting.

Axes: E events (sorted by user, time, input order), C clicks, S samples of a split, N clicks of their histories, R item
rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from dien.data.storage import read_array
from dien.data.vocabulary import rows_of
from dien.metrics import AUC, GAUC, LogLoss

PREFIX = "reference"
"""Of the names: `reference/ceiling/test/auc` lies beside `test/auc` in a run's metrics."""

_SAMPLES_AT_ONCE = 1 << 13
_ARRAYS = (
    *("event_user", "event_item", "event_label", "event_history_end"),
    *("click_item", "click_offsets", "item_train_clicks"),
)


def references(
    folder: Path, scores: Sequence[str], items: pl.DataFrame | None, item_ids: pl.Series
) -> dict[str, float]:
    """What the scores `event_score_NAME.npy`, and counting, reach in a dataset that is written so far.

    Every score has the AUC, GAUC and log loss of the validation and of the test samples; the counts have AUC and GAUC:
    `popularity` (training clicks of the target), `item_count` and, for items with a feature `category`,
    `category_count` (clicks of the target, or of its category, in the whole history) and `last_category` (whether the
    last click was in the target's category). An undefined metric is left out.

    Args:
        folder: of the prepared dataset.
        scores: their names.
        items: the log's feature table.
        item_ids: sorted raw ids of the items.
    """
    category_R = _categories(items, item_ids)
    found: dict[str, float] = {}
    for split in ("val", "test"):
        predictions, label_S, user_S = _predictions(folder, split, scores, category_R)
        for name, score_S in predictions.items():
            metrics = _metrics(score_S, label_S, user_S, name in scores)
            found |= {f"{PREFIX}/{name}/{split}/{metric}": value for metric, value in metrics.items()}
    return found


def _predictions(
    folder: Path, split: str, scores: Sequence[str], category_R: NDArray[np.int32] | None
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int8], NDArray[np.int32]]:
    """Of every sample of a split, with labels and users; the mappings, whose pages count as memory, end with it."""
    arrays = {name: read_array(folder, name) for name in _ARRAYS}
    event_S = read_array(folder, f"samples_{split}")
    predictions = {name: read_array(folder, f"event_score_{name}")[event_S] for name in scores}
    predictions["popularity"] = arrays["item_train_clicks"][arrays["event_item"][event_S]]
    predictions |= _counts(arrays, event_S, category_R)
    return predictions, arrays["event_label"][event_S], arrays["event_user"][event_S]


def _categories(items: pl.DataFrame | None, item_ids: pl.Series) -> NDArray[np.int32] | None:
    """A number for the category of every item row; None if items have no such feature."""
    if items is None or "category" not in items.columns or isinstance(items.schema["category"], pl.List):
        return None
    rows = pl.DataFrame({"item_id": item_ids}).join(items, on="item_id", how="left", maintain_order="left")["category"]
    return np.append([-1, -1], rows_of(rows, rows.unique().sort())).astype(np.int32)


def _counts(
    arrays: Mapping[str, NDArray[Any]], event_S: NDArray[np.int64], category_R: NDArray[np.int32] | None
) -> dict[str, NDArray[Any]]:
    """Counts in the histories of samples, by name."""
    parts = [
        _counts_at_once(arrays, event_S[first : first + _SAMPLES_AT_ONCE], category_R)
        for first in range(0, len(event_S), _SAMPLES_AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _counts_at_once(
    arrays: Mapping[str, NDArray[Any]], event_S: NDArray[np.int64], category_R: NDArray[np.int32] | None
) -> dict[str, NDArray[Any]]:
    end_S = arrays["event_history_end"][event_S]
    start_S = arrays["click_offsets"][arrays["event_user"][event_S]]
    length_S = end_S - start_S
    row_N = np.repeat(np.arange(len(event_S)), length_S)
    clicked_N = arrays["click_item"][
        np.arange(len(row_N)) + np.repeat(start_S - np.cumsum(length_S) + length_S, length_S)
    ]
    target_S = arrays["event_item"][event_S]

    def count(same_N: NDArray[np.bool_]) -> NDArray[np.int32]:
        return np.bincount(row_N[same_N], minlength=len(event_S)).astype(np.int32)

    counts: dict[str, NDArray[Any]] = {"item_count": count(clicked_N == target_S[row_N])}
    if category_R is not None:
        counts["category_count"] = count(category_R[clicked_N] == category_R[target_S[row_N]])
        last_S = np.where(length_S > 0, arrays["click_item"][np.maximum(end_S - 1, 0)], 0)
        counts["last_category"] = category_R[last_S] == category_R[target_S]
    return counts


def _metrics(
    score_S: NDArray[Any], label_S: NDArray[np.int8], user_S: NDArray[np.int32], probability: bool
) -> dict[str, float]:
    """The metrics of the project, of probabilities or of scores that only rank."""
    score = torch.from_numpy(score_S.astype(np.float64 if probability else np.float32))
    if probability:
        score.logit_()
    label, user = torch.from_numpy(label_S.astype(np.float32)), torch.from_numpy(user_S.astype(np.int64))
    values = {}
    metrics = {"auc": AUC, "gauc": GAUC} | ({"logloss": LogLoss} if probability else {})
    for name, metric_class in metrics.items():  # one at a time: each keeps a copy of what it has seen
        metric = metric_class()
        metric.update(score, label, user)
        values[name] = metric.compute().item()
    return {name: value for name, value in values.items() if np.isfinite(value)}
