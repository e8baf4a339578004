"""A sweep: which jobs it has, which are left to do, how they went.

A job of a named sweep (`sweep=...`) is known by the values of the swept options; its folder is named after them, so
that the same command finds it again. What it was configured with is compared before it is taken for done.
"""

import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from dien import runs
from dien.board import Board, print_summary
from dien.config import sentence_of
from dien.errors import ConfigError, DienError

log = logging.getLogger(__name__)

IRRELEVANT = (
    *("run_dir", "ckpt", "threads", "logger", "callbacks.progress", "checkpoint"),
    *("data.cache", "data.num_workers", "data.prefetch_factor", "data.persistent_workers", "data.pin_memory"),
)
"""Options that say where and how fast, and not what is trained."""


class SweepError(DienError):
    """Jobs of a sweep failed; the message names them with their reasons."""

    status = 1


class Job(NamedTuple):
    """One combination of a sweep."""

    number: int
    overrides: list[str]
    variant: str
    """The swept values without the seed."""
    seed: int
    folder: Path
    objective: str
    settings: dict[str, Any]
    """Dotted names of the options that matter, and their values."""


def compose(loader: ConfigLoader, config: DictConfig, params: dict[str, str], arguments: Sequence[str]) -> list[Job]:
    """Every combination of the sweep's own `params` and the command line, which wins.

    Raises:
        ConfigError: two combinations would have the same folder.
        HydraException: an option that does not exist.
    """
    given = [f"{key}={value}" for key, value in params.items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*given, *arguments])
    swept = {*params, *(override.get_key_element() for override in overrides if override.is_sweep_override())}
    named = config.hydra.runtime.choices.get("sweep") is not None
    sweep_dir = Path(config.hydra.sweep.dir)  # resolved once: it may hold the time
    combinations = BasicSweeper.split_arguments(overrides, None)[0]
    before = HydraConfig.instance().cfg
    try:
        jobs = [_job(loader, config, sweep_dir, number, c, swept, named) for number, c in enumerate(combinations)]
    finally:
        HydraConfig.instance().cfg = before
    folder, count = Counter(job.folder for job in jobs).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"hydra.sweep.subdir gives {count} jobs the same folder {folder}.")
    return jobs


def _job(
    loader: ConfigLoader,
    config: DictConfig,
    sweep_dir: Path,
    number: int,
    combination: list[str],
    swept: set[str],
    named: bool,
) -> Job:
    values = [override for override in combination if override.split("=")[0] in swept]
    if named:
        combination = [*combination, f"hydra.sweep.subdir='{folder_name(values)}'"]
    cfg = loader.load_sweep_config(config, combination)
    with open_dict(cfg):
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
    HydraConfig.instance().set_config(cfg)
    folder = sweep_dir / cfg.hydra.sweep.subdir
    seed = cfg.seed
    with open_dict(cfg):
        del cfg["hydra"]
        cfg.run_dir = ""
    return Job(
        number=number,
        overrides=combination,
        variant=" ".join(value for value in values if not value.startswith("seed=")) or str(cfg.model.name),
        seed=seed,
        folder=folder,
        objective=cfg.objective,
        settings=_settings(cfg),
    )


def folder_name(values: Sequence[str]) -> str:
    """A folder for `KEY=VALUE` pairs that says what they are and is never that of other pairs."""
    ordered = sorted(values, key=lambda value: value.startswith("seed="))
    parts = [(re.split("[./]", key)[-1], value) for key, _, value in (pair.partition("=") for pair in ordered)]
    readable = "_".join(f"{key}-{value}" for key, value in parts)
    safe = re.sub(r"[^A-Za-z0-9._+-]", "-", readable)
    if safe == readable and len(safe) <= 120 and len({key for key, _ in parts}) == len(parts):
        return safe
    return f"{safe[:110]}-{hashlib.sha256(' '.join(ordered).encode()).hexdigest()[:8]}"


def _settings(cfg: DictConfig | ListConfig) -> dict[str, Any]:
    """Dotted names and resolved values of the options that matter."""

    def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                yield from leaves(item, f"{name}.{key}" if name else str(key))
        else:
            yield name, value

    every = dict(leaves(OmegaConf.to_container(cfg, resolve=True), ""))
    return {
        name: value
        for name, value in every.items()
        if not any(name == key or name.startswith(f"{key}.") for key in IRRELEVANT)
    }


