"""Commands run in this process, on a small log of baskets with an obvious pattern."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dien import explain, report, train

SMALL = [
    "data=table",
    "data.source.columns.user_id=user",
    "data.source.columns.item_id=item",
    "data.source.columns.timestamp=time",
    "data.source.item_features=[category]",
    "data.batch_size=32",
    "data.history_length=8",
    "trainer.max_epochs=2",
    "model.features.embedding_size=4",
    "model.head.hidden=[8]",
    "optimizer.lr=0.02",
]


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders and prepared datasets of a test lie in its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """60 users with 4 to 14 clicks on 20 items in 4 categories; a user mostly stays in one category."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        favourite = rng.integers(4)
        for time in range(rng.integers(4, 15)):
            category = favourite if rng.random() < 0.8 else rng.integers(4)
            rows.append((f"u{user}", f"i{rng.integers(5) * 4 + category}", time, f"c{category}"))
    path = tmp_path / "events.csv"
    pl.DataFrame(rows, ["user", "item", "time", "category"], orient="row").write_csv(path)
    return path


Command = Callable[..., int]


@pytest.fixture
def dien_train(monkeypatch: pytest.MonkeyPatch) -> Command:
    """`dien_train("data=sample", ...) -> exit status`"""
    return _command(monkeypatch, "dien-train", train.main)


@pytest.fixture
def dien_prepare(monkeypatch: pytest.MonkeyPatch) -> Command:
    return _command(monkeypatch, "dien-prepare", train.prepare_main)


@pytest.fixture
def dien_report(monkeypatch: pytest.MonkeyPatch) -> Command:
    return _command(monkeypatch, "dien-report", report.main)


@pytest.fixture
def dien_explain(monkeypatch: pytest.MonkeyPatch) -> Command:
    return _command(monkeypatch, "dien-explain", explain.main)


def _command(monkeypatch: pytest.MonkeyPatch, name: str, main: Callable[[], None]) -> Command:
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
        try:
            with _own_log():
                main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@contextmanager
def _own_log() -> Iterator[None]:
    """What Hydra does to the root logger ends with the command: its file lies in a folder that goes with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture
def small(events: Path) -> list[str]:
    """Overrides for a run of a second or two on `events`."""
    return [*SMALL, f"data.source.events={events}"]


@pytest.fixture
def finished_run(dien_train: Command, small: list[str], tmp_path: Path) -> Path:
    """The folder of a small run with everything in it."""
    assert dien_train(*small, f"hydra.run.dir={tmp_path}/run") == 0
    return tmp_path / "run"


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def tiny(small: list[str], kernels: Path) -> list[str]:
    """As `small`; processes that the test starts compile the kernels once in a session."""
    Path("cache").mkdir()
    Path("cache/kernels").symlink_to(kernels)
    return small
