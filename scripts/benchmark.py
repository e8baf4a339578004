"""This project's DIEN against the other PyTorch implementations, on the same rows, sizes and threads.

    python scripts/benchmark.py                       # everything: about an hour on 2 cores
    python scripts/benchmark.py --quick               # a glance: minutes, not to be quoted
    python scripts/benchmark.py --systems dien recbole --datasets heavy --batches 128

Peers that are not installed here (extra `bench`) get an environment of their own in the cache. Every system lives in
one process; all are started first, and they take turns, round after round. Timed are forward, backward and optimizer
step of a batch that is already in the system's own form.
"""

import argparse
import itertools
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.arguments import above_zero, positive
from bench.data import LONG_SHARE, SHORT_LENGTH, mean_length, write_head, write_sets
from bench.environments import SetupError, cache_folder, python_for
from bench.pool import Worker, WorkerError
from bench.results import MODES, Results, Speed, remarks, sheets
from bench.rows import HISTORY_LENGTH
from bench.systems import SYSTEMS
from rich.console import Console

from dien.errors import DienError

logger = logging.getLogger(__name__)

DATASETS = ("full", "heavy")
MEMORY_ROWS = 4096
EPOCH_BATCH = 128
MOST_BATCHES = 40
"""Batches of one timed run at most: they are all in memory while it runs."""


def main() -> int:
    """Measure, print, save; 1 if a system could not be measured."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    _pin(max(options.threads))
    with tempfile.TemporaryDirectory() as folder:
        try:
            paths = write_sets(Path(folder), options.heavy_mean)
        except DienError as error:
            logger.error("%s", error)
            return 1
        sets = {name: paths[name] for name in options.datasets}
        results = Results(_machine(), {name: mean_length(path) for name, path in sets.items()}, options.batches)
        pythons = _pythons(options.systems, results)
        with ExitStack() as stack:
            workers = _start(pythons, sets, max(options.threads), stack, results)
            for dataset in sets:
                for mode in MODES:
                    for batch in options.batches:
                        _measure(workers, results, options, dataset=dataset, mode=mode, size=batch)
            if options.auc:
                _epochs(workers, results, options.seeds)
        if options.memory:
            head = write_head(paths[DATASETS[0]], Path(folder) / "head.npz", MEMORY_ROWS)
            _memory(pythons, head, results, next(iter(sets)))
    _report(results, options)
    return 1 if results.failed else 0


def _options() -> argparse.Namespace:
    cores = min(2, os.cpu_count() or 1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--batches", nargs="+", type=positive, default=[128, 1024], help="batch sizes")
    parser.add_argument("--threads", nargs="+", type=positive, default=list(range(1, cores + 1)), help="counts to try")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of every system in every setting")
    parser.add_argument("--seconds", type=above_zero, default=2.0, help="of one turn, roughly")
    parser.add_argument("--heavy-mean", type=_heavy_mean, default=10.0, help="history length of the heavy-tailed set")
    parser.add_argument("--seeds", type=positive, default=1, help="epochs from scratch over which AUC is averaged")
    parser.add_argument("--no-auc", dest="auc", action="store_false", help="leave the epochs out")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave the memory out")
    parser.add_argument("--quick", action="store_true", help="one short round, no epochs: to see whether it works")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.auc = 1, 0.3, False
    return options


def _heavy_mean(text: str) -> float:
    """What the mean can be: a share of the rows is full, the others have 1 to `SHORT_LENGTH` steps."""
    mean = above_zero(text)
    low, high = (LONG_SHARE * HISTORY_LENGTH + (1 - LONG_SHARE) * short for short in (1, SHORT_LENGTH))
    if not low < mean < high:
        raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
    return mean


def _pin(threads: int) -> None:
    """Confine this process and the workers to as many cores as the most threads a system may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _pythons(systems: list[str], results: Results) -> dict[str, str]:
    pythons = {}
    for name in systems:
        try:
            pythons[name] = python_for(SYSTEMS[name], cache_folder())
        except SetupError as error:
            _fail(results, name, error)
    return pythons


def _start(
    pythons: dict[str, str], sets: dict[str, Path], threads: int, stack: ExitStack, results: Results
) -> dict[str, Worker]:
    workers = {}
    for name, python in pythons.items():
        try:
            workers[name] = stack.enter_context(Worker(SYSTEMS[name], python, sets, threads))
        except WorkerError as error:
            _fail(results, name, error)
        else:
            results.described[name] = workers[name].described
            logger.info("%s: %s parameters", name, f"{workers[name].described['parameters']:,}")
    return workers


