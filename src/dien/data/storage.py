"""The folder of a prepared dataset: written under another name and renamed, so it is there whole or not at
all.

`dataset.json` describes the dataset and lists every other file with its size and SHA-256. It holds no time,
path or host name: the same inputs give the same bytes.
"""

import glob
import hashlib
import io
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import polars as pl

from dien import locks
from dien.errors import DataError

log = logging.getLogger(__name__)

FORMAT = 2
"""Version of the folder's layout; part of the fingerprint."""

MANIFEST = "dataset.json"


def write_array(folder: Path, name: str, values: np.ndarray) -> None:
    """Write `NAME.npy`, readable with `np.load(..., mmap_mode="r", allow_pickle=False)`."""
    np.save(folder / f"{name}.npy", values, allow_pickle=False)


class Arrays:
    """Arrays that are written piece by piece: in the end they have the bytes that `write_array` gives the whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[BinaryIO, np.dtype[Any]]] = {}
        self._lengths: dict[str, int] = {}
        self._open = ExitStack()

    def append(self, name: str, values: np.ndarray) -> None:
        """Add to the end of `NAME.npy`, whose pieces are all of one type."""
        if name not in self._files:
            file: BinaryIO = self._open.enter_context((self._folder / f"{name}.npy").open("wb"))
            self._files[name] = file, values.dtype
            self._lengths[name] = 0
            file.write(_header(values.dtype, 0))
        file, dtype = self._files[name]
        assert values.dtype == dtype, name
        file.write(np.ascontiguousarray(values).data)
        self._lengths[name] += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._open:
            for name, (file, dtype) in self._files.items() if kind is None else ():
                file.seek(0)
                file.write(_header(dtype, self._lengths[name]))


def _header(dtype: np.dtype[Any], length: int) -> bytes:
    """Of a `.npy` file; as long for any length, because numpy leaves room for one that grows."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def read_array(folder: Path, name: str) -> np.ndarray:
    """Map `NAME.npy` into memory."""
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def write_frame(folder: Path, name: str, frame: pl.DataFrame) -> None:
    """Write `NAME.parquet`."""
    frame.write_parquet(folder / f"{name}.parquet")


def write_manifest(folder: Path, description: dict[str, Any]) -> None:
    """Write `dataset.json` last: `description` plus the size and digest of every file in the folder."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(folder.iterdir())}
    text = json.dumps({"format": FORMAT, **description, "files": files}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    """Read `dataset.json` and check that every file it lists has its size and, with `verify`, its SHA-256.

    Raises:
        DataError: the folder is no prepared dataset, of another format, or a file is missing, truncated or
        changed.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder} is not a prepared dataset: it has no {MANIFEST}.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete the folder and prepare it again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{folder} has not format {FORMAT} of a prepared dataset: prepare it again elsewhere.")
    for name, expected in manifest["files"].items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise DataError(f"{file} is missing: delete the folder and prepare it again.")
        if size != expected["bytes"]:
            raise DataError(
                f"{file} is damaged ({size} bytes, not {expected['bytes']}): delete the folder and prepare it again."
            )
        if verify and _digest(file) != expected["sha256"]:
            raise DataError(f"{file} is damaged (SHA-256 differs): delete the folder and prepare it again.")
    return manifest


def check_fingerprint(folder: Path, fingerprint: str) -> bool:
    """Whether `folder` already holds the dataset of this fingerprint; False if there is no such folder, or an
    empty one.

    Raises:
        DataError: the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = read_manifest(folder)["fingerprint"]
    if found != fingerprint:
        raise DataError(
            f"{folder} holds the dataset {found}, not {fingerprint} of these inputs and options: "
            "name another folder (data.prepared) or delete this one."
        )
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock on writing `folder`, waiting for another owner, and clear away what a dead one left half-written.

    Raises:
        DataError: the place cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.waiting(folder.parent / f".{folder.name}.lock", f"{folder} is being prepared"))
            for stale in folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 32}"):
                log.info("removing %s, which a process that died left behind", stale)
                shutil.rmtree(stale)
        except OSError as error:
            raise DataError(f"The prepared dataset {folder} cannot be written ({error.strerror or error}).") from error
        yield


@contextmanager
def atomic_folder(folder: Path, fingerprint: str) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` and rename it when the block ends without an error.

    If another process was faster, its dataset stays and this copy is discarded; after an error nothing stays.

    Raises:
        DataError: the place cannot be written, or holds something else by now.
    """
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not check_fingerprint(folder, fingerprint):
                raise
    except OSError as error:
        raise DataError(f"The prepared dataset {folder} cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
