"""What W&B wrote while it was offline: `wandb/offline-run-<time>-<id>/run-<id>.wandb`.

Such a file is a log of protocol buffers in the format of LevelDB's write-ahead log (leveldb/doc/log_format.md): blocks
of 32 KiB, in them records of `checksum uint32, length uint16, type uint8, data`, little-endian, a record that does not
fit in pieces. W&B puts a header of 7 bytes first and uses zlib's CRC-32. wandb 0.31 has no reader
for Python any more (its issue 1768 asks for one); the protocol buffers are those of the installed package.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dien.errors import DataError

_BLOCK, _HEADER = 32 * 1024, struct.Struct("<IHB")
_MAGIC = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class WandbLog(NamedTuple):
    """The content of a run's log; nested keys of the configuration stay nested."""

    config: dict[str, Any]
    summary: dict[str, Any]
    """The last value of everything that was logged, and what was summarised besides."""
    history: list[dict[str, Any]]
    environment: dict[str, Any]
    """Under the names of a run folder's `environment.json`, as far as W&B knows them."""
    exit_code: int | None
    """None if the run has not ended."""
    damage: str | None
    """Where the log cannot be read any further; None if it is whole."""


def read(legs: list[Path]) -> WandbLog:
    """The logs of one run, oldest leg first; a damaged one counts as far as it can be read."""
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    environment: dict[str, Any] = {}
    exit_code, damage = None, None
    for leg in legs:
        exit_code = None
        try:
            for record in _records(leg.read_bytes(), leg.name):
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    _update(config, record.run.config)
                    config.setdefault("name", record.run.display_name or record.run.run_id)
                    _update(summary, record.run.summary)
                    if record.run.git.commit:
                        environment["git_commit"] = record.run.git.commit
                elif kind == "config":
                    _update(config, record.config)
                elif kind == "summary":
                    _update(summary, record.summary)
                elif kind == "history":
                    row = _without_media(dict(_items(record.history.item)))
                    history.append(row)
                    summary |= row
                elif kind == "environment":
                    _describe(environment, record.environment)
                elif kind == "exit":
                    exit_code = record.exit.exit_code
        except (DataError, OSError) as error:
            damage = str(error).rstrip(".")
    config.pop("_wandb", None)
    not_metrics = ("epoch", "trainer/global_step")
    final = {key: value for key, value in summary.items() if not key.startswith("_") and key not in not_metrics}
    return WandbLog(config, final, history, environment, exit_code, damage)


def _records(content: bytes, name: str) -> Iterator[Any]:
    """The protocol buffers of a log, in order.

    Raises:
        DataError: where the log is cut or a checksum is wrong, after all that comes before has been given.
    """
    # Imported here because it takes a third of a second, which only who has such logs should wait for.
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    new_record = getattr(wandb_internal_pb2, "Record")  # noqa: B009  # the class is made while the module is imported
    if not content.startswith(_MAGIC):
        raise DataError(f"{name} is damaged: it does not begin like a log of W&B.")
    for number, data in enumerate(_pieces_joined(content, name)):
        record = new_record()
        try:
            record.ParseFromString(data)
        except DecodeError as error:
            raise DataError(f"{name} is damaged after {number} records.") from error
        yield record


def _pieces_joined(content: bytes, name: str) -> Iterator[bytes]:
    place, pieces, number = len(_MAGIC), b"", 0
    while place < len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER.size:  # padding
            place += left
            continue
        if place + _HEADER.size > len(content):
            raise DataError(f"{name} is cut after {number} records.")
        checksum, length, kind = _HEADER.unpack_from(content, place)
        place += _HEADER.size
        data = content[place : place + length]
        place += length
        if len(data) < length:
            raise DataError(f"{name} is cut after {number} records.")
        begins = kind in (_FULL, _FIRST)
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum or kind > _LAST or begins == bool(pieces):
            raise DataError(f"{name} is damaged after {number} records.")
        pieces += data
        if kind in (_FULL, _LAST):
            yield pieces
            pieces, number = b"", number + 1
    if pieces:
        raise DataError(f"{name} is cut after {number} records.")


def _items(items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for item in items:
        yield item.key or ".".join(item.nested_key), _value(item.value_json)


def _without_media(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what describes pictures: they have a `_type`, and numbers such as their height."""
    media = tuple(key.removesuffix("_type") for key in row if key.endswith("._type"))
    return {key: value for key, value in row.items() if not key.startswith(media)} if media else row


def _value(text: str) -> Any:
    """W&B writes numbers that JSON does not have as strings; they are no metrics, like null in a run folder."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return None if value in ("NaN", "Infinity", "-Infinity") else value


def _update(tree: dict[str, Any], record: Any) -> None:
    for item in record.update:
        *above, last = list(item.nested_key) or [item.key]
        branch = tree
        for key in above:
            child = branch.get(key)
            branch[key] = branch = child if isinstance(child, dict) else {}
        branch[last] = _value(item.value_json)
    for item in record.remove:
        tree.pop(item.key or next(iter(item.nested_key), ""), None)


def _describe(environment: dict[str, Any], record: Any) -> None:
    if record.git.commit:
        environment["git_commit"] = record.git.commit
    if record.python:
        environment["python"] = record.python.split()[-1]
    if record.os:
        environment["platform"] = record.os
    if record.cpu_count_logical:
        environment["cpu_count"] = record.cpu_count_logical
