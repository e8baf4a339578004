"""Ranking many candidates for one user: `Ranker.load(run).rank(history, candidates, top=10)`.

Axes: N clicks of a history (at most the run's `data.history_length`), C candidates, D item vector, H hidden.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from dien.errors import DataError, check_whole
from dien.model import candidates as shared
from dien.model.baselines import DIN
from dien.model.dien import DIEN, ClickNetwork
from dien.model.steps import Steps
from dien.raw_ids import IdRows, RawId, check_ids
from dien.trained import BEST, load_trained


class Scored(NamedTuple):
    """A candidate and the probability of a click on it."""

    item: RawId
    score: float


class State(NamedTuple):
    """What a ranker knows of a user: the window of clicks that histories keep, and what they came to.

    It is small (a few vectors a click), never changed in place, and belongs to one model.
    """

    user: Tensor
    """int64 [1], row of the user; 1 is unknown."""
    item_N: Tensor
    """int64 [N], rows of the clicked items, oldest first."""
    history_ND: Tensor
    """Their vectors."""
    interest_NH: Tensor | None
    """The extractor's states; None for a network without one."""
    model: str
    """Which model it belongs to."""

    def to_bytes(self) -> bytes:
        """To be kept elsewhere: tensors and a name, read by `Ranker.from_bytes` without running anything in it."""
        tensors = {"user": self.user, "item": self.item_N, "history": self.history_ND}
        if self.interest_NH is not None:
            tensors["interest"] = self.interest_NH
        return safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata={"model": self.model})


