"""Reading tables, so that whatever is wrong with a file is one `DataError` that says where.

A frame that `read_columns` returns knows where its rows came from: its columns `FILE` and `ROW` hold the path
and the line (CSV, JSON lines) or row (Parquet), and `place` turns them into words.
"""

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl

from dien.errors import DataError, check_whole

FILE = "__file__"
ROW = "__row__"

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")

LIMITS = {"DIEN_MAX_RATIO": 100, "DIEN_MAX_LINE_MB": 64}
"""Environment variables, and what they are if not set: how many times as large a compressed text table may become, and
its longest line. Real logs become 3 to 20 times as large."""
FREE = 256 << 20
"""Bytes that any compressed text table may become."""

_GZIP = b"\x1f\x8b"
_OTHERS = (b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""How files of zstd and zlib begin, which polars would decompress as well, whatever they are called."""


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn every error that reading the file `path` can raise into a `DataError` of one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{path}: the file is empty.") from error
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
        EOFError,
        UnicodeDecodeError,
        RuntimeError,  # zipfile's answer to a member that seems encrypted or oddly compressed
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).partition("\n")[0].rstrip(".:") or type(error).__name__
        if "utf-8" in reason.lower():
            reason = "it is not UTF-8 text; convert it, for example with iconv"
        elif "found more fields" in reason:
            reason = "a line has more fields than the header; is the separator right?"
        raise DataError(f"{path}: cannot be read, it is damaged or of another format ({reason}).") from error


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a whole Parquet file."""
    with readable(path):
        return pl.read_parquet(path, glob=False)


def check_compressed(path: Path) -> None:
    """Decompress a text table in a little memory, once, before polars does so in as much as it takes.

    Raises:
        DataError: it is damaged, becomes too large, has too long a line (see `LIMITS`), or is compressed otherwise than
            with gzip.
    """
    limits = []
    for name, default in LIMITS.items():
        value = os.environ.get(name, str(default))
        check_whole(name, int(value) if value.isdecimal() else value, 1)
        limits.append(int(value))
    with readable(path):
        stat = path.stat()
        _check_compressed(path, stat.st_size, stat.st_mtime_ns, *limits)


@lru_cache(maxsize=256)
def _check_compressed(path: Path, size: int, changed: int, max_ratio: int, max_line_mb: int) -> None:
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith(_OTHERS):
            raise DataError(f"{path}: the file is compressed, but not with gzip: decompress it first.")
        if not start.startswith(_GZIP):
            return
        file.seek(0)
        total = line = 0
        with gzip.GzipFile(fileobj=file) as text:
            while chunk := text.read(1 << 20):
                total += len(chunk)
                if total > max(FREE, max_ratio * size):
                    raise DataError(
                        f"{path}: decompressed it becomes more than {max_ratio} times its {size} bytes: "
                        "if that is right, set DIEN_MAX_RATIO higher."
                    )
                newline = chunk.find(b"\n")
                line += len(chunk) if newline < 0 else newline
                if line > max_line_mb << 20:
                    raise DataError(
                        f"{path}: a line has more than {max_line_mb} MB: if that is right, set DIEN_MAX_LINE_MB higher."
                    )
                if newline >= 0:
                    line = len(chunk) - chunk.rfind(b"\n") - 1


@dataclass(frozen=True)
class Dialect:
    """How a text table is written."""

    separator: str | None = None
    """Between fields; None for a tab in `.tsv` files and a comma in others."""
    quote: str | None = '"'
    """Around fields that contain the separator; None if nothing is quoted."""
    any_extension: bool = False
    """Whether a file is such a text table whatever its name."""

    def covers(self, path: Path) -> bool:
        """Whether the file `path` is written like this, rather than Parquet or JSON lines."""
        return self.any_extension or path.name.lower().endswith(CSV)


def scan(path: Path, dialect: Dialect) -> pl.LazyFrame:
    """Open a table for reading in the format that its extension says; columns of CSV files are strings.

    Raises:
        DataError: no such file, an unknown extension, or what `check_compressed` refuses.
    """
    name = path.name.lower()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    if dialect.covers(path) or name.endswith(JSON_LINES):
        check_compressed(path)
    if dialect.covers(path):
        separator = dialect.separator or ("\t" if ".tsv" in name else ",")
        return pl.scan_csv(path, separator=separator, quote_char=dialect.quote, infer_schema=False, glob=False)
    if name.endswith(PARQUET):
        return pl.scan_parquet(path, glob=False)
    if name.endswith(JSON_LINES):
        return pl.scan_ndjson(path, infer_schema_length=None)
    raise DataError(f"{path}: the extension is not one of {', '.join(PARQUET + CSV + JSON_LINES)}.")


def column_names(path: Path, dialect: Dialect) -> list[str]:
    """The names of the columns of a table."""
    with readable(path):
        return scan(path, dialect).collect_schema().names()


def read_columns(paths: Sequence[Path], columns: Mapping[str, str], *, key: str, dialect: Dialect) -> pl.DataFrame:
    """Read columns of one or more tables, one below the other, without the rows where all of them are empty.

    Args:
        paths: the files.
        columns: maps the names wanted to the names in the files.
        key: the configuration key that maps them, for the error.
        dialect: of those that are text tables.

    Returns:
        The columns wanted, empty strings as nulls, and `FILE` and `ROW`.

    Raises:
        DataError: a file is missing or damaged, has no such column, or the files disagree in a column's type.
    """
    frames = []
    for path in paths:
        there = column_names(path, dialect)
        for name, column in columns.items():
            if column not in there:
                raise DataError(
                    f"{path}: there is no column {column!r} for {name}, only {', '.join(there)}; "
                    f"say in {key} which one it is."
                )
        with readable(path):
            frames.append(
                scan(path, dialect)
                .with_row_index(ROW, offset=2 if dialect.covers(path) else 1)
                .select(ROW, **{name: pl.col(column) for name, column in columns.items()})
                .filter(~pl.all_horizontal(pl.exclude(ROW).is_null()))
                .with_columns(pl.lit(str(path)).alias(FILE))
                .collect(engine="streaming")
            )
    try:
        rows = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        names = ", ".join(map(str, paths))
        reason = str(error).partition("\n")[0]
        raise DataError(f"{names}: a column has different types in these files ({reason}).") from error
    return rows.with_columns(pl.col(pl.String).replace("", None))


def place(rows: pl.DataFrame, position: int) -> str:
    """Say in words where row `position` of what `read_columns` returned stands."""
    path, row = rows[FILE][position], rows[ROW][position]
    return f"{path}, {'row' if path.lower().endswith(PARQUET) else 'line'} {row}"
