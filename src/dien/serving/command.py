"""`python scripts/serve.py RUN`: a finished run or a folder of weights behind HTTP until SIGTERM or Ctrl+C."""

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from dien.errors import DienError, check_at_least, check_whole
from dien.options import add_override
from dien.serving.application import Service, application

if TYPE_CHECKING:
    from types import FrameType

    from dien.serving.scoring import Scorer

CONNECTIONS = 800
"""Open at the same time; more get 503. Below the 1,024 files that a process usually may open."""


class Server(uvicorn.Server):
    """Ends with status 0 after a stop that was asked for; says at once that it is stopping.

    Args:
        service: what is served.
        grace: seconds for accepted requests at a stop.
    """

    def __init__(self, service: Service, *, grace: int) -> None:
        config = uvicorn.Config(
            application(service),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=grace,
        )
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
        self.service.stop()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own would in the end raise the signal again, and the status be that of a killed process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def loader(options: argparse.Namespace) -> "Scorer":
    """The scorer of a run, warmed up."""
    import torch

    from dien.allocator import keep_freed_memory
    from dien.rank import Ranker
    from dien.serving.scoring import Scorer
    from dien.serving.store import MemoryStore, RedisStore, Store

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if options.redis:
        store: Store = RedisStore.connect(options.redis, expiry=options.expiry)
    else:
        store = MemoryStore(limit=options.memory << 20)
    ranker = Ranker.load(options.run, checkpoint=options.checkpoint, overrides=options.override)
    ranker.rank(["", ""], [""])  # what is built at the first use is not the first client's to wait for
    return Scorer(ranker, store)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        DienError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise DienError(f"{host}:{port} cannot be listened on: {error}.") from error
    # Connections inherit it. asyncio sets it only where the protocol number is that of TCP, and create_server leaves 0:
    # the body of an answer would then wait for the acknowledgement of its head, which clients delay by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(options: argparse.Namespace) -> None:
    """Serve until a signal.

    Raises:
        DienError: an option is wrong, the address cannot be had, or the run cannot be loaded.
    """
    check_whole("--threads", options.threads, 1)
    check_whole("--memory", options.memory, 1)
    check_whole("--expiry", options.expiry, 1)
    check_whole("--batch", options.batch, 1)
    check_whole("--queue", options.queue, 1)
    check_whole("--grace", options.grace, 1)
    check_at_least("--wait", options.wait, 0)
    listener = listen(options.host, options.port)
    service = Service(
        lambda: loader(options),
        size=options.batch,
        wait=options.wait / 1000,
        depth=options.queue,
        on_failure=lambda: setattr(server, "should_exit", True),
    )
    server = Server(service, grace=options.grace)
    host, port = listener.getsockname()[:2]
    print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure
    if service.loader.is_alive():
        # Stopped while loading: the interpreter cannot end a thread that is inside of torch, and nothing is half-done.
        sys.stdout.flush()
        os._exit(0)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Serve a finished run: POST /rank, GET /health, GET /metrics; see docs/serving.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    result.add_argument("run", metavar="RUN", help="a run folder of dien-train, or a folder of weights")
    result.add_argument("--checkpoint", default="best.ckpt", metavar="NAME", help="in its checkpoints/")
    add_override(result)
    result.add_argument("--host", default="127.0.0.1", help="address to listen on")
    result.add_argument("--port", type=int, default=8000, help="0 takes a free one, and says which")
    result.add_argument("--redis", metavar="URL", help="keep user states there, redis://host:6379/0, not in memory")
    result.add_argument("--expiry", type=int, default=7 * 86400, metavar="SECONDS", help="of a state in Redis")
    result.add_argument("--memory", type=int, default=256, metavar="MIB", help="for user states in memory")
    result.add_argument("--batch", type=int, default=32, metavar="N", help="most requests that are ranked together")
    result.add_argument("--wait", type=float, default=2.0, metavar="MS", help="how long a request waits for others")
    result.add_argument("--queue", type=int, default=128, metavar="N", help="requests that may wait; others get 429")
    result.add_argument("--grace", type=int, default=30, metavar="SECONDS", help="for accepted requests at a stop")
    result.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads")
    return result


def main() -> None:
    """`scripts/serve.py`"""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server has its own
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = parser().parse_args()
    try:
        serve(options)
    except Exception:
        from dien.config import mistakes_in_one_sentence  # it brings Hydra and Lightning, of which a start needs none

        with mistakes_in_one_sentence("serve.py"):
            raise
