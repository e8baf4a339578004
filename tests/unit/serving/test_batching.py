"""The queue: batches are full or not older than the wait, nothing accepted is left without an answer."""

import asyncio
import threading

import pytest

from dien.errors import ConfigError
from dien.serving.batching import Batcher, FullError


def test_batches_are_full_in_order_and_answers_are_those_of_the_jobs():
    batches = []

    def work(jobs):
        batches.append(list(jobs))
        return [job * 10 for job in jobs]

    async def run():
        batcher = Batcher(work, size=4, wait=30, depth=100)
        answers = await asyncio.wait_for(asyncio.gather(*(batcher.submit(job) for job in range(12))), 20)
        await batcher.close()
        return answers

    assert asyncio.run(run()) == [job * 10 for job in range(12)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_an_incomplete_batch_waits_no_longer_than_it_may():
    async def run():
        batcher = Batcher(lambda jobs: jobs, size=100, wait=0.05, depth=100)
        start = asyncio.get_running_loop().time()
        answer = await asyncio.wait_for(batcher.submit("one"), 20)
        took = asyncio.get_running_loop().time() - start
        await batcher.close()
        return answer, took

    answer, took = asyncio.run(run())
    assert answer == "one"
    assert took >= 0.05


def test_in_a_hurry_nothing_waits_for_others():
    async def run():
        batcher = Batcher(lambda jobs: jobs, size=100, wait=600, depth=100)
        waiting = [asyncio.create_task(batcher.submit(job)) for job in range(3)]
        await asyncio.sleep(0.01)
        early = [task.done() for task in waiting]
        batcher.hurry()
        answers = await asyncio.wait_for(asyncio.gather(*waiting, batcher.submit(3)), 20)
        await batcher.close()
        return early, answers

    assert asyncio.run(run()) == ([False] * 3, [0, 1, 2, 3])


def test_an_answer_does_not_wait_for_the_rest_of_its_batch():
    second = threading.Event()

    def work(jobs):
        yield "first"
        second.wait(20)
        yield "second"

    async def run():
        batcher = Batcher(work, size=2, wait=30, depth=10)
        first, last = (asyncio.create_task(batcher.submit(job)) for job in range(2))
        early = await asyncio.wait_for(first, 20), last.done()
        second.set()
        late = await asyncio.wait_for(last, 20)
        await batcher.close()
        return early, late

    assert asyncio.run(run()) == (("first", False), "second")


def test_a_failure_reaches_all_of_its_batch_and_no_other():
    def work(jobs):
        if 1 in jobs:
            raise RuntimeError("unlucky")
        return jobs

    async def run():
        batcher = Batcher(work, size=2, wait=0, depth=10)
        answers = await asyncio.gather(*(batcher.submit(job) for job in range(4)), return_exceptions=True)
        await batcher.close()
        return answers

    first, second, *others = asyncio.run(run())
    assert [str(first), str(second)] == ["unlucky", "unlucky"]
    assert others == [2, 3]


def test_a_full_queue_refuses_and_close_answers_what_waits():
    go = threading.Event()

    def work(jobs):
        go.wait(20)
        return jobs

    async def run():
        batcher = Batcher(work, size=1, wait=0, depth=2)
        tasks = [asyncio.create_task(batcher.submit(0))]
        while len(batcher) or not batcher._thread._threads:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(batcher.submit(job)) for job in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await batcher.submit(3)
        tasks[1].cancel()
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await batcher.submit(4)
        go.set()
        await asyncio.wait_for(closing, 20)
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, cancelled, last = asyncio.run(run())
    assert (first, type(cancelled), last) == (0, asyncio.CancelledError, 2)


def test_bounds_are_checked():
    async def make(**options):
        Batcher(lambda jobs: jobs, **{"size": 1, "wait": 0, "depth": 1, **options})

    for options in ({"size": 0}, {"depth": 0}, {"wait": -1}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
            asyncio.run(make(**options))
