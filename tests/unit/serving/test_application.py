"""The HTTP interface in process: right scores in any batch, kept states, and one clear answer to anything."""

import asyncio
import threading

import numpy as np
import pytest

from dien.serving.application import Service
from dien.serving.refusal import Refusal
from dien.serving.requests import MAX_CANDIDATES, MAX_HISTORY, read_body
from dien.serving.store import MemoryStore, key_of

ITEMS = [f"i{n}" for n in range(30)]


def expected(ranker, history, candidates, user=None, top=None):
    ranked = ranker.rank(history, candidates, user=user, top=top)
    known = ranker.known([one.item for one in ranked])
    return [{"item": one.item, "score": one.score, "known": k} for one, k in zip(ranked, known, strict=True)]


def ask(client, **body):
    return client.post("/rank", json=body)


def test_scores_are_the_rankers_to_the_last_bit_alone_and_in_any_batch(ranker, scorer, talk):
    rng = np.random.default_rng(0)
    asked = [
        {
            "history": [str(item) for item in rng.choice(ITEMS, rng.integers(0, 12))],
            "candidates": [str(item) for item in rng.choice([*ITEMS, "new"], rng.integers(1, 40))],
            "user": f"u{rng.integers(15)}",
            "top": int(rng.integers(1, 20)),
        }
        for _ in range(40)
    ]
    service = Service(lambda: scorer, size=16, wait=0.02)

    async def conversation(client):
        alone = [await ask(client, **one) for one in asked[:5]]
        sizes = list(service.metrics.batches.counts)
        together = await asyncio.gather(*(ask(client, **one) for one in asked))
        return alone, sizes, together

    alone, sizes, together = talk(conversation, service=service)
    assert sizes[0] == 5
    assert sum(service.metrics.batches.counts) - 5 <= 5, "40 requests at once are a few batches"
    for one, answer in [*zip(asked, together, strict=True), *zip(asked, alone, strict=False)]:
        wanted = expected(ranker, one["history"], one["candidates"], one["user"], one["top"])
        assert answer.status_code == 200
        body = answer.json()
        assert body["items"] == wanted
        assert body["known_user"] == (int(one["user"][1:]) < 12)
        assert (body["clicks"], body["model"]) == (len(one["history"]), ranker.model)


def test_kept_states_equal_recomputation(ranker, talk):
    clicks = [*ITEMS[3:9], "new", *ITEMS[:5]]  # more than the window of 7 holds

    async def conversation(client):
        answers = [await ask(client, user="u1", events=[click], candidates=ITEMS) for click in clicks]
        answers.append(await ask(client, user="u1", candidates=ITEMS, after=len(clicks)))
        replaced = await ask(client, user="u1", history=["i1"], candidates=ITEMS)
        several = await ask(client, user="u1", events=["i2", "i3"], candidates=ITEMS, after=1)
        return answers, replaced, several

    answers, replaced, several = talk(conversation)
    for count, answer in enumerate(answers, start=1):
        history = clicks[:count]
        wanted = ranker.score(history, ITEMS, user="u1")
        body = answer.json()
        scores = {one["item"]: one["score"] for one in body["items"]}
        assert np.allclose([scores[item] for item in ITEMS], wanted, rtol=0, atol=1e-6)
        assert body["clicks"] == len(history)
    assert replaced.json()["items"] == expected(ranker, ["i1"], ITEMS, "u1")
    scores = {one["item"]: one["score"] for one in several.json()["items"]}
    wanted = ranker.score(["i1", "i2", "i3"], ITEMS, user="u1")
    assert np.allclose([scores[item] for item in ITEMS], wanted, rtol=0, atol=1e-6)
    assert several.json()["clicks"] == 3


def test_requests_of_one_user_in_one_batch_follow_each_other(ranker, scorer, talk):
    async def conversation(client):
        return await asyncio.gather(*(ask(client, user="u2", events=[item], candidates=["i9"]) for item in ITEMS[:5]))

    answers = talk(conversation, service=Service(lambda: scorer, wait=0.05))
    for count, answer in enumerate(answers, start=1):
        wanted = ranker.score(ITEMS[:count], ["i9"], user="u2")[0]
        assert answer.json()["items"][0]["score"] == pytest.approx(wanted, abs=1e-6)
        assert answer.json()["clicks"] == count


def test_after_refuses_a_state_that_is_not_the_expected_one(scorer, talk):
    async def conversation(client):
        lost = await ask(client, user="u1", events=["i1"], after=3, candidates=["i2"])
        await ask(client, user="u1", history=["i5", "i6", "i7"], candidates=["i2"])
        first = await ask(client, user="u1", events=["i1"], after=3, candidates=["i2"])
        again = await ask(client, user="u1", events=["i1"], after=3, candidates=["i2"])
        return [(one.status_code, one.json()) for one in (lost, first, again)]

    lost, first, again = talk(conversation)
    assert lost == (409, {"error": "0 clicks of this user are kept, not those of after: send the history."})
    assert (first[0], first[1]["clicks"]) == (200, 4)
    assert again[0] == 409
    assert "4 clicks" in again[1]["error"]


