"""The numbers of the survey against numbers counted by hand."""

import polars as pl
import pytest

from dien.data.datamodule import DataModule
from dien.data.sources import Table
from dien.data.survey import click_share, gaps, heuristics, repeat_rates, splits


@pytest.fixture
def data(tmp_path) -> DataModule:
    """Three users; times 10 apart, but for one gap of 70."""
    rows = [
        *[("a", "x", 10, "k"), ("a", "y", 20, "k"), ("a", "z", 30, "m"), ("a", "x", 100, "k")],
        *[("b", "y", 10, "k"), ("b", "z", 20, "m"), ("b", "z", 30, "m"), ("b", "w", 40, "m")],
        *[("c", "x", 10, "k"), ("c", "x", 20, "k"), ("c", "y", 30, "k"), ("c", "v", 40, "n")],
    ]
    pl.DataFrame(rows, ["user_id", "item_id", "timestamp", "kind"], orient="row").write_csv(tmp_path / "events.csv")
    source = Table(events=str(tmp_path / "events.csv"), item_features=["kind"])
    module = DataModule(name="tiny", source=source, cache=str(tmp_path))
    module.setup()
    return module


def test_repeats_of_the_last_events(data):
    # a: x is in x, y, z, and so is its kind; b: w is not in y, z, z, its kind is; c: neither v nor its kind
    assert repeat_rates(data) == {"item": pytest.approx(1 / 3), "kind": pytest.approx(2 / 3)}


def test_gaps_stay_within_a_user(data):
    assert sorted(gaps(data.data).tolist()) == [10] * 8 + [70]


def test_click_share(data):
    # x 4, y 3, z 3, v 1, w 1
    assert click_share(data.data, (0.2, 0.6)) == {0.2: 4 / 12, 0.6: 10 / 12}


def test_splits(data):
    rows = {row["split"]: row for row in splits(data).to_dicts()}
    assert rows["test"]["samples"] == 3
    assert rows["test"]["rows"] == 6
    assert rows["test"]["mean history"] == 3


def test_heuristics_are_those_of_the_test_rows(data):
    table = {row["heuristic"]: row for row in heuristics(data).to_dicts()}
    (batch,) = data.test_dataloader()
    counts = [
        int((history[:length] == target).sum())
        for history, length, target in zip(batch.history_BT, batch.length_B, batch.target_B, strict=True)
    ]
    pairs = [
        1.0 if clicked > other else 0.5 if clicked == other else 0.0
        for clicked, a in zip(counts, batch.label_B, strict=True)
        for other, b in zip(counts, batch.label_B, strict=True)
        if a == 1 and b == 0
    ]
    assert table["item in the history, times"]["test AUC"] == pytest.approx(sum(pairs) / len(pairs))
