"""Run folders: how a run is written down. Every report, notebook and later command reads these files and no others.

config.yaml (resolved), metrics.json (final, flat), metrics.csv (per step and epoch), environment.json, checkpoints/.
"""

import json
import math
import os
import platform
import re
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dien.errors import DienError
from dien.overrides import check_from_file, parse

PACKAGES = (
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "wandb",
    "polars",
    "pyarrow",
    "numpy",
)


def write_text(path: Path, text: str) -> None:
    """Write a file that exists whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that exists whole or not at all.

    Raises:
        OSError: it cannot be written, with `path` as its filename and not the temporary one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file that exists whole or not at all; NaN, which JSON does not have, becomes null."""
    numbers = {
        key: None if isinstance(item, float) and not math.isfinite(item) else item for key, item in value.items()
    }
    write_text(path, json.dumps(numbers, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def with_overrides_of_resumed_run(arguments: list[str]) -> list[str]:
    """Hydra overrides for `ckpt=RUN`: those that the run was started with, then those given now, which win.

    Raises:
        DienError: there is no such run, or its folder brings along something else than options.
    """
    given = {override.key: override.value for argument in arguments if (override := parse(argument))}
    if given.get("ckpt", "null") in ("null", "auto", "") or {"-m", "--multirun"} & set(arguments):
        return arguments

    def replaced(argument: str) -> bool:
        """Given now as itself, or as a part of a group that is chosen anew."""
        override = parse(argument)
        names = (*given, "run_dir")  # a resumed run continues in its own folder
        return override is None or any(re.match(rf"{re.escape(name)}([./]|$)", override.key) for name in names)

    before = _overrides_of(run_folder_of(given["ckpt"]) / "environment.json")
    return [argument for argument in before if not replaced(argument)] + arguments


def _overrides_of(file: Path) -> list[str]:
    """What a run was started with; every one is checked, also those that are given anew."""
    try:
        found = read_json(file).get("overrides", [])
    except (ValueError, AttributeError, RecursionError) as error:
        raise DienError(f"{file} is damaged: it does not say which options the run was started with.") from error
    if not isinstance(found, list):
        raise DienError(f"{file} is damaged: `overrides` is not a list.")
    return [check_from_file(argument, str(file)) for argument in found]


def run_folder_of(ckpt: str) -> Path:
    """The run folder that a checkpoint, or the folder itself, names.

    Raises:
        DienError: if there is no such file or folder, or it belongs to no run.
    """
    path = Path(ckpt).resolve()
    if not path.exists():
        raise DienError(f"{ckpt} does not exist: give a run folder or a checkpoint in one.")
    folder = path.parent.parent if path.is_file() else path
    if not (folder / "checkpoints").is_dir():
        if (folder / "config.yaml").is_file() and (folder / "status.json").is_file():
            raise DienError(f"{ckpt} has no checkpoint: its run ended before it saved one.")
        raise DienError(f"{ckpt} is not a run folder or a checkpoint in one: {folder}/checkpoints is missing.")
    return folder


def checkpoint_of(ckpt: str, default: str) -> Path:
    """The checkpoint file that `ckpt` names; for a run folder its `default`, such as `last.ckpt`.

    Raises:
        DienError: if the run has no such checkpoint.
    """
    path = Path(ckpt) if Path(ckpt).is_file() else run_folder_of(ckpt) / "checkpoints" / default
    if not path.is_file():
        raise DienError(f"{ckpt} holds no checkpoint: {path} is missing.")
    return path


def unfinished_runs(parent: Path, name: str) -> list[Path]:
    """Runs of this name that have a checkpoint and did not finish, newest first."""
    from dien.runs.status import is_finished  # stands on this module

    runs = sorted((path.parents[1] for path in parent.glob(f"*_{name}/checkpoints/last.ckpt")), reverse=True)
    return [run for run in runs if not is_finished(run)]


def environment(
    *, seed: int, fingerprint: str, parameters: int, device: str, engine: str, overrides: list[str]
) -> dict[str, Any]:
    """What else decides a run's numbers: code, packages, machine, seed and data."""
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in ("dien", *PACKAGES)},
        "device": device,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "scan_engine": engine,
        "seed": seed,
        "dataset_fingerprint": fingerprint,
        "parameters": parameters,
        "overrides": overrides,
    }


def _git(*arguments: str) -> str | None:
    """Output of git in the project's checkout; None from a wheel, or without git."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():  # an installed copy may lie in somebody else's repository
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
