"""The process of one system: `python -m bench.worker SPECIFICATION`, then one JSON request a line, one reply a line.

Specification: `{"adapter", "options", "sets": {name: path}}`. A request is `{"do": name of a method of Session,
...its arguments}`; the reply is what the method returns plus the peak resident memory so far, or `{"error": ...}`.
"""

import importlib
import itertools
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.adapter import Adapter
from bench.rows import RowSet, read_catalogue

WINDOW = 20
"""Batches over which the first and the last loss of an epoch are averaged."""


class Session:
    """A system that can be trained, asked for predictions and timed."""

    def __init__(self, adapter: str, options: dict[str, Any], sets: dict[str, str]) -> None:
        self.paths = {name: Path(path) for name, path in sets.items()}
        self.catalogue = read_catalogue(next(iter(self.paths.values())))
        self.rows = {name: RowSet(path, "train") for name, path in self.paths.items()}
        self.module = importlib.import_module(f"bench.adapters.{adapter}")
        self.options = options
        self.adapter = self.build(seed=1)

    def build(self, seed: int) -> Adapter[Any]:
        torch.manual_seed(seed)
        adapter: Adapter[Any] = self.module.build(self.catalogue, **self.options)
        return adapter

    def describe(self) -> dict[str, Any]:
        parameters = sum(parameter.numel() for parameter in self.adapter.network.parameters())
        return {"parameters": parameters, "torch": torch.__version__, "numpy": np.__version__}

    def train(self, **where: Any) -> dict[str, Any]:
        """Seconds of some optimizer steps."""
        return self._timed(self.adapter.train, **where)

    def predict(self, **where: Any) -> dict[str, Any]:
        """Seconds of scoring some batches."""
        return self._timed(self.adapter.predict, **where)

    def _timed(
        self, run: Any, *, dataset: str, size: int, first: int, count: int, threads: int, at_least: float = 0
    ) -> dict[str, Any]:
        torch.set_num_threads(threads)
        rows = self.rows[dataset]
        batches = [self.adapter.batch(rows.batch(first + n * size, size)) for n in range(count)]
        return _seconds(lambda: run(batches), at_least)

    def rank(self, *, users: int, candidates: int, threads: int, at_least: float) -> dict[str, Any]:
        """Seconds of ranking with a shared history; only this project's adapter can."""
        torch.set_num_threads(threads)
        work = self.adapter.ranking(self.catalogue, users, candidates)  # type: ignore[attr-defined]
        return _seconds(work, at_least)

    def epoch(self, *, dataset: str, size: int, threads: int, seed: int) -> dict[str, Any]:
        """AUC on the test rows after a fresh network has seen every training row once."""
        torch.set_num_threads(threads)
        adapter, rows, test = self.build(seed), self.rows[dataset], RowSet(self.paths[dataset], "test")
        losses: list[float] = []
        for first in range(0, len(rows) - size + 1, size):
            losses += map(float, adapter.train([adapter.batch(rows.batch(first, size))]))
        starts = range(0, len(test), size)
        batches = [test.batch(first, min(size, len(test) - first)) for first in starts]
        scores = torch.cat(adapter.predict(adapter.batch(batch) for batch in batches))
        labels = torch.cat([batch.label_B for batch in batches])
        return {
            "auc": auc(scores.double().numpy(), labels.numpy() > 0),
            "first_loss": float(np.mean(losses[:WINDOW])),
            "last_loss": float(np.mean(losses[-WINDOW:])),
        }


def _seconds(work: Callable[[], Any], at_least: float) -> dict[str, float]:
    """Of one call, by the clock and of this process with all its threads; calls are repeated for `at_least` seconds."""
    start, cpu, calls = time.perf_counter(), time.process_time(), 0
    while not calls or time.perf_counter() - start < at_least:
        work()
        calls += 1
    return {
        "seconds": (time.perf_counter() - start) / calls,
        "cpu_seconds": (time.process_time() - cpu) / calls,
    }


def auc(scores: NDArray[np.float64], clicked: NDArray[np.bool_]) -> float:
    """Share of pairs of a click and a non-click whose scores are in the right order; ties count half."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (count.cumsum() - (count - 1) / 2)[place]
    clicks = int(clicked.sum())
    return float((rank[clicked].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(scores) - clicks)))


def peak_bytes() -> int:
    """Highest resident memory of this process; `ru_maxrss` alone would include that of the process it was made from."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    except FileNotFoundError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # peers print; only replies may go to the parent
    session: Session | None = None
    first = json.dumps({"do": "describe"})
    for line in itertools.chain([first], sys.stdin):
        try:
            session = session or Session(**json.loads(sys.argv[1]))
            request = json.loads(line)
            reply = getattr(session, request.pop("do"))(**request) | {"peak_bytes": peak_bytes()}
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
