"""The synthetic world as a source: see `docs/synthetic.md`."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from dien.cache import cache_root
from dien.data.log import Log
from dien.data.sources.base import fingerprint, validate
from dien.data.synthetic import World, write_events
from dien.errors import DataError, check_whole

VERSION = 1
"""Of the generator: raised when the same parameters give other events."""


@dataclass(frozen=True, kw_only=True)
class Synthetic(World):
    """Users whose interests drift; every impression's click probability is known.

    The events are written to disk in blocks of users, and mapped into memory from there.
    """

    keep: str | None = None
    """Where the events and their probabilities are kept, as an Arrow file; None for nowhere."""
    block: int | None = None
    """Users that are made at a time; None for what needs some 120 MB. It does not change the events."""
    cache: str | None = None
    """The folder in which the file lies while it is not kept; None for `$DIEN_CACHE` or `~/.cache/dien`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block is not None:
            check_whole("data.source.block", self.block, 1)

    def load(self) -> Log:
        """Make the events.

        Raises:
            DataError: the file cannot be written.
        """
        place = Path(self.keep).expanduser() if self.keep else None
        folder = place.parent if place else cache_root(self.cache)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".synthetic.") as temporary:
                path = Path(temporary, "events.arrow")
                write_events(self, path, block=self.block)
                events = _mapped(path)
                if place:
                    path.replace(place)
        except OSError as error:
            raise DataError(
                f"The synthetic events cannot be written to {place or folder} ({error.strerror})."
            ) from error
        items = pl.DataFrame(
            {
                "item_id": self.item_CQ.reshape(-1),
                "category": np.repeat(self.label_C, self.items_per_category),
            }
        )
        return validate(
            Log(
                events.select("user_id", "item_id", "timestamp", "label"),
                items.sort("item_id"),
                scores=events.select("oracle", "ceiling"),
            )
        )

    def fingerprint(self) -> str:
        """Hash the parameters and the generator's version."""
        options = {name: value for name, value in vars(self).items() if name in World.__dataclass_fields__}
        return fingerprint(self, {"version": VERSION, **options}, [])


def _mapped(path: Path) -> pl.DataFrame:
    """The columns of an Arrow file, mapped without a copy; the mapping outlives the file's name.

    Each has a mapping of its own, so that the memory of its pages ends with the column and not with the last of them.
    """

    def table() -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    names = table().column_names
    return pl.DataFrame({name: pl.from_arrow(table().column(name), rechunk=False) for name in names})
