"""`cluster=slurm` with a stand-in for the scheduler's commands (slurm.py), `cluster=local` with joblib."""

import json
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dien import cluster
from dien.errors import ConfigError, StoppedError

SWEEP = Path("multirun/default/table2_table")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in's folder, with the commands on PATH."""
    commands, state = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir()
    state.mkdir()
    for name in ("sbatch", "srun", "scontrol", "sacct"):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("slurm.py")} {name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    return state


def status_of(name: str) -> dict[str, object]:
    return json.loads((SWEEP / name / "status.json").read_text())


def test_an_array_shares_its_data_and_a_preempted_job_finds_its_folder(dien_train, tiny, slurm, capsys):
    command = ["-m", "sweep=table2", "cluster=slurm", "model=base", "seed=0,1", *tiny, "trainer.max_epochs=20"]
    command += ["callbacks.early_stopping=null"]
    assert dien_train(*command, "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90") == 0
    script = (slurm / "script.sh").read_text().splitlines()
    for line in (
        "--array=0-1%2",
        "--partition=gpu",
        "--time=90",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--signal=USR1@120",
        "--requeue",
    ):
        assert f"#SBATCH {line}" in script
    assert not any("gpus" in line for line in script)

    assert (slurm / "requeued").read_text() == "4711_0\n"  # the first job was preempted once, and only it
    log = (SWEEP / "model-base_seed-0" / "train.log").read_text()
    assert "SIGUSR1: job 4711_0 goes back into the queue" in log  # after its checkpoint was written
    assert log.count("model: base") == 2  # two legs in one folder
    assert (SWEEP / "model-base_seed-1" / "train.log").read_text().count("model: base") == 1
    for seed in (0, 1):
        assert status_of(f"model-base_seed-{seed}")["status"] == "finished"
        assert json.loads((SWEEP / f"model-base_seed-{seed}" / "metrics.json").read_text())["epochs"] == 20
    (dataset,) = (path for path in Path("cache").iterdir() if path.name != "kernels")  # one, and nothing half-made
    assert dataset.name.startswith("table-")
    assert "2 of 2 done" in capsys.readouterr().err


def test_jobs_run_side_by_side_on_one_machine(dien_train, tiny, capsys):
    command = ["-m", "sweep=table2", "cluster=local", "model=base,din", "seed=0", *tiny, "trainer.max_epochs=1"]
    assert dien_train(*command) == 0
    assert "2 of 2 done, 0 running, 0 failed" in capsys.readouterr().err
    processes = {status_of(f"model-{name}_seed-0")["process"] for name in ("base", "din")}
    assert len(processes) == 2


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_without_the_extra_it_says_what_to_install(dien_train, capsys, monkeypatch, name):
    monkeypatch.setattr("dien.cluster.find_spec", lambda module: None if "launcher" in module else find_spec(module))
    assert dien_train(f"cluster={name}") == 2
    error = capsys.readouterr().err
    assert f"cluster={name} needs hydra-" in error
    assert "pip install 'dien[slurm]'" in error
    assert error.count("\n") == 1


def test_only_the_preemption_signal_requeues(monkeypatch):
    called = []
    monkeypatch.setattr("subprocess.run", lambda command, **options: called.append(command))
    usr1 = StoppedError("stopped by SIGUSR1: ...", signal.SIGUSR1)
    cluster.requeue_after(usr1)  # outside of SLURM
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    cluster.requeue_after(StoppedError("stopped by SIGTERM: ...", signal.SIGTERM))  # scancel
    monkeypatch.setenv("SLURM_PROCID", "1")
    cluster.requeue_after(usr1)  # the first rank does it for all
    assert called == []
    monkeypatch.setenv("SLURM_PROCID", "0")
    cluster.requeue_after(usr1)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    cluster.requeue_after(usr1)
    assert called == [["scontrol", "requeue", "12"], ["scontrol", "requeue", "10_2"]]


def test_a_job_that_cannot_be_requeued_still_stops_as_it_should(monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", "")  # no scontrol
    cluster.requeue_after(StoppedError("stopped by SIGUSR1: ...", signal.SIGUSR1))
    assert "job 12 cannot go back into the queue" in caplog.text


def test_devices_are_counted_for_the_scheduler():
    assert cluster.tasks_per_node(4) == 4
    assert cluster.gpus_per_node("gpu", 4) == 4
    assert cluster.gpus_per_node("cpu", 4) is None
    with pytest.raises(ConfigError, match=r"trainer.devices to a number, not 'auto'"):
        cluster.tasks_per_node("auto")
