"""What was tried against the server, the same list as in docs/serving.md: bodies in process, the rest over a socket."""

import asyncio
import json
import socket

import pytest

from dien.serving import requests
from dien.serving.application import Service
from dien.serving.command import Server, listen
from dien.serving.requests import MAX_BODY, MAX_CANDIDATES, MAX_EVENTS, MAX_HISTORY

BODIES = {
    "an empty body": (b"", 400, "not JSON"),
    "JSON cut short": (b'{"candidates": ["i1"', 400, "not JSON"),
    "something after it": (b'{"candidates": ["i1"]} {}', 400, "trailing"),
    "invalid UTF-8": (b'{"candidates": ["\xff\xfe"]}', 400, "unicode"),
    "half a surrogate pair": (b'{"candidates": ["\\ud800"]}', 400, "not JSON"),
    "a raw control character": (b'{"candidates": ["a\x00b"]}', 400, "control character"),
    "100,000 brackets": (b"[" * 100_000, 400, "recursion limit"),
    "deep JSON in a field": (b'{"candidates":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "recursion limit"),
    "a number of 5,000 digits": (b'{"candidates": [1%s]}' % (b"0" * 5000), 400, "out of range"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(50), 400, "not JSON"),
    "a list": (b"[]", 422, "the body: input should be an object"),
    "no candidates": (b'{"candidates": []}', 422, "candidates: list should have at least 1 item"),
    "candidates missing": (b'{"user": "u1"}', 422, "candidates: field required"),
    "too many candidates": (json.dumps({"candidates": ["i"] * (MAX_CANDIDATES + 1)}).encode(), 422, "at most 1000"),
    "a too long history": (
        json.dumps({"history": [1] * (MAX_HISTORY + 1), "candidates": [1]}).encode(), 422, "history: list"
    ),
    "too many events": (
        json.dumps({"user": 1, "events": [1] * (MAX_EVENTS + 1), "candidates": [1]}).encode(), 422, "events: list"
    ),
    "NaN": (b'{"candidates": [NaN]}', 422, "candidates.0 is not an id"),
    "infinity": (b'{"candidates": ["i1", 1e400]}', 422, "candidates.1 is not an id"),
    "a fraction": (b'{"candidates": [1.5]}', 422, "candidates.0 is not an id"),
    "a float beyond 2^53": (b'{"candidates": [1e16]}', 422, "candidates.0 is not an id"),
    "true": (b'{"candidates": [true]}', 422, "candidates.0 is not an id"),
    "null": (b'{"candidates": [null]}', 422, "candidates.0 is not an id"),
    "an object": (b'{"candidates": [{"$ne": 1}]}', 422, "candidates.0 is not an id"),
    "65 bits": (b'{"candidates": [9223372036854775808]}', 422, "candidates.0 is not an id"),
    "an empty id": (b'{"candidates": [""]}', 422, "candidates.0 is not an id"),
    "a long id": (b'{"candidates": ["%s"]}' % (b"x" * 257), 422, "candidates.0 is not an id"),
    "text for a list": (b'{"candidates": "i1"}', 422, "candidates: input should be"),
    "a user that is a list": (b'{"user": ["u1"], "candidates": [1]}', 422, "user is not an id"),
    "top 0": (b'{"candidates": [1], "top": 0}', 422, "top: input should be greater"),
    "top true": (b'{"candidates": [1], "top": true}', 422, "top: input should be a valid integer"),
    "a field with a typo": (b'{"candidates": [1], "histroy": []}', 422, "a field besides user, history"),
    "history and events": (b'{"user": 1, "history": [], "events": [], "candidates": [1]}', 422, "do not go with it"),
    "events without a user": (b'{"events": [1], "candidates": [1]}', 422, "need a user"),
    "more than a mebibyte": (b" " * (MAX_BODY + 1), 413, "larger than 1,048,576 bytes"),
}  # fmt: skip
"""What is sent, the status, and what the sentence says."""

POST = b"POST /rank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
GOOD = b'{"history": ["i1"], "candidates": ["i2"]}'
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
SOCKETS = {
    "bytes that are not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "a header of 200 kB": (POST + b"X: " + b"x" * 200_000 + b"\r\n\r\n", 400),
    "a header with a line end and a space": (POST + b"X: a\r\n b : c\r\n: d\r\n\r\n", 400),
    "a negative length": (POST + b"Content-Length: -5\r\n\r\n" + GOOD, 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n" + GOOD, 400),
    "a chunk without a size": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n", 400),
    "chunks without end": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 17, 413),
    "a declared length of 10^12": (POST + b"Content-Length: 1000000000000\r\n\r\n" + b" " * (MAX_BODY + 1), 413),
    "a body that stops half-way": (POST + b"Content-Length: 50\r\n\r\n" + GOOD[:20], 408),
    "`GET /../../etc/passwd`": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "`GET /rank/../health`": (b"GET /rank/../health HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "`GET http://evil/health`": (b"GET http://evil/health HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "`GET /%00/../metrics`": (b"GET /%00/../metrics HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "`POST /rank%2f`": (POST.replace(b"/rank", b"/rank%2f") + b"Content-Length: 0\r\n\r\n", 404),
    "`POST //rank`": (POST.replace(b"/rank", b"//rank") + b"Content-Length: 0\r\n\r\n", 404),
    "another method": (b"DELETE /rank HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "no content type": (b"POST /rank HTTP/1.1\r\nHost: a\r\nContent-Length: 41\r\n\r\n" + GOOD, 415),
}
"""What is sent as it stands, and the status; the connection stays open."""


def tried(text: str, heading: str) -> dict[str, int]:
    """Cases and statuses of the table below a heading of docs/serving.md."""
    lines = text.partition(f"**{heading}**")[2].partition("\n\n|")[2].partition("\n\n")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if not line.startswith(("| sent", "| ---", " sent"))]
    return {name.strip(): int(answer[:3]) for names, answer in rows for name in names.split("; ")}


@pytest.mark.parametrize(
    ("heading", "cases"),
    [
        ("Bodies", {name: status for name, (_, status, _) in BODIES.items()}),
        ("Over a socket", {name: status for name, (_, status) in SOCKETS.items()}),
    ],
)
def test_the_documentation_lists_what_is_tried_here_and_nothing_else(pytestconfig, heading, cases):
    assert tried((pytestconfig.rootpath / "docs" / "serving.md").read_text(), heading) == cases


def test_the_limits_are_said_in_the_documentation(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "serving.md").read_text()
    for name in ("MAX_CANDIDATES", "MAX_HISTORY", "MAX_EVENTS", "MAX_ID_LETTERS"):
        assert f"{getattr(requests, name):,}" in text, name


def test_bodies_get_one_sentence(talk):
    async def conversation(client):
        headers = {"Content-Type": "application/json"}
        answers = {
            name: await client.post("/rank", content=body, headers=headers) for name, (body, _, _) in BODIES.items()
        }
        return answers, await client.post("/rank", content=GOOD, headers=headers)

    answers, after = talk(conversation)
    for name, (_, status, said) in BODIES.items():
        error = answers[name].json()["error"]
        assert (answers[name].status_code, said in error, error.count("\n")) == (status, True, 0), (name, error)
        assert len(error) < 200, name
    assert after.status_code == 200


@pytest.mark.usefixtures("own_signals")
def test_over_a_socket_the_server_answers_and_goes_on(ranker, scorer):
    """The real server, on loopback, spoken to byte by byte."""
    service = Service(lambda: scorer, body_seconds=0.3)
    server = Server(service, grace=5)

    async def say(port, sent, *, leave=False):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            if leave:
                await writer.drain()
                return b""
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [int(line.split(b":")[1]) for line in head.lower().splitlines() if b"content-length" in line]
            return head + await reader.readexactly(sum(lengths))  # what is not HTTP is answered without a length
        finally:
            writer.close()

    async def run():
        with listen("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            task = asyncio.create_task(server.serve(sockets=[listener]))
            async with asyncio.timeout(30):
                while service.status != "ready":
                    await asyncio.sleep(0.01)
                answers = {name: await say(port, sent) for name, (sent, _) in SOCKETS.items()}
                await say(port, POST + b"Content-Length: 50\r\n\r\n" + GOOD[:20], leave=True)
                while not service.metrics.requests["/rank", 400]:  # the one that left
                    await asyncio.sleep(0.01)
                last = await say(port, POST + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
            server.should_exit = True
            await task
        return answers, last

    answers, last = asyncio.run(run())
    for name, (_, status) in SOCKETS.items():
        assert answers[name].startswith(b"HTTP/1.1 %d " % status), (name, answers[name][:300])
        assert b"Traceback" not in answers[name]
        assert b"passwd" not in answers[name]
    assert json.loads(last.partition(b"\r\n\r\n")[2])["items"][0]["score"] == float(ranker.score(["i1"], ["i2"])[0])


def test_the_body_of_an_answer_does_not_wait_for_the_acknowledgement_of_its_head():
    """Nagle's algorithm and a client's delayed acknowledgement are 40 ms together."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
