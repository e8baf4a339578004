"""What is in a prepared dataset, as a few numbers and arrays to draw: for a look before any training.

Axes: E events, R item rows, B rows of a batch, T history steps.
"""

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from dien.data.datamodule import DataModule
from dien.data.dataset import Prepared
from dien.data.protocol import SPLITS
from dien.metrics import AUC, GAUC
from dien.tables import FIRST_ID, Column


def splits(data: DataModule) -> pl.DataFrame:
    """A row a split: samples, rows (sampled negatives included) and lengths of the histories before they are cut."""
    manifest = data.data.manifest
    return pl.DataFrame(
        [
            {"split": split, "samples": manifest["samples"][split], "rows": len(data.rows(split))}
            | {f"{name} history": manifest["history"][split][name] for name in ("mean", "median", "longest")}
            for split in SPLITS
        ]
    )


def click_share(prepared: Prepared, fractions: tuple[float, ...] = (0.01, 0.1, 0.5)) -> dict[float, float]:
    """Which share of the clicks falls on the most clicked 1 %, 10 %, ... of the items (at least one item each)."""
    clicks_R = np.sort(prepared.item_clicks[FIRST_ID:])[::-1]
    return {
        fraction: float(clicks_R[: max(1, round(fraction * len(clicks_R)))].sum() / clicks_R.sum())
        for fraction in fractions
    }


def repeat_rates(data: DataModule) -> dict[str, float]:
    """Share of the test clicks whose item, or whose value of each categorical feature, is in their history."""
    prepared = data.data
    event_E = prepared.samples("test")
    if prepared.has_labels:
        event_E = event_E[prepared.event_label[event_E] == 1]
    click_N, length_E = prepared.history(event_E, data.history_length)
    row_N = np.repeat(np.arange(len(event_E)), length_E)
    rates = {}
    for name, value_R in _values(prepared).items():
        hit_N = value_R[prepared.click_item[click_N]] == value_R[prepared.event_item[event_E]][row_N]
        rates[name] = float((np.bincount(row_N, hit_N, minlength=len(event_E)) > 0).mean())
    return rates


def gaps(prepared: Prepared) -> NDArray[np.int64]:
    """Times between consecutive baskets (clicks of one user at one time) of the same user, in the log's unit."""
    same = np.diff(np.repeat(np.arange(len(prepared.click_offsets) - 1), np.diff(prepared.click_offsets))) == 0
    gap = np.diff(prepared.click_time)[same]
    return gap[gap > 0]


def heuristics(data: DataModule) -> pl.DataFrame:
    """What counting scores on the test rows, AUC and GAUC: the least that a model has to beat."""
    prepared = data.data
    values = _values(prepared)
    popularity_R = np.array(prepared.item_clicks)
    meters: dict[str, tuple[AUC, GAUC]] = {}
    for batch in data.test_dataloader():
        history_BT, target_B = batch.history_BT.numpy(), batch.target_B.numpy()
        real_BT = np.arange(history_BT.shape[1]) < batch.length_B.numpy()[:, None]
        scores = {"popularity of the item": popularity_R[target_B]}
        for name, value_R in values.items():
            same_BT = (value_R[history_BT] == value_R[target_B][:, None]) & real_BT
            scores[f"{name} in the history, times"] = same_BT.sum(1)
        for name, score_B in scores.items():
            auc, gauc = meters.setdefault(name, (AUC(), GAUC()))
            score = torch.from_numpy(np.ascontiguousarray(score_B)).double()
            auc.update(score, batch.label_B, batch.user_B)
            gauc.update(score, batch.label_B, batch.user_B)
    rows = [(name, auc.compute().item(), gauc.compute().item()) for name, (auc, gauc) in meters.items()]
    return pl.DataFrame(rows, ["heuristic", "test AUC", "test GAUC"], orient="row")


def _values(prepared: Prepared) -> dict[str, NDArray[np.int64]]:
    """By name, what can recur: the item itself [R], and its categorical features."""

    def categorical(column: Column) -> bool:
        return column.kind == "categorical"

    table, _ = prepared.tables()
    features = {column.name: column.values.numpy() for column in filter(categorical, table[1:])}
    return {"item": np.arange(prepared.n_items), **features}