def check_same(job: Job) -> None:
    """Raise `ConfigError` if the folder holds results of a job of another configuration, and name the difference."""
    config = job.folder / "config.yaml"
    begun = (job.folder / "metrics.json").is_file() or any(job.folder.glob("checkpoints/*.ckpt"))
    if not begun or not config.is_file():
        return
    before = _settings(OmegaConf.load(config))
    for name in sorted({*before, *job.settings}):
        old, new = before.get(name), job.settings.get(name)
        if old != new:
            raise ConfigError(
                f"{job.folder} was run with {name}={old}, not {new}: give this sweep a folder of its own with "
                "hydra.sweep.dir=..., or delete the old one."
            )


def run(jobs: list[Job], config: DictConfig, launcher: Launcher, *, poll_seconds: float = 2.0) -> None:
    """Run what is left to do, show how it goes, and sum up.

    Jobs that another process is running are waited for, and taken over if it dies.

    Raises:
        ConfigError: a folder of the sweep holds another configuration.
        SweepError: jobs failed; all others were run.
    """
    for job in jobs:
        check_same(job)
    name = str(config.hydra.runtime.choices.get("sweep") or "sweep")
    start = datetime.now(UTC).isoformat(timespec="microseconds")
    todo = [job for job in jobs if not runs.is_finished(job.folder)]
    parallel = "basic_launcher" not in config.hydra.launcher._target_
    with Board(name, jobs, since=start, parallel=parallel) as board:
        board.say_what_is_left(todo)
        told = False
        while todo:
            free = [job for job in todo if not runs.is_claimed(job.folder)]
            if free:  # one at a time here: Hydra keeps the configurations of all jobs that it launches together
                _launch(free if parallel else free[:1], launcher, start)
            else:
                if not told:
                    board.say(f"{name}: {len(todo)} jobs are being run by another process: waiting for them")
                told = True
                time.sleep(poll_seconds)
            todo = [job for job in todo if not _is_over(job, start)]
    print_summary(name, jobs)
    failed = [job for job in jobs if not runs.is_finished(job.folder)]
    if failed:
        reasons = "; ".join(f"{job.folder.name}: {runs.read_status(job.folder).get('error')}" for job in failed)
        raise SweepError(
            f"{len(failed)} of {len(jobs)} jobs failed, the same command tries them again: {reasons}"
            if name != "sweep"
            else f"{len(failed)} of {len(jobs)} jobs failed: {reasons}"
        )


def _is_over(job: Job, start: str) -> bool:
    """Whether the job was done, or was tried since `start`; not while a process runs it."""
    if runs.is_finished(job.folder):
        return True
    status = runs.read_status(job.folder)
    return status["status"] in ("failed", "stopped") and (status.get("ended") or "") >= start


def _launch(jobs: list[Job], launcher: Launcher, start: str) -> None:
    """Run jobs; one whose process died is written down as failed, so that it does not stop those after it.

    Raises:
        DienError: nothing could be started, or a job could not even begin: no other will fare better.
    """
    problem: Exception | None = None
    returned: Sequence[JobReturn] = ()
    try:
        returned = launcher.launch([job.overrides for job in jobs], initial_job_idx=jobs[0].number)
    except Exception as error:  # a killed worker, a queue that refuses
        problem = error
    begun = [(runs.read_status(job.folder).get("started") or "") >= start for job in jobs]
    for job in compress(jobs, begun):
        if runs.read_status(job.folder)["status"] == "running" and not runs.is_claimed(job.folder):
            runs.end(job.folder, "failed", "its process died: killed, or out of memory.")
    for job, result, has_begun in zip(jobs, returned, begun, strict=False):
        if result.status is JobStatus.FAILED and not has_begun:
            raise DienError(f"{job.folder.name}: {sentence_of(result._return_value) or result._return_value}")
    if problem is not None and not any(begun):
        text = " ".join(str(problem).split())
        raise DienError(f"the jobs cannot be started: {type(problem).__name__}: {text}") from problem
