"""SLURM: what `cluster=slurm` needs before it starts, and putting a job that was told to go back into the queue.

Everything else is hydra-submitit-launcher's; see docs/cluster.md.
"""

import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec

from dien.errors import ConfigError, StoppedError
from dien.overrides import parse

log = logging.getLogger(__name__)

LAUNCHERS = {"slurm": "hydra_submitit_launcher", "local": "hydra_joblib_launcher"}
PREEMPTION_SIGNAL = "USR1"
"""What SLURM sends ahead of the end of the time limit, and `scancel --signal=USR1` by hand."""


def get_ready(overrides: Sequence[str]) -> None:
    """Check that the launcher of `cluster=` is installed, and settle the signal before it is imported.

    Raises:
        ConfigError: the extra `slurm` is not installed.
    """
    given = filter(None, map(parse, overrides))
    name = next((override.value for override in given if override.key == "cluster"), "")
    if name in LAUNCHERS and find_spec(f"hydra_plugins.{LAUNCHERS[name]}") is None:
        raise ConfigError(
            f"cluster={name} needs {LAUNCHERS[name].replace('_', '-')}, which the extra `slurm` installs: "
            "pip install 'dien[slurm]'."
        )
    if name == "slurm":
        os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", PREEMPTION_SIGNAL)


def requeue_after(stop: StoppedError) -> None:
    """Put this SLURM job back into the queue if the preemption signal stopped it; it continues in its own folder.

    SIGTERM does not: `scancel` sends it too, and SLURM itself requeues a job that it preempts.
    """
    preempted = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', PREEMPTION_SIGNAL)}"]
    if stop.status != 128 + preempted or "SLURM_JOB_ID" not in os.environ or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:  # an interactive job, say
        log.warning("%s: job %s cannot go back into the queue (%s)", preempted.name, job, error)
    else:
        log.info("%s: job %s goes back into the queue", preempted.name, job)


def tasks_per_node(devices: object) -> int:
    """One process a device, so `trainer.devices` must be a number.

    Raises:
        ConfigError: it is something else, such as `auto`.
    """
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ConfigError(f"cluster=slurm asks for whole devices: set trainer.devices to a number, not {devices!r}.")
    return devices


def gpus_per_node(accelerator: str, devices: object) -> int | None:
    """As many GPUs as devices; none for `trainer=cpu`."""
    return None if accelerator == "cpu" else tasks_per_node(devices)
