"""From which size on do sparse gradients train an embedding table faster than dense ones?

Times lookup, backward and `dien.optimizer.Adam` for tables of growing size, dense and sparse in turn, and prints the
medians. `dien.model.features.SPARSE_FROM` is set by it.

    python scripts/benchmark_embedding.py --lookups 5120 --threads 1
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from dien.optimizer import Adam

SIZES = (1_000, 10_000, 100_000, 300_000, 500_000, 1_000_000)


class Trainer:
    """One table of `rows` embeddings, trained on items whose popularity falls off like a power law."""

    def __init__(self, rows: int, width: int, *, sparse: bool) -> None:
        self.table = torch.nn.Parameter(torch.randn(rows, width) * 0.01)
        self.optimizer = Adam([self.table], fused=True)
        self.sparse = sparse

    def step(self, lookups: int) -> float:
        """Milliseconds of one step."""
        item_N = (torch.rand(lookups) ** 3 * len(self.table)).long()
        start = time.perf_counter()
        self.optimizer.zero_grad()
        F.embedding(item_N, self.table, sparse=self.sparse).square().sum().backward()
        self.optimizer.step()
        return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lookups", type=int, default=5120, help="rows looked up in a batch (default: %(default)s)")
    parser.add_argument("--width", type=int, default=18, help="embedding size (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(title=f"ms a step, {arguments.lookups} lookups, width {arguments.width}", title_justify="left")
    for column in ("rows", "numbers", "dense", "sparse", "dense / sparse"):
        table.add_column(column, justify="right")
    for rows in SIZES:
        pair = [Trainer(rows, arguments.width, sparse=sparse) for sparse in (False, True)]
        times = [[trainer.step(arguments.lookups) for trainer in pair] for _ in range(arguments.steps + 3)][3:]
        dense, sparse = (statistics.median(column) for column in zip(*times, strict=True))
        cells = f"{rows:,}", f"{rows * arguments.width:,}", f"{dense:.2f}", f"{sparse:.2f}", f"{dense / sparse:.2f}"
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