def test_odd_but_legal_requests_are_answered(ranker, talk):
    odd = ["\x00\x1b[31m", "../../etc/passwd", "'; DROP TABLE", "\U0001f600", " i1", 7, -(2**63), "\u202eevil"]

    async def conversation(client):
        strange = await ask(client, user="\r\nSet-Cookie: a", events=odd, candidates=odd)
        twice = await client.post(
            "/rank",
            content=b'{"candidates": ["i1"], "candidates": ["i2"]}',
            headers={"Content-Type": "Application/JSON; charset=utf-8"},
        )
        repeated = await ask(client, candidates=["i1", "i1", "new", "i1"])
        longest = await ask(client, history=["i1"] * MAX_HISTORY, candidates=["i2"] * MAX_CANDIDATES)
        return strange, twice, repeated, longest

    strange, twice, repeated, longest = talk(conversation)
    assert strange.json()["items"] == expected(ranker, odd, odd)
    assert not any(one["known"] for one in strange.json()["items"])
    assert twice.json()["items"] == expected(ranker, [], ["i2"])
    assert repeated.json()["items"] == expected(ranker, [], ["i1", "i1", "new", "i1"])
    assert longest.json()["items"] == expected(ranker, ["i1"] * 7, ["i2"] * MAX_CANDIDATES)


