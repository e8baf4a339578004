"""A service with a small random network, spoken to in process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import torch

from dien import Ranker
from dien.raw_ids import IdRows
from dien.serving.application import Service, application
from dien.serving.scoring import Scorer
from dien.serving.store import MemoryStore

Talk = Callable[[httpx.AsyncClient], Awaitable[Any]]


@pytest.fixture
def ranker(make_network) -> Ranker:
    """30 items `i0`, ..., 12 users `u0`, ..., windows of 7 clicks; far from the symmetric start."""
    network = make_network("augru")
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    items, users = (IdRows([f"{kind}{n}" for n in range(count)]) for kind, count in (("i", 30), ("u", 12)))
    return Ranker(network, items=items, users=users, history_length=7)


@pytest.fixture
def scorer(ranker) -> Scorer:
    return Scorer(ranker, MemoryStore(limit=1 << 20))


async def ready(service: Service) -> None:
    async with asyncio.timeout(20):
        while service.status == "starting" and service.failure is None:
            await asyncio.sleep(0.001)


@pytest.fixture
def talk(scorer):
    """`talk(conversation)`: what `conversation(client)` returns, with a service that is ready."""

    def run(conversation: Talk, *, service: Service | None = None, wait_until_ready: bool = True) -> Any:
        served = service or Service(lambda: scorer)
        app = application(served)

        async def life() -> Any:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with served.life(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                if wait_until_ready:
                    await ready(served)
                return await conversation(client)

        return asyncio.run(life())

    return run
