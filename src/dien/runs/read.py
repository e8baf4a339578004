"""One run folder, or one run that W&B kept offline, as plain values; a damaged or missing file is a sentence, no error.

Every file is checked as far as it can be without its original: a cut JSON or YAML file does not parse or lacks keys,
a cut table ends in half a row or has columns without a value, a cut checkpoint has lost the end of its archive.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from dien import seal
from dien.errors import DataError
from dien.runs import offline_wandb
from dien.runs.status import died

FINISHED = "finished"
STATUSES = ("running", FINISHED, "failed", "stopped", "unfinished")
"""`unfinished`: a run of which nothing says how it ended: its process died, or its final metrics are missing."""

_FILES = ("config.yaml", "environment.json", "metrics.csv", "metrics.json", "status.json")
_ROOTS = ("seed", "name", "run_dir", "data", "model", "optimizer", "schedule", "trainer", "callbacks", "logger")
"""Keys that the root of every `config.yaml` has."""
_DEEP = 5000
"""Brackets in a configuration; the C parser of YAML ends the process where far more of them open in each other."""


class Run(NamedTuple):
    """What is known of one run; nested keys are joined by dots, lists are JSON text."""

    folder: str
    origin: Literal["folder", "wandb"]
    status: str
    """One of `STATUSES`."""
    problem: str | None
    """What failed, is missing or is damaged, as one sentence; None if nothing is."""
    config: dict[str, Any]
    metrics: dict[str, float]
    environment: dict[str, Any]


Each = Callable[[Sequence[Any]], Iterable[Any]]


def read(*paths: str | Path, each: Each = iter) -> list[Run]:
    """All runs in the given folders, at any depth, in natural order of their paths (`2_base` before `10_base`).

    What W&B wrote into a run folder is that run once more, and no run of its own.

    Args:
        each: goes through the run folders that were found; a place to show how far that is.

    Raises:
        DataError: if a path does not exist or is not a folder; nothing inside of it is an error.
    """
    folders: dict[Path, Path] = {}  # by their absolute places, so that none is counted twice
    logs: dict[tuple[Path, str], dict[Path, Path]] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise DataError(
                f"{path} is {'not a folder' if path.exists() else 'missing'}: give run folders, or folders "
                "that contain them."
            )
        for kind, found in _search(path):
            if kind == "folder":
                folders.setdefault(found.resolve(), found)
            else:  # a run that was resumed has a log for each leg
                legs = logs.setdefault((found.resolve().parents[1], found.stem), {})
                legs.setdefault(found.resolve(), found)
    runs = [read_folder(folder) for folder in each(list(folders.values()))]
    known = {run.environment.get("wandb_id") for run in runs}
    runs += [
        read_wandb(list(legs.values())) for (_, stem), legs in logs.items() if stem.removeprefix("run-") not in known
    ]
    return sorted(runs, key=lambda run: _natural(run.folder))


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def _search(root: Path) -> Iterator[tuple[Literal["folder", "wandb"], Path]]:
    inside: list[str] = []  # run folders above, whose W&B folders are their own
    for place, folders, files in os.walk(root):
        has_checkpoints = "checkpoints" in folders
        folders[:] = [name for name in folders if not name.startswith(".") and name != "checkpoints"]
        if has_checkpoints or any(name in files for name in _FILES[1:]) or _is_configuration(Path(place), files):
            inside.append(os.path.join(place, ""))
            yield "folder", Path(place)
        elif re.match(r"(offline-)?run-", Path(place).name) and any(name.endswith(".wandb") for name in files):
            folders.clear()
            if not place.startswith(tuple(inside)):
                yield from (("wandb", Path(place, name)) for name in files if name.endswith(".wandb"))


def _is_configuration(folder: Path, files: list[str]) -> bool:
    """Whether a `config.yaml` on its own is that of a run which ended before it wrote anything else."""
    if "config.yaml" not in files:
        return False
    try:
        return b"\nrun_dir: " in (folder / "config.yaml").read_bytes()
    except OSError:
        return False


def read_folder(folder: Path) -> Run:
    """A run folder; see `Run`."""
    texts, problems = {}, []
    for name in _FILES:
        try:
            # Not read_text: it would take the "\r" of a cut "\r\n" for a whole line's end.
            texts[name] = (folder / name).read_bytes().decode()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read ({type(error).__name__})")
    status = _parsed("status.json", texts, problems)
    metrics = _parsed("metrics.json", texts, problems)
    environment = _parsed("environment.json", texts, problems)
    written = environment.pop("config_sha256", None)
    state = status.get("status")
    if state not in STATUSES:
        state = FINISHED if (folder / "metrics.json").exists() else "unfinished"

    dead = died(folder, status)
    if dead:
        state = "unfinished"

    expected = list(_FILES[:2])
    if written is not None:  # older runs keep neither a digest nor a status
        expected.append("status.json")
    if state == FINISHED:
        expected += ["metrics.csv", "metrics.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
        if "metrics.csv" in texts and not _is_whole_table(texts["metrics.csv"], metrics):
            problems.append("metrics.csv is damaged")
    problems += [f"{name} is missing" for name in expected if not (folder / name).exists()]
    problems += [
        f"checkpoints/{path.name} is damaged"
        for path in sorted(folder.glob("checkpoints/*.ckpt"))
        if not _has_its_end(path)
    ]
    config: dict[str, Any] = {}
    if "config.yaml" in texts:
        config, whole = _configuration(texts["config.yaml"], written)
        problems += [] if whole else ["config.yaml is damaged"]
    if state in ("failed", "stopped"):
        problems.insert(0, f"it {state}: {str(status.get('error') or 'no reason is known').rstrip('.')}")
    elif dead:
        who = f"process {status['process']} on {status.get('host')}" if status.get("process") else "its process"
        problems.insert(0, f"it has not finished: {who} ended without a word")
    elif state != FINISHED:
        running = state == "running"
        problems.insert(0, "it is still running" if running else "it has not finished: metrics.json is missing")
    if status.get("wandb_id"):
        environment["wandb_id"] = status["wandb_id"]
    return Run(
        folder=str(folder),
        origin="folder",
        status=state,
        problem="; ".join(problems) + "." if problems else None,
        config=flat(config),
        metrics=_numbers(metrics),
        environment=flat(environment),
    )


def _has_its_end(checkpoint: Path) -> bool:
    try:
        return seal.has_its_end(checkpoint)
    except FileNotFoundError:  # `previous.ckpt` goes when its run ends
        return True
    except OSError:
        return False


def read_wandb(legs: list[Path]) -> Run:
    """The offline log of a run of W&B, or those of its legs if it was resumed; see `Run`."""
    legs = sorted(legs)
    log = offline_wandb.read(legs)
    problems = [] if log.damage is None else [log.damage]
    if log.exit_code is None:
        state = "unfinished"
        problems.insert(0, "it has not finished: its W&B log has no end")
    elif log.exit_code:
        state = "failed"
        problems.insert(0, f"it failed with exit status {log.exit_code}")
    else:
        state = FINISHED
    return Run(
        folder=str(legs[-1].parent),
        origin="wandb",
        status=state,
        problem="; ".join(problems) + "." if problems else None,
        config=flat(log.config),
        metrics=_numbers(log.summary),
        environment=flat(log.environment),
    )


def flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """A nested mapping with keys joined by dots; lists become JSON text."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{above}{key}.")
        else:
            scalar = value is None or isinstance(value, str | int | float)
            leaves[f"{above}{key}"] = value if scalar else json.dumps(value, default=str)
    return leaves