def test_other_paths_methods_and_types_are_refused(talk):
    paths = ["/", "/rank/", "//rank", "/rank%2f", "/../rank", "/rank/../../etc/passwd", "/%00", "/docs", "/static/x"]

    async def conversation(client):
        statuses = {path: (await client.post(path, json={"candidates": [1]})).status_code for path in paths}
        wrong_method = await client.get("/rank")
        form = await client.post("/rank", data={"candidates": "i1"})
        bare = await client.post("/rank", content=b'{"candidates": [1]}')
        page = await client.get("/metrics")
        schema = (await client.get("/openapi.json")).json()
        return statuses, wrong_method, form, bare, page.text, schema

    statuses, wrong_method, form, bare, page, schema = talk(conversation)
    # httpx, as any client, resolves ".." before it asks.
    assert {path for path, status in statuses.items() if status != 404} <= {"/../rank"}, statuses
    assert (wrong_method.status_code, wrong_method.json()["error"]) == (405, "Method Not Allowed")
    for answer in (form, bare):
        assert (answer.status_code, "Content-Type: application/json" in answer.json()["error"]) == (415, True)
    assert 'path="other",status="404"' in page
    assert "passwd" not in page
    assert (
        "candidates"
        in schema["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    )


def test_the_body_limit_holds_while_reading_whatever_the_length_says():
    async def endless(sent):
        while True:
            sent.append(1)
            yield bytes(1000)

    async def slow():
        yield b"{"
        await asyncio.sleep(60)

    async def read():
        sent = []
        with pytest.raises(Refusal, match=r"larger than 10,500 bytes") as large:
            await read_body(endless(sent), seconds=60, limit=10_500)
        with pytest.raises(Refusal, match=r"did not arrive within 0.01 s") as late:
            await read_body(slow(), seconds=0.01)
        return len(sent), large.value.status, late.value.status

    assert asyncio.run(read()) == (11, 413, 408)


def test_a_full_queue_answers_429_and_the_accepted_ones_are_right(ranker, scorer, talk):
    go = threading.Event()

    class Slow:
        store, discarded = scorer.store, 0

        def __call__(self, asked):
            go.wait(20)
            yield from scorer(asked)

    service = Service(lambda: Slow(), size=1, wait=0, depth=3)

    async def conversation(client):
        def send(*items):
            return [asyncio.create_task(ask(client, history=[item], candidates=ITEMS)) for item in items]

        async with asyncio.timeout(20):
            tasks = send(ITEMS[0])
            while not service.metrics.batches.counts[0]:
                await asyncio.sleep(0.001)
            tasks += send(*ITEMS[1:10])
            while sum(task.done() for task in tasks) < 6:
                await asyncio.sleep(0.001)
        waiting = (await client.get("/metrics")).text
        go.set()
        return await asyncio.gather(*tasks), waiting

    answers, waiting = talk(conversation, service=service)
    assert [answer.status_code for answer in answers].count(429) == 6  # one is worked on, three wait
    assert "dien_queue_requests 3\n" in waiting
    for item, answer in zip(ITEMS, answers, strict=False):
        if answer.status_code == 429:
            assert answer.headers["Retry-After"] == "1"
            assert answer.json() == {"error": "3 requests wait already: send it again later."}
        else:
            assert answer.json()["items"] == expected(ranker, [item], ITEMS)


def test_503_while_starting_and_stopping_and_accepted_requests_are_answered(ranker, scorer, talk):
    loaded, go = threading.Event(), threading.Event()

    class Slow:
        store, discarded = scorer.store, 0

        def __call__(self, asked):
            go.wait(20)
            yield from scorer(asked)

    def load():
        loaded.wait(20)
        return Slow()

    service = Service(load)

    async def conversation(client):
        starting = [await client.get("/health"), await ask(client, candidates=["i1"])]
        loaded.set()
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.001)
        accepted = asyncio.create_task(ask(client, history=["i3"], candidates=ITEMS))
        await asyncio.sleep(0.01)
        service.stopping = True
        stopping = [await client.get("/health"), await ask(client, candidates=["i1"])]
        go.set()
        return starting, stopping, await accepted

    starting, stopping, accepted = talk(conversation, service=service, wait_until_ready=False)
    for answers, word in ((starting, "starting"), (stopping, "stopping")):
        assert [answer.status_code for answer in answers] == [503, 503]
        assert answers[0].json() == {"status": word}
        assert answers[1].json() == {"error": f"the server is {word}."}
    assert accepted.json()["items"] == expected(ranker, ["i3"], ITEMS)


def test_a_request_that_fails_harms_no_other_of_its_batch(ranker, scorer, talk, monkeypatch, caplog):
    rank = ranker.rank

    def fails_for_one(state, candidates, top=None):
        if candidates == ["i13"]:
            raise RuntimeError("unlucky")
        return rank(state, candidates, top=top)

    monkeypatch.setattr(ranker, "rank", fails_for_one)

    async def conversation(client):
        return await asyncio.gather(*(ask(client, user="u1", events=[i], candidates=[i]) for i in ITEMS[12:15]))

    answers = talk(conversation, service=Service(lambda: scorer, wait=0.05))
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert answers[1].json() == {"error": "the server failed at this request; its log says why."}
    assert "unlucky" in caplog.text
    wanted = ranker.score(["i12", "i14"], ["i14"], user="u1")[0]  # the refused one has changed nothing
    assert answers[2].json()["items"][0]["score"] == pytest.approx(wanted, abs=1e-6)


def test_states_of_another_model_and_damaged_ones_count_as_none(ranker, talk, scorer):
    key = key_of(ranker.model, "u1")
    for value in (b"", b"\x00" * 8, b"\x00" * 7 + b"\x03" + ranker.state(["i1"]).to_bytes()[:-5], b"\x80\x04garbage"):
        scorer.store.put(key, value, seen=None, always=True)

        async def conversation(client):
            refused = await ask(client, user="u1", events=["i2"], after=3, candidates=ITEMS)
            return refused, await ask(client, user="u1", events=["i2"], candidates=ITEMS), await client.get("/metrics")

        refused, answer, page = talk(conversation)
        assert refused.status_code == 409
        assert answer.json()["items"] == expected(ranker, ["i2"], ITEMS, "u1")
        assert answer.json()["clicks"] == 1
    assert scorer.discarded == 8
    assert "dien_discarded_states 8\n" in page.text
    assert key_of("another", "u1") != key
    assert key_of(ranker.model, 7) == key_of(ranker.model, "7")


def test_metrics_are_prometheus_text(talk, scorer):
    async def conversation(client):
        await ask(client, user="u1", history=["i1"], candidates=["i1"])
        await ask(client, candidates=[])
        return await client.get("/metrics")

    page = talk(conversation)
    assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = page.text.splitlines()
    for line in (
        'dien_requests_total{path="/rank",status="200"} 1',
        'dien_requests_total{path="/rank",status="422"} 1',
        'dien_rank_seconds_bucket{le="+Inf"} 2',
        "dien_rank_seconds_count 2",
        'dien_batch_requests_bucket{le="1"} 1',
        "dien_batch_requests_sum 1.0",
        "dien_ready 1",
        "dien_queue_requests 0",
        "dien_kept_users 1",
        f"dien_kept_bytes {scorer.store.size}",
    ):
        assert line in lines, line
    assert all(line.startswith("#") or len(line.rsplit(" ", 1)) == 2 for line in lines)
    buckets = [int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("dien_rank_seconds_bucket")]
    assert buckets == sorted(buckets)


def test_a_memory_store_of_one_state_still_serves(ranker, talk):
    from dien.serving.scoring import Scorer

    small = Scorer(ranker, MemoryStore(limit=len(ranker.state(["i1"] * 7).to_bytes()) + 20))

    async def conversation(client):
        for user in ("u1", "u2"):
            await ask(client, user=user, history=["i1"] * 7, candidates=["i1"])
        lost = await ask(client, user="u1", after=7, candidates=["i1"])
        there = await ask(client, user="u2", after=7, candidates=ITEMS)
        return lost, there

    lost, there = talk(conversation, service=Service(lambda: small))
    assert lost.status_code == 409
    assert there.json()["items"] == expected(ranker, ["i1"] * 7, ITEMS, "u2")
