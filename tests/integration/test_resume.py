"""A training that is stopped anywhere goes on to the same bits: weights, moments, counters, metrics and their rows."""

import csv
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dien import runs
from dien.module import ClickModule

CLOCK = ("seconds", "train/samples_per_second", "train/data_wait")
"""What the clock decides."""

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(small: list[str]) -> list[str]:
    """Two epochs of `EPOCH` steps, with dropout, length buckets and a schedule."""
    return [
        *small,
        "data.batch_size=96",
        "model.head.dropout=0.3",
        "data.bucket=4",
        "trainer.log_every_n_steps=2",
        "callbacks=quiet",
    ]


EPOCH = 9


class KilledError(BaseException):
    """Ends a training as SIGKILL does: nothing gets to save anything."""


Interrupt = Callable[..., None]


@pytest.fixture(autouse=True)
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """`interrupt(step, action, "training_step")`: the action happens in the midst of a step, once.

    Besides, the loss is logged as the mean of an epoch, which a stop within the epoch must not change.
    """
    waiting: dict[str, tuple[int, Callable[[], None]]] = {}

    def patch(name: str) -> None:
        original = getattr(ClickModule, name)

        def hook(self: ClickModule, batch: Any, batch_idx: int) -> Any:
            loss = original(self, batch, batch_idx)
            if name == "training_step":
                self.log("train/epoch_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch.label_B))
            if name in waiting and self.trainer.global_step >= waiting[name][0]:
                waiting.pop(name)[1]()
            return loss

        monkeypatch.setattr(ClickModule, name, hook)

    for name in ("training_step", "validation_step", "test_step"):
        patch(name)

    def at(step: int, action: Callable[[], None], name: str = "training_step") -> None:
        waiting[name] = (step, action)

    return at


def raised(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def kill() -> None:
    raise KilledError


def plain(value: Any) -> Any:
    """A checkpoint without what depends on the clock or on the place."""
    if isinstance(value, dict):
        return {
            plain(str(key)): plain(item)
            for key, item in value.items()
            if key not in ("Throughput", "last_model_path", "dirpath", *CLOCK)
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.tolist())
    return Path(value).name if isinstance(value, str) and "/checkpoints" in value else value


def rows_of(folder: str) -> list[dict[str, str]]:
    """metrics.csv without what the clock decides."""
    with Path(folder, "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in CLOCK} for row in csv.DictReader(file)]


def everything(folder: str) -> dict[str, Any]:
    """All that a run leaves, comparable with `==`."""
    metrics = json.loads(Path(folder, "metrics.json").read_text())
    return {
        "metrics.json": {key: value for key, value in metrics.items() if key not in CLOCK},
        "metrics.csv": rows_of(folder),
        **{
            name: plain(torch.load(Path(folder, "checkpoints", name), weights_only=True))
            for name in ("best.ckpt", "last.ckpt")
        },
    }


def expect_same(folder: str, whole: str = "whole") -> None:
    found, wanted = everything(folder), everything(whole)
    assert found["metrics.json"] == wanted["metrics.json"]
    assert found["metrics.csv"] == wanted["metrics.csv"]
    for name in ("best.ckpt", "last.ckpt"):
        for key in wanted[name].keys() - ({"loops"} if name == "best.ckpt" else set()):  # Lightning's bookkeeping
            value = wanted[name][key]
            assert found[name][key] == value, (name, key)


def state_of(folder: str, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(Path(folder, "checkpoints", name), weights_only=True)


STOPS = [  # the first step, one amidst, the last of an epoch, the first of one, the very last
    (0, signal.SIGTERM),
    (3, signal.SIGUSR1),
    (EPOCH - 1, signal.SIGINT),
    (EPOCH, signal.SIGTERM),
    (2 * EPOCH - 1, signal.SIGTERM),
]


@pytest.mark.parametrize(
    ("overrides", "stops"), [([], STOPS), (["trainer.val_check_interval=0.5", "data.num_workers=2"], STOPS[1:4])]
)
def test_stopped_by_a_signal_in_any_place(dien_train, small, interrupt, overrides, stops, capsys):
    small = [*small, *overrides]
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    assert state_of("whole")["global_step"] == 2 * EPOCH
    for step, number in stops:
        run = f"stopped{step}"
        interrupt(step, raised(number))
        assert dien_train(*small, f"hydra.run.dir={run}") == 128 + number
        assert f"stopped by {number.name}: continue with ckpt=" in capsys.readouterr().err
        assert not Path(run, "metrics.json").exists()
        assert state_of(run)["global_step"] == step + 1  # the step was finished
        assert dien_train(f"ckpt={run}") == 0
        expect_same(run)


def test_killed_at_any_step_it_goes_on_from_the_last_checkpoint(dien_train, small, interrupt):
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    start = [*small, "hydra.run.dir=killed", "checkpoint.steps=3"]
    for step in (1, 5, 4, EPOCH, EPOCH + 5, 2 * EPOCH - 1):  # step 4 comes after a resume from step 3
        interrupt(step, kill)
        with pytest.raises(KilledError):
            dien_train(*start)
        start = ["ckpt=killed"] if Path("killed/checkpoints/last.ckpt").exists() else start
        made = state_of("killed")["global_step"] if len(start) == 1 else 0
        assert made == step // 3 * 3
    interrupt(2 * EPOCH, kill, "test_step")
    with pytest.raises(KilledError):
        dien_train("ckpt=killed")
    assert state_of("killed")["global_step"] == 2 * EPOCH
    assert dien_train("ckpt=killed") == 0
    expect_same("killed")
    assert sorted(path.name for path in Path("killed/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_sigkill_at_random_moments(small):
    """The short version of what `scripts/kill_rounds.py` does 50 times."""
    options = [*small, "trainer.max_epochs=4", "checkpoint.steps=3", f"data.cache={Path.cwd() / 'cache'}"]
    # Three lives of at most 8 steps each; there are 36.
    chosen = ["--rounds", "3", "--longest", "0.4", "--pace", "0.05"]
    command = [sys.executable, ROOT / "scripts/kill_rounds.py", *chosen, *options]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "DIEN_SCAN": "reference"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same to the last bit" in done.stdout


@pytest.mark.parametrize("name", ["training_step", "validation_step", "test_step"])
def test_a_signal_to_all_processes_of_the_job(dien_train, small, interrupt, name):
    """Reading processes outlive it, so that the step can be finished and saved."""
    small = [*small, "data.num_workers=2"]
    assert dien_train(*small, "hydra.run.dir=whole") == 0

    def everyone() -> None:
        for process in [*multiprocessing.active_children(), None]:
            for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)[0 if process else 2 :]:
                os.kill(process.pid if process else os.getpid(), number)

    interrupt(3, everyone, name)
    assert dien_train(*small, "hydra.run.dir=run") == 128 + signal.SIGTERM
    step = {"training_step": 4, "validation_step": EPOCH, "test_step": 2 * EPOCH}[name]
    assert state_of("run")["global_step"] == step
    assert dien_train("ckpt=run") == 0
    expect_same("run")


def test_a_long_validation_is_left_at_once(dien_train, small, interrupt, monkeypatch):
    monkeypatch.setattr("dien.saving.PATIENCE", -1.0)
    monkeypatch.setattr("dien.saving.COST", float("inf"))
    small = [*small, "data.eval_batch_size=16"]
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    interrupt(2 * EPOCH, raised(signal.SIGTERM), "validation_step")
    assert dien_train(*small, "hydra.run.dir=run", "checkpoint.minutes=0") == 128 + signal.SIGTERM
    assert state_of("run")["global_step"] == 2 * EPOCH - 1  # saved before the step that a validation follows
    assert dien_train("ckpt=run") == 0
    expect_same("run")


def test_accumulated_gradients_are_never_cut_in_two(dien_train, small, interrupt):
    small = [*small, "trainer.accumulate_grad_batches=3"]
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    interrupt(1, raised(signal.SIGTERM))
    assert dien_train(*small, "hydra.run.dir=run") == 128 + signal.SIGTERM
    assert state_of("run")["resume"]["batches"] == 6
    assert dien_train("ckpt=run") == 0
    expect_same("run")


def test_a_training_that_stopped_early_is_not_taken_up_again(dien_train, small, interrupt):
    early = ["optimizer.lr=0.3", "schedule=constant", "callbacks.early_stopping.patience=1", "trainer.max_epochs=30"]
    assert dien_train(*small, *early, "hydra.run.dir=whole") == 0
    interrupt(0, raised(signal.SIGTERM), "test_step")
    assert dien_train(*small, *early, "hydra.run.dir=run") == 128 + signal.SIGTERM
    assert dien_train("ckpt=run") == 0
    expect_same("run")


def test_max_steps_within_an_epoch(dien_train, small, interrupt, capsys):
    small = [*small, "trainer.max_steps=5"]
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    for step in (2, 4):
        interrupt(step, raised(signal.SIGTERM))
        assert dien_train(*small, f"hydra.run.dir=run{step}") == 128 + signal.SIGTERM
        assert dien_train(f"ckpt=run{step}") == 0
        expect_same(f"run{step}")
    capsys.readouterr()
    assert dien_train("ckpt=run2", "trainer.max_steps=7") == 2
    assert "ended by trainer.max_steps in the midst of an epoch" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(dien_train, small, interrupt, damage, capsys):
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    interrupt(7, kill)
    with pytest.raises(KilledError):
        dien_train(*small, "hydra.run.dir=run", "checkpoint.steps=3")
    last = Path("run/checkpoints/last.ckpt")
    content = last.read_bytes()
    if damage == "gone":
        last.unlink()
    else:
        cut = content[: len(content) // 2]
        last.write_bytes(cut if damage == "cut" else cut + bytes([content[len(cut)] ^ 1]) + content[len(cut) + 1 :])
    assert dien_train("ckpt=run") == 0
    said = capsys.readouterr().out
    assert ("last.ckpt is not a whole checkpoint" in said) == (damage != "gone")
    assert "previous.ckpt, the checkpoint before it" in said
    expect_same("run")


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """`file_limit(bytes)`: from then on the kernel refuses to make a file longer, as a full disk or a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "file"), [(50_000, "last.ckpt"), (100, "status.json")])
def test_a_full_disk(dien_train, small, interrupt, file_limit, capsys, size, file):
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    capsys.readouterr()
    interrupt(4, lambda: file_limit(size))
    assert dien_train(*small, "hydra.run.dir=run", "checkpoint.steps=3") == 2
    file_limit(resource.RLIM_INFINITY)
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("dien-train: File too large: ")
    assert error.splitlines()[-1].endswith(file)
    assert not [path for path in Path("run").rglob(".*") if path.is_file()]
    assert state_of("run")["global_step"] == 3
    assert dien_train("ckpt=run") == 0
    expect_same("run")


def test_a_reading_process_that_dies(dien_train, small, interrupt, capsys):
    small = [*small, "data.num_workers=1"]
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    interrupt(4, lambda: [process.kill() for process in multiprocessing.active_children()])
    assert dien_train(*small, "hydra.run.dir=run", "checkpoint.steps=3") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a reading process died" in error
    assert error.endswith("run.")
    assert dien_train("ckpt=run") == 0
    expect_same("run")


def test_out_of_memory(dien_train, small, interrupt, capsys):
    assert dien_train(*small, "hydra.run.dir=whole") == 0
    interrupt(4, lambda: torch.empty(1 << 60))
    assert dien_train(*small, "hydra.run.dir=run", "checkpoint.steps=3") == 2
    assert "out of memory: lower data.batch_size, and continue with ckpt=" in capsys.readouterr().err
    assert state_of("run")["global_step"] == 3
    assert dien_train("ckpt=run") == 0
    expect_same("run")


def test_a_run_that_was_stopped_behind_its_metrics_is_unfinished(dien_train, small):
    """A signal while figures go to W&B, say: a requeued job has to find this run, and not to begin another."""
    assert dien_train(*small, "hydra.run.dir=outputs/default/first_mine", "name=mine") == 0
    runs.end(Path("outputs/default/first_mine"), "stopped", "stopped by SIGUSR1: ...")
    before = everything("outputs/default/first_mine")
    assert dien_train(*small, "name=mine", "ckpt=auto") == 0
    assert [path.name for path in Path("outputs/default").iterdir()] == ["first_mine"]
    assert runs.read_status(Path("outputs/default/first_mine"))["status"] == "finished"
    assert everything("outputs/default/first_mine") == before


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_the_bits_do_not_depend_on_the_number_of_workers(dien_train, small):
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        for run, workers in (("whole", 0), ("one", 1), ("three", 3)):
            options = [f"hydra.run.dir={run}", f"data.num_workers={workers}", "trainer.deterministic=true"]
            assert dien_train(*small, *options) == 0
    finally:
        torch.use_deterministic_algorithms(deterministic)
    expect_same("one")
    expect_same("three")
    assert dien_train(*small, "hydra.run.dir=other", "seed=1") == 0
    assert everything("other")["metrics.csv"] != everything("whole")["metrics.csv"]
