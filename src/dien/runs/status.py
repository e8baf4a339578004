"""`status.json` of a run folder: whether the run goes on, how it ended, and why.

`running` without an owner of the folder's lock means that the process died: killed, out of memory, or its machine went.
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dien import locks
from dien.errors import ConfigError, DienError
from dien.runs.folder import read_json, write_json

STATUSES = ("running", "finished", "failed", "stopped")
LOCK = ".lock"
"""In a run folder, while a process writes it."""


def read_status(folder: Path) -> dict[str, Any]:
    """The content of `status.json`; of a folder without one (or with a damaged one) what its other files tell."""
    try:
        status = read_json(folder / "status.json")
    except (OSError, json.JSONDecodeError):
        status = {}
    if status.get("status") in STATUSES:
        return status
    return {"status": "finished" if (folder / "metrics.json").is_file() else "running"}


def begin(folder: Path, *, sweep: str | None = None) -> None:
    """A leg of the run begins: write `running`."""
    write_json(
        folder / "status.json",
        {
            "status": "running",
            "error": None,
            "started": _now(),
            "ended": None,
            "sweep": sweep,
            "wandb_id": _wandb_id(folder),
            "process": os.getpid(),
            "host": platform.node(),
        },
    )


def update(folder: Path, **changes: Any) -> None:
    """Change keys of `status.json`, and write the id of the W&B run into it as soon as there is one."""
    write_json(folder / "status.json", read_status(folder) | {"wandb_id": _wandb_id(folder)} | changes)


def end(folder: Path, status: str, error: str | None = None) -> None:
    """The leg ends as `finished`, `failed` or `stopped`, the latter two with a sentence that says why."""
    if status not in STATUSES[1:]:
        raise ConfigError(f"status={status!r} is not one of {', '.join(STATUSES[1:])}.")
    update(folder, status=status, error=error, ended=_now())


def began_here(folder: Path) -> bool:
    """Whether this process began the leg that `status.json` tells of, and it has not ended."""
    status = read_status(folder)
    return (
        status["status"] == "running"
        and status.get("process") == os.getpid()
        and status.get("host") == platform.node()
        and (folder / "status.json").is_file()
    )


def is_finished(folder: Path) -> bool:
    """Whether the run has all that it should leave behind."""
    return (folder / "metrics.json").is_file() and read_status(folder)["status"] == "finished"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """During the block this process alone writes the folder.

    Raises:
        ClaimedError: another process is writing it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not locks.take(folder / LOCK):
        who = locks.owner(folder / LOCK)
        raise ClaimedError(f"{folder} is being written by {who}: wait for it, or stop it first.")
    try:
        yield
    finally:
        locks.release(folder / LOCK)


def died(folder: Path, status: dict[str, Any]) -> bool:
    """Whether the leg of which `status.json` says `running` is over: no process holds the folder's lock.

    Only reads. A leg that ends just now writes its end before it gives the lock back, and is none that died.
    """
    if status.get("status") != "running" or locks.in_use(folder / LOCK) is not False:
        return False
    return read_status(folder) == status


def is_claimed(folder: Path) -> bool:
    """Whether another process is writing the folder."""
    return locks.is_held(folder / LOCK)


class ClaimedError(DienError):
    """Another process is writing a run folder."""


def _wandb_id(folder: Path) -> str | None:
    """Of the W&B run that the folder's legs share; see `dien.tracking`."""
    path = folder / "wandb" / "run_id"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
