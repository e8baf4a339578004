"""The HTTP interface: `POST /rank`, `GET /health`, `GET /metrics`, and the life of the service behind them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dien import __version__
from dien.serving.batching import Batcher, FullError
from dien.serving.metrics import CONTENT_TYPE, Metrics
from dien.serving.refusal import Refusal
from dien.serving.requests import BODY_SECONDS, Ranking, RankRequest, parse, read_body
from dien.serving.store import MemoryStore

if TYPE_CHECKING:
    from dien.serving.scoring import Scorer  # it brings torch, and /health answers before that is there


class Service:
    """A scorer with its queue, from loading to the last answer.

    Args:
        load: makes the scorer; it runs in a thread of its own while the server already says that it is starting.
        size, wait, depth: of the queue, see `Batcher`.
        body_seconds: in which a body has to arrive.
        on_failure: called, in that thread, if `load` raised; `failure` is then the exception.
    """

    def __init__(
        self,
        load: "Callable[[], Scorer]",
        *,
        size: int = 32,
        wait: float = 0.002,
        depth: int = 128,
        body_seconds: float = BODY_SECONDS,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.metrics = Metrics()
        self.body_seconds = body_seconds
        self.stopping = False
        self.failure: BaseException | None = None
        self.loader = threading.Thread(target=self._load, name="load", daemon=True)
        self._make, self._on_failure = load, on_failure
        self._scorer: Scorer | None = None
        self._batcher: Batcher[RankRequest, dict[str, Any] | Refusal] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._size, self._wait, self._depth = size, wait, depth

    @asynccontextmanager
    async def life(self, _: FastAPI) -> AsyncIterator[None]:
        """From the start of the server to its end, by when every accepted request is answered."""
        self._batcher = Batcher(
            self._work, size=self._size, wait=self._wait, depth=self._depth, on_batch=self.metrics.batches.observe
        )
        self._loop = asyncio.get_running_loop()
        self.loader.start()
        try:
            yield
        finally:
            self.stopping = True
            await self._batcher.close()

    def stop(self) -> None:
        """Take nothing new, and answer what waits without waiting for more; from a signal handler, say."""
        self.stopping = True
        if self._loop is not None and self._batcher is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._batcher.hurry)

    @property
    def status(self) -> str:
        """`starting | ready | stopping`"""
        if self.stopping:
            return "stopping"
        return "starting" if self._scorer is None else "ready"

    def check_ready(self) -> None:
        if self.status != "ready":
            raise Refusal(503, f"the server is {self.status}.", retry=True)

    async def rank(self, request: RankRequest) -> dict[str, Any]:
        """The ranking, or a `Refusal`."""
        assert self._batcher is not None
        try:
            answer = await self._batcher.submit(request)
        except FullError:
            raise Refusal(429, f"{self._depth} requests wait already: send it again later.", retry=True) from None
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def gauges(self) -> dict[str, tuple[str, float]]:
        gauges: dict[str, tuple[str, float]] = {
            "dien_ready": ("Whether requests are ranked.", int(self.status == "ready")),
            "dien_queue_requests": ("Requests that wait.", len(self._batcher or ())),
        }
        if self._scorer is not None:
            gauges["dien_discarded_states"] = ("Kept states that could not be read.", self._scorer.discarded)
            store = self._scorer.store
            if isinstance(store, MemoryStore):
                gauges["dien_kept_users"] = ("Users whose state is kept in memory.", len(store))
                gauges["dien_kept_bytes"] = ("Bytes of their states.", store.size)
        return gauges

    def _load(self) -> None:
        try:
            self._scorer = self._make()
        except BaseException as error:
            self.failure = error
            self._on_failure()

    def _work(self, requests: Any) -> Any:
        assert self._scorer is not None
        return self._scorer(requests)


def application(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    app = FastAPI(
        title="dien", version=__version__, lifespan=service.life, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.add_middleware(Measured, metrics=service.metrics)

    body = {"content": {"application/json": {"schema": RankRequest.model_json_schema()}}, "required": True}

    @app.post("/rank", response_model=Ranking, openapi_extra={"requestBody": body})
    async def rank(request: Request) -> Response:
        """Rank candidates for a user."""
        service.check_ready()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "the body has to be JSON: send it with Content-Type: application/json.")
        try:
            asked = parse(await read_body(request.stream(), seconds=service.body_seconds))
        except ClientDisconnect:
            raise Refusal(400, "the client left before the end of the body.") from None
        return JSONResponse(await service.rank(asked))

    @app.get("/health")
    async def health() -> Response:
        """200 if requests are ranked, else 503."""
        status = service.status
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(service.gauges()), media_type=CONTENT_TYPE)

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> Response:
        return JSONResponse({"error": refusal.sentence}, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def not_here(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed at this request; its log says why."}, 500)

    return app


class Measured:
    """Counts every answer, and times those of `/rank`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        finally:
            # What a client made up as a path must not become a label: they would grow without bound.
            path = scope["path"] if scope["path"] in ("/rank", "/health", "/metrics") else "other"
            self.metrics.requests[path, status] += 1
            if path == "/rank":
                self.metrics.seconds.observe(time.perf_counter() - start)