def _parsed(name: str, texts: dict[str, str], problems: list[str]) -> dict[str, Any]:
    if name not in texts:
        return {}
    try:
        value = json.loads(texts[name])
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    problems.append(f"{name} is damaged")
    return {}


def _configuration(text: str, written: str | None) -> tuple[dict[str, Any], bool]:
    """The configuration as far as it can be read, and whether it is all that was written."""
    if len(re.findall(r"[\[{]|[-?] (?=[-?] )", text)) > _DEEP:
        return {}, False
    try:
        # The C parser is ten times as fast as the other.
        config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}, False
    if not isinstance(config, dict):
        return {}, False
    if written is not None:
        return config, written == config_digest(text)
    return config, text.endswith("\n") and all(key in config for key in _ROOTS)


def config_digest(text: str) -> str:
    """What `environment.json` keeps of `config.yaml`: a file that was cut between two lines is still YAML."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_whole_table(text: str, metrics: dict[str, Any]) -> bool:
    """A table has a column only if some row has a value there; and a run that finished has rows of its last epoch."""
    rows = list(csv.reader(io.StringIO(text)))
    if not text.endswith("\n") or len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return False
    columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    epochs = [int(value) for value in columns.get("epoch", ()) if value.isdigit()]
    last = max(epochs, default=0) >= int(metrics.get("epochs") or 1) - 1
    return last and all(any(values) for values in columns.values())


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers among some values; null stands for NaN, which is no metric."""
    return {
        key: value for key, value in metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
