"""A bounded queue whose requests are worked on in batches, in a thread of its own, while the event loop goes on."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from dien.errors import check_at_least, check_whole

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class FullError(Exception):
    """As many jobs wait as may wait."""


class _Waiting(NamedTuple):
    job: object
    answer: "asyncio.Future[object]"
    since: float


class Batcher(Generic[Job, Answer]):
    """Collects jobs for a moment and hands them over together; to be made and used in one event loop.

    Args:
        work: answers to a batch of jobs, in their order; it runs in the worker thread, one batch at a time.
        size: the largest batch.
        wait: seconds that the first job of a batch waits for others. Jobs that came while a batch was worked on have
            waited already.
        depth: how many jobs may wait.
        on_batch: told the size of every batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Iterable[Answer]],
        *,
        size: int,
        wait: float,
        depth: int,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        check_whole("size", size, 1)
        check_at_least("wait", wait, 0)
        check_whole("depth", depth, 1)
        self.work, self.size, self.wait, self.depth, self.on_batch = work, size, wait, depth, on_batch
        self._queue: deque[_Waiting] = deque()
        self._stirred = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rank")
        self._task = asyncio.get_running_loop().create_task(self._run())

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    async def submit(self, job: Job) -> Answer:
        """The answer to a job.

        Raises:
            FullError: at once, if the queue is full or closed.
            Exception: what `work` raised.
        """
        if self._closing or len(self._queue) >= self.depth:
            raise FullError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[object] = loop.create_future()
        self._queue.append(_Waiting(job, answer, loop.time()))
        self._stirred.set()
        return await answer  # type: ignore[return-value]

    def hurry(self) -> None:
        """From now on no job waits for others."""
        self.wait = 0.0
        self._stirred.set()

    async def close(self) -> None:
        """Answer what waits, take nothing new, end the thread."""
        self._closing = True
        self._stirred.set()
        await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue or not self._closing:
            if not self._queue:
                self._stirred.clear()
                await self._stirred.wait()
                continue
            await self._gather(self._queue[0].since)
            taken = [self._queue.popleft() for _ in range(min(self.size, len(self._queue)))]
            batch = [waiting for waiting in taken if not waiting.answer.done()]  # the others were cancelled
            if batch:
                self.on_batch(len(batch))
                await loop.run_in_executor(self._thread, self._work, loop, batch)

    async def _gather(self, since: float) -> None:
        """Wait for a full batch, but not longer than `wait` from `since` on."""
        loop = asyncio.get_running_loop()
        while len(self._queue) < self.size and not self._closing and loop.time() < (until := since + self.wait):
            self._stirred.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._stirred.wait()
            except TimeoutError:
                return

    def _work(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Waiting]) -> None:
        """In the thread: every answer goes out as soon as it is there, not with the last of its batch."""
        try:
            answers = self.work([waiting.job for waiting in batch])  # type: ignore[misc]
            for waiting, answer in zip(batch, answers, strict=True):
                loop.call_soon_threadsafe(_answer, waiting.answer, answer, None)
        except Exception as error:
            for waiting in batch:
                loop.call_soon_threadsafe(_answer, waiting.answer, None, error)


def _answer(future: "asyncio.Future[object]", answer: object, error: Exception | None) -> None:
    if future.done():  # answered before the batch failed, or nobody waits for it any more
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(answer)
