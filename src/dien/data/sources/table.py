"""The user's own tables: Parquet, CSV or JSON lines, with a mapping of their columns."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from dien.data.log import Log
from dien.data.sources.base import fingerprint, validate
from dien.data.sources.convert import (
    MICROSECONDS,
    Kind,
    TimeUnit,
    check_number,
    check_separator,
    events_of,
    feature,
    ids,
    names_of,
    one_row_per_id,
    same_id_type,
)
from dien.data.sources.reading import CSV, FILE, JSON_LINES, PARQUET, Dialect, column_names, read_columns
from dien.errors import ConfigError, check_choice


@dataclass(frozen=True, kw_only=True)
class Table:
    """A log in Parquet (`.parquet`), CSV (`.csv`, `.tsv`) or JSON lines (`.jsonl`, `.ndjson`), both also
    `.gz`.

    In CSV files ids and categories stay strings exactly as written. Only features may have empty fields.
    """

    events: str | Sequence[str]
    """The file of events, or several that continue each other; `*` and `?` in a name stand for all that match."""
    columns: Mapping[str, str | Literal[False] | None] = field(default_factory=dict)
    """Names of the columns of `events`: `{user_id: reviewerID, item_id: asin, timestamp: unixReviewTime}`. A name
    that is left out, or null, is that of the column itself. `label` is read if there is such a column, unless
    `label: false` makes every event a click."""
    items: str | Sequence[str] | None = None
    """The file with a row for each item, or several."""
    item_columns: Mapping[str, str] = field(default_factory=dict)
    """Names of the columns of `items`, as in `columns`."""
    item_features: Sequence[str] | None = None
    """Features of items: columns of `items` if there, else of `events`; None for all columns of `items`."""
    users: str | Sequence[str] | None = None
    """The file with a row for each user, or several."""
    user_columns: Mapping[str, str] = field(default_factory=dict)
    """Names of the columns of `users`, as in `columns`."""
    user_features: Sequence[str] | None = None
    """Features of users, as `item_features`."""
    multi: Mapping[str, str] = field(default_factory=dict)
    """Features with several values in a string, and what separates them: `{genres: "|"}`. Lists need none."""
    categorical: Sequence[str] = ()
    """Features that are categorical though they look like floats."""
    numerical: Sequence[str] = ()
    """Features that are floats though they look categorical, such as counts."""
    separator: str | None = None
    """Of the fields of CSV files; None for a comma, or a tab in `.tsv` files."""
    time_format: str | None = None
    """How timestamps are written, in `strptime` directives. Without it they are integers, which stay as they
    are, or float seconds, ISO 8601 strings or datetimes, which become `time_unit`s since 1970."""
    time_unit: TimeUnit = "s"
    """`s`, `ms` or `us`."""
    threshold: float | None = None
    """If given, events whose label is at least this are clicks; otherwise labels are 0 and 1."""

    def __post_init__(self) -> None:
        check_choice("data.source.time_unit", self.time_unit, tuple(MICROSECONDS))
        check_number("data.source.threshold", self.threshold)
        if self.separator is not None:
            check_separator("data.source.separator", self.separator)
        if not self.events:
            raise ConfigError("data.source.events is empty: name at least one file.")
        for name in ("columns", "item_columns", "user_columns", "multi"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError(f"data.source.{name}={getattr(self, name)!r} is not a mapping of names.")
        for name in ("item_features", "user_features"):
            object.__setattr__(self, name, names_of(f"data.source.{name}", getattr(self, name)))
        for name in ("categorical", "numerical"):
            object.__setattr__(self, name, names_of(f"data.source.{name}", getattr(self, name)) or ())
        if both := set(self.categorical) & set(self.numerical):
            raise ConfigError(f"data.source.categorical and data.source.numerical both name {', '.join(both)}.")

    def load(self) -> Log:
        """Read the tables.

        Raises:
            DataError: a file is missing, damaged, of an unknown extension or without a column that is asked
                for; an id, timestamp or label is empty or malformed; an id has two values of a feature.
            ConfigError: an option names a feature or column that nothing reads.
        """
        paths, dialect = _files(self.events), Dialect(separator=self.separator)
        item = _Side.of("item", self.items, self.item_columns, self.item_features, dialect)
        user = _Side.of("user", self.users, self.user_columns, self.user_features, dialect)
        wanted = ["user_id", "item_id", "timestamp", *item.in_events, *user.in_events]
        label = self.columns.get("label")
        if label is not False and (label or "label" in column_names(paths[0], dialect)):
            wanted.append("label")
        self._check_names(wanted, item, user)

        columns = {name: str(self.columns.get(name) or name) for name in wanted}
        rows = read_columns(paths, columns, key="data.source.columns", dialect=dialect)
        events = events_of(
            rows, origin=paths[0], time_format=self.time_format, time_unit=self.time_unit, threshold=self.threshold
        )
        events, items = self._with_features(events, rows, item, dialect)
        events, users = self._with_features(events, rows, user, dialect)
        return validate(Log(events, items, users))

    def fingerprint(self) -> str:
        """Hash the options and the content of the files."""
        paths = {"events": _files(self.events), "items": _files(self.items), "users": _files(self.users)}
        options = {name: value for name, value in vars(self).items() if name not in paths}
        options["files"] = {name: [_extension(path) for path in files] for name, files in paths.items()}
        return fingerprint(self, options, itertools.chain.from_iterable(paths.values()))

    def _check_names(self, wanted: Sequence[str], item: "_Side", user: "_Side") -> None:
        features = {*item.features, *user.features}
        readers = {
            "columns": {*wanted, "label"},
            "item_columns": {"item_id", *item.in_file},
            "user_columns": {"user_id", *user.in_file},
            "multi": features,
            "categorical": features,
            "numerical": features,
        }
        for key, names in readers.items():
            if unknown := [name for name in getattr(self, key) if name not in names]:
                allowed = ", ".join(sorted(names)) or "none"
                raise ConfigError(f"data.source.{key} names {unknown[0]!r}, which is not one of: {allowed}.")
        if self.threshold is not None and "label" not in wanted:
            raise ConfigError("data.source.threshold needs a label: name its column in data.source.columns.label.")

    def _with_features(
        self, events: pl.DataFrame, rows: pl.DataFrame, side: "_Side", dialect: Dialect
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """The events, with string ids if those of the features are strings, and the table of features."""
        tables = []
        if side.paths:
            columns = {name: side.columns.get(name, name) for name in (side.id_name, *side.in_file)}
            key = f"data.source.{side.id_name.removesuffix('_id')}_columns"
            mine = read_columns(side.paths, columns, key=key, dialect=dialect)
            tables.append(self._features(mine, side.id_name, side.in_file, text=dialect.covers(side.paths[0])))
        if side.in_events:
            text = dialect.covers(_files(self.events)[0])
            tables.append(self._features(rows, side.id_name, side.in_events, text=text))
        events, *tables = same_id_type(events, *tables, id_name=side.id_name)
        if len(tables) < 2:
            return events, next(iter(tables), None)
        of_file, of_events = tables
        table = of_file.join(of_events, on=side.id_name, how="full", coalesce=True, maintain_order="left_right")
        return events, table

    def _features(self, rows: pl.DataFrame, id_name: str, names: Sequence[str], *, text: bool) -> pl.DataFrame:
        table = {FILE: rows[FILE], id_name: ids(rows, id_name)}
        kinds: dict[str, Kind] = dict.fromkeys(self.categorical, "categorical")
        kinds |= dict.fromkeys(self.numerical, "float")
        for name in names:
            split = self.multi.get(name)
            table[name] = feature(rows, name, kind=kinds.get(name), split=split, from_text=text)
        return one_row_per_id(pl.DataFrame(table), id_name)


@dataclass(frozen=True)
class _Side:
    """The features of items or of users, and where each is read from."""

    id_name: str
    paths: list[Path]
    columns: Mapping[str, str]
    in_file: tuple[str, ...]
    in_events: tuple[str, ...]

    @property
    def features(self) -> tuple[str, ...]:
        return self.in_file + self.in_events

    @classmethod
    def of(
        cls,
        kind: Literal["item", "user"],
        files: str | Sequence[str] | None,
        columns: Mapping[str, str],
        features: Sequence[str] | None,
        dialect: Dialect,
    ) -> "_Side":
        """Look into the first file for the features asked for; None asks for all it has."""
        id_name = f"{kind}_id"
        paths = _files(files)
        there = column_names(paths[0], dialect) if paths else []
        if features is None:
            names = {column: name for name, column in {id_name: id_name, **columns}.items()}
            features = [name for column in there if (name := names.get(column, column)) != id_name]
        in_file = tuple(name for name in features if columns.get(name, name) in there)
        return cls(id_name, paths, columns, in_file, tuple(name for name in features if name not in in_file))


def _files(given: str | Sequence[str] | None) -> list[Path]:
    """Paths; one with `*`, `?` or `[` in its last part stands for all files that match, ordered by name."""
    paths = []
    for text in [] if given is None else [given] if isinstance(given, str) else given:
        path = Path(text).expanduser()
        paths += [path] if path.exists() else sorted(path.parent.glob(path.name)) or [path]
    return paths


def _extension(path: Path) -> str:
    return next(end for end in (*PARQUET, *CSV, *JSON_LINES, path.suffix) if path.name.lower().endswith(end))
