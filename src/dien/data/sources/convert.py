"""From the columns of a user's file to those of a log: ids, timestamps, labels, features.

A function takes a frame of `read_columns` and the name of a column; its errors name file, line and value.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from dien.data.sources.reading import FILE, place
from dien.data.vocabulary import is_whole
from dien.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

TimeUnit = Literal["s", "ms", "us"]
Kind = Literal["categorical", "float"]
MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Length of each time unit."""

_ISO_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%+", "%Y-%m-%d", "%Y-%m-%dT%H:%M")
_FIT_INT64 = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)


def events_of(
    rows: pl.DataFrame,
    *,
    origin: Path,
    time_format: str | None,
    time_unit: TimeUnit,
    threshold: float | None,
) -> pl.DataFrame:
    """The events of a log from the columns `user_id`, `item_id`, `timestamp` and, if there, `label`.

    Raises:
        DataError: a value is empty or malformed, or there is no row, which is blamed on the file `origin`.
    """
    if rows.is_empty():
        raise DataError(f"{origin}: the log is empty: there are no events in it.")
    columns = {
        "user_id": ids(rows, "user_id"),
        "item_id": ids(rows, "item_id"),
        "timestamp": timestamps(rows, "timestamp", time_format=time_format, time_unit=time_unit),
    }
    if "label" in rows.columns:
        columns["label"] = labels(rows, "label", threshold=threshold)
    return pl.DataFrame(columns)


def ids(rows: pl.DataFrame, name: str) -> pl.Series:
    """Ids as strings or Int64; whole floats, which pandas makes of integers, are integers again.

    Raises:
        DataError: an id is empty, or the column is of another type.
    """
    raw = rows[name]
    _reject(rows, name, raw.is_null(), "is empty")
    if raw.dtype.is_float():
        _reject(rows, name, ~is_whole(raw), "is not a whole number")
    elif not (raw.dtype.is_integer() or raw.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise DataError(f"{rows[FILE][0]}: {name} is {raw.dtype}, but ids are strings or integers.")
    return _whole_or_text(raw)


def timestamps(rows: pl.DataFrame, name: str, *, time_format: str | None, time_unit: TimeUnit) -> pl.Series:
    """Timestamps as Int64.

    Integers stay as they are, whatever their unit. Everything else is turned into `time_unit`s since 1970
    (UTC where no zone is given): floats, which are seconds; dates and datetimes; ISO 8601 strings; and
    strings or integers written in `time_format` (the directives of `strptime`).

    Raises:
        DataError: a timestamp is empty or cannot be read in the way that most of its column can.
        ConfigError: `time_format` is malformed.
    """
    raw, dtype = rows[name], rows.schema[name]
    _reject(rows, name, raw.is_null(), "is empty")
    if time_format is not None and not dtype.is_temporal():
        micros = _from_datetime(raw.cast(pl.String), time_format)
        problem = f"cannot be read with data.source.time_format={time_format!r}"
    elif dtype.is_integer() or (dtype == pl.String and raw.cast(pl.Int64, strict=False).null_count() == 0):
        whole = raw.cast(pl.Int64, strict=False)
        _reject(rows, name, whole.is_null(), "is too large")
        return whole
    elif dtype == pl.String:
        readings = _from_seconds(raw.cast(pl.Float64, strict=False)), _from_iso(raw)
        micros = min(readings, key=pl.Series.null_count)
        problem = "is neither a number of seconds nor an ISO 8601 date; set data.source.time_format"
    elif dtype.is_float() or dtype.is_decimal():
        micros, problem = _from_seconds(raw.cast(pl.Float64)), "is not a number of seconds since 1970"
    elif dtype in (pl.Date, pl.Datetime):
        micros, problem = raw.dt.epoch("us"), "is not a time"
    else:
        raise DataError(f"{rows[FILE][0]}: {name} is {dtype}, but timestamps are numbers, strings or datetimes.")
    _reject(rows, name, micros.is_null(), problem)
    length = MICROSECONDS[time_unit]
    if (micros % length != 0).any():
        logger.warning("%s has fractions of data.source.time_unit=%s, which are cut off", name, time_unit)
    return micros // length


def labels(rows: pl.DataFrame, name: str, *, threshold: float | None) -> pl.Series:
    """Labels as Int8, 1 for a click: 0 and 1 as they are, or everything from `threshold` on is a click.

    Raises:
        DataError: a label is empty or not a number, or not 0 or 1 without a threshold.
    """
    if not (rows.schema[name].is_numeric() or rows.schema[name] in (pl.Boolean, pl.String)):
        raise DataError(f"{rows[FILE][0]}: {name} is {rows.schema[name]}, but labels are numbers.")
    number = rows[name].cast(pl.Float64, strict=False).fill_nan(None)
    if threshold is not None:
        _reject(rows, name, number.is_null(), "is not a number")
        return (number >= threshold).cast(pl.Int8)
    bad = number.is_null() | ~number.is_in([0.0, 1.0]).fill_null(False)
    _reject(rows, name, bad, "is not 0 or 1; for ratings set data.source.threshold")
    return number.cast(pl.Int8)


def feature(
    rows: pl.DataFrame,
    name: str,
    *,
    kind: Kind | None,
    split: str | None,
    from_text: bool,
) -> pl.Series:
    """A feature column in one of the types that `Log` allows.

    Args:
        rows, name: the column.
        kind: what it must become; None for what its type says. In a text file a column of numbers which are
            not all whole is a float, any other column is categorical.
        split: what separates the values of a multi-valued feature inside a string.
        from_text: the file is a text file, whose columns are all strings.

    Raises:
        DataError: it cannot be that, or the column is of a type that no feature has.
    """
    raw, dtype = rows[name], rows.schema[name]
    if isinstance(dtype, pl.List) or split is not None:
        return _many(rows, name, split)
    if not (dtype.is_numeric() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)):
        raise DataError(f"{rows[FILE][0]}: {name} is {dtype}, which no feature can be; leave it out.")
    if kind is None and from_text and dtype == pl.String:
        number = raw.cast(pl.Float64, strict=False)
        whole = raw.cast(pl.Int64, strict=False)
        kind = "float" if number.null_count() == raw.null_count() < whole.null_count() else "categorical"
    if kind == "float" or (kind is None and (dtype.is_float() or dtype.is_decimal())):
        number = raw.cast(pl.Float64, strict=False)
        _reject(rows, name, raw.is_not_null() & (number.is_null() | number.is_infinite()), "is not a number")
        return number.fill_nan(None)
    return _whole_or_text(raw.fill_nan(None) if dtype.is_float() else raw)


