"""Lines that are Python literals, such as Amazon's metadata of 2014: one dictionary a line, never evaluated.

`literal` parses any text of plain values. `dictionary_fields` finds two keys of many dictionaries at once with
regular expressions that follow the grammar token by token, some hundred times as fast; what they cannot tell for sure
they leave to `literal`.
"""

import ast
import re
from typing import Any

import polars as pl

_STRING = r"""(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")"""
_NUMBER = r"(?:-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|None|True|False)"
_ATOM = f"(?:{_STRING}|{_NUMBER})"
_LIST = rf"\[(?:{_ATOM}(?:, {_ATOM})*)?\]"
_LISTS = rf"\[(?:(?:{_ATOM}|{_LIST})(?:, (?:{_ATOM}|{_LIST}))*)?\]"
_INNER = rf"\{{(?:{_STRING}: (?:{_ATOM}|{_LIST})(?:, {_STRING}: (?:{_ATOM}|{_LIST}))*)?\}}"
_VALUE = f"(?:{_ATOM}|{_LISTS}|{_INNER})"
_DICTIONARY = rf"(?s)^\{{{_STRING}: {_VALUE}(?:, {_STRING}: {_VALUE})*\}}$"
_UP_TO = rf"(?s)^\{{(?:{_STRING}: {_VALUE}, )*?"
"""From the start of the line to the start of one of its own keys: strings are consumed whole, so a key that is quoted
inside of a text is not taken for one."""

_DEEPEST = 20
_ANY_STRING = re.compile(rf"u?{_STRING}", re.DOTALL)
_PLAIN = re.compile(r"""(?:[\s\[\]{}(),:"]|None|True|False|-?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)*+""")
_ODD_ESCAPE = re.compile(r"""(?<!\\)(?:\\\\)*\\(?:[^\n\\'"abfnrtv0-7xuU]|[4-7][0-7]{2})""")


def literal(text: str) -> Any:
    """The value of a Python literal of dictionaries, lists, tuples, strings, numbers, None, True and False.

    `ast.literal_eval` sees only what has been found to be plain and flat, so it can neither warn nor exhaust the
    stack; how long a text may be is the caller's to say.

    Raises:
        ValueError: it is something else.
    """
    bare = _ANY_STRING.sub('""', text)
    if "'''" in text or '"""' in text or not _PLAIN.fullmatch(bare) or _ODD_ESCAPE.search(text):
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


def dictionary_fields(line: pl.Series, name: str, list_name: str) -> pl.DataFrame | None:
    """The string `name` and the text of the list `list_name` of every line, each a dictionary; null where it has none.

    Returns:
        Columns `name` and `list_name`; None if a line is anything but clear, which then needs `literal`.
    """
    names = pl.col("line").str.extract(rf"{_UP_TO}'{name}': {_STRING}", 0)
    lists = pl.col("line").str.extract(rf"{_UP_TO}'{list_name}': {_LISTS}", 0)
    frame = line.to_frame("line").select(
        "line",
        whole=pl.col("line").str.contains(_DICTIONARY),
        name=names.str.tail(100).str.extract(r"""'[^'"\\]*'$""", 0).str.slice(1).str.head(-1),
        list=lists,
    )
    if not frame["whole"].all():
        return None
    key = f"'{list_name}': "
    nameless = frame.filter(pl.col("name").is_null())["line"].str.contains(name, literal=True)
    listless = frame.filter(pl.col("list").is_null())["line"].str.contains(list_name, literal=True)
    twice = frame["list"].drop_nulls().str.count_matches(key, literal=True) > 1
    if nameless.any() or listless.any() or twice.any():
        return None
    # The key is there once, so what follows it is the list.
    text = frame["list"].str.extract(rf"(?s){key}{_LISTS}$", 0).str.slice(len(key))
    return pl.DataFrame({name: frame["name"], list_name: text})
