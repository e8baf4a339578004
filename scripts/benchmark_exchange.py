"""What it costs two processes to exchange the gradient of an embedding table: all of it, or the rows looked up.

Milliseconds of one exchange over gloo on this machine, median of the rounds; the two ways take turns.

    python scripts/benchmark_exchange.py
"""

import argparse
import statistics
import time
from functools import partial

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from rich.table import Table

from dien import distributed

WIDTH = 18
TABLES = (10_000, 100_000, 300_000, 1_000_000)
LOOKUPS = (128, 5_120, 16_000)


def sparse_gradient(rows: int, lookups: int) -> torch.Tensor:
    ids = torch.randint(rows, (1, lookups))
    return torch.sparse_coo_tensor(ids, torch.randn(lookups, WIDTH), (rows, WIDTH), check_invariants=False).coalesce()


def work(rank: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29517", rank=rank, world_size=2)
    table = Table(title="ms of an exchange over 2 processes, all rows / rows looked up", title_justify="left")
    table.add_column("rows of the table", justify="right")
    for lookups in LOOKUPS:
        table.add_column(f"{lookups:,} lookups", justify="right")
    for rows in TABLES:
        cells = []
        for lookups in LOOKUPS:
            gradient, dense = sparse_gradient(rows, lookups), torch.randn(rows, WIDTH)
            ways = {"all": partial(dist.all_reduce, dense), "rows": partial(distributed.average_rows, gradient)}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, exchange in ways.items():
                    dist.barrier()
                    start = time.perf_counter()
                    exchange()
                    times[name].append(time.perf_counter() - start)
            cells.append(" / ".join(f"{statistics.median(times[name]) * 1e3:.2f}" for name in times))
        table.add_row(f"{rows:,}", *cells)
    if rank == 0:
        Console().print(table)
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    mp.spawn(work, args=(parser.parse_args().rounds,), nprocs=2)
