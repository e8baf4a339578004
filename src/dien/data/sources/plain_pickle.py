"""The authors' pickled tables of ids, read without running anything that is in them.

A pickle is a program. Of its instructions only those are known here that build dictionaries, strings and whole numbers;
any other, such as the naming of a class or function, ends the reading.
"""

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

from dien.data.sources.archive import MEMBER_LIMIT
from dien.data.sources.reading import readable
from dien.errors import DataError

_PLAIN = (
    # the frame of the program
    *(pickle.PROTO, pickle.FRAME, pickle.STOP),
    # dictionaries
    *(pickle.MARK, pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
    # strings, of Python 2 and 3
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
    # whole numbers
    *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1),
    # the memo
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
)


class _PlainUnpickler(pickle._Unpickler):
    """Python's own unpickler in Python, whose memo is a dictionary: the one in C reserves what a pickle asks for."""

    dispatch: ClassVar = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _PLAIN}

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")


def read_plain_pickle(path: Path) -> dict[str, int]:
    """A pickled dictionary from strings to whole numbers.

    Raises:
        DataError: the file is missing, larger than `MEMBER_LIMIT` bytes, no pickle, or holds anything else.
    """
    with readable(path):
        if (size := path.stat().st_size) > MEMBER_LIMIT:
            raise DataError(f"{path}: the file has {size} bytes, more than {MEMBER_LIMIT}.")
        content = path.read_bytes()
    try:
        table = _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
    except KeyError as error:
        raise DataError(f"{path}: the pickle is more than a plain dictionary, and is not read.") from error
    except Exception as error:  # whatever a malformed program leads to; nothing of it has been run
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: this is no pickle of a plain dictionary ({reason}).") from error
    if (
        type(table) is not dict
        or not table
        or not all(type(key) is str and type(value) is int for key, value in table.items())
    ):
        raise DataError(f"{path}: the pickle holds something else than a dictionary from strings to whole numbers.")
    return table
