"""A server process, and clients that check every answer of it: for `kill_server.py`, `load_test.py` and the tests."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from dien import Ranker

SERVE = Path(__file__).with_name("serve.py")
TOLERANCE = 1e-6
"""Between a state that was advanced click by click and one computed at once."""
OUTCOMES = frozenset({"right", "409", "429", "503", "not reached", "no answer"})
"""What may become of a request: a right answer, a refusal, or none, as the server was not there."""


class ServerProcess:
    """`serve.py` as a process of its own.

    Args:
        run: a run folder.
        options: of `serve.py`, without `--port`.
        port: 0 takes a free one.
    """

    def __init__(self, run: Path | str, *options: str, port: int = 0) -> None:
        command = [sys.executable, str(SERVE), str(run), "--port", str(port), *options]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = ""

    def listen(self) -> str:
        """Its address, as soon as it listens; it may still be loading."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server ended with status {self.process.wait()} before it listened")
        self.url = line.split()[-1]
        return self.url

    async def ready(self, seconds: float = 300.0) -> float:
        """Wait until it ranks; how many seconds after its start that was."""
        async with asyncio.timeout(seconds), httpx.AsyncClient() as client:
            while True:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the server ended with status {self.process.returncode} before it was ready")
                if (await client.get(f"{self.url}/health")).status_code == 200:
                    return time.monotonic() - self.started
                await asyncio.sleep(0.02)

    def end(self, number: int = signal.SIGKILL, seconds: float = 120.0) -> int:
        """Send a signal and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(seconds)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


def is_right(ranker: Ranker, answer: dict[str, Any], history: list[str], candidates: list[str], user: str) -> bool:
    """Whether an answer has all candidates, each with the score of the whole history, in falling order."""
    places = {item: place for place, item in enumerate(candidates)}
    items = [one["item"] for one in answer["items"]]
    scores = np.array([one["score"] for one in answer["items"]])
    wanted = ranker.score(history, candidates, user=user)[[places[item] for item in items]]
    return (
        sorted(items) == sorted(candidates)
        and answer["clicks"] == len(history)
        and bool(np.all(np.diff(scores) <= 0))
        and bool(np.allclose(scores, wanted, rtol=0, atol=TOLERANCE))
    )


class CheckingClient:
    """One user who clicks, asks, and compares: the server keeps the state, this client the whole history.

    A click is sent as an event `after` those that the server should have. If it has others, which a lost answer or a
    lost state leaves behind, it says 409, and the next request brings the whole history.

    Args:
        seed: tells the users apart.
        outcomes: counts `right`, `wrong`, the refusals by status, `no answer` (the server died or closed the connection
            while a request was on its way) and `not reached`; all but those of `OUTCOMES` are failures.
    """

    def __init__(self, ranker: Ranker, *, seed: int, outcomes: "Counter[str]", candidates: int = 10) -> None:
        self.ranker, self.outcomes, self.candidates = ranker, outcomes, candidates
        self.rng = np.random.default_rng(seed)
        self.items = list(ranker.items.row_of)
        self.user = f"client {seed}"
        self.clicks: list[str] = []
        self.kept = False
        """Whether the server is believed to have the clicks."""

    async def run(self, url: str, until: asyncio.Event) -> None:
        """Ask one request after the other; the server may vanish and come back."""
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            while not until.is_set():
                await self.ask(client)

    async def ask(self, client: httpx.AsyncClient) -> None:
        """One request with one new click."""
        before, click = len(self.clicks), str(self.rng.choice(self.items))
        self.clicks.append(click)
        count = min(self.candidates, len(self.items))
        body: dict[str, Any] = {
            "user": self.user,
            "candidates": [str(item) for item in self.rng.choice(self.items, count, replace=False)],
        }
        body |= {"events": [click], "after": before} if self.kept else {"history": self.clicks}
        try:
            answer = await client.post("/rank", json=body)
        except httpx.ConnectError:
            self.outcomes["not reached"] += 1
            await asyncio.sleep(0.05)
            return
        except httpx.TransportError:
            self.outcomes["no answer"] += 1  # it may have kept the click, or not
            return
        if answer.status_code == 200:
            right = is_right(self.ranker, answer.json(), self.clicks, body["candidates"], self.user)
            self.outcomes["right" if right else "wrong"] += 1
            self.kept = True
            if len(self.clicks) > 500:  # of a history that is sent, and of one that is checked
                self.clicks, self.kept = self.clicks[-100:], False
            return
        self.outcomes[str(answer.status_code)] += 1
        if answer.status_code == 409:
            self.kept = False
        else:
            await asyncio.sleep(0.02)
