"""The server as a process on loopback: stopped and killed under load and while it starts, it gives no wrong score."""

import asyncio
import importlib
import signal
import sys
import threading
from pathlib import Path

import fakeredis
import httpx
import numpy as np
import pytest

from dien import Ranker
from dien.serving import command

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(autouse=True)
def _shared_kernels(_own_place, kernels, tmp_path):
    """Servers compile the kernels once in a session."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(kernels)


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


def test_killed_under_load_and_while_starting_it_gives_no_wrong_score(finished_run, scripts, redis_url, tmp_path):
    kill_server, load_test = scripts("kill_server"), scripts("load_test")
    items, steps = list(Ranker.load(finished_run).items.row_of), []

    async def load(server):
        steps.extend(await load_test.measure(server.url, items, rates=[20], seconds=0.5, history=4, candidates=5))

    options = ("--redis", redis_url)
    trial = kill_server.trial(finished_run, rounds=2, clients=3, work=0.5, options=options, at_last=load)
    at_work, starting, stopped = rounds = asyncio.run(trial)

    assert [one.status for one in rounds] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert at_work.outcomes["right"] > 0
    assert starting.outcomes, "the clients asked while it started"
    assert stopped.outcomes["right"] > 0
    # No wrong score; whatever was asked while it started was right (a start may end before the kill), refused, or 503.
    assert not kill_server.failures(rounds), rounds

    (step,) = steps
    assert (step.sent, step.answered, step.failed) == (10, 10, 0)
    assert 0 < step.milliseconds["p50"] <= step.milliseconds["p95"] <= step.milliseconds["p99"]
    assert 1 <= step.batch <= 10
    load_test.draw([step, step._replace(rate=40.0)], tmp_path / "serving", title="a test")
    assert (tmp_path / "serving.svg").read_text().count("<path") > 10
    assert (tmp_path / "serving.png").stat().st_size > 5000


def test_stopped_while_requests_wait_it_answers_all_of_them(finished_run, scripts):
    ranker = Ranker.load(finished_run)
    items = list(ranker.items.row_of)
    bodies = [{"history": items[:n], "candidates": items, "user": f"v{n}"} for n in range(8)]
    # They would wait ten minutes for others to come, so none is answered before the signal, however slow the machine.
    server = scripts("serving_client").ServerProcess(finished_run, "--wait", "600000", "--batch", "64")

    async def ask_and_stop():
        await server.ready()
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            tasks = [asyncio.create_task(client.post("/rank", json=body)) for body in bodies]
            while "dien_queue_requests 8\n" not in (await client.get("/metrics")).text:
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*tasks)

    try:
        server.listen()
        answers = asyncio.run(ask_and_stop())
        assert server.process.wait(120) == 0
    finally:
        server.end()
    for body, answer in zip(bodies, answers, strict=True):
        ranked = ranker.rank(body["history"], items, user=body["user"])
        assert [(one["item"], one["score"]) for one in answer.json()["items"]] == ranked


@pytest.mark.usefixtures("own_signals")
def test_a_server_that_cannot_start_says_why_in_one_sentence(tmp_path, free_port, monkeypatch, capsys):
    port = free_port()
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ((), "is not a run folder"),
        (("--redis", f"redis://:secret@127.0.0.1:{port}"), "no Redis answers at 127.0.0.1"),
        (("--redis", "127.0.0.1"), "--redis is not an address"),
        (("--host", "203.0.113.7"), "203.0.113.7:0 cannot be listened on"),
        (("--queue", "0"), "--queue=0 is out of range"),
    ):
        monkeypatch.setattr(sys, "argv", ["serve.py", str(tmp_path / "empty"), "--port", "0", *arguments])
        with pytest.raises(SystemExit) as end:
            command.main()
        error = capsys.readouterr().err
        assert (end.value.code, error.count("\n"), said in error, "secret" in error) == (2, 1, True, False), error


def test_percentiles_are_of_the_scheduled_moment(scripts):
    load_test = scripts("load_test")
    step = load_test.summarise(50.0, 2.0, {200: list(np.arange(1, 101) / 1000), 429: [0.001] * 25}, failed=0)
    assert (step.sent, step.answered, step.refused) == (125, 100, 25)
    assert step.milliseconds["p50"] == pytest.approx(50.5)
    assert step.milliseconds["p99"] == pytest.approx(99.01)
    assert step.throughput == 50.0