class Ranker:
    """Scores many candidates of a user, whose history is computed once.

    Equal to scoring every (history, candidate) pair by itself, to the last digits of float32. Histories keep their
    latest `history_length` clicks, as in training.

    Args:
        network: in evaluation mode.
        items: their raw ids.
        users: their raw ids.
        history_length: the run's.
    """

    def __init__(self, network: nn.Module, *, items: IdRows, users: IdRows, history_length: int) -> None:
        check_whole("history_length", history_length, 1)
        self.network, self.history_length = network.eval(), history_length
        self.items, self.users = items, users
        self.model = _name(network)
        """Which weights these are; states carry it."""
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, run: str | Path, *, checkpoint: str = BEST, overrides: Sequence[str] = ()) -> Self:
        """The ranker of a run folder, or of a folder of weights, which `dien-export` or `dien-convert` wrote.

        Args:
            run: the folder.
            checkpoint: see `runs.load_model`.
            overrides: see `runs.load_model`.

        Raises:
            DienError: see `load_trained`.
        """
        trained = load_trained(run, checkpoint=checkpoint, overrides=overrides)
        return cls(trained.network, items=trained.items, users=trained.users, history_length=trained.history_length)

    def state(self, history: Sequence[RawId], *, user: RawId | None = None) -> State:
        """The state after a history of raw item ids, oldest first; unknown items count as the unknown item."""
        return self.states([history], users=[user])[0]

    @torch.inference_mode()
    def states(
        self, histories: Sequence[Sequence[RawId]], *, users: Sequence[RawId | None] | None = None
    ) -> list[State]:
        """The states of several histories, whose interests are computed in one scan."""
        for history in histories:
            check_ids("a history", history)
        rows = self.users.rows(users if users is not None else [None] * len(histories))
        kept = [self.items.rows(history[-self.history_length :]) for history in histories]
        return self._states(rows, [torch.tensor(one, dtype=torch.int64, device=self.device) for one in kept])

    def _states(self, users: Sequence[int], items: Sequence[Tensor]) -> list[State]:
        if not items:
            return []
        lengths = [len(item_N) for item_N in items]
        length_B = torch.tensor(lengths, dtype=torch.int64, device=self.device)
        history_SD = self._vectors(torch.cat(list(items)))
        interest_SH = shared.interests(self.network, history_SD, Steps.of(length_B, max(lengths, default=0)))
        interests = [None] * len(items) if interest_SH is None else interest_SH.split(lengths)
        return [
            State(torch.tensor([user], device=self.device), item_N, history_ND, interest_NH, self.model)
            for user, item_N, history_ND, interest_NH in zip(
                users, items, history_SD.split(lengths), interests, strict=True
            )
        ]

    @torch.inference_mode()
    def update(self, state: State, event: RawId) -> State:
        """The state after one more click: one step of the extractor.

        The extractor starts at the oldest click that is kept. While the window has room this is one step; when it
        is full its oldest click leaves, every later state changes with it, and the window is computed anew. Either
        way the result is that of `state` on the whole history.
        """
        self._check(state)
        row = torch.tensor(self.items.rows([event]), device=self.device)
        item_N = torch.cat([state.item_N, row])
        if len(item_N) > self.history_length:
            return self._states([int(state.user)], [item_N[-self.history_length :]])[0]
        new_1D = self._vectors(row)
        interest_NH = state.interest_NH
        if interest_NH is not None:
            before_1H = interest_NH[-1:] if len(interest_NH) else interest_NH.new_zeros(1, interest_NH.shape[1])
            new_1H = shared.interests(self.network, new_1D, Steps.of(torch.ones_like(row), 1), before_1H)
            assert new_1H is not None
            interest_NH = torch.cat([interest_NH, new_1H])
        return state._replace(item_N=item_N, history_ND=torch.cat([state.history_ND, new_1D]), interest_NH=interest_NH)

    def rank(
        self,
        history: Sequence[RawId] | State,
        candidates: Sequence[RawId],
        *,
        top: int | None = None,
        user: RawId | None = None,
    ) -> list[Scored]:
        """The `top` candidates (all if None) by falling probability of a click; equal ones keep their order.

        Args:
            history: raw ids of clicked items, oldest first; or a state.
            candidates: raw ids; unknown ones are scored as the unknown item, see `known`.
            top: K, at least 1.
            user: raw id of the user, unless `history` is a state.
        """
        if top is not None:
            check_whole("top", top, 1)
        score_C = self.score(history, candidates, user=user)
        order = np.argsort(-score_C, kind="stable")[:top]
        return [Scored(candidates[place], float(score_C[place])) for place in order]

    @torch.inference_mode()
    def score(
        self, history: Sequence[RawId] | State, candidates: Sequence[RawId], *, user: RawId | None = None
    ) -> NDArray[np.float32]:
        """Probabilities [C] of a click, in the order of the candidates.

        Raises:
            TypeError: the history or the candidates are not a list of ids.
        """
        state = history if isinstance(history, State) else self.state(history, user=user)
        self._check(state)
        check_ids("the candidates", candidates)
        row_C = torch.tensor(self.items.rows(candidates), dtype=torch.int64, device=self.device)
        if not len(row_C):
            return np.zeros(0, np.float32)
        target_C, place_C = row_C.unique(return_inverse=True)  # what is asked twice, or is unknown, is scored once
        network = self.network
        if isinstance(network, DIEN | DIN):
            common = shared.share(network, state.user, state.history_ND, state.interest_NH)
            logit_C = shared.score(network, common, network.item(target_C))
        else:
            logit_C = shared.score_pairs(network, state.user, state.item_N, target_C)
        scores: NDArray[np.float32] = logit_C.sigmoid()[place_C].cpu().numpy()
        return scores

    def known(self, items: Sequence[RawId]) -> list[bool]:
        """Which raw item ids training knew; the others are scored with the unknown embedding."""
        return self.items.known(items)

    def known_user(self, user: RawId | None) -> bool:
        """Whether training knew a user; others are scored with the unknown embedding."""
        return self.users.known([user])[0]

    def from_bytes(self, data: bytes) -> State:
        """A state that `State.to_bytes` wrote.

        Raises:
            DataError: the bytes are damaged, or are a state of another model.
        """
        try:
            with_names = safetensors.torch.load(data)
            name = _metadata(data).get("model")
            state = State(
                with_names["user"], with_names["item"], with_names["history"], with_names.get("interest"), str(name)
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError("these bytes are not a saved user state: they are damaged.") from error
        self._check(state)
        return state

    def _vectors(self, item_N: Tensor) -> Tensor:
        """Vectors of items; of no width for the authors' networks, which embed by themselves."""
        if isinstance(self.network, ClickNetwork):
            vector_ND: Tensor = self.network.item(item_N)
            return vector_ND
        return torch.zeros(len(item_N), 0, device=self.device)

    def _check(self, state: State) -> None:
        if state.model != self.model:
            raise DataError(f"the user state is of the model {state.model}, not of {self.model}: compute it anew.")


def _name(network: nn.Module) -> str:
    """Which weights these are: a hash of them all."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _metadata(data: bytes) -> dict[str, str]:
    """The `__metadata__` of a safetensors file in memory."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, str] = header.get("__metadata__", {})
    return found
