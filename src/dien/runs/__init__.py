"""Run folders: how a run is written down. Every report, notebook and later command goes through here."""

from typing import TYPE_CHECKING, Any

from dien.runs.folder import (
    checkpoint_of,
    environment,
    read_json,
    run_folder_of,
    unfinished_runs,
    with_overrides_of_resumed_run,
    write_bytes,
    write_json,
    write_text,
)
from dien.runs.frames import curves, load
from dien.runs.read import config_digest
from dien.runs.status import (
    LOCK,
    ClaimedError,
    began_here,
    begin,
    claimed,
    end,
    is_claimed,
    is_finished,
    read_status,
    update,
)

if TYPE_CHECKING:
    from dien.runs.model import LoadedRun, load_model

__all__ = [
    "LOCK",
    "ClaimedError",
    "LoadedRun",
    "began_here",
    "begin",
    "checkpoint_of",
    "claimed",
    "config_digest",
    "curves",
    "end",
    "environment",
    "is_claimed",
    "is_finished",
    "load",
    "load_model",
    "read_json",
    "read_status",
    "run_folder_of",
    "unfinished_runs",
    "update",
    "with_overrides_of_resumed_run",
    "write_bytes",
    "write_json",
    "write_text",
]


def __getattr__(name: str) -> Any:
    """What needs torch and the model comes when it is asked for: reading a table of runs does not."""
    if name in ("LoadedRun", "load_model"):
        from dien.runs import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
