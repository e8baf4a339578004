"""`dien-explain`: one user's history, and what a trained network attends to in it for each of some candidate items.

Axes: B rows, C candidate items, T steps of the history (oldest first), H hidden.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from dien import figures, runs
from dien.batch import Batch
from dien.config import mistakes_in_one_sentence
from dien.data.dataset import Prepared
from dien.data.names import item_features, item_names, row_of
from dien.errors import ConfigError
from dien.model.trace import Trace, trace
from dien.options import add_override
from dien.tables import FIRST_ID

CANDIDATES = 5
"""How many items are compared if none is named."""
PLAUSIBLE_SECONDS = (100_000_000, 10_000_000_000)
"""Timestamps in between, from 1973 to 2286, are read as seconds since 1970; others are shown as they are."""
_NAME = 17
"""Letters of a candidate's name in the figure."""


class Explanation(NamedTuple):
    """One user's history and some candidates; the first was the next event of that user if `next_known`."""

    prepared: Prepared
    history_T: NDArray[np.int64]
    """Item rows, oldest first."""
    time_T: NDArray[np.int64]
    candidate_C: NDArray[np.int64]
    next_item: int
    """Item row of the event that the history leads to."""
    trace: Trace

    @property
    def score_C(self) -> NDArray[np.float32]:
        """Predicted probability of a click."""
        return self.trace.logit_B.sigmoid().numpy()

    @property
    def attention_CT(self) -> NDArray[np.float32]:
        """Raises `ConfigError` for a network without attention."""
        if self.trace.attention_N is None:
            raise ConfigError("this network has no attention to show: explain a run of model=dien, din or authors.")
        return self.trace.steps.padded(self.trace.attention_N).numpy()


def explain(
    network: nn.Module,
    prepared: Prepared,
    *,
    user: int,
    items: Sequence[int] = (),
    history_length: int,
) -> Explanation:
    """Trace a user's last event: its history, with its own item or `items` as candidates.

    Args:
        network: any network of the project.
        prepared: the dataset that it was trained on.
        user: row of the user.
        items: rows of the candidates; none takes the item of the user's last event and popular items that the
            history lacks, `CANDIDATES` in all.
        history_length: histories keep their latest clicks up to this many.

    Raises:
        ConfigError: the user has no event.
    """
    if prepared.user_offsets[user] == prepared.user_offsets[user + 1]:
        raise ConfigError(f"user {prepared.user_id(user) if user >= FIRST_ID else user} has no event to explain.")
    event = int(prepared.user_offsets[user + 1]) - 1
    next_item = int(prepared.event_item[event])
    click_T, _ = prepared.history(np.array([event]), history_length)
    history_T = prepared.click_item[click_T].astype(np.int64)
    candidate_C = np.array(items or _candidates(prepared, history_T, next_item))
    count, length = len(candidate_C), len(history_T)
    batch = Batch(
        user_B=torch.full((count,), user),
        history_BT=torch.from_numpy(history_T).expand(count, length),
        negative_BT=torch.zeros(count, length, dtype=torch.int64),
        length_B=torch.full((count,), length),
        target_B=torch.from_numpy(candidate_C),
        label_B=torch.from_numpy((candidate_C == next_item).astype(np.float32)),
    )
    return Explanation(
        prepared, history_T, np.array(prepared.click_time[click_T]), candidate_C, next_item, trace(network, batch)
    )


def _candidates(prepared: Prepared, history_T: NDArray[np.int64], next_item: int) -> list[int]:
    clicks = np.array(prepared.item_clicks)
    clicks[[0, 1, next_item, *history_T]] = -1
    popular = np.argsort(-clicks, kind="stable")[: CANDIDATES - 1]
    return [next_item, *(int(item) for item in popular if clicks[item] >= 0)]


def tables_of(explanation: Explanation, user: str) -> tuple[Table, Table]:
    """The candidates with their scores, and the history with the attention that each candidate gives it, in percent."""
    attention_CT, history_T = explanation.attention_CT, explanation.history_T
    details = item_features(explanation.prepared, explanation.candidate_C)
    candidates = Table(title=f"user {escape(user)}: candidates", title_justify="left")
    for name in ("", *details.columns, "score", "in history", ""):
        candidates.add_column(escape(name), justify="right" if name in ("score", "in history") else "left")
    for c, item in enumerate(explanation.candidate_C):
        seen = int((history_T == item).sum())
        note = "the user's next event" if item == explanation.next_item else ""
        row = map(escape, details.row(c))
        candidates.add_row(f"c{c + 1}", *row, f"{explanation.score_C[c]:.4f}", str(seen), note)

    details = item_features(explanation.prepared, history_T)
    history = Table(title=f"user {escape(user)}: history, oldest first, and attention in %", title_justify="left")
    for name in ("time", *details.columns):
        history.add_column(escape(name))
    for c in range(len(explanation.candidate_C)):
        history.add_column(f"c{c + 1}", justify="right")
    for t, time in enumerate(explanation.time_T):
        cells = (f"{100 * attention:.1f}" for attention in attention_CT[:, t])
        history.add_row(_time(int(time)), *map(escape, details.row(t)), *cells)
    return candidates, history


def _time(time: int) -> str:
    low, high = PLAUSIBLE_SECONDS
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}" if low < time < high else str(time)


def figure_of(explanation: Explanation) -> Figure:
    """The attention as a heat map, items by name, candidates with the numbers that they have in the table.

    Raises:
        ConfigError: the history is empty.
    """
    if not len(explanation.history_T):
        raise ConfigError("there is no history to draw: it is empty before the user's last event.")
    candidates = []
    names = item_names(explanation.prepared, explanation.candidate_C)
    for c, (name, score) in enumerate(zip(names, explanation.score_C, strict=True)):
        next_one = ", next" if explanation.candidate_C[c] == explanation.next_item else ""
        candidates.append(f"c{c + 1} {figures.shortened(name, _NAME)} ({score:.2f}{next_one})")
    return figures.attention_map(
        explanation.attention_CT, item_names(explanation.prepared, explanation.history_T), candidates
    )


def main() -> None:
    """`dien-explain`"""
    parser = argparse.ArgumentParser(prog="dien-explain", description=__doc__.splitlines()[0].partition(": ")[2])
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--user", required=True, help="id of a user, as in the log")
    parser.add_argument(
        "--item",
        action="append",
        default=[],
        metavar="ITEM",
        help="id of a candidate item, as in the log; may be given several times. Without any: the item of the user's "
        "last event and the most popular items that the history before it lacks",
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the attention as FILE (.png, .svg, .pdf)")
    parser.add_argument("--checkpoint", default="best.ckpt", help="of the run (default: %(default)s)")
    add_override(parser)
    arguments = parser.parse_args()
    with mistakes_in_one_sentence("dien-explain"):
        if arguments.figure and arguments.figure.suffix not in (".png", ".svg", ".pdf"):
            raise ConfigError(f"--figure {arguments.figure}: the file must end in .png, .svg or .pdf.")
        loaded = runs.load_model(arguments.run, checkpoint=arguments.checkpoint, overrides=arguments.override)
        prepared = loaded.data.data
        explanation = explain(
            loaded.network,
            prepared,
            user=row_of(prepared, "user", arguments.user),
            items=[row_of(prepared, "item", item) for item in arguments.item],
            history_length=loaded.data.history_length,
        )
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200)
        figure = figure_of(explanation) if arguments.figure else None
        for table in tables_of(explanation, arguments.user):
            console.print(table)
        if figure is not None:
            figures.save(figure, arguments.figure)
            console.print(f"figure: {arguments.figure}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
