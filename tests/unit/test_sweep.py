"""What a sweep knows of its jobs: folders, finished ones, the best, the table at the end."""

import json
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from dien import runs
from dien.board import Board, State, print_summary
from dien.errors import ConfigError, DienError
from dien.sweep import Job, SweepError, check_same, folder_name, run


def job(folder: Path, variant: str = "evolution=gru", seed: int = 0, **settings: object) -> Job:
    return Job(
        number=seed,
        overrides=[str(folder)],
        variant=variant,
        seed=seed,
        folder=folder,
        objective="val/auc",
        settings={"seed": seed, **settings},
    )


def finish(job: Job, auc: float) -> None:
    runs.begin(job.folder)
    runs.write_json(job.folder / "metrics.json", {"val/auc": auc})
    runs.write_text(job.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.settings)))
    runs.end(job.folder, "finished")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (["seed=0", "model.alpha=0.1", "model/evolution=gru"], "alpha-0.1_evolution-gru_seed-0"),
        (["seed=12", "model=din"], "model-din_seed-12"),
        (["optimizer.lr=1e-3"], "lr-1e-3"),
    ],
)
def test_folders_are_named_after_the_swept_values(values, name):
    assert folder_name(values) == name


def test_no_two_jobs_share_a_folder_name():
    """Lists, long values and options of the same last name are told apart by a digest."""
    names = [
        folder_name(values)
        for values in (
            ["model.head.hidden=[8,4]"],
            ["model.head.hidden=[8;4]"],
            ["a.hidden=1", "b.hidden=2"],
            ["a.hidden=2", "b.hidden=1"],
            ["data.source.events=" + "x" * 300],
            ["data.source.events=" + "x" * 301],
        )
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) < 130 and "/" not in name and "=" not in name for name in names)


def test_a_changed_configuration_is_not_the_same_job(tmp_path):
    done = job(tmp_path / "a", lr=0.1)
    check_same(done)  # nothing is there yet
    finish(done, 0.7)
    check_same(done)
    with pytest.raises(ConfigError, match=r"a was run with lr=0.1, not 0.2: .*hydra.sweep.dir"):
        check_same(job(tmp_path / "a", lr=0.2))
    with pytest.raises(ConfigError, match=r"was run with lr=0.1, not None"):
        check_same(job(tmp_path / "a"))
    (tmp_path / "a" / "metrics.json").unlink()  # it failed before its first checkpoint: there is nothing to keep
    check_same(job(tmp_path / "a", lr=0.2))


def test_the_board_counts_and_names_the_best(tmp_path):
    jobs = [job(tmp_path / str(seed), seed=seed) for seed in range(5)]
    finish(jobs[0], 0.9)  # before this sweep's start, but it counts
    with Board("table4", jobs, since=runs.read_status(jobs[0].folder)["ended"], parallel=False) as board:
        finish(jobs[1], 0.6)
        runs.begin(jobs[2].folder)
        runs.begin(jobs[3].folder)
        runs.end(jobs[3].folder, "failed", "no memory.")
        state = board.state()
    assert state == State(done=2, running=1, failed=1, best=(0.9, "evolution=gru seed=0"))
    line = board.line(state)
    assert line.startswith(
        "table4: 2 of 5 done, 1 running, 1 failed, best val/auc 0.9000 (evolution=gru seed=0), about "
    )


def test_lines_in_a_log_have_no_control_codes(tmp_path, capsys):
    jobs = [job(tmp_path / "0")]
    with Board("table4", jobs, since="", parallel=True):
        finish(jobs[0], 0.75)
    printed = capsys.readouterr().err
    assert "table4: 1 of 1 done, 0 running, 0 failed, best val/auc 0.7500 (evolution=gru seed=0)\n" in printed
    assert "\x1b" not in printed
    assert "\r" not in printed


def test_the_summary_has_mean_and_deviation_over_seeds_and_the_failed_jobs(tmp_path, capsys):
    jobs = [job(tmp_path / f"{v}{seed}", f"evolution={v}", seed) for v in ("gru", "augru") for seed in range(3)]
    for one, auc in zip(jobs, (0.70, 0.72, 0.74, 0.80, 0.90), strict=False):
        finish(one, auc)
    runs.begin(jobs[5].folder)
    runs.end(jobs[5].folder, "failed", "out of [memory].")
    print_summary("table4", jobs)
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "evolution=" in line]
    rows = {row[0]: row[1:] for row in cells}
    assert rows["evolution=gru"] == ["3 of 3", "0.7200", "0.0200", "0.7400"]
    assert rows["evolution=augru"] == ["2 of 3", "0.8500", "0.0707", "0.9000"]
    assert "failed: augru2: out of [memory]." in printed


