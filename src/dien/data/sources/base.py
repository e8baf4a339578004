"""What every source has in common: its two methods, the check of its log, its fingerprint."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import polars as pl

from dien.data.log import OPTIONAL_COLUMNS, Log
from dien.errors import ConfigError, DataError

PIECE, _READ = 1 << 26, 1 << 20
"""Bytes of a file that are hashed as one, and at a time."""


class Source(Protocol):
    """Something that gives a log of events."""

    def load(self) -> Log:
        """Read the log; anything wrong with the input is a `DataError`."""
        ...

    def fingerprint(self) -> str:
        """Name the log's content: equal for equal options and equal input bytes, wherever the files lie."""
        ...


def validate(log: Log) -> Log:
    """Return `log` if it keeps every promise of `Log`; every source's `load` ends here.

    Raises:
        DataError: a column is missing or has another type, the log is empty or has no click, an id, timestamp
            or label is null, a label is not 0 or 1 (a part not 0, 1 or 2), an id has two rows of features, or a float
            feature has values that are not finite numbers.
    """
    events = log.events
    wanted = ["user_id", "item_id", "timestamp", *(name for name in OPTIONAL_COLUMNS if name in events.columns)]
    if ("part" in wanted) != ("sample" in wanted):
        raise DataError("The events need both columns, part and sample, or neither.")
    if sorted(events.columns) != sorted(wanted):
        raise DataError(f"The events have the columns {', '.join(events.columns)}, not {', '.join(wanted)}.")
    if events.is_empty():
        raise DataError("The log is empty: it has no events.")
    for name in wanted:
        _check_column(events, name, _TYPES[name], "events")
    if "label" in wanted:
        if not events["label"].is_in([0, 1]).all():
            raise DataError("The column label of the events has values other than 0 and 1.")
        if not (events["label"] == 1).any():
            raise DataError("The log has no click: every label is 0.")
    if "part" in wanted and not events["part"].is_in([0, 1, 2]).all():
        raise DataError("The column part of the events has values other than 0, 1 and 2.")
    _check_features(log.items, "item_id", events)
    _check_features(log.users, "user_id", events)
    if log.scores is not None:
        _check_scores(log.scores, events)
    return log


_TYPES: dict[str, list[pl.DataType]] = {
    "user_id": [pl.String(), pl.Int64()],
    "item_id": [pl.String(), pl.Int64()],
    "timestamp": [pl.Int64()],
    "label": [pl.Int8()],
    "part": [pl.Int8()],
    "sample": [pl.Boolean()],
}


def _check_features(table: pl.DataFrame | None, id_name: str, events: pl.DataFrame) -> None:
    if table is None:
        return
    kind = f"{id_name.removesuffix('_id')}s"
    _check_column(table, id_name, [events.schema[id_name]], kind)
    if table[id_name].is_duplicated().any():
        twice = table[id_name].filter(table[id_name].is_duplicated())[0]
        raise DataError(f"{id_name} {twice!r} has more than one row in the table of {kind}.")
    for name, dtype in table.schema.items():
        inner = dtype.inner if isinstance(dtype, pl.List) else dtype
        if not (inner == pl.String or inner.is_integer() or dtype.is_float()):
            raise DataError(
                f"The feature {name} of the {kind} is {dtype}, not a string, integer, list of these or float."
            )
        if dtype.is_float() and (table[name].is_nan() | table[name].is_infinite()).any():
            raise DataError(f"The feature {name} of the {kind} has values that are not finite numbers.")


def _check_scores(scores: pl.DataFrame, events: pl.DataFrame) -> None:
    if "label" not in events.columns or scores.height != events.height:
        raise DataError(f"The log has {scores.height} rows of scores for {events.height} events, or has no labels.")
    for name, dtype in scores.schema.items():
        _check_column(scores, name, [pl.Float32(), pl.Float64()], "scores")
        if not scores[name].is_between(0, 1).all():
            raise DataError(f"The scores {name}, which are {dtype}, are not all probabilities.")


def _check_column(table: pl.DataFrame, name: str, allowed: Sequence[pl.DataType], kind: str) -> None:
    if name not in table.columns:
        raise DataError(f"The table of {kind} has no column {name}: it has {', '.join(table.columns)}.")
    if table.schema[name] not in allowed:
        names = " or ".join(str(dtype) for dtype in allowed)
        raise DataError(f"The column {name} of the {kind} is {table.schema[name]}, not {names}.")
    if nulls := table[name].null_count():
        raise DataError(f"The column {name} of the {kind} has {nulls} empty values.")


def fingerprint(source: object, options: Mapping[str, object], contents: Iterable[Path | bytes]) -> str:
    """Hash a source's class name, the options that change its log, and its input files, in order."""
    digests = [content_hash(content) for content in contents]
    text = json.dumps([type(source).__name__, options, digests], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(content: Path | bytes) -> str:
    """SHA-256 of some bytes or of a file's; where they are more than a piece, of the digests of the pieces.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with ThreadPoolExecutor() as pool:  # one stream of SHA-256 would keep one core busy
            digests = list(pool.map(partial(_piece_hash, content), range(0, max(size, 1), PIECE)))
    except OSError as error:
        raise DataError(f"{content!s}: cannot be read ({error.strerror}).") from error
    return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


def _piece_hash(content: Path | bytes, start: int) -> bytes:
    digest = hashlib.sha256()
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        file.seek(start)
        for _ in range(PIECE // _READ):
            digest.update(file.read(_READ))
    return digest.digest()


def chosen(key: str, value: Iterable[str], allowed: Iterable[str]) -> tuple[str, ...]:
    """Return `value` as a tuple of names.

    Raises:
        ConfigError: it is a bare string, names something twice, or names something that is not in `allowed`.
    """
    names, allowed = tuple(value), tuple(allowed)
    if isinstance(value, str) or len(set(names)) < len(names) or not set(names) <= set(allowed):
        raise ConfigError(f"{key}={value!r} is not a list of different names out of {', '.join(allowed)}.")
    return names
