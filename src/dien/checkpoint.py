"""Checkpoint files: there whole or not at all, with a checksum, and never fewer than one that can be read.

The SHA-256 of a checkpoint is the comment of the zip archive that `torch.save` makes, so that file and checksum are one
file: they are renamed, copied and moved together, and `torch.load` reads it like any other checkpoint.

`last.ckpt` is the newest state of a training, `previous.ckpt` the one before it while the training runs, `best.ckpt`
the epoch with the best objective.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, cast

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from dien import seal
from dien.errors import DienError

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class DamagedError(DienError):
    """A checkpoint that was cut or changed after it was written."""


def write_checkpoint(state: dict[str, Any], path: Path, *, keep: Path | None = None) -> None:
    """Write a checkpoint; at every instant `path` is the old file or the new one, whole and on disk.

    Args:
        state: tensors and plain values.
        path: of the checkpoint.
        keep: what the old file of `path` is called from then on; it is deleted if there is no such name.

    Raises:
        OSError: it cannot be written, with `path` as its filename; the old file is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            hashing = _Hashing(file)
            torch.save(state, cast(BinaryIO, hashing))
            file.flush()
            # The archive ends with the length of its comment in two bytes, which are zero so far.
            file.seek(-2, os.SEEK_END)
            file.write(seal.comment(hashing.digest.hexdigest()))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if keep is not None and path.exists():
            _also_call(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause = next((link for link in _chain(error) if isinstance(link, OSError)), None)
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of `dien-train`, its tensors on the CPU; nothing in it is executed.

    Raises:
        DamagedError: it was cut or changed after it was written.
        DienError: it is something else.
    """
    verify(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError, ValueError, LookupError) as error:
        raise DamagedError(f"{path} is not a whole checkpoint: it is damaged, or was cut while written.") from error
    if not isinstance(state, dict) or "state_dict" not in state:
        raise DienError(f"{path} is not a checkpoint of dien-train.")
    return state


def verify(path: Path) -> None:
    """Raise `DamagedError` if a checkpoint does not end as it was written, or has another checksum than its content.

    A checkpoint of `torch.save` alone ends with its archive and has no checksum to compare.
    """
    digest, held, tail = hashlib.sha256(), b"", 2 + seal.COMMENT
    end = b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            held += block
            end = held[-seal.END :]
            digest.update(held[:-tail])
            held = held[-tail:]
    digest.update(b"\0\0")
    if held != seal.comment(digest.hexdigest()) and not seal.is_bare_end(end):
        raise DamagedError(f"{path} is not a whole checkpoint: it is damaged, or was cut while written.")


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a training; a damaged one is named in the log, and the one before it taken.

    Args:
        folder: `checkpoints` of a run folder.

    Raises:
        DamagedError: there are checkpoints, all of them damaged.
    """
    damage = None
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            read_checkpoint(path)
        except DamagedError as error:
            log.warning("%s", error)
            damage = error
        else:
            if path.name == PREVIOUS:
                log.warning("going on from %s, the checkpoint before it", path)
            return path
    if damage is not None:
        raise damage
    return None


class AtomicIO(TorchCheckpointIO):
    """Lightning's way to a checkpoint file; the old `last.ckpt` stays as `previous.ckpt`."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        write_checkpoint(checkpoint, path, keep=path.with_name(PREVIOUS) if path.name == LAST else None)

    @override
    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


class _Hashing:
    """A file for `torch.save` that takes the digest of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _also_call(path: Path, name: Path) -> None:
    """Give a file a second name, so that the first can be replaced; the first is there at every instant."""
    temporary = name.with_name(f".{name.name}.link")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without links: for an instant only the second name exists
        os.replace(path, name)
    else:
        os.replace(temporary, name)


def _sync_folder(folder: Path) -> None:
    """The new name, too, has to survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return chain