class Launcher:
    """Runs each job by a function of its folder; the n-th call of `launch` may raise."""

    def __init__(self, work, *, raises: Exception | None = None) -> None:
        self.work, self.raises, self.launched = work, raises, []

    def launch(self, overrides, *, initial_job_idx):
        self.launched.append([Path(one[0]).name for one in overrides])
        results = [self.work(Path(one[0])) for one in overrides]
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error
        return results


def config(launcher: str):
    return OmegaConf.create(
        {"hydra": {"launcher": {"_target_": launcher}, "runtime": {"choices": {"sweep": "table4"}}}}
    )


def done(folder: Path) -> JobReturn:
    finish(job(folder, seed=int(folder.name)), 0.5)
    return JobReturn(status=JobStatus.COMPLETED)


def test_finished_jobs_are_left_alone_and_the_others_run(tmp_path):
    jobs = [job(tmp_path / str(seed), seed=seed) for seed in range(3)]
    finish(jobs[1], 0.9)
    launcher = Launcher(done)
    run(jobs, config("hydra_plugins.joblib"), launcher)
    assert launcher.launched == [["0", "2"]]
    launcher = Launcher(done)
    run(jobs, config("hydra_plugins.joblib"), launcher)
    assert launcher.launched == []


def test_a_worker_that_dies_fails_its_own_job_only(tmp_path):
    """joblib then gives up, also the jobs that it had not begun."""
    jobs = [job(tmp_path / str(seed), seed=seed) for seed in range(3)]

    def work(folder: Path) -> JobReturn:
        if folder.name == "0":
            return done(folder)
        if folder.name == "1":
            runs.begin(folder)  # and killed
        elif len(launcher.launched) > 1:
            return done(folder)
        return JobReturn()

    launcher = Launcher(work, raises=RuntimeError("a worker was killed"))
    with pytest.raises(SweepError, match=r"1 of 3 jobs failed.*: 1: its process died: killed"):
        run(jobs, config("hydra_plugins.joblib"), launcher)
    assert launcher.launched == [["0", "1", "2"], ["2"]]
    assert runs.read_status(jobs[1].folder)["status"] == "failed"


def test_a_launcher_that_cannot_start_anything_ends_the_sweep(tmp_path):
    launcher = Launcher(lambda folder: JobReturn(), raises=RuntimeError("no srun"))
    with pytest.raises(DienError, match="cannot be started: RuntimeError: no srun"):
        run([job(tmp_path / "0")], config("hydra_plugins.submitit"), launcher)

    def full(folder: Path) -> JobReturn:
        result = JobReturn(status=JobStatus.FAILED)
        result.return_value = OSError(28, "No space left on device", str(folder))
        return result

    with pytest.raises(DienError, match="No space left on device"):
        run([job(tmp_path / "0")], config("basic_launcher"), Launcher(full))


def test_status_survives_damage(tmp_path):
    (tmp_path / "status.json").write_text("{")
    assert runs.read_status(tmp_path) == {"status": "running"}
    (tmp_path / "metrics.json").write_text("{}")
    assert runs.is_finished(tmp_path)  # a folder from before there was a status


def test_a_leg_keeps_the_wandb_id(tmp_path):
    runs.begin(tmp_path, sweep="table4")
    runs.write_text(tmp_path / "wandb" / "run_id", "abc\n")
    runs.update(tmp_path)
    assert runs.read_status(tmp_path)["wandb_id"] == "abc"
    runs.end(tmp_path, "stopped", "stopped by SIGTERM.")
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["status"] == "stopped"
    assert status["error"] == "stopped by SIGTERM."
    assert status["started"] <= status["ended"]
    assert status["sweep"] == "table4"
    runs.begin(tmp_path)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["status"], status["error"], status["ended"], status["wandb_id"]) == ("running", None, None, "abc")
    with pytest.raises(ConfigError, match="finished, failed, stopped"):
        runs.end(tmp_path, "done")
