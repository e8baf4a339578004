"""Kept states: bounded in memory, in Redis as plain bytes with an expiry, and never overwritten unseen."""

import asyncio

import fakeredis
import numpy as np
import pytest

from dien.errors import ConfigError, DienError
from dien.serving.application import Service
from dien.serving.scoring import Scorer
from dien.serving.store import Kept, MemoryStore, RedisStore, key_of

ITEMS = [f"i{n}" for n in range(30)]


@pytest.fixture
def server():
    return fakeredis.FakeServer()


@pytest.fixture
def redis_store(server):
    return RedisStore(fakeredis.FakeRedis(server=server), expiry=100)


def test_memory_forgets_the_users_seen_longest_ago():
    store = MemoryStore(limit=30)
    for key in "abc":
        store.put(key, bytes(10), seen=None)
    assert store.get(["a"]) == [bytes(10)]
    store.put("d", bytes(10), seen=None)
    assert [value is not None for value in store.get("abcd")] == [True, False, True, True]
    assert (len(store), store.size) == (3, 30)
    store.put("a", bytes(25), seen=None)
    assert [value is not None for value in store.get("abcd")] == [True, False, False, False]
    store.put("a", bytes(31), seen=None)
    assert (len(store), store.size) == (0, 0)
    with pytest.raises(ConfigError, match="limit=0"):
        MemoryStore(limit=0)


def test_redis_holds_bytes_that_expire_and_are_not_overwritten_unseen(redis_store, server):
    other = RedisStore(fakeredis.FakeRedis(server=server), expiry=50)
    assert redis_store.get([]) == []
    assert redis_store.put("a", b"1", seen=None)
    assert other.get(["b", "a"]) == [None, b"1"]
    assert 0 < redis_store.client.ttl("a") <= 100
    assert other.put("a", b"2", seen=b"1")
    assert redis_store.client.ttl("a") <= 50
    assert not redis_store.put("a", b"3", seen=b"1")
    assert not redis_store.put("a", b"3", seen=None)
    assert redis_store.get(["a"]) == [b"2"]
    assert redis_store.put("a", b"4", seen=None, always=True)
    assert redis_store.get(["a"]) == [b"4"]


def test_a_write_between_reading_and_writing_is_noticed(redis_store, server, monkeypatch):
    other = fakeredis.FakeRedis(server=server)
    redis_store.put("a", b"1", seen=None)
    pipeline = redis_store.client.pipeline

    def interrupted(*arguments, **options):
        pipe = pipeline(*arguments, **options)
        multi = pipe.multi
        monkeypatch.setattr(pipe, "multi", lambda: (other.set("a", b"theirs"), multi()))
        return pipe

    monkeypatch.setattr(redis_store.client, "pipeline", interrupted)
    assert not redis_store.put("a", b"2", seen=b"1")
    assert other.get("a") == b"theirs"


def test_two_servers_share_the_users_and_do_not_lose_clicks(ranker, redis_store, server, talk):
    scorers = [Scorer(ranker, RedisStore(fakeredis.FakeRedis(server=server), expiry=100)) for _ in range(2)]
    clicks = ITEMS[:9]
    for place, item in enumerate(clicks):

        async def conversation(client, item=item, place=place):
            return await client.post(
                "/rank", json={"user": "u1", "events": [item], "after": place, "candidates": ITEMS}
            )

        answer = talk(conversation, service=Service(lambda place=place: scorers[place % 2]))
        scores = {one["item"]: one["score"] for one in answer.json()["items"]}
        wanted = ranker.score(clicks[: place + 1], ITEMS, user="u1")
        assert np.allclose([scores[one] for one in ITEMS], wanted, rtol=0, atol=1e-6)
    (value,) = redis_store.get([key_of(ranker.model, "u1")])
    assert Kept.unpack(value).clicks == 9
    assert b"u1" not in value, "only rows of tables are kept"


def test_a_conflict_is_409_and_nothing_is_lost(ranker, redis_store, talk, monkeypatch):
    put, times = redis_store.put, iter([True, False, False])

    def beaten_once(key, value, *, seen, always=False):
        if next(times):
            put(key, Kept(1, ranker.state(["i7"], user="u1").to_bytes()).pack(), seen=None, always=True)
        return put(key, value, seen=seen, always=always)

    monkeypatch.setattr(redis_store, "put", beaten_once)

    async def conversation(client):
        ask = {"user": "u1", "events": ["i8"], "candidates": ["i9"]}
        return await asyncio.gather(*(client.post("/rank", json=ask) for _ in range(2)))

    service = Service(lambda: Scorer(ranker, redis_store), wait=0.05)
    refused, answer = talk(conversation, service=service)
    assert (refused.status_code, "meanwhile" in refused.json()["error"]) == (409, True)
    wanted = ranker.score(["i7", "i8"], ["i9"], user="u1")[0]  # the other one of the batch sees what was written
    assert answer.json()["items"][0]["score"] == pytest.approx(wanted, abs=1e-6)


def test_without_redis_only_what_needs_it_is_refused(ranker, redis_store, server, talk):
    server.connected = False

    async def conversation(client):
        bodies = [
            {"user": "u1", "events": ["i1"], "candidates": ITEMS},
            {"user": "u1", "history": ["i1"], "candidates": ITEMS},
            {"history": ["i1"], "candidates": ITEMS},
        ]
        refused = await asyncio.gather(*(client.post("/rank", json=body) for body in bodies))
        server.connected = True
        return refused, await client.post("/rank", json=bodies[0])

    service = Service(lambda: Scorer(ranker, redis_store), wait=0.05)
    (events, history, bare), later = talk(conversation, service=service)
    for answer in (events, history):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "cannot be reached" in answer.json()["error"]
    wanted = [one._asdict()["score"] for one in ranker.rank(["i1"], ITEMS)]
    assert [one["score"] for one in bare.json()["items"]] == wanted
    assert later.json()["clicks"] == 1, "what was refused has left nothing behind"


def test_a_wrong_address_is_one_sentence(free_port):
    with pytest.raises(ConfigError, match="--redis is not an address"):
        RedisStore.connect("localhost:6379", expiry=1)
    with pytest.raises(DienError, match=r"no Redis answers at 127\.0\.0\.1") as error:
        RedisStore.connect(f"redis://user:secret@127.0.0.1:{free_port()}/0", expiry=1)
    assert "secret" not in str(error.value)
