"""RecBole's atomic files, as RecBole and hopwise users have them.

`.inter`, `.user` and `.item` are tab-separated text with a header of `name:type`; the types are `token`,
`token_seq`, `float` and `float_seq` (https://recbole.io/docs/user_guide/data/atomic_files.html).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
)
from dien.data.sources.reading import FILE, Dialect, column_names, place, read_columns
from dien.errors import DataError, check_choice

TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True, kw_only=True)
class RecBoleAtomic:
    """A dataset in atomic files: `NAME.inter`, and `NAME.item` and `NAME.user` beside it if there are any.

    Tokens stay strings. A `float_seq` with as many values in all rows becomes float features NAME_0,
    NAME_1...
    """

    path: str
    """The folder, or its `.inter` file."""
    user_field: str = "user_id"
    item_field: str = "item_id"
    time_field: str = "timestamp"
    label_field: str | None = None
    """The field of clicks, or of ratings with a `threshold`; None if every event is a click."""
    threshold: float | None = None
    """If given, events whose `label_field` is at least this are clicks; otherwise labels are 0 and 1."""
    item_features: Sequence[str] | None = None
    """Fields of `.item` to read; None for all."""
    user_features: Sequence[str] | None = None
    """Fields of `.user` to read; None for all."""
    separator: str = "\t"
    """Between fields (RecBole's `field_separator`)."""
    seq_separator: str = " "
    """Between the values of a sequence (RecBole's `seq_separator`)."""
    time_unit: TimeUnit = "s"
    """`s`, `ms` or `us`: what times with a fraction of a second are turned into."""

    def __post_init__(self) -> None:
        check_choice("data.source.time_unit", self.time_unit, tuple(MICROSECONDS))
        check_separator("data.source.separator", self.separator)
        check_number("data.source.threshold", self.threshold)
        for name in ("item_features", "user_features"):
            object.__setattr__(self, name, names_of(f"data.source.{name}", getattr(self, name)))

    def load(self) -> Log:
        """Read the files.

        Raises:
            DataError: a file is missing, damaged or without a field that is asked for; a header is not
                `name:type`; an id, timestamp, label or float is empty or malformed; an id has two values of a
                feature.
        """
        inter = self._inter()
        fields = {"user_id": self.user_field, "item_id": self.item_field, "timestamp": self.time_field}
        if self.label_field is not None:
            fields["label"] = self.label_field
        rows = self._read(inter, self._header(inter), fields)
        events = events_of(rows, origin=inter, time_format=None, time_unit=self.time_unit, threshold=self.threshold)
        items = self._features(inter.with_suffix(".item"), "item_id", self.item_field, self.item_features)
        users = self._features(inter.with_suffix(".user"), "user_id", self.user_field, self.user_features)
        return validate(Log(events, items, users))

    def fingerprint(self) -> str:
        """Hash the options and the content of the files."""
        inter = self._inter()
        beside = inter.with_suffix(".item"), inter.with_suffix(".user")
        files = [inter, *(path for path in beside if path.is_file())]
        options = {name: value for name, value in vars(self).items() if name != "path"}
        return fingerprint(self, options | {"files": [path.suffix for path in files]}, files)

    @property
    def _dialect(self) -> Dialect:
        return Dialect(separator=self.separator, quote=None, any_extension=True)

    def _inter(self) -> Path:
        path = Path(self.path).expanduser()
        if not path.is_dir():
            return path if path.suffix == ".inter" else path.with_name(f"{path.name}.inter")
        found = sorted(path.glob("*.inter"))
        named = path / f"{path.name}.inter"
        if named in found or len(found) == 1:
            return named if named in found else found[0]
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{path}: one .inter file is needed in this folder, there are: {names}.")

    def _header(self, path: Path) -> dict[str, str]:
        """Types by field name."""
        header = {}
        for entry in column_names(path, self._dialect):
            name, _, kind = entry.rpartition(":")
            if not name or kind not in TYPES:
                raise DataError(
                    f"{path}, line 1: {entry!r} is not a name and one of the types {', '.join(TYPES)}, "
                    "as in user_id:token; is data.source.separator right?"
                )
            header[name] = kind
        return header

    def _read(self, path: Path, header: dict[str, str], fields: dict[str, str]) -> pl.DataFrame:
        for field in fields.values():
            if field not in header:
                raise DataError(f"{path}, line 1: there is no field {field!r}, only {', '.join(header)}.")
        columns = {name: f"{field}:{header[field]}" for name, field in fields.items()}
        return read_columns([path], columns, key="data.source", dialect=self._dialect)

    def _features(self, path: Path, id_name: str, id_field: str, chosen: Sequence[str] | None) -> pl.DataFrame | None:
        if not path.is_file() and not chosen:
            return None
        header = self._header(path)
        names = [name for name in header if name != id_field] if chosen is None else chosen
        rows = self._read(path, header, {id_name: id_field} | {name: name for name in names})
        table = {FILE: rows[FILE], id_name: ids(rows, id_name)}
        for name in names:
            kind = header[name]
            if kind == "float_seq":
                table |= self._spread(rows, name)
            else:
                many = self.seq_separator if kind == "token_seq" else None
                forced: Kind = "float" if kind == "float" else "categorical"
                table[name] = feature(rows, name, kind=forced, split=many, from_text=True)
        return one_row_per_id(pl.DataFrame(table), id_name)

    def _spread(self, rows: pl.DataFrame, name: str) -> dict[str, pl.Series]:
        words = rows[name].str.split(self.seq_separator)
        lengths = words.list.len().fill_null(0).to_list()
        width = max(lengths, default=0)
        for position, length in enumerate(lengths):
            if length not in (0, width):
                raise DataError(
                    f"{place(rows, position)}: {name} has {length} values and another line {width}; "
                    "leave out a float_seq of changing length."
                )
        parts = {f"{name}_{index}": words.list.get(index) for index in range(width)}
        located = rows.with_columns(**parts)
        return {part: feature(located, part, kind="float", split=None, from_text=True) for part in parts}
