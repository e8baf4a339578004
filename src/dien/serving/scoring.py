"""A batch of requests becomes rankings, and what is kept of their users moves on. Runs in one thread of its own."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from dien.errors import DataError
from dien.rank import Ranker, State
from dien.serving.refusal import Refusal
from dien.serving.requests import RankRequest
from dien.serving.store import Kept, Store, key_of

log = logging.getLogger(__name__)


class Scorer:
    """Answers batches of requests.

    The states that a batch needs are read in one round trip. Each history is then computed, and each request ranked, on
    its own: a score is the same to the last bit whoever shares its batch. Requests of one user are answered in the
    order of arrival, each with the clicks of those before it.
    """

    def __init__(self, ranker: Ranker, store: Store) -> None:
        self.ranker, self.store = ranker, store
        self.discarded = 0
        """Kept states that could not be read."""

    def __call__(self, requests: Sequence[RankRequest]) -> Iterator[dict[str, Any] | Refusal]:
        """One answer a request, in their order, each as soon as it is there."""
        asked = [request.user for request in requests if request.user is not None and request.history is None]
        keys = list(dict.fromkeys(key_of(self.ranker.model, user) for user in asked))
        kept: dict[str, bytes | None] | Refusal
        try:
            kept = dict(zip(keys, self.store.get(keys), strict=True))
        except Refusal as refusal:
            kept = refusal
        for request in requests:
            try:
                yield self._rank(request, kept)
            except Refusal as refusal:
                yield refusal
            except Exception:
                log.exception("a request could not be ranked")
                yield Refusal(500, "the server failed at this request; its log says why.")

    def _rank(self, request: RankRequest, kept: dict[str, bytes | None] | Refusal) -> dict[str, Any]:
        """Rank first, keep then: a request that is refused has changed nothing."""
        user, seen = request.user, None
        if user is None:
            state, clicks = self.ranker.state(request.history or []), len(request.history or [])
        elif request.history is not None:
            state, clicks = self.ranker.state(request.history, user=user), len(request.history)
        else:
            if isinstance(kept, Refusal):
                raise kept
            key = key_of(self.ranker.model, user)
            if key not in kept:  # a write of another server was in the way of the request before
                (kept[key],) = self.store.get([key])
            seen = kept[key]
            state, clicks = self._kept(user, seen)
            if request.after is not None and request.after != clicks:
                raise Refusal(409, f"{clicks} clicks of this user are kept, not those of after: send the history.")
            for event in request.events or []:
                state = self.ranker.update(state, event)
            clicks += len(request.events or [])
        ranked = self.ranker.rank(state, request.candidates, top=request.top)
        known = self.ranker.known([one.item for one in ranked])
        if user is not None and (request.history is not None or request.events):
            self._keep(user, Kept(clicks, state.to_bytes()), seen, kept, always=request.history is not None)
        return {
            "items": [
                {"item": one.item, "score": one.score, "known": is_known}
                for one, is_known in zip(ranked, known, strict=True)
            ],
            "known_user": self.ranker.known_user(user),
            "clicks": clicks,
            "model": self.ranker.model,
        }

    def _kept(self, user: str | int, value: bytes | None) -> tuple[State, int]:
        if value is not None:
            clicks, state = Kept.unpack(value)
            try:
                return self.ranker.from_bytes(state), clicks
            except DataError:
                log.warning("a kept state could not be read, and counts as none")
                self.discarded += 1
        return self.ranker.state([], user=user), 0

    def _keep(
        self,
        user: str | int,
        new: Kept,
        seen: bytes | None,
        kept: dict[str, bytes | None] | Refusal,
        *,
        always: bool,
    ) -> None:
        key, value = key_of(self.ranker.model, user), new.pack()
        done = self.store.put(key, value, seen=seen, always=always)
        if isinstance(kept, dict):
            kept.pop(key, None)
            if done:
                kept[key] = value
        if not done:
            raise Refusal(
                409, "another request changed what is kept of this user meanwhile: send it again.", retry=True
            )
