"""Where the configuration lies, its root schema, and how a command turns a mistake in it into one sentence."""

import atexit
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dien import cluster, distributed, locks
from dien.errors import DienError
from dien.runs import LOCK, is_finished, run_folder_of, unfinished_runs

_OPTION_ERRORS = (TypeError, ValueError, ImportError, MisconfigurationException)
"""What constructors outside of this project raise for an option that they do not take."""

_EXAMPLES = {
    "data.source.category": "Books",
    "data.source.events": "clicks.parquet",
    "data.source.path": "FOLDER",
}
"""Of what the user has to give, as in the comments of `conf/`."""

_here = Path(__file__).resolve().parent
# A wheel carries the folder inside the package; a checkout has it at the top level.
CONF = next((path for path in (_here / "conf", _here.parents[1] / "conf") if path.is_dir()), _here / "conf")


@dataclass
class CheckpointConfig:
    """When a training is saved within an epoch."""

    minutes: float | None = MISSING
    steps: int | None = MISSING


@dataclass
class TrainConfig:
    """Root of `conf/train.yaml`. A key that is not here is an error; groups check their own keys when built."""

    seed: int = MISSING
    train: bool = MISSING
    test: bool = MISSING
    ckpt: str | None = MISSING
    objective: str = MISSING
    threads: int | None = MISSING
    name: str = MISSING
    run_dir: str = MISSING
    data: Any = MISSING
    model: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    on_nan: str = MISSING


@dataclass
class PrepareConfig:
    """Root of `conf/prepare.yaml`."""

    seed: int = MISSING
    authors_files: str | None = MISSING
    data: Any = MISSING


def _run_dir(ckpt: str | None, parent: str, name: str) -> str:
    """A resumed run continues in its own folder; any other gets a new one that no launch shares."""
    if ckpt not in (None, "auto"):
        return str(run_folder_of(ckpt))
    folder = _unfinished(Path(parent), name) if ckpt == "auto" else None
    return distributed.agreed("run_dir", str(folder or _new_folder(Path(parent), name)))


def _unfinished(parent: Path, name: str) -> Path | None:
    """The newest unfinished run that nobody is writing, taken at once, before a launch of the same instant can choose
    it; given back when the job ends. The first of several processes does so for all."""
    for run in unfinished_runs(parent, name):
        if _get_rank():
            return run
        if locks.take(run / LOCK):
            if not is_finished(run):
                return run
            locks.release(run / LOCK)  # its owner has finished it meanwhile
    return None


def _new_folder(parent: Path, name: str) -> Path:
    """Making it is what keeps two launches of the same microsecond apart; it goes if nothing was put into it."""
    while True:
        folder = parent / f"{launched():%Y-%m-%d_%H-%M-%S-%f}_{name}"
        if _get_rank() or _tasks() > 1:  # several processes must come to the same name
            return folder
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            atexit.register(_remove_empty, folder.absolute())
            return folder


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _tasks() -> int:
    """Processes of this SLURM job step, 1 outside of SLURM."""
    return int(os.environ.get("SLURM_NTASKS", "1"))


def launched() -> datetime:
    """When this launch began; the same in all tasks of a SLURM job, whose folder the first of them then writes."""
    job = os.environ
    if _tasks() > 1 and "SLURM_PROCID" in job and "SLURM_JOB_START_TIME" in job:
        start = datetime.fromtimestamp(int(job["SLURM_JOB_START_TIME"]))
        return start + timedelta(microseconds=int(job["SLURM_JOB_ID"]) % 10**6)  # tells jobs of one second apart
    return datetime.now()


def _data_name(group: str, *, _root_: DictConfig) -> str:
    """The data's name; the name of the group if that of the data is made of a swept value, not there yet."""
    with suppress(OmegaConfBaseException):
        return str(_root_.data.name)
    return group


def _sweep_dir(sweep: str | None, data: str, parent: str, now: str) -> str:
    """A named sweep is found again by the same command; any other gets a new folder."""
    return f"{parent}/{now if sweep is None else f'{sweep}_{data}'}"


def register() -> None:
    """Make the schemas and resolvers of `conf/` known; calling it again changes nothing."""
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("prepare_schema", PrepareConfig)
    OmegaConf.register_new_resolver("run_group", lambda experiment: experiment or "default", replace=True)
    OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("data_name", _data_name, replace=True)
    # Cached: the jobs of a sweep over data lie where the sweep does, whatever data each of them has.
    OmegaConf.register_new_resolver("sweep_dir", _sweep_dir, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("slurm_tasks", cluster.tasks_per_node, replace=True)
    OmegaConf.register_new_resolver("slurm_gpus", cluster.gpus_per_node, replace=True)


@contextmanager
def mistakes_in_one_sentence(command: str) -> Iterator[None]:
    """A user's mistake ends the command with one sentence on stderr and exit status 2; a defect keeps its traceback."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own report
    try:
        yield
    except (DienError, HydraException, OmegaConfBaseException, MisconfigurationException, OSError) as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        print(f"{command}: {sentence}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, DienError) else 2)


def sentence_of(error: BaseException) -> str | None:
    """What the user did wrong, in one line; None if the error is not theirs but a defect of the program."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, DienError):
            return str(link)
        if isinstance(link, OSError) and link.filename:
            return f"{link.strerror}: {link.filename}"
    text = str(error)
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{missing[1]} has no value, and needs one: {missing[1]}={_EXAMPLES.get(missing[1], '...')}"
    key = re.search(r"full_key: (\S+)", text)
    for link in chain:
        if isinstance(link, TypeError) and (typo := re.search(r"unexpected keyword argument '(\w+)'", str(link))):
            return f"{key[1] + '.' if key else ''}{typo[1]} is not an option: check its spelling."
    if isinstance(error, MisconfigurationException):
        return f"trainer: {' '.join(text.split())}"
    if "Error in call to target" in text and isinstance(chain[-1], _OPTION_ERRORS):
        return f"{key[1] if key else 'configuration'}: {' '.join(str(chain[-1]).split())}"
    if isinstance(error, HydraException | OmegaConfBaseException) and "Error in call to target" not in text:
        # Hydra and OmegaConf append their own context after the sentence that concerns the user.
        return re.split(r"\s+(?:full_key:|Config search path:)", " ".join(text.split()))[0]
    return None
