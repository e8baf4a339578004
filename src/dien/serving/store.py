"""Where user states are kept between requests, as bytes: in memory, or in Redis where several servers share them."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dien.errors import ConfigError, DienError, check_whole
from dien.serving.refusal import Refusal

_COUNT = 8
"""Bytes of the number of clicks, before the state's own."""


class Kept(NamedTuple):
    """What is kept of a user."""

    clicks: int
    """How many there were, also those that have left the window of the state."""
    state: bytes
    """Of `dien.rank.State.to_bytes`."""

    def pack(self) -> bytes:
        return self.clicks.to_bytes(_COUNT, "big") + self.state

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        return cls(int.from_bytes(value[:_COUNT], "big"), value[_COUNT:])


class Store(Protocol):
    """Bytes by key. A value may vanish at any time, and is then computed anew from a client's history."""

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values, in one round trip.

        Raises:
            Refusal: 503, the store cannot be reached.
        """

    def put(self, key: str, value: bytes, *, seen: bytes | None, always: bool = False) -> bool:
        """Keep a value if `seen` is still what is there (or `always`); whether it was.

        Raises:
            Refusal: 503, the store cannot be reached.
        """


def key_of(model: str, user: str | int) -> str:
    """The key of a user's state, which belongs to one model. 7 and "7" are the same user; an id never shows in it."""
    return f"dien:{model}:{hashlib.sha256(str(user).encode()).hexdigest()[:40]}"


class MemoryStore:
    """The states of the users seen last, in this process.

    Args:
        limit: bytes of states; those used longest ago leave first.
    """

    def __init__(self, *, limit: int) -> None:
        check_whole("limit", limit, 1)
        self.limit, self.size = limit, 0
        self._values: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        for key in keys:
            if key in self._values:
                self._values.move_to_end(key)
        return [self._values.get(key) for key in keys]

    def put(self, key: str, value: bytes, *, seen: bytes | None, always: bool = False) -> bool:
        # Only the one thread that ranks is here, but a batch may have pushed out what it had seen before.
        there = self._values.pop(key, None)
        self.size += len(value) - len(there or b"")
        self._values[key] = value
        while self.size > self.limit:
            self.size -= len(self._values.popitem(last=False)[1])
        return True


class RedisStore:
    """The states in Redis, where they outlive this process and several servers share them.

    Args:
        client: of redis-py, which gives bytes.
        expiry: seconds after which a state that was not written again is forgotten.
    """

    def __init__(self, client: "redis.Redis", *, expiry: int) -> None:
        check_whole("expiry", expiry, 1)
        self.client, self.expiry = client, expiry

    @classmethod
    def connect(cls, url: str, *, expiry: int, seconds: float = 1.0) -> Self:
        """A store at an address such as `redis://localhost:6379/0`.

        Raises:
            DienError: the address is not one, or nobody answers there.
        """
        try:
            # A single second try: a request does not wait for Redis to come back.
            client = redis.Redis.from_url(
                url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 1)
            )
        except ValueError as error:
            raise ConfigError("--redis is not an address such as redis://localhost:6379/0.") from error
        try:
            client.ping()
        except redis.RedisError as error:
            # Not the address itself, which may hold a password.
            raise DienError(f"no Redis answers at {urlsplit(url).hostname}: {type(error).__name__}.") from error
        return cls(client, expiry=expiry)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        try:
            found: Any = self.client.mget(list(keys))
        except redis.RedisError as error:
            raise _unreachable() from error
        return list(found)

    def put(self, key: str, value: bytes, *, seen: bytes | None, always: bool = False) -> bool:
        try:
            with self.client.pipeline() as pipe:
                if not always:
                    pipe.watch(key)
                    there: Any = pipe.get(key)  # read at once, as it is watched
                    if there != seen:
                        return False
                pipe.multi()
                pipe.set(key, value, ex=self.expiry)
                pipe.execute()
        except redis.WatchError:
            return False
        except redis.RedisError as error:
            raise _unreachable() from error
        return True


def _unreachable() -> Refusal:
    return Refusal(503, "the store of user states cannot be reached; a history without a user needs none.", retry=True)
