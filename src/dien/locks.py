"""Who may write a place: file locks that the kernel drops with the process that holds them, however it ends.

A lock is a file beside (or in) the place it guards; it names its owner while it is held and is gone afterwards. The
locks are those of `flock(2)`: on a network file system they work between nodes if the mount supports them (NFS since
version 3 with lockd, NFS 4, Lustre with `-o flock`).
"""

import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

GLANCE = 0.2
"""Seconds for which `take` tries: who only looks (`in_use`) shares the lock for some microseconds."""

_held: dict[Path, FileLock] = {}
"""Locks of this process: it may take one that it holds already."""


def take(path: Path) -> bool:
    """Take a lock now and hold it until `release` or the end of the process; False if another process holds it."""
    path = path.absolute()
    if path in _held:
        return True
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=GLANCE, poll_interval=0.01)
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


def in_use(path: Path) -> bool | None:
    """Whether any process, this one too, holds the lock; None where that cannot be told.

    Nothing is written, so the place may be read-only; a file that a dead process left behind is no lock.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Shared, so that readers never see each other; `take` outwaits it. F_OFD_GETLK, which takes nothing, sees only
        # locks of fcntl(2).
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    else:
        return False
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether another process holds the lock; where that cannot be told, a lock file is taken for a lock."""
    return path.absolute() not in _held and in_use(path) is not False


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
