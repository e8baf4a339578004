"""Scoring raw ids with an ONNX export: numpy and onnxruntime, no torch.

    scorer = Scorer("outputs/.../export/onnx")
    scorer.scores("user 7", history=["a", "b"], candidates=["c", "d", "e"])     # probabilities of a click
    scorer.rank("user 7", history=["a", "b"], candidates=["c", "d", "e"], top=2)

Axes: B users, T history steps, C candidates a user.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dien.errors import DataError, check_whole
from dien.export.archive import FORMATS, read_ids, read_manifest
from dien.raw_ids import PADDING, RawId, check_ids


class Request(NamedTuple):
    """One user with candidates to score; ids as in the log that the model was trained on, see `dien.raw_ids`."""

    user: RawId | None
    """None, or one that training did not know, is scored as an unknown user."""
    history: Sequence[RawId]
    """Clicked items, oldest first; may be empty. The latest are taken if it is longer than in training."""
    candidates: Sequence[RawId]


class Ranked(NamedTuple):
    """One candidate of a ranking."""

    item: RawId
    score: float
    known: bool
    """Whether training knew this item, see `Scorer.known`."""


class Scorer:
    """An exported model, ready for raw ids. Safe to share between threads.

    Args:
        folder: of `dien-export --format onnx`.
        threads: of one call; 0 leaves the number to onnxruntime.

    Raises:
        DataError: the folder is no such export, or it is damaged.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1) -> None:
        folder = Path(folder)
        self.history_length: int = read_manifest(folder, kind="onnx")["history_length"]
        self.items, self.users = read_ids(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / FORMATS["onnx"]), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base
            raise DataError(f"{folder / FORMATS['onnx']} is not a program that onnxruntime can run.") from error

    def scores(self, user: RawId | None, history: Sequence[RawId], candidates: Sequence[RawId]) -> NDArray[np.float32]:
        """Probabilities of a click [C]."""
        return self.score_many([Request(user, history, candidates)])[0]

    def rank(
        self, user: RawId | None, history: Sequence[RawId], candidates: Sequence[RawId], *, top: int | None = None
    ) -> list[Ranked]:
        """Candidates by descending score, equal ones in the order given; the first `top` of them, all if None."""
        if top is not None:
            check_whole("top", top, 1)
        scores = self.scores(user, history, candidates)
        order = np.argsort(-scores, kind="stable")[:top]
        known = self.known(candidates)
        return [Ranked(candidates[i], float(scores[i]), known[i]) for i in order]

    def known(self, items: Sequence[RawId]) -> list[bool]:
        """Which raw item ids training knew; the others are scored with the unknown embedding."""
        return self.items.known(items)

    def known_user(self, user: RawId | None) -> bool:
        """Whether training knew a user; others are scored with the unknown embedding."""
        return self.users.known([user])[0]

    def score_many(self, requests: Sequence[Request]) -> list[NDArray[np.float32]]:
        """Probabilities of a click, one array [C] a request; all requests go through the network as one batch.

        Raises:
            TypeError: a history or candidates are not a list of ids.
        """
        for request in requests:
            check_ids("a history", request.history)
            check_ids("the candidates", request.candidates)
        real = [request for request in requests if len(request.candidates)]
        found = iter(self._run(real) if real else ())
        return [next(found) if len(request.candidates) else np.zeros(0, np.float32) for request in requests]

    def _run(self, requests: Sequence[Request]) -> list[NDArray[np.float32]]:
        histories = [self.items.rows(request.history[-self.history_length :]) for request in requests]
        candidates = [self.items.rows(request.candidates) for request in requests]
        feeds = {
            "user": np.array(self.users.rows(request.user for request in requests), np.int64),
            "history": _padded(histories),
            "length": np.array([len(history) for history in histories], np.int64),
            "candidates": _padded(candidates),
        }
        scores_BC = self._session.run(["scores"], feeds)[0]
        return [row[: len(wanted)].copy() for row, wanted in zip(scores_BC, candidates, strict=True)]


def _padded(lists: list[list[int]]) -> NDArray[np.int64]:
    out = np.full((len(lists), max(map(len, lists))), PADDING, np.int64)
    for row, values in enumerate(lists):
        out[row, : len(values)] = values
    return out
