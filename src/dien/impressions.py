"""Tables that are read and written in pieces, so that memory does not grow with them: Parquet, CSV, JSON lines.

The suffix says the format; text may be compressed (`.gz`). Rows keep their order, columns their names. A CSV file's
fields stay text exactly as written; blank lines of text are no rows.
"""

import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Self, cast

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dien.data.sources.reading import CSV, JSON_LINES, PARQUET, Dialect, readable, scan
from dien.errors import DataError, DienError

Piece = tuple[pl.DataFrame, float]
"""Some rows of a table, and which share of it ends with them."""

LINES = 1 << 16
"""Of JSON that are looked at together for their columns."""
BLOCK = 1 << 20
"""Bytes of CSV that are parsed at a time; pyarrow reads some tens of them ahead."""


def format_of(path: Path) -> str:
    """`parquet | csv | jsonl`, by the suffix.

    Raises:
        DataError: for any other suffix.
    """
    name = path.name.lower()
    for format_, suffixes in (("parquet", PARQUET), ("csv", CSV), ("jsonl", JSON_LINES)):
        if name.endswith(suffixes):
            return format_
    raise DataError(f"{path}: the extension is not one of {', '.join(PARQUET + CSV + JSON_LINES)}.")


def schema_of(path: Path) -> pl.Schema:
    """The columns of a table, or `DataError`; it takes a walk over the whole file if that is JSON lines."""
    if format_of(path) == "jsonl":
        return _json_schema(path)
    with readable(path):
        return scan(path, Dialect()).collect_schema()


def pieces(path: Path, rows: int, schema: pl.Schema | None = None) -> Iterator[Piece]:
    """The table in pieces of at most `rows` rows; every piece but the last is full.

    Args:
        path: the table.
        rows: of a piece.
        schema: of the table, if it is known already.

    Raises:
        DataError: the file is missing, damaged, cut, or not what its suffix says.
    """
    read = {"parquet": _parquet, "csv": _csv, "jsonl": _json}[format_of(path)]
    schema = schema_of(path) if schema is None else schema
    with readable(path), _arrow_errors():
        rest, done = pl.DataFrame(), 0.0
        for frame, end in read(path, rows, schema):
            waiting = pl.concat([rest, frame]) if rest.height else frame
            for start in range(0, len(waiting) - rows + 1, rows):
                left = len(waiting) - start - rows
                yield waiting[start : start + rows], end - (end - done) * left / len(frame)
            rest, done = waiting[len(waiting) // rows * rows :], end
        if rest.height:
            yield rest, done


@contextmanager
def _arrow_errors() -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def _parquet(path: Path, rows: int, _: pl.Schema) -> Iterator[Piece]:
    # Its buffer would hold the whole file by the end, and without it still some of every row group.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        total, done = max(file.metadata.num_rows, 1), 0
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(batch_size=rows, row_groups=[group]):
                done += len(batch)
                yield cast(pl.DataFrame, pl.from_arrow(batch)), done / total


def _csv(path: Path, _: int, schema: pl.Schema) -> Iterator[Piece]:
    names = schema.names()
    separator = "\t" if ".tsv" in path.name.lower() else ","
    with _text(path) as (stream, share):
        blocks = _Blocks(stream, share)
        reader = pa.csv.open_csv(
            blocks,
            read_options=pa.csv.ReadOptions(column_names=names, skip_rows=1, block_size=BLOCK),
            parse_options=pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(  # an empty field is null and "" is text: both are written as read
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        for number, batch in enumerate(reader):
            yield cast(pl.DataFrame, pl.from_arrow(batch)), blocks.ends[min(number, len(blocks.ends) - 1)]


class _Blocks(io.RawIOBase):
    """A stream that notes which share of the file each block ends with: pyarrow reads many blocks ahead."""

    def __init__(self, stream: IO[bytes], share: "Share") -> None:
        self._stream, self._share = stream, share
        self.ends: list[float] = []

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.ends.append(self._share())
        return block


def _json(path: Path, rows: int, schema: pl.Schema) -> Iterator[Piece]:
    with _text(path) as (stream, share):
        while lines := list(islice(stream, rows)):
            yield pl.read_ndjson(io.BytesIO(b"".join(lines)), schema=schema), share()


def _json_schema(path: Path) -> pl.Schema:
    """The columns of the whole file: a first walk over it, since a key may appear, or its type widen, anywhere."""
    schema = pl.DataFrame()
    with readable(path), _text(path) as (stream, _):
        while lines := list(islice(stream, LINES)):
            piece = pl.read_ndjson(io.BytesIO(b"".join(lines)), infer_schema_length=None).clear()
            schema = pl.concat([schema, piece], how="diagonal_relaxed")
    if not schema.columns:
        raise DataError(f"{path}: the file is empty.")
    return schema.schema


@contextmanager
def _text(path: Path) -> Iterator[tuple[IO[bytes], "Share"]]:
    """A text file, decompressed, and how much of it has been read."""
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        size = max(path.stat().st_size, 1)
        stream: IO[bytes] = raw
        if path.name.lower().endswith(".gz"):
            stream = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=raw)))
        yield stream, Share(raw, size)


class Share:
    """How much of a file has been read, from 0 to 1."""

    def __init__(self, raw: IO[bytes], size: int) -> None:
        self.raw, self.size = raw, size

    def __call__(self) -> float:
        return min(self.raw.tell() / self.size, 1.0)


class Writer:
    """A table that appears under its name when the block ends without an error, and not at all otherwise.

    Raises:
        DienError: the place cannot be written, or a column does not fit the format.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.format = path, format_of(path)
        self._parquet: pq.ParquetWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        except OSError as error:
            raise DienError(f"{self.path} cannot be written: {error.strerror}.") from error
        self._temporary = Path(name)
        self._file: IO[bytes] = self._stack.enter_context(os.fdopen(handle, "wb"))
        if self.path.name.lower().endswith(".gz"):
            self._file = cast(IO[bytes], self._stack.enter_context(gzip.GzipFile(fileobj=self._file, mode="wb")))
        self._rows = 0
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows; all frames have the same columns."""
        try:
            if self.format == "parquet":
                table = frame.to_arrow()
                if self._parquet is None:
                    self._parquet = self._stack.enter_context(pq.ParquetWriter(self._file, table.schema))
                self._parquet.write_table(table.cast(self._parquet.schema))
            elif self.format == "csv":
                separator = "\t" if ".tsv" in self.path.name.lower() else ","
                frame.write_csv(self._file, include_header=not self._rows, separator=separator)
            else:
                frame.write_ndjson(self._file)
        except OSError as error:
            raise self._unwritable(error) from error
        except (pl.exceptions.PolarsError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{self.path}: a column does not fit this format ({reason}).") from error
        self._rows += len(frame)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._stack.close()
            if kind is None:
                os.chmod(self._temporary, 0o644)
                os.replace(self._temporary, self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self._temporary.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> DienError:
        reason = error.strerror or str(error).partition(" (os error")[0]  # polars gives a text alone
        return DienError(f"{self.path} cannot be written: {reason}.")