def one_row_per_id(rows: pl.DataFrame, id_name: str) -> pl.DataFrame:
    """Merge the rows of each id, in order of first appearance; what one row lacks is taken from another.

    Raises:
        DataError: an id has two different values of a feature.
    """
    origin = ", ".join(rows[FILE].unique(maintain_order=True)) if FILE in rows.columns else "The table"
    rows = rows.drop(FILE, strict=False).unique(maintain_order=True)
    if not rows[id_name].is_duplicated().any():
        return rows
    groups = rows.group_by(id_name, maintain_order=True)
    different = groups.agg(pl.exclude(id_name).drop_nulls().n_unique())
    for name in rows.columns:
        if name != id_name and (conflict := different.filter(pl.col(name) > 1)).height:
            which = conflict[id_name][0]
            first, *others = rows.filter(pl.col(id_name) == which)[name].drop_nulls().to_list()
            second = next(value for value in others if value != first)
            raise DataError(
                f"{origin}: {id_name} {which!r} has two values of the feature {name}, {first!r} and {second!r}; "
                "give it one."
            )
    return groups.agg(pl.exclude(id_name).drop_nulls().first())


def same_id_type(*tables: pl.DataFrame, id_name: str) -> list[pl.DataFrame]:
    """Make an id column a string in all tables unless it is an integer in all, so that they can be joined."""
    if len({table.schema[id_name] for table in tables}) == 1:
        return list(tables)
    return [table.with_columns(pl.col(id_name).cast(pl.String)) for table in tables]


def _many(rows: pl.DataFrame, name: str, split: str | None) -> pl.Series:
    raw = rows[name]
    if not isinstance(raw.dtype, pl.List):
        if raw.dtype != pl.String and not raw.dtype.is_integer():
            raise DataError(
                f"{rows[FILE][0]}: the feature {name} is {raw.dtype}, which data.source.multi cannot split."
            )
        words = raw.cast(pl.String).str.split(split or " ").list.eval(pl.element().str.strip_chars())
        return words.list.eval(pl.element().filter(pl.element() != ""))
    if raw.dtype.inner.is_integer():
        return raw.list.drop_nulls().cast(pl.List(pl.Int64))
    if raw.dtype.inner in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return raw.list.drop_nulls().cast(pl.List(pl.String))
    raise DataError(f"{rows[FILE][0]}: the feature {name} is {raw.dtype}, but lists hold strings or integers.")


def _whole_or_text(raw: pl.Series) -> pl.Series:
    if raw.dtype.is_float() and is_whole(raw).all():
        return raw.cast(pl.Int64)
    if raw.dtype in _FIT_INT64:
        return raw.cast(pl.Int64)
    return raw.cast(pl.String)


def _from_seconds(seconds: pl.Series) -> pl.Series:
    return (seconds * 1e6).round().cast(pl.Int64, strict=False)


def _from_iso(text: pl.Series) -> pl.Series:
    text = text.str.replace(" ", "T", literal=True)
    return pl.select(pl.coalesce(_from_datetime(text, time_format) for time_format in _ISO_FORMATS)).to_series()


def _from_datetime(text: pl.Series, time_format: str) -> pl.Series:
    try:
        return text.str.to_datetime(time_format, time_unit="us", strict=False).dt.epoch("us")
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"data.source.time_format={time_format!r} is not a time format ({error}).") from error


def _reject(rows: pl.DataFrame, name: str, bad: pl.Series, problem: str) -> None:
    if (position := bad.arg_max()) is not None and bad[position]:
        value = rows[name][position]
        shown = "" if value is None else f" {value!r}"
        raise DataError(f"{place(rows, position)}: {name}{shown} {problem}.")


def check_separator(key: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a single character of one byte."""
    if not (isinstance(value, str) and len(value) == 1 and value.isascii()):
        raise ConfigError(f"{key}={value!r} is not one ASCII character.")


def check_number(key: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a finite number or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{key}={value!r} is not a number.")


def names_of(key: str, value: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return a list of names as a tuple, None as it is.

    Raises:
        ConfigError: it is not a list of different strings.
    """
    if value is None:
        return None
    if isinstance(value, str) or not all(isinstance(name, str) for name in value) or len(set(value)) < len(value):
        raise ConfigError(f"{key}={value!r} is not a list of different names.")
    return tuple(value)
