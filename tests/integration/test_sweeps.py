"""Sweeps that are killed, doubled, partly failing or changed; launches that want the same folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

TABLE4 = Path("multirun/default/table4_table")


def start(*overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dien.train", *overrides, "callbacks=quiet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(holds: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    for _ in range(60_000):
        if holds():
            return
        assert all(process.poll() is None for process in processes), [p.communicate()[0] for p in processes]
        time.sleep(0.002)
    raise AssertionError("it never happened")


def status_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "status.json").read_text())


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_killed_table4_continues_with_the_same_command(dien_train, dien_report, tiny, capfd):
    """What issue 4 asks to be shown."""
    command = ["-m", "sweep=table4", "seed=0", *tiny, "trainer.max_epochs=5"]
    jobs = [TABLE4 / f"alpha-{alpha}_evolution-{name}_seed-0" for alpha in (0, 1) for name in EVOLUTIONS]
    with start(*command) as process:
        wait_until((jobs[2] / "checkpoints" / "last.ckpt").is_file, process)
        process.send_signal(signal.SIGKILL)
    finished = {job: contents(job) for job in jobs if (job / "metrics.json").is_file()}
    assert list(finished) == jobs[:2]
    assert {status_of(job)["status"] for job in finished} == {"finished"}
    assert status_of(jobs[2])["status"] == "running"  # nobody could write that it was killed
    assert not any(job.exists() for job in jobs[3:])
    epochs = torch.load(jobs[2] / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 1
    assert epochs < 5

    capfd.readouterr()
    assert dien_train(*command, "callbacks=quiet") == 0
    printed = capfd.readouterr()
    assert (
        "table4: 10 jobs in multirun/default/table4_table, 2 done before, 1 continue from a checkpoint" in printed.err
    )
    assert re.search(r"table4: 10 of 10 done, 0 running, 0 failed, best val/auc 0\.\d{4} \(.*seed=0\)\n", printed.err)
    assert "\x1b" not in printed.err
    assert printed.out.count("1 of 1") == 10
    assert {job: contents(job) for job in finished} == finished
    assert sorted(path for path in TABLE4.iterdir() if path.is_dir()) == sorted(jobs)
    for job in jobs:
        assert status_of(job)["status"] == "finished"
        assert status_of(job)["sweep"] == "table4"
        assert not (job / ".lock").exists()

    assert dien_report(str(TABLE4)) == 0
    table = capfd.readouterr().out
    for name in EVOLUTIONS:
        for alpha in (0, 1):
            assert len(re.findall(rf"dien-{name}, alpha={alpha} .* 1 .* 0\.\d{{4}}", table)) == 1, table

    overrides = ["model.alpha=0", "model/evolution=agru", "trainer.max_epochs=5", "hydra.run.dir=whole"]
    assert dien_train(*tiny, *overrides) == 0  # what the killed job would have come to
    for name in ("metrics.json", "checkpoints"):
        assert (jobs[2] / name).exists()
    states = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (jobs[2], Path("whole"))]
    for key, value in states[1]["state_dict"].items():
        assert torch.equal(states[0]["state_dict"][key], value), key


EVOLUTIONS = ("gru", "aigru", "agru", "augru", "augru_code")


def test_a_failed_job_does_not_stop_the_others_and_is_tried_again(dien_train, tiny, capsys):
    command = ["-m", "sweep=attention", "seed=0", *tiny, "trainer.max_epochs=1"]
    assert dien_train(*command, "optimizer.lr=0.01,1e20", "model/attention=mlp,bilinear") == 1
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert last.startswith("dien-train: 2 of 4 jobs failed, the same command tries them again: ")
    assert "attention-mlp_lr-1e+20_seed-0: training diverged" in last
    assert "attention-bilinear_lr-1e+20_seed-0: training diverged" in last
    assert "2 of 4 done, 0 running, 2 failed" in printed.err
    failed = Path("multirun/default/attention_table/attention-mlp_lr-1e+20_seed-0")
    assert status_of(failed)["status"] == "failed"
    assert "training diverged" in str(status_of(failed)["error"])
    before = contents(failed.parent / "attention-mlp_lr-0.01_seed-0")
    assert dien_train(*command, "optimizer.lr=0.01,1e20", "model/attention=mlp") == 1
    assert "1 failed before and are tried again" in capsys.readouterr().err
    assert contents(failed.parent / "attention-mlp_lr-0.01_seed-0") == before


def test_a_job_that_never_begins_is_reported_too(dien_train, tiny, capsys):
    assert dien_train("-m", *tiny, "model.head.activation=relu,swish", "trainer.max_steps=3", "hydra.sweep.dir=s") == 1
    assert "1 of 2 jobs failed: 1_dien-augru_table_seed0: " in (printed := capsys.readouterr()).err
    assert "dice, prelu, relu" in printed.err
    assert status_of(Path("s/1_dien-augru_table_seed0"))["status"] == "failed"


def test_a_changed_configuration_is_refused_by_name(dien_train, tiny, capsys):
    command = ["-m", "sweep=table2", "seed=0", "model=base", *tiny, "trainer.max_epochs=1"]
    assert dien_train(*command) == 0
    capsys.readouterr()
    assert dien_train(*command, "data.num_workers=1", "callbacks=quiet") == 0  # only how, not what
    assert dien_train(*command, "data.batch_size=16") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "table2_table/model-base_seed-0 was run with data.batch_size=32, not 16" in error


def test_a_sweep_started_twice_runs_each_job_once(dien_train, tiny):
    command = ["-m", "sweep=attention", "seed=0", "model.alpha=0,1", *tiny, "trainer.max_epochs=5"]
    folder = Path("multirun/default/attention_table")
    with start(*command) as other:
        wait_until(lambda: list(folder.glob("*/checkpoints/last.ckpt")), other)
        assert (
            dien_train(*command, "callbacks=quiet") == 0
        )  # passes over what the other is at, and waits for it in the end
        printed = other.communicate()[0]
    assert other.returncode == 0, printed
    logs = [path.read_text() for path in folder.glob("*/train.log")]
    assert len(logs) == 6
    assert [log.count("model: dien") for log in logs] == [1] * 6
    owners = {status_of(path.parent)["process"] for path in folder.glob("*/status.json")}
    assert owners == {os.getpid(), other.pid}


def test_launches_of_one_instant_do_not_share_a_run(dien_train, tiny):
    assert dien_train(*tiny, "trainer.max_epochs=1") == 0
    (old,) = Path("outputs/default").iterdir()
    (old / "metrics.json").unlink()  # as if it had been killed after its first epoch
    both = [start(*tiny, "ckpt=auto", "trainer.max_epochs=3") for _ in range(2)]
    for process in both:
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
    folders = sorted(Path("outputs/default").iterdir())
    assert len(folders) == 2
    assert folders[0] == old
    assert {status_of(folder)["process"] for folder in folders} == {process.pid for process in both}
    assert [(folder / "train.log").read_text().count("model: dien") for folder in folders] == [2, 1]


def test_a_run_that_is_being_written_is_not_resumed(dien_train, tiny, capsys):
    with start(*tiny, "hydra.run.dir=run", "trainer.max_epochs=100000") as other:
        wait_until(Path("run/checkpoints/last.ckpt").is_file, other)
        assert status_of(Path("run"))["status"] == "running"
        assert dien_train("ckpt=run") == 2
        assert f"run is being written by process {other.pid} on " in capsys.readouterr().err
        other.terminate()
        other.communicate()
    status = status_of(Path("run"))
    assert status["status"] == "stopped"
    assert "SIGTERM" in str(status["error"])


@pytest.mark.parametrize(
    ("name", "count", "options"),
    [
        ("table2", 5, {"model=base", "model=dien"}),
        ("table4", 10, {"model.alpha=0", "model.alpha=1", "model/evolution=augru_code"}),
        ("alpha", 5, {"model.alpha=0.3"}),
        ("negatives", 12, {"data.negatives.exclude=history", "data.negatives.auxiliary=5"}),
        ("attention", 3 * 5, {"model/attention=direct"}),
    ],
)
def test_what_the_named_sweeps_run(name, count, options, dien_train, tiny, monkeypatch):
    jobs = []
    monkeypatch.setattr("dien.sweep.run", lambda given, config, launcher: jobs.extend(given))
    seeds = [] if name == "attention" else ["seed=0"]
    assert dien_train(f"sweep={name}", *seeds, *tiny) == 0  # a named sweep needs no -m
    assert len(jobs) == len({job.folder for job in jobs}) == count
    assert {job.seed for job in jobs} == ({0} if seeds else {0, 1, 2, 3, 4})
    assert options <= {override for job in jobs for override in job.overrides}
    for job in jobs:
        assert job.settings["model.alpha"] == 0 or job.settings["model.name"].startswith("dien")
    if name == "negatives":  # all are evaluated on the same rows
        assert {job.settings["data.negatives.eval_strategy"] for job in jobs} == {"popularity"}


def test_a_sweep_goes_with_any_experiment(dien_train, tiny, monkeypatch, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.125\n")
    jobs = []
    monkeypatch.setattr("dien.sweep.run", lambda given, config, launcher: jobs.extend(given))
    assert dien_train("--config-dir", str(tmp_path / "own"), "-m", "experiment=mine", "sweep=table2", *tiny[:-7]) == 0
    assert {job.folder.parent for job in jobs} == {Path("multirun/mine/table2_table")}
    assert {job.settings["optimizer.lr"] for job in jobs} == {0.125}
