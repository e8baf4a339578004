"""Lines that are Python literals, such as Amazon's metadata of 2014: one dictionary a line, never evaluated.

`literal` parses any text of plain values. `dictionary_fields` finds two keys of many dictionaries at once with
regular expressions that follow the grammar of what `repr` writes token by token, some hundred times as fast; what they
cannot tell for sure they leave to `literal`. Axis: N lines.
"""

import ast
import re
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

_ESCAPE = r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4})"""
_STRING = rf"""(?:'(?:[^'\\\r\x00]|{_ESCAPE})*'|"(?:[^"\\\r\x00]|{_ESCAPE})*")"""
_NUMBER = r"(?:-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|None|True|False)"
_ATOM = f"(?:{_STRING}|{_NUMBER})"
_LIST = rf"\[(?:{_ATOM}(?:, {_ATOM})*)?\]"
_LISTS = rf"\[(?:(?:{_ATOM}|{_LIST})(?:, (?:{_ATOM}|{_LIST}))*)?\]"
_INNER = rf"\{{(?:{_STRING}: (?:{_ATOM}|{_LIST})(?:, {_STRING}: (?:{_ATOM}|{_LIST}))*)?\}}"
_PAIR = rf"'[^'\\\r\x00]*': (?:{_ATOM}|{_LISTS}|{_INNER})"
"""A key of the line's own has no escapes, so there is one way to write it."""
_OPEN, _CLOSE = r"(?s)^[ \t\r]*\{", r"\}[ \t\r]*\n?$"

_DEEPEST = 20
_ANY_STRING = re.compile(r"""u?(?:'(?!'')[^'\\]*(?:\\.[^'\\]*)*'|"(?!"")[^"\\]*(?:\\.[^"\\]*)*")""", re.DOTALL)
"""Of what stands between triple quotes at least one quote remains, which nothing plain has."""
_PLAIN = re.compile(r"""(?:[\s\[\]{}(),:]|None|True|False|-?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)*+""")
_ODD_ESCAPE = re.compile(r"""(?<!\\)(?:\\\\)*\\(?:[^\n\\'"abfnrtv0-7xuU]|[4-7][0-7]{2})""")


def literal(text: str) -> Any:
    """The value of a Python literal of dictionaries, lists, tuples, strings, numbers, None, True and False.

    `ast.literal_eval` sees only what has been found to be plain and flat, so it can neither warn nor exhaust the
    stack; how long a text may be is the caller's to say.

    Raises:
        ValueError: it is something else.
    """
    bare = _ANY_STRING.sub("", text)
    if not _PLAIN.fullmatch(bare) or _ODD_ESCAPE.search(text):
        raise ValueError("it is not a plain Python literal")
    depth = 0
    for bracket in re.findall(r"[\[\]{}()]", bare):
        depth += 1 if bracket in "[{(" else -1
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("it is not a Python literal") from error


def dictionary_fields(lines: bytes, name: str, list_name: str) -> pl.DataFrame | None:
    """The string `name` and the text of the list `list_name` of every line, each a dictionary; null where it has none.

    Returns:
        Columns `name` and `list_name`; None if a line is anything but clear, which then needs `literal`.
    """
    try:
        lines.decode()
    except UnicodeDecodeError:
        return None
    end_N = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n")) + 1
    if not lines.endswith(b"\n"):
        end_N = np.append(end_N, len(lines))
    start_N = np.append(0, end_N[:-1])
    line = _pieces(lines, np.append(start_N, end_N[-1]))

    # What is before the list's key and what follows must each be the grammar's: then the key is none in a text.
    key, name_key = f"'{list_name}': ", f"'{name}': "
    place = line.str.find(key, literal=True)
    place_N = np.where(place.is_null(), end_N, start_N + place.fill_null(0).to_numpy())
    halves = _pieces(lines, np.append(np.stack([start_N, place_N], axis=1).ravel(), end_N[-1]))
    frame = pl.DataFrame({"line": line, "before": halves.gather_every(2), "after": halves.gather_every(2, 1)})
    before, after = pl.col("before"), pl.col("after")
    up_to_name = pl.col("line").str.extract(rf"""{_OPEN}(?:{_PAIR}, )*?{name_key}'[^'"\\\r\x00]*'""", 0)
    found = frame.select(
        up_to_name.str.extract("'[^']*'$", 0).str.slice(1).str.head(-1).alias(name),
        after.str.extract(rf"(?s)^{key}{_LISTS}", 0).str.slice(len(key)).alias(list_name),
        clear=before.str.contains(rf"{_OPEN}(?:{_PAIR}, )*(?:{_PAIR}{_CLOSE})?$")
        & ((before.str.ends_with(", ") | before.str.ends_with("{")) == (after != ""))
        & after.str.contains(rf"(?s)^(?:{key}{_LISTS}(?:, {_PAIR})*{_CLOSE})?$")
        # There twice, or as something else:
        & ~pl.col("line").str.strip_prefix(up_to_name.fill_null("")).str.contains(name_key, literal=True)
        & ~after.str.strip_prefix(key).str.contains(key, literal=True),
    )
    return found.drop("clear") if found["clear"].all() else None


def _pieces(text: bytes, offsets: NDArray[np.int64]) -> pl.Series:
    """What of a UTF-8 text is between each two neighbours of `offsets`, in bytes."""
    buffers = pa.py_buffer(np.ascontiguousarray(offsets, np.int64)), pa.py_buffer(text)
    series = pl.from_arrow(pa.LargeStringArray.from_buffers(len(offsets) - 1, *buffers))
    assert isinstance(series, pl.Series)
    return series
