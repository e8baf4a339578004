"""How a sweep goes: jobs done, running and failed, and the best so far; a table at its end."""

import math
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from dien import runs
from dien.callbacks import direction
from dien.progress import duration


class Job(Protocol):
    """What the board looks at; see `dien.sweep.Job`."""

    @property
    def variant(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def folder(self) -> Path: ...
    @property
    def objective(self) -> str: ...


class State(NamedTuple):
    """Where every job stands; `best` is None until one is done."""

    done: int
    running: int
    failed: int
    best: tuple[float, str] | None


class Board:
    """Says how a sweep goes whenever that changes: a bar on a terminal if the jobs run elsewhere, else plain lines.

    Args:
        name: of the sweep.
        jobs: all of them.
        since: the sweep's start; jobs that failed before it are waiting to be tried again.
        parallel: the jobs do not print in this process, so that a bar has the terminal to itself.
    """

    def __init__(self, name: str, jobs: Sequence[Job], *, since: str, parallel: bool) -> None:
        self.name, self.jobs, self.since = name, jobs, since
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.bar = self._bar() if parallel and self.console.is_terminal else None
        self.before = self.state().done
        self._start = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Board":
        if self.bar is not None:
            self.bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self.bar is not None:
            self.bar.stop()

    def state(self) -> State:
        done, best = 0, None
        running = failed = 0
        for job in self.jobs:
            if runs.is_finished(job.folder):
                done += 1
                best = _better(best, job)
                continue
            status = runs.read_status(job.folder)
            if status["status"] == "running":
                running += (status.get("started") or "") >= self.since
            elif status["status"] == "failed":  # a stopped one goes back into the queue, or ends the sweep anyway
                failed += (status.get("ended") or "") >= self.since
        return State(done, running, failed, best)

    def say_what_is_left(self, todo: Sequence[Job]) -> None:
        resumed = sum((job.folder / "checkpoints" / "last.ckpt").is_file() for job in todo)
        again = sum(runs.read_status(job.folder)["status"] == "failed" for job in todo)
        parts = [f"{self.name}: {len(self.jobs)} jobs in {self.jobs[0].folder.parent}"]
        parts += [f"{len(self.jobs) - len(todo)} done before"] if len(todo) < len(self.jobs) else []
        parts += [f"{resumed} continue from a checkpoint"] if resumed else []
        parts += [f"{again} failed before and are tried again"] if again else []
        self.say(", ".join(parts))

    def say(self, line: str) -> None:
        (self.bar.console if self.bar is not None else self.console).print(line, markup=False)

    def line(self, state: State) -> str:
        """`table4: 3 of 50 done, 1 running, 0 failed, best val/auc 0.6839 (...), about 12 min left at 16 s a job`"""
        text = f"{self.name}: {state.done} of {len(self.jobs)} done, {state.running} running, {state.failed} failed"
        if state.best is not None:
            text += f", best {self.jobs[0].objective} {state.best[0]:.4f} ({state.best[1]})"
        over = state.done - self.before + state.failed
        left = len(self.jobs) - state.done - state.failed
        if over > 0 and left:
            seconds = (time.monotonic() - self._start) / over
            text += f", about {duration(seconds * left)} left at {duration(seconds)} a job"
        return text

    def _watch(self) -> None:
        seen: tuple[int, int, int] | None = (self.before, 0, 0)
        while True:
            ended = self._ended.wait(0.5)
            state = self.state()
            if self.bar is not None:
                self.bar.update(self.bar.task_ids[0], completed=state.done + state.failed, text=self.line(state))
            elif seen != (seen := state[:3]):
                self.say(self.line(state))
            if ended:
                return

    def _bar(self) -> Progress:
        columns = (TextColumn("{task.fields[text]}"), BarColumn(bar_width=20), MofNCompleteColumn())
        bar = Progress(*columns, console=self.console)  # the text has the remaining time, of all jobs together
        bar.add_task("", total=len(self.jobs), text=self.name)
        return bar


def print_summary(name: str, jobs: Sequence[Job]) -> None:
    """One row a variant: seeds done, mean and standard deviation of the objective, its best seed; then what failed."""
    objective = jobs[0].objective
    table = Table()
    table.add_column("variant", overflow="fold")
    for column in ("seeds", objective, "std", "best"):
        table.add_column(column, justify="right", no_wrap=True)
    variants = list(dict.fromkeys(job.variant for job in jobs))
    scores = {variant: _scores([job for job in jobs if job.variant == variant]) for variant in variants}
    means = {variant: statistics.fmean(values) for variant, values in scores.items() if values}
    pick = max if direction(objective) == "max" else min
    winner = pick(means, key=means.__getitem__) if means else None
    for variant in variants:
        values = scores[variant]
        planned = sum(job.variant == variant for job in jobs)
        numbers = (
            [
                f"{means[variant]:.4f}",
                f"{statistics.stdev(values):.4f}" if len(values) > 1 else "",
                f"{pick(values):.4f}",
            ]
            if values
            else ["", "", ""]
        )
        style = "bold" if variant == winner else None
        table.add_row(variant, f"{len(values)} of {planned}", *numbers, style=style)
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(f"{name}: {jobs[0].folder.parent}", markup=False, soft_wrap=True)
    console.print(table)
    for job in jobs:
        if not runs.is_finished(job.folder):
            status = runs.read_status(job.folder)
            console.print(f"{status['status']}: {job.folder.name}: {status.get('error')}", markup=False, soft_wrap=True)


def _scores(jobs: Sequence[Job]) -> list[float]:
    return [value for job in jobs if (value := _score(job)) is not None]


def _score(job: Job) -> float | None:
    if not runs.is_finished(job.folder):
        return None
    value = runs.read_json(job.folder / "metrics.json").get(job.objective)
    return value if isinstance(value, float) and math.isfinite(value) else None


def _better(best: tuple[float, str] | None, job: Job) -> tuple[float, str] | None:
    value = _score(job)
    if value is None:
        return best
    sign = 1 if direction(job.objective) == "max" else -1
    return (value, f"{job.variant} seed={job.seed}") if best is None or sign * value > sign * best[0] else best
