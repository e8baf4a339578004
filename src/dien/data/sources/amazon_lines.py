"""The lines of Amazon's reviews and metadata: read fast in blocks, and one by one where a block has a line that is
not as it should be.

A fast reader either gives what the careful one would, or refuses the block. It is then cut into smaller ones, so that
a bad line costs the careful reading of its neighbours only. So a line means the same whatever stands beside it.
"""

import io
import json
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import polars as pl

from dien.data.sources.lines import LINE_BYTES, Block, blocks
from dien.data.sources.literals import dictionary_fields, literal
from dien.errors import DataError

logger = logging.getLogger(__name__)

Schema = dict[str, "pl.DataType | type[pl.DataType]"]
OnBadLine = Literal["skip", "error"]
Which = Literal["first", "last"]

_PARTS, _SMALLEST, _AHEAD = 16, 8, 2
_BLANK = b" \t\r\n"
_WHITE = (
    " \t\n\v\f\r\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's white space, which polars strips; Python strips four control characters more."""
_ODD_TEXT = r"[\[{\x00]"  # polars makes such text of a list, an object or half a surrogate pair


@dataclass
class Tally:
    """What was found in the files; with `error`, the first thing that is not as it should be ends the reading."""

    on_bad_line: OnBadLine
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, number: int, complaint: str) -> None:
        """Count `what` `number` times.

        Raises:
            DataError: `on_bad_line` is `error`, and `number` is not 0.
        """
        if number and self.on_bad_line == "error":
            raise DataError(f"{complaint}; data.source.on_bad_line=skip goes on without it.")
        self.counts[what] += number


class BadLineError(ValueError):
    """A line that is no review, or no metadata."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Format:
    """How the lines of a file become rows.

    Both readers give the columns of `schema`; of these, the `required` ones must be there in every line.
    """

    kind: str
    schema: Schema
    required: tuple[str, ...]
    fast: Callable[[bytes], pl.DataFrame | None]
    careful: Callable[[bytes], tuple[Any, ...]]


def read(path: Path, form: Format, tally: Tally) -> pl.DataFrame:
    """All rows of a file, in its order.

    Raises:
        DataError: the file is missing or damaged, or a line is bad and `tally` says that this is an error.
    """
    frames = [pl.DataFrame(schema=form.schema)]
    for block, frame in _tried_fast(path, form):
        tally.counts[f"{form.kind}_lines"] += block.number
        frames += _rows(block, frame, path, form, tally)
    return pl.concat(frames)


def _tried_fast(path: Path, form: Format) -> Iterator[tuple[Block, pl.DataFrame | None]]:
    """Every block, and what the fast reader makes of it; some blocks ahead, so that no core waits for another."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        coming: deque[tuple[Block, Future[pl.DataFrame | None]]] = deque()
        for block in blocks(path):
            coming.append((block, pool.submit(_fast, block, form)))
            if len(coming) > _AHEAD:
                done, frame = coming.popleft()
                yield done, frame.result()
        for done, frame in coming:
            yield done, frame.result()


def _fast(block: Block, form: Format) -> pl.DataFrame | None:
    return None if block.too_long else form.fast(block.data)


def _rows(block: Block, frame: pl.DataFrame | None, path: Path, form: Format, tally: Tally) -> Iterator[pl.DataFrame]:
    if frame is not None:
        whole = frame.drop_nulls(form.required)
        blank, incomplete = block.number - frame.height, frame.height - whole.height
        if blank >= 0 and (tally.on_bad_line == "skip" or blank == incomplete == 0):
            tally.counts[f"{form.kind}_blank_lines"] += blank
            tally.counts[f"{form.kind}_incomplete_lines"] += incomplete
            yield whole
            return
    if block.number > _SMALLEST:
        for part in block.parts(_PARTS):
            yield from _rows(part, _fast(part, form), path, form, tally)
    else:
        yield _carefully(block, path, form, tally)


def _carefully(block: Block, path: Path, form: Format, tally: Tally) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(block.lines(), start=block.first):
        try:
            if block.too_long:
                raise BadLineError("malformed", f"the line has more than {LINE_BYTES} bytes")
            if not line.strip(_BLANK):
                raise BadLineError("blank", "the line is blank")
            rows.append(form.careful(line))
        except BadLineError as error:
            tally.add(f"{form.kind}_{error.kind}_lines", 1, f"{path}, line {number}: {error}")
    return pl.DataFrame(rows, schema=form.schema, orient="row")


def reviews(user: str, item: str, time: str) -> Format:
    """Reviews as JSON, a line each, in which the three fields have these names."""
    schema: Schema = {user: pl.String(), item: pl.String(), time: pl.Int64()}

    def fast(data: bytes) -> pl.DataFrame | None:
        frame = _fast_json(data, schema)
        return None if frame is None or any(_odd(frame[name]) for name in (user, item)) else _without_empty(frame)

    def careful(line: bytes) -> tuple[Any, ...]:
        fields = _json_object(line)
        when = fields.get(time)
        if isinstance(when, bool) or not isinstance(when, int) or not -(2**63) <= when < 2**63:
            raise BadLineError("incomplete" if when is None else "malformed", f"{time} is {when!r:.50}")
        return _text(fields, user), _text(fields, item), when

    return Format("review", schema, (user, item, time), fast, careful)


