"""Large text files as blocks of whole lines, decompressed ahead of whoever parses them, in bounded memory."""

import gzip
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from dien.data.ahead import ahead
from dien.data.sources.reading import readable

BLOCK_BYTES = 4 << 20
"""Bytes that are read at once: few enough for their memory to be used again, instead of being fetched anew from the
system, which costs more than the parsing."""
LINE_BYTES = 2 << 20
"""Bytes that a line may have."""

_GZIP, _BYTE_ORDER_MARK = b"\x1f\x8b", b"\xef\xbb\xbf"


class Block(NamedTuple):
    """Some whole lines of a file, one after the other."""

    first: int
    """Number of the first of them, counted from 1."""
    number: int
    """How many they are, blank ones included."""
    data: bytes
    """The lines; the last of a file may have no newline."""
    too_long: bool = False
    """It is a single line of more than the allowed bytes, which are not kept."""

    def lines(self) -> list[bytes]:
        """Each line without its newline."""
        return self.data.split(b"\n")[: self.number]

    def parts(self, most: int) -> Iterator["Block"]:
        """At most `most` blocks that this one is made of."""
        lines = self.lines()
        size = -(-self.number // most)
        for start in range(0, self.number, size):
            part = lines[start : start + size]
            yield Block(self.first + start, len(part), b"\n".join(part))


def blocks(path: Path, *, block_bytes: int = BLOCK_BYTES, line_bytes: int = LINE_BYTES) -> Iterator[Block]:
    """The lines of a file, compressed with gzip or not, with a byte order mark or not, in blocks; the next one is read
    in a thread meanwhile.

    Raises:
        DataError: the file is missing, truncated or damaged.
    """
    return ahead(_blocks(path, block_bytes, line_bytes))


def _open(path: Path, stack: ExitStack) -> IO[bytes]:
    raw = stack.enter_context(path.open("rb", buffering=1 << 20))
    start = raw.read(2)
    raw.seek(0)
    if start != _GZIP:
        return raw
    return cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=raw)))


def _blocks(path: Path, block_bytes: int, line_bytes: int) -> Iterator[Block]:
    first, rest, skipping = 1, b"", False
    with readable(path), ExitStack() as stack:
        file = _open(path, stack)
        start = file.read(len(_BYTE_ORDER_MARK)).removeprefix(_BYTE_ORDER_MARK)
        for chunk in chain([start], iter(partial(file.read, block_bytes), b"")):
            if skipping:  # the rest of a line that was too long
                _, newline, chunk = chunk.partition(b"\n")
                if not newline:
                    continue
                skipping = False
            end = chunk.rfind(b"\n") + 1
            if not end:
                rest += chunk
            else:
                data, rest = b"".join((rest, memoryview(chunk)[:end])), chunk[end:]
                for block in _whole(first, data, line_bytes):
                    yield block
                    first += block.number
            if len(rest) > line_bytes:
                yield Block(first, 1, b"", too_long=True)
                first, rest, skipping = first + 1, b"", True
        if rest:
            yield Block(first, 1, rest)


def _whole(first: int, data: bytes, line_bytes: int) -> Iterator[Block]:
    """The lines of `data`, which ends in a newline, with those that are too long taken out."""
    start, reached = 0, 0
    while reached < len(data):
        newline = data.rfind(b"\n", reached, reached + line_bytes + 1)
        if newline >= 0:
            reached = newline + 1
            continue
        if reached > start:
            block = _block(first, data[start:reached])
            yield block
            first += block.number
        yield Block(first, 1, b"", too_long=True)
        first += 1
        start = reached = data.index(b"\n", reached) + 1
    if reached > start:
        yield _block(first, data[start:reached])


def _block(first: int, data: bytes) -> Block:
    return Block(first, int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n"))), data)
