"""Run folders: how a run is written down. Every report, notebook and later command goes through here."""

from dien.runs.folder import (
    checkpoint_of,
    environment,
    read_json,
    run_folder_of,
    unfinished_run,
    with_overrides_of_resumed_run,
    write_json,
    write_text,
)

__all__ = [
    "checkpoint_of",
    "environment",
    "read_json",
    "run_folder_of",
    "unfinished_run",
    "with_overrides_of_resumed_run",
    "write_json",
    "write_text",
]