def _measure(
    workers: dict[str, Worker], results: Results, options: argparse.Namespace, *, dataset: str, mode: str, size: int
) -> None:
    """Let the systems take turns in one setting; a warm-up decides how many batches a turn has."""
    turns: list[tuple[Speed, int]] = []
    for threads, name in itertools.product(options.threads, list(workers)):
        speed = Speed(name, dataset, mode, size, threads, [])
        _turn(workers, results, speed, first=0, count=1)
        if seconds := _turn(workers, results, speed, first=0, count=1):
            turns.append((speed, min(max(round(options.seconds / seconds), 2), MOST_BATCHES)))
    for number in range(options.rounds):
        for speed, count in turns:
            if seconds := _turn(workers, results, speed, first=number * MOST_BATCHES * size, count=count):
                speed.rates.append(count * size / seconds)
    results.speeds += [speed for speed, _ in turns if speed.rates]
    for name in workers:
        if best := results.best(name, dataset, mode, size):
            logger.info("%s, %s, batch %d: %s %.0f samples/s", dataset, MODES[mode], size, name, best.median)


def _turn(workers: dict[str, Worker], results: Results, speed: Speed, *, first: int, count: int) -> float | None:
    """Seconds of one run; None if the system fails, now or before."""
    if speed.system not in workers:
        return None
    where = {"dataset": speed.dataset, "size": speed.batch, "threads": speed.threads}
    try:
        seconds: float = workers[speed.system].ask(speed.mode, first=first, count=count, **where)["seconds"]
    except WorkerError as error:
        del workers[speed.system]
        _fail(results, speed.system, error)
        return None
    return seconds


def _epochs(workers: dict[str, Worker], results: Results, seeds: int) -> None:
    """Test AUC of fresh networks after one epoch, at the better thread count."""
    taking_part = [name for name in workers if SYSTEMS[name].auc]
    for dataset, name, seed in itertools.product(results.mean_length, taking_part, range(1, seeds + 1)):
        threads = results.threads(name, dataset, "train", results.batches[0])
        try:
            reply = workers[name].ask("epoch", dataset=dataset, size=EPOCH_BATCH, threads=threads, seed=seed)
        except WorkerError as error:
            _fail(results, name, error)
            continue
        results.epochs.setdefault(dataset, {}).setdefault(name, []).append(reply)
        losses = reply["first_loss"], reply["last_loss"]
        logger.info("%s, seed %d: %s AUC %.4f, loss %.3f -> %.3f", dataset, seed, name, reply["auc"], *losses)


def _memory(pythons: dict[str, str], head: Path, results: Results, dataset: str) -> None:
    """Peak of a fresh process that trains on a few thousand rows of the full-length set."""
    for name, batch in itertools.product(list(results.described), results.batches):
        threads = results.threads(name, dataset, "train", batch)
        where = {"dataset": "head", "size": batch, "first": 0, "count": max(MEMORY_ROWS // batch, 1)}
        try:
            with Worker(SYSTEMS[name], pythons[name], {"head": head}, threads) as worker:
                reply = worker.ask("train", threads=threads, **where)
        except WorkerError as error:
            _fail(results, name, error)
            continue
        results.memory.setdefault(name, {})[batch] = reply["peak_bytes"] / 2**20


def _fail(results: Results, name: str, error: Exception) -> None:
    reason = (str(error).strip().splitlines() or ["it ended without a word"])[-1]
    results.failed[name] = reason
    logger.error("%s: %s", name, error)


def _machine() -> dict[str, Any]:
    """Where and when the numbers were made."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": commit or None,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _report(results: Results, options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    parts = [", ".join(f"{key} {value}" for key, value in results.machine.items())]
    for sheet in sheets(results):
        sheet.show(console)
        parts.append(sheet.markdown())
    for remark in remarks(results):
        console.print(remark, highlight=False)
        parts.append(remark)
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text("\n\n".join(parts) + "\n")
    if options.json:
        results.save(options.json)


if __name__ == "__main__":
    start = time.perf_counter()
    status = main()
    logger.info("%.0f s", time.perf_counter() - start)
    sys.exit(status)
