"""How much memory it takes to prepare a large log and to start training on it, with worker processes.

Makes events, prepares them with `dien-prepare` (phase `prepare`) and trains a few hundred steps with `dien-train`, on
what is prepared (`train`) and from the log (`both`), all of them fresh processes; a thread reads `/proc` (Linux)
meanwhile. `largest` is the peak RSS of any process, `anonymous` what of it is no mapped file, `all` the peak PSS of the
command and its workers together, which counts a shared page once (and in part where processes of others, such as a
second Python, share it). Pages of the prepared dataset count where they were touched, though the system may take them
back.

    python scripts/benchmark_memory.py --events 50_000_000
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from dien.data.synthetic import World

EVENTS_OF_A_USER = 25
ROW_GROUP = 1 << 20
CATEGORIES, ITEMS_PER_CATEGORY = 50, 2_000
EVERY = 0.2
"""Seconds between two looks at `/proc`."""


@dataclass
class Memory:
    """Peaks of a command and its workers, in bytes."""

    largest: int = 0
    anonymous: int = 0
    all: int = 0
    seconds: float = 0.0

    def look(self, root: int) -> None:
        """Read the memory of process `root` and its descendants now."""
        total = 0
        for process in descendants(root):
            try:
                of_all = _sizes(Path("/proc", str(process), "smaps_rollup"))
                peak = _sizes(Path("/proc", str(process), "status"))
            except OSError:  # it has ended
                continue
            total += of_all.get("Pss", 0)
            self.largest = max(self.largest, peak.get("VmHWM", 0))
            self.anonymous = max(self.anonymous, peak.get("RssAnon", 0))
        self.all = max(self.all, total)


def descendants(root: int) -> list[int]:
    """A process and all those that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _sizes(file: Path) -> dict[str, int]:
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[-1] == "kB"}


def measured(command: str, *overrides: str, folder: Path) -> Memory:
    """Run a command of the project to its end; what it said is in `folder/output.txt`."""
    memory, start = Memory(), time.perf_counter()
    program = Path(sys.executable).with_name(command)
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen([program, *overrides], cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(EVERY):
                memory.look(process.pid)

        watching = threading.Thread(target=watch)
        watching.start()
        status = process.wait()
        ended.set()
        watching.join()
    if status:
        sys.exit(f"{command} failed with status {status}:\n{(folder / 'output.txt').read_text()[-2000:]}")
    memory.seconds = time.perf_counter() - start
    return memory


def write_log(path: Path, events: int) -> None:
    """A Parquet log in random order: a few users and items have many events, most have few."""
    rng = np.random.default_rng(0)
    users, items = events // EVENTS_OF_A_USER + 1, events // 200 + 100
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("timestamp", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, events, ROW_GROUP):
            number = min(ROW_GROUP, events - first)
            columns = {
                "user_id": (rng.random(number) ** 1.5 * users).astype(np.int64) * 7,
                "item_id": (rng.random(number) ** 3 * items).astype(np.int64) * 11,
                "timestamp": rng.integers(1_600_000_000, 1_700_000_000, number),
            }
            writer.write_table(pa.table(columns, schema=schema))


def source(kind: str, events: int, folder: Path) -> list[str]:
    """The overrides that name the log, which is written first if it is a file."""
    if kind == "table":
        write_log(folder / "log.parquet", events)
        return ["data=table", f"data.source.events={folder / 'log.parquet'}"]
    world = World(categories=CATEGORIES, items_per_category=ITEMS_PER_CATEGORY)
    sessions = (world.min_sessions + world.max_sessions) / 2
    return [
        "data=synthetic",
        f"data.source.users={round(events * world.click_rate / sessions)}",
        f"data.source.categories={CATEGORIES}",
        f"data.source.items_per_category={ITEMS_PER_CATEGORY}",
        f"data.cache={folder}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000_000, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a million events")
    parser.add_argument("--data", nargs="+", choices=("table", "synthetic"), default=["table", "synthetic"])
    parser.add_argument("--workers", type=int, default=4, help="reading processes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of training (default: %(default)s)")
    parser.add_argument("--folder", help="where to write, tens of GB for the default (default: a temporary folder)")
    parser.add_argument("overrides", nargs="*", help="further overrides of both commands, after --")
    arguments = parser.parse_args()
    events = 1_000_000 if arguments.quick else arguments.events
    table = Table(title=f"{events:,} events, {arguments.workers} workers; MB", title_justify="left")
    for column in ("data", "phase", "largest", "anonymous", "all", "seconds"):
        table.add_column(column, justify="left" if column in ("data", "phase") else "right")
    for kind in arguments.data:
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="memory.") as name:
            folder = Path(name)
            options = [*source(kind, events, folder), *arguments.overrides]
            training = [
                f"data.num_workers={arguments.workers}",
                f"trainer.limit_train_batches={arguments.steps}",
                "trainer.max_epochs=1",
                "trainer.limit_val_batches=2",
                "test=false",
            ]
            for phase, command, place, further in (
                ("prepare", "dien-prepare", "prepared", []),
                ("train", "dien-train", "prepared", [*training, f"hydra.run.dir={folder / 'run'}"]),
                ("both", "dien-train", "again", [*training, f"hydra.run.dir={folder / 'run_again'}"]),
            ):
                memory = measured(command, *options, f"data.prepared={folder / place}", *further, folder=folder)
                sizes = (f"{size / 1e6:,.0f}" for size in (memory.largest, memory.anonymous, memory.all))
                table.add_row(kind, phase, *sizes, f"{memory.seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
