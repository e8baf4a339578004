"""Ranking with shared histories against scoring every (history, candidate) pair by itself, as the peers do.

    python scripts/benchmark_rank.py                            # every system: minutes
    python scripts/benchmark_rank.py --quick --systems dien     # a glance

Two tasks, histories of 100 clicks, the same sizes of all networks: 1 user x 1,000 candidates, and 1,000 users x 100.
Each system lives in its own process; they take turns, and the median of the turns counts. Pairs are timed on a part of
the second task, from batches already in the system's own form; the ranker from raw ids, its histories included.
Candidates and threads are the same for all; times are of the process (`--wall` for the clock on a quiet machine), which
counts every thread's.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.environments import SetupError, cache_folder, python_for
from bench.pairs import write_pairs
from bench.pool import Worker, WorkerError
from bench.systems import SYSTEMS
from rich.console import Console
from rich.table import Table

logger = logging.getLogger(__name__)

TASKS = {"1 user x 1,000": (1, 1000), "1,000 users x 100": (1000, 100)}
PAIRS = 4000
"""Pairs of the second task that are timed: more only take longer."""
SECONDS = 0.5
"""Of a turn at least: a request is repeated, so that caches and threads are as warm as those of a busy server."""
RANKER = "ranker"


def main() -> int:
    """Measure and print; 1 if a system could not be measured."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    failed = False
    clock = "wall" if options.wall else "process"
    how = {"threads": options.threads, "at_least": SECONDS}
    table = Table("task", "system", "samples/s", "spread", "peak MB", "ranker is faster by")
    with tempfile.TemporaryDirectory() as folder:
        for task, (users, candidates) in TASKS.items():
            users = min(users, 20) if options.quick else users
            pairs = min(users * candidates, PAIRS)
            path = write_pairs(Path(folder) / "pairs.npz", users=-(-pairs // candidates), candidates=candidates)
            rates: dict[str, list[float]] = {}
            peaks: dict[str, float] = {}
            with ExitStack() as stack:
                workers: dict[str, Worker] = {}
                for name in options.systems:
                    try:
                        python = python_for(SYSTEMS[name], cache_folder())
                        workers[name] = stack.enter_context(
                            Worker(SYSTEMS[name], python, {"pairs": path}, options.threads)
                        )
                    except (SetupError, WorkerError) as error:
                        failed = True
                        logger.error("%s: %s", name, str(error).strip().splitlines()[-1])
                if "dien" in workers:
                    python = python_for(SYSTEMS["dien"], cache_folder())
                    workers[RANKER] = stack.enter_context(
                        Worker(SYSTEMS["dien"], python, {"pairs": path}, options.threads)
                    )
                for turn in range(options.rounds + 1):
                    for name, worker in list(workers.items()):
                        try:
                            if name == RANKER:
                                reply = worker.ask("rank", users=users, candidates=candidates, **how)
                                count = users * candidates
                            else:
                                where = {"dataset": "pairs", "size": min(1000, pairs), "first": 0}
                                reply = worker.ask("predict", **where, count=pairs // min(1000, pairs), **how)
                                count = pairs
                        except WorkerError as error:
                            failed = True
                            del workers[name]
                            logger.error("%s: %s", name, str(error).strip().splitlines()[-1])
                            continue
                        if turn:  # the first turn warms up
                            rates.setdefault(name, []).append(
                                count / reply["seconds" if options.wall else "cpu_seconds"]
                            )
                        peaks[name] = reply["peak_bytes"] / 2**20
            ranked = statistics.median(rates.get(RANKER, [float("nan")]))
            for name, values in sorted(rates.items(), key=lambda one: -statistics.median(one[1])):
                title = "dien.Ranker, shared history" if name == RANKER else f"{SYSTEMS[name].title}, pairs"
                spread = (max(values) - min(values)) / statistics.median(values)
                table.add_row(
                    task,
                    title,
                    f"{statistics.median(values):,.0f}",
                    f"{spread:.0%}",
                    f"{peaks[name]:,.0f}",
                    f"{ranked / statistics.median(values):.1f}",
                )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(f"{clock} time, {options.threads} thread(s), history 100, {options.rounds} rounds", highlight=False)
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in SYSTEMS if name not in ("recbole-shipped", "fuxictr-aux")]
    parser.add_argument("--systems", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every system")
    parser.add_argument("--wall", action="store_true", help="the clock instead of the time of the process")
    parser.add_argument("--quick", action="store_true", help="20 users instead of 1,000")
    return parser.parse_args()


if __name__ == "__main__":
    start = time.perf_counter()
    status = main()
    logger.info("%.0f s", time.perf_counter() - start)
    sys.exit(status)
