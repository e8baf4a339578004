"""The server as a process on loopback: stopped and killed under load and while it starts, it gives no wrong score."""

import asyncio
import importlib
import signal
import subprocess
import sys
import threading
from pathlib import Path

import fakeredis
import httpx
import numpy as np
import pytest

from dien import Ranker

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    """`scripts("kill_server")`: a script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def redis_url(free_port):
    """A Redis server on loopback, without Redis."""
    port = free_port()
    server = fakeredis.TcpFakeServer(("127.0.0.1", port))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"redis://127.0.0.1:{port}/0"
    server.shutdown()
    server.server_close()


def test_killed_under_load_and_while_starting_and_stopped_it_gives_no_wrong_score(finished_run, scripts, redis_url):
    kill_server, serving_client = scripts("kill_server"), scripts("serving_client")
    rounds = asyncio.run(kill_server.trial(finished_run, rounds=2, clients=3, work=0.5, options=("--redis", redis_url)))
    at_work, starting, stopped = rounds
    assert [one.status for one in rounds] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert all(one.outcomes["wrong"] == 0 for one in rounds), rounds
    assert at_work.outcomes["right"] > 0
    assert stopped.outcomes["right"] > 0
    assert starting.outcomes["right"] == 0
    assert not {"500", "422", "400"} & set().union(*(one.outcomes for one in rounds)), rounds

    # Accepted requests are answered after SIGTERM: these wait in the queue for two seconds.
    ranker = Ranker.load(finished_run)
    server = serving_client.ServerProcess(finished_run, "--wait", "2000", "--batch", "64", "--redis", redis_url)
    items = list(ranker.items.row_of)

    async def stop():
        await server.ready()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            bodies = [{"history": items[:n], "candidates": items, "user": f"v{n}"} for n in range(8)]
            tasks = [asyncio.create_task(client.post("/rank", json=body)) for body in bodies]
            while "dien_queue_requests 8\n" not in (await client.get("/metrics")).text:
                assert not any(task.done() for task in tasks), "the machine was too slow for this test"
            server.process.send_signal(signal.SIGTERM)
            return bodies, await asyncio.gather(*tasks)

    try:
        server.listen()
        bodies, answers = asyncio.run(stop())
    finally:
        status = server.end(signal.SIGTERM)
    assert status == 0
    for body, answer in zip(bodies, answers, strict=True):
        ranked = ranker.rank(body["history"], items, user=body["user"])
        assert [(one["item"], one["score"]) for one in answer.json()["items"]] == ranked

    # The load test: its table and figure, small.
    load_test = scripts("load_test")
    steps = asyncio.run(
        load_test.measure(finished_run, rates=[20], seconds=1.0, history=4, candidates=5, options=("--queue", "1"))
    )
    (step,) = steps
    assert step.sent == 20
    assert step.answered + step.refused + step.failed == 20
    assert step.failed == 0
    assert 0 < step.milliseconds["p50"] <= step.milliseconds["p95"] <= step.milliseconds["p99"]
    load_test.draw([step, step._replace(rate=40.0)], finished_run / "serving", title="a test")
    assert (finished_run / "serving.svg").read_text().count("<path") > 10
    assert (finished_run / "serving.png").stat().st_size > 5000


def test_a_server_that_cannot_start_says_why_in_one_sentence(tmp_path, free_port):
    port = free_port()
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in (
        ([str(empty)], "is not a run folder"),
        ([str(empty), "--redis", f"redis://:secret@127.0.0.1:{port}"], "no Redis answers at 127.0.0.1"),
        ([str(empty), "--host", "203.0.113.7"], "203.0.113.7:0 cannot be listened on"),
        ([str(empty), "--queue", "0"], "--queue=0 is out of range"),
    ):
        command = [sys.executable, str(SCRIPTS / "serve.py"), *arguments, "--port", "0"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert (ended.returncode, ended.stderr.count("\n"), said in ended.stderr) == (2, 1, True), ended.stderr
        assert "secret" not in ended.stderr


def test_percentiles_are_of_the_scheduled_moment(scripts):
    load_test = scripts("load_test")
    step = load_test.summarise(50.0, 2.0, {200: list(np.arange(1, 101) / 1000), 429: [0.001] * 25}, failed=0)
    assert (step.sent, step.answered, step.refused) == (125, 100, 25)
    assert step.milliseconds["p50"] == pytest.approx(50.5)
    assert step.milliseconds["p99"] == pytest.approx(99.01)
    assert step.throughput == 50.0
