"""The folder that an export is: what lies in it, and how it is read with suspicion. Needs nothing but Python.

manifest.json names the format, the inputs' limits and every other file with its size and SHA-256; ids.json holds the
raw ids of items and users in the order of their rows, and which of these rows training did not know.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dien.errors import DataError, make_folder
from dien.raw_ids import IdRows

VERSION = 2
MANIFEST = "manifest.json"
IDS = "ids.json"
FORMATS = {"pt2": "model.pt2", "onnx": "model.onnx", "weights": "model.safetensors"}
"""What can be written, and the file that is its heart."""

INPUTS = ("user", "history", "length", "candidates")
OUTPUTS = ("scores", "logits")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends without an error; otherwise nothing stays.

    Raises:
        DataError: if there is something of that name already.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already: name another folder with --output, or delete it.")
    make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_manifest(folder: Path, *, kind: str, history_length: int) -> None:
    """Write manifest.json for all other files of the folder."""
    others = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in others}
    manifest = {"version": VERSION, "format": kind, "history_length": history_length, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path, *, kind: str) -> dict[str, Any]:
    """The manifest of an export of this format, after a look at every file that it names.

    Raises:
        DataError: no export, one of another format, or a file is missing, damaged or outside of the folder.
    """
    manifest = read_json(folder / MANIFEST, f"{folder} is not a folder of dien-export")
    files, length = manifest.get("files"), manifest.get("history_length")
    if manifest.get("version") != VERSION or not isinstance(files, dict) or not isinstance(length, int) or length < 1:
        raise DataError(f"{folder} is not an export of version {VERSION}: export the run again.")
    if manifest.get("format") != kind:
        raise DataError(f"{folder} holds the format {manifest.get('format')}, not {kind}.")
    if FORMATS[kind] not in files:
        raise DataError(f"{folder} lists no {FORMATS[kind]}: export the run again.")
    for name, expected in files.items():
        file = folder / name
        if Path(name).name != name or name in ("", ".", "..") or file.is_symlink():
            raise DataError(f"{folder} names a file outside of itself, {name!r}: it is not to be trusted.")
        if not file.is_file() or not isinstance(expected, dict) or file.stat().st_size != expected.get("bytes"):
            raise DataError(f"{file} is missing or truncated: export the run again.")
        if _digest(file) != expected.get("sha256"):
            raise DataError(f"{file} is damaged (its SHA-256 differs): export the run again.")
    return manifest


def write_ids(folder: Path, items: IdRows, users: IdRows) -> None:
    """Write ids.json: the raw ids of rows 2, 3, ... of both tables, and the rows that training did not know."""
    content: dict[str, Sequence[object]] = {
        "items": items.ids,
        "users": users.ids,
        "untrained_items": items.untrained,
        "untrained_users": users.untrained,
    }
    (folder / IDS).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read_ids(folder: Path) -> tuple[IdRows, IdRows]:
    """The ids of items and of users.

    Raises:
        DataError: the file is damaged.
    """
    content = read_json(folder / IDS, f"{folder / IDS} cannot be read")
    whole, ids = (int,), (int, str)
    for key, types in {"items": ids, "users": ids, "untrained_items": whole, "untrained_users": whole}.items():
        found = content.get(key)
        if not isinstance(found, list) or any(type(one) not in types for one in found):
            raise DataError(f"{folder / IDS} lacks {key}, or holds something else there: export the run again.")
    items, users = (IdRows(content[kind], untrained=content[f"untrained_{kind}"]) for kind in ("items", "users"))
    return items, users


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DataError: `what`, and why.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{what}: {getattr(error, 'strerror', None) or 'no JSON'} ({path.name}).") from error
    if not isinstance(value, dict):
        raise DataError(f"{what}: {path.name} is not a JSON object.")
    return value


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