def metadata(item: str, categories: str, which: Which, *, literals: bool) -> Format:
    """Metadata, a line each, as JSON or also as Python literals.

    The category is the last element of the path of categories, or of the `which` one of several paths; null where
    there is none.
    """
    columns: Schema = {item: pl.String(), "category": pl.String()}
    flat: Schema = {item: pl.String(), categories: pl.List(pl.String())}
    nested: Schema = {item: pl.String(), categories: pl.List(pl.List(pl.String()))}

    def fast(data: bytes) -> pl.DataFrame | None:
        if literals and data.lstrip(_BLANK)[:2] != b'{"':
            return _fast_literals(data, item, categories, which)
        frame = _fast_json(data, nested if literals else flat)
        if frame is None or _odd(frame[item]):
            return None
        path = frame[categories]
        if literals:
            path = path.list.get(0 if which == "first" else -1, null_on_oob=True)
        if _odd(path.explode()):  # a list beside strings, too, for which there is another rule
            return None
        last = path.list.get(-1, null_on_oob=True)
        return _without_empty(pl.DataFrame({item: frame[item], "category": last.str.strip_chars()}))

    def careful(line: bytes) -> tuple[Any, ...]:
        fields = _literal_or_json(line) if literals else _json_object(line)
        return _text(fields, item), category_of(fields.get(categories), which)

    return Format("metadata", columns, (item,), fast, careful)


def category_of(value: Any, which: Which) -> str | None:
    """The last element of a path of categories, or of the first or last of several; None if there is none."""
    if isinstance(value, list) and value and any(isinstance(path, list) for path in value):
        value = value[0 if which == "first" else -1]
    last = value[-1] if isinstance(value, list) and value else None
    text = _scalar(last)
    return text.strip(_WHITE) or None if text is not None else None


def _fast_json(data: bytes, schema: Schema) -> pl.DataFrame | None:
    start = data.lstrip(_BLANK)
    if not start:
        return pl.DataFrame(schema=schema)
    if not start.startswith(b"{"):  # polars would decompress what begins like an archive, however large it gets
        return None
    try:
        return pl.read_ndjson(io.BytesIO(data), schema=schema)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None


def _fast_literals(data: bytes, item: str, categories: str, which: Which) -> pl.DataFrame | None:
    fields = dictionary_fields(data, item, categories) if data else None
    if fields is None:
        return None
    known = fields[categories].drop_nulls().unique().to_list()
    try:
        last = [_category_in(value, which) for value in known]
    except ValueError:
        return None
    names = pl.DataFrame({categories: known, "category": last}, schema={categories: pl.String, "category": pl.String})
    rows = fields.join(names, on=categories, how="left", maintain_order="left")
    return _without_empty(rows.select(item, "category"))


@lru_cache(1 << 16)  # there are far fewer categories than items
def _category_in(text: str, which: Which) -> str | None:
    return category_of(literal(text), which)


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode(), object_pairs_hook=_first_of_each)
    except UnicodeDecodeError as error:
        raise BadLineError("malformed", "the line is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise BadLineError("malformed", "the line is not JSON") from error
    return _object(value)


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))  # of fields with the same name, as polars


def _literal_or_json(line: bytes) -> dict[str, Any]:
    if line.lstrip(_BLANK)[:2] == b'{"':
        try:
            return _json_object(line)
        except BadLineError:  # a dictionary whose first key has an apostrophe
            pass
    try:
        value = literal(line.strip(_BLANK).decode())
    except UnicodeDecodeError as error:
        raise BadLineError("malformed", "the line is not UTF-8 text") from error
    except ValueError as error:
        raise BadLineError("malformed", f"the line is no Python literal: {error}") from error
    return _object(value)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadLineError("malformed", f"the line is a {type(value).__name__}, not an object with named fields")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None or value == "":
        raise BadLineError("incomplete", f"{name} is missing or empty")
    if (text := _scalar(value)) is None:
        raise BadLineError("malformed", f"{name} is {value!r:.50}")
    return text


def _scalar(value: Any) -> str | None:
    """A string, or a number as text; None for everything else and for what no UTF-8 text can hold."""
    if not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):  # as polars writes numbers
        text = format(Decimal(repr(value)), "f").removesuffix(".0") if math.isfinite(value) else "\x00"
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return None if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text) else text


def _without_empty(rows: pl.DataFrame) -> pl.DataFrame:
    empty = [name for name, dtype in rows.schema.items() if dtype == pl.String and (rows[name] == "").any()]
    return rows.with_columns(pl.col(empty).replace("", None)) if empty else rows


def _odd(values: pl.Series) -> bool:
    return bool(values.str.contains(_ODD_TEXT).any())
