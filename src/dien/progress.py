"""How far long work has come: a bar with rate and remaining time on a terminal, plain lines in a log file or CI."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text
from typing_extensions import override

T = TypeVar("T")
log = logging.getLogger(__name__)

_Stage = Callable[[str], None]
_current: ContextVar[tuple[_Stage, Progress | None] | None] = ContextVar("stages", default=None)

EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def downloading(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the download of `total` bytes (None: unknown); the function takes the size of each piece that came."""
    if sys.stderr.isatty():
        columns = (
            *(TextColumn("{task.description}"), BarColumn(), DownloadColumn()),
            *(TransferSpeedColumn(), TimeRemainingColumn()),
        )
        with _alone(), Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=total)
            yield lambda size: bar.advance(task, size)
        return
    start = said = time.monotonic()
    done = 0

    def advance(size: int) -> None:
        nonlocal done, said
        done += size
        now = time.monotonic()
        if now - said >= EVERY:
            said = now
            log.info("%s: %s", name, _how_far(done, total, now - start))

    yield advance
    log.info("%s: %s in %s", name, decimal(done), duration(time.monotonic() - start))


def _how_far(done: int, total: int | None, seconds: float) -> str:
    rate = done / seconds
    if total is None:
        return f"{decimal(done)}, {decimal(int(rate))}/s"
    left = duration(max(0, total - done) / rate) if rate else "?"
    return f"{done / max(total, 1):.0%} of {decimal(total)}, {decimal(int(rate))}/s, {left} left"


@contextmanager
def stages(name: str, count: int) -> Iterator[None]:
    """Show work of `count` stages, each of which `stage` announces."""
    shown = _stages_on_a_terminal if sys.stderr.isatty() else _stages_in_lines
    with shown(name, count) as current:
        token = _current.set(current)
        try:
            yield
        finally:
            _current.reset(token)


def stage(name: str) -> None:
    """The next stage of the work that `stages` surrounds begins; outside of it nothing happens."""
    if (current := _current.get()) is not None:
        current[0](name)


@contextmanager
def _stages_on_a_terminal(name: str, count: int) -> Iterator[tuple[_Stage, Progress]]:
    with _counting_bar() as bar:
        task, begun = bar.add_task(name, total=count), -1

        def begin(stage: str) -> None:
            nonlocal begun
            begun += 1
            bar.update(task, completed=begun, description=f"{name}: {stage}")

        yield begin, bar


@contextmanager
def _stages_in_lines(name: str, count: int) -> Iterator[tuple[_Stage, None]]:
    start = said = time.monotonic()
    begun = -1

    def begin(stage: str) -> None:
        nonlocal said, begun
        begun += 1
        now = time.monotonic()
        if now - said >= EVERY:  # a small log is prepared before anybody asks
            said = now
            log.info("%s: %s (%d of %d), %s", name, stage, begun + 1, count, _pace(begun, count, now - start))

    yield begin, None
    if time.monotonic() - start >= EVERY:
        log.info("%s: done in %s", name, duration(time.monotonic() - start))


def counted(name: str, items: Sequence[T]) -> Iterable[T]:
    """Go through some items and show how many are done."""
    start = said = time.monotonic()
    if sys.stderr.isatty():
        with _alone(), _counting_bar() as bar:
            yield from bar.track(items, description=name)
        return
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said >= EVERY:
            said = now
            log.info("%s: %d of %d, %s", name, done, len(items), _pace(done, len(items), now - start))
        yield item


def _pace(done: int, count: int, seconds: float) -> str:
    """`after 2 min, 30 s each, about 3 min left`"""
    text = f"after {duration(seconds)}"
    return f"{text}, {rate(done, seconds)}, about {duration((count - done) * seconds / done)} left" if done else text


def rate(done: float, seconds: float) -> str:
    """`4.5/s`, or how long each takes if that is more than a second."""
    if done > seconds:
        return f"{done / seconds:,.{0 if done >= 100 * seconds else 1}f}/s"
    return f"{duration(seconds / done)} each" if done else ""


class _Rate(ProgressColumn):
    @override
    def render(self, task: Task) -> Text:
        return Text(rate(task.completed, task.elapsed or 0.0), style="progress.data.speed")


def _counting_bar() -> Progress:
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate()),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


@contextmanager
def _alone() -> Iterator[None]:
    """The bar of the stages around this, if there is one, is away during the block: a terminal shows one at a time."""
    bar = (_current.get() or (None, None))[1]
    if bar is None:
        yield
        return
    bar.stop()
    try:
        yield
    finally:
        bar.start()


def duration(seconds: float) -> str:
    """Such as `45 s`, `3 min`, `2 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
