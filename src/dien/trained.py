"""A trained network and what belongs to it, from a run folder or from a folder of weights that left one or moved in."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig
from torch import nn

from dien.errors import DataError, DienError
from dien.export.archive import MANIFEST, read_ids
from dien.export.weights import read_weights
from dien.raw_ids import FIRST_ID, IdRows
from dien.runs.model import LoadedRun, load_model
from dien.tables import Table, untrained_rows

BEST = "best.ckpt"


class Trained(NamedTuple):
    """What ranking, serving and exporting need of a network."""

    network: nn.Module
    """In evaluation mode, on the CPU."""
    model: DictConfig
    """The node `model` of its configuration."""
    tables: tuple[Table, Table]
    """Features of items and of users."""
    items: IdRows
    users: IdRows
    history_length: int
    run: LoadedRun | None = None
    """None if it does not come from a run folder."""


def is_weights(place: str | Path) -> bool:
    """Whether a folder is one that `dien-export` or `dien-convert` wrote, and not a run folder."""
    return (Path(place) / MANIFEST).is_file()


def load_trained(place: str | Path, *, checkpoint: str = BEST, overrides: Sequence[str] = ()) -> Trained:
    """The network of a run folder, or of a folder of `dien-export --format weights` or `dien-convert`.

    Args:
        place: the folder.
        checkpoint: see `runs.load_model`; a folder of weights has one set of them.
        overrides: see `runs.load_model`; a folder of weights has no configuration to change.

    Raises:
        DienError: the folder is none of these, it is damaged, or the data of the run cannot be found.
    """
    if not is_weights(place):
        run = load_model(place, checkpoint=checkpoint, overrides=overrides)
        data, tables = run.data.data, run.data.tables()
        items, users = (
            IdRows(ids.to_list(), untrained=untrained_rows(table))
            for ids, table in zip((data.item_ids(), data.user_ids()), tables, strict=True)
        )
        return Trained(run.network, run.config.model, tables, items, users, run.data.history_length, run)
    if checkpoint != BEST or overrides:
        raise DienError(f"{place} is a folder of weights: it has no other checkpoint, and nothing to override.")
    weights, (items, users) = read_weights(place), read_ids(Path(place))
    for kind, rows, table in zip(("item", "user"), (items, users), weights.tables, strict=True):
        if len(rows.ids) + FIRST_ID != len(table[0].values):
            raise DataError(
                f"{place} does not fit together: {len(rows.ids)} {kind} ids for {len(table[0].values)} rows."
            )
    return Trained(weights.network, weights.model, weights.tables, items, users, weights.history_length)
