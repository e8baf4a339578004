"""Hand-made logs: a source that holds its log in memory, and a fixture that prepares and opens one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import polars as pl
import pytest

from dien.data.dataset import Prepared
from dien.data.log import Log
from dien.data.prepare import prepare
from dien.data.protocol import Protocol

Event = tuple[str, str, int] | tuple[str, str, int, int]


@dataclass
class MemorySource:
    """A source without files; `loads` counts how often it was read."""

    log: Log
    name: str = "memory"
    loads: int = 0

    def load(self) -> Log:
        self.loads += 1
        return self.log

    def fingerprint(self) -> str:
        return self.name


MakeSource = Callable[..., MemorySource]
MakePrepared = Callable[..., Prepared]


@pytest.fixture
def make_source() -> MakeSource:
    """`make_source(events, items=None, users=None)`; an event is (user, item, timestamp) or also has a label."""

    def make(
        events: Sequence[Event],
        *,
        items: Mapping[str, Any] | None = None,
        users: Mapping[str, Any] | None = None,
        name: str = "memory",
    ) -> MemorySource:
        names = ("user_id", "item_id", "timestamp", "label")[: len(events[0]) if events else 3]
        schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "label": pl.Int8}
        frame = pl.DataFrame(events, schema={n: schema[n] for n in names}, orient="row")
        tables = [None if table is None else pl.DataFrame(table) for table in (items, users)]
        return MemorySource(Log(frame, *tables), name)

    return make


@pytest.fixture
def make_prepared(make_source: MakeSource, tmp_path: Path) -> MakePrepared:
    """`make_prepared(events, split=..., items=..., users=...)`: prepare in a fresh folder and open it."""

    def make(
        events: Sequence[Event],
        *,
        items: Mapping[str, Any] | None = None,
        users: Mapping[str, Any] | None = None,
        **protocol: Any,
    ) -> Prepared:
        source = make_source(events, items=items, users=users)
        folder = tmp_path / f"prepared_{len(list(tmp_path.iterdir()))}"
        return Prepared(prepare(source, Protocol(**protocol), name="test", folder=folder))

    return make


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve_folder() -> Iterator[Callable[[Path], str]]:
    """`serve_folder(folder) -> address`: the files of a folder over HTTP, on this machine only."""
    servers: list[ThreadingHTTPServer] = []

    def serve(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
