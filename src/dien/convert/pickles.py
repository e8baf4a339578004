"""Reading the tensors and plain values out of a checkpoint that somebody else pickled, without running any of it.

A pickle runs code only through what it imports. This reader imports nothing: every name in the file stands for a class
of its own that keeps its arguments, but for those few that make tensors of bytes, which are written out here.
"""

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from dien.errors import DataError

LARGEST = 16 << 30
"""Bytes of a file that are read at most."""

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert(dict[Any, Any]):
    """What stands for an object of a class that is not imported: its name, arguments, items and attributes."""

    name: ClassVar[str] = ""
    arguments: tuple[Any, ...]
    elements: list[Any]
    state: Any

    def __new__(cls, *arguments: Any, **options: Any) -> "Inert":
        made = super().__new__(cls)
        made.arguments, made.elements, made.state = arguments, [], None
        return made

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()

    def append(self, element: Any) -> None:
        self.elements.append(element)

    def extend(self, elements: Any) -> None:
        self.elements.extend(elements)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __call__(self, *arguments: Any) -> "Inert":
        return self

    def attribute(self, name: str) -> Any:
        """An attribute of the object that this stands for; None if it has none of that name."""
        return self.state.get(name) if isinstance(self.state, dict) else None


def read_foreign(path: Path) -> Any:
    """The content of a file of `torch.save`, its tensors on the CPU, objects of unknown classes as `Inert`.

    Raises:
        DataError: not such a file, or a damaged or a hostile one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader.of(archive).load()
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path} is not a checkpoint of torch.save, or it is damaged.") from error


class _Reader(pickle.Unpickler):
    """See the head of this file; `find_class` is the only way from a pickle to code."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self.archive, self.prefix = archive, prefix
        self.storages: dict[str, Tensor] = {}

    @classmethod
    def of(cls, archive: zipfile.ZipFile) -> "_Reader":
        for entry in archive.infolist():
            # torch.save stores without compression, so an entry is as large as the file says: no bomb can hide.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > LARGEST:
                raise DataError(f"{archive.filename}: {entry.filename} is compressed or too large for a checkpoint.")
        (main,) = (entry for entry in archive.namelist() if entry.count("/") == 1 and entry.endswith("/data.pkl"))
        return cls(archive.open(main), archive, main.removesuffix("data.pkl"))

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _MAKERS:
            return _MAKERS[full]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        return type(name.split(".")[-1], (Inert,), {"name": full})

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.zeros(0, dtype=dtype)
            if len(self.storages[key]) < count:
                raise DataError(f"{self.archive.filename}: tensor {key} is truncated.")
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    steps = [(count - 1) * step for count, step in zip(size, stride, strict=True)]
    last = 0 if 0 in size else offset + sum(steps) + 1
    # as_strided reads beyond a storage without a word, and repeats one element (stride 0) as often as it is told.
    if min(offset, *size, *stride, 0) < 0 or last > len(storage) or math.prod(size) > len(storage):
        raise DataError("the file is damaged or hostile: a tensor in it is larger than what it has stored.")
    return storage.as_strided(size, stride, offset).clone()


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_MAKERS: dict[str, Callable[..., Any]] = {
    "__builtin__.set": set,
    "builtins.set": set,
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}


def text(value: Any) -> str:
    """A string, or a string of numpy's."""
    if isinstance(value, Inert) and len(value.arguments) == 2 and isinstance(value.arguments[1], bytes):
        return value.arguments[1].decode("utf-32-le").rstrip("\0")
    return str(value)


def strings(array: Any) -> list[str]:
    """The entries of a numpy array of strings.

    Raises:
        DataError: it is none.
    """
    state = array.state if isinstance(array, Inert) else None
    if isinstance(state, tuple) and len(state) == 5:
        _, shape, kind, _, content = state
        if isinstance(content, list):
            return [text(entry) for entry in content]
        width = re.fullmatch(r"[<=|]?U(\d+)", str(kind.arguments[0])) if isinstance(kind, Inert) else None
        if width and isinstance(content, bytes) and len(shape) == 1:
            step = 4 * int(width[1])
            return [content[i * step : (i + 1) * step].decode("utf-32-le").rstrip("\0") for i in range(shape[0])]
    raise DataError("the names of the ids are not an array of strings.")
