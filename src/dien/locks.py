"""Who may write a place: file locks that the kernel drops with the process that holds them, however it ends.

A lock is a file beside (or in) the place it guards; it names its owner while it is held and is gone afterwards. The
locks are those of `flock(2)`: on a network file system they work between nodes if the mount supports them (NFS since
version 3 with lockd, NFS 4, Lustre with `-o flock`).
"""

import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_held: dict[Path, FileLock] = {}
"""Locks of this process: it may take one that it holds already."""


def take(path: Path) -> bool:
    """Take a lock now and hold it until `release` or the end of the process; False if another process holds it."""
    path = path.absolute()
    if path in _held:
        return True
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    _held[path] = lock
    path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    return True


def release(path: Path) -> None:
    """Give back a lock of this process; nothing happens if it holds none."""
    path = path.absolute()
    if lock := _held.pop(path, None):
        with suppress(OSError):
            path.unlink()  # before others can have it: who waits on the removed file notices and makes a new one
        lock.release()


def is_held(path: Path) -> bool:
    """Whether another process holds the lock; a file that a dead process left behind is no lock."""
    if not path.exists() or path.absolute() in _held:
        return False
    if not take(path):
        return True
    release(path)
    return False


def owner(path: Path) -> str:
    """`process 12 on node7`, or `another process` if that cannot be told."""
    with suppress(OSError, UnicodeDecodeError):
        if text := path.read_text(encoding="utf-8"):
            return text
    return "another process"


@contextmanager
def waiting(path: Path, what: str, *, poll_seconds: float = 0.5) -> Iterator[None]:
    """Hold a lock during the block; waits for another owner, and says so.

    Args:
        path: of the lock; its folder is made.
        what: what the other owner is doing, for people: "NAME is being prepared".
        poll_seconds: between two tries.

    Raises:
        OSError: the lock file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not take(path):
        log.info("%s by %s: waiting for it", what, owner(path))
        start = time.monotonic()
        while not take(path):
            time.sleep(poll_seconds)
        log.info("waited %.0f s", time.monotonic() - start)
    try:
        yield
    finally:
        release(path)
