"""How long a log takes to prepare, and how much memory: random events of a given number, written to a scratch folder.

python scripts/benchmark_prepare.py --events 1000000
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from dien.data.dataset import Prepared
from dien.data.log import Log
from dien.data.prepare import prepare
from dien.data.protocol import Protocol


class RandomSource:
    """Users of 20 events on average and items of falling popularity, with a category each; ids are strings."""

    def __init__(self, events: int) -> None:
        self.events = events

    def load(self) -> Log:
        rng = np.random.default_rng(0)
        user_E, item_E = (
            rng.integers(self.events // 20, size=self.events),
            (rng.random(self.events) ** 3 * self.events / 50).astype(int),
        )
        events = pl.DataFrame(
            {"user_id": user_E, "item_id": item_E, "timestamp": rng.integers(10**9, size=self.events)}
        )
        items = pl.DataFrame({"item_id": np.unique(item_E)}).with_columns(category=pl.col("item_id") % 100)
        text = pl.col("item_id").cast(pl.String)
        return Log(events.with_columns(text, pl.col("user_id").cast(pl.String)), items.with_columns(text))

    def fingerprint(self) -> str:
        return f"random {self.events}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="(default: %(default)s)")
    source = RandomSource(parser.parse_args().events)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        source.load()
        made = time.perf_counter()
        path = prepare(source, Protocol(), name="random", folder=Path(folder, "random"))
        seconds = time.perf_counter() - made - (made - start)  # preparing loads the log once more
        size = sum(file.stat().st_size for file in path.iterdir())
        samples = len(Prepared(path).samples("train"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{source.events:,} events prepared in {seconds:.1f} s ({source.events / seconds:,.0f}/s) besides making them; "
        f"{size / source.events:.0f} bytes an event on disk, peak {peak:,.0f} MB, {samples:,} training samples"
    )


if __name__ == "__main__":
    main()
