"""Ranking many candidates for one user: `Ranker.load(run).rank(history, candidates, top=10)`.

Axes: N clicks of a history (at most the run's `data.history_length`), C candidates, D item vector, H hidden.
"""

import hashlib
import json
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
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
from dien.runs.model import load_model
from dien.tables import FIRST_ID, UNKNOWN

Id = str | int


class Scored(NamedTuple):
    """A candidate and the probability of a click on it."""

    item: Id
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


class Ids:
    """From raw ids to rows of a feature table; fast for a few, where `Prepared.item_rows` is for many."""

    def __init__(self, ids: pl.Series) -> None:
        self.text = ids.dtype == pl.String
        self.row_of: dict[object, int] = dict(zip(ids.to_list(), range(FIRST_ID, FIRST_ID + len(ids)), strict=True))

    def rows(self, raw: Iterable[Any]) -> list[int]:
        """Rows of raw ids, 1 for an unknown one; 7 and "7" are the same id."""
        find, own, kind = self.row_of.get, self._own, str if self.text else int
        return [find(one if type(one) is kind else own(one), UNKNOWN) for one in raw]

    def _own(self, raw: object) -> object:
        """The id in the type that the log has."""
        if isinstance(raw, bool | float) or not isinstance(raw, Hashable):
            return None
        if self.text:
            return str(raw)
        try:
            return int(raw)  # type: ignore[call-overload]
        except (TypeError, ValueError):
            return None


class Ranker:
    """Scores many candidates of a user, whose history is computed once.

    Equal to scoring every (history, candidate) pair by itself, to the last digits of float32. Histories keep their
    latest `history_length` clicks, as in training.

    Args:
        network: in evaluation mode.
        item_ids: raw ids of the item rows from row 2 on, as `Prepared.item_ids` gives them.
        user_ids: of the user rows, likewise.
        history_length: the run's.
        item_vocabulary: vocabulary id of every item row, padding and unknown included; None if training knew them all.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        item_ids: pl.Series,
        user_ids: pl.Series,
        history_length: int,
        item_vocabulary: Tensor | None = None,
    ) -> None:
        check_whole("history_length", history_length, 1)
        self.network, self.history_length = network.eval(), history_length
        self.items, self.users = Ids(item_ids), Ids(user_ids)
        vocabulary = torch.arange(len(item_ids) + FIRST_ID) if item_vocabulary is None else item_vocabulary
        self._untrained = set((vocabulary == UNKNOWN).nonzero().flatten().tolist())
        self.model = _name(network)
        """Which weights these are; states carry it."""
        self.device = next(network.parameters()).device

    @classmethod
    def load(cls, run: str | Path, *, checkpoint: str = "best.ckpt") -> Self:
        """The ranker of a run folder.

        Raises:
            DienError: see `runs.load_model`.
        """
        loaded = load_model(run, checkpoint=checkpoint)
        return cls(
            loaded.network,
            item_ids=loaded.data.data.item_ids(),
            user_ids=loaded.data.data.user_ids(),
            history_length=loaded.data.history_length,
            item_vocabulary=loaded.data.tables()[0][0].values,
        )

    def state(self, history: Sequence[Id], *, user: Id | None = None) -> State:
        """The state after a history of raw item ids, oldest first; unknown items count as the unknown item."""
        return self.states([history], users=[user])[0]

    @torch.inference_mode()
    def states(self, histories: Sequence[Sequence[Id]], *, users: Sequence[Id | None] | None = None) -> list[State]:
        """The states of several histories, whose interests are computed in one scan."""
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
    def update(self, state: State, event: Id) -> State:
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
        self, history: Sequence[Id] | State, candidates: Sequence[Id], *, top: int | None = None, user: Id | None = None
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
        self, history: Sequence[Id] | State, candidates: Sequence[Id], *, user: Id | None = None
    ) -> NDArray[np.float32]:
        """Probabilities [C] of a click, in the order of the candidates."""
        state = history if isinstance(history, State) else self.state(history, user=user)
        self._check(state)
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

    def known(self, items: Sequence[Id]) -> list[bool]:
        """Which raw item ids training knew; the others are scored with the unknown embedding."""
        return [row not in self._untrained for row in self.items.rows(items)]

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
