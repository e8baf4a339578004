"""Faults of the data, of the numbers and of the place: one sentence, nothing half-written."""

import ctypes
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from dien import runs
from dien.data.datamodule import DataModule
from dien.module import ClickModule


@pytest.fixture
def small(small: list[str]) -> list[str]:
    return [
        *small,
        "data.batch_size=96",
        "callbacks=quiet",
        "hydra.run.dir=run",
    ]


class NanAt:
    """Makes the loss of one step NaN, and what the forward pass of such a batch spoils; keeps the states around it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        original, self.batch, self.states = ClickModule.training_step, None, []

        def training_step(module: ClickModule, batch: Any, batch_idx: int) -> Any:
            if module.global_step in (step, step + 1):
                moments = module.trainer.optimizers[0].state_dict()["state"]
                moments = {key: [v.clone() for v in entry.values()] for key, entry in moments.items()}
                weights = {key: value.clone() for key, value in module.state_dict().items()}
                self.states.append((weights, moments))
            loss = original(module, batch, batch_idx)
            if module.global_step != step:
                return loss
            self.batch = batch
            for name, buffer in module.named_buffers():
                if "running" in name:
                    buffer.data.fill_(torch.nan)  # behind the back of autograd
            return loss * torch.nan

        monkeypatch.setattr(ClickModule, "training_step", training_step)


def test_nan_stops_and_shows_the_batch(dien_train, small, monkeypatch, capsys):
    nan = NanAt(monkeypatch, 10)
    assert dien_train(*small) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "training diverged: the loss of step 10 (epoch 1, batch 1) is nan" in error
    path = Path(re.search(r"are in (\S+\.pt)", error)[1])
    assert path.parent == Path("run").resolve()
    saved = torch.load(path, weights_only=True)
    assert [saved[key] for key in ("step", "epoch", "batch_index")] == [10, 1, 1]
    for name, tensor in nan.batch._asdict().items():
        assert torch.equal(saved["batch"][name], tensor)
    assert not Path("run/metrics.json").exists()
    # The rows are those of the batch: read them again.
    from dien.data.dataset import RowBatch

    rows = nan_rows(small)
    again = rows[RowBatch(1, saved["rows"].numpy())]
    assert torch.equal(again.target_B, saved["batch"]["target_B"])
    assert torch.equal(again.negative_BT, saved["batch"]["negative_BT"])
    monkeypatch.undo()
    assert not Path("run/bad_batch_step11.pt").exists()


def nan_rows(small: list[str]) -> Any:
    """The training rows of the run, opened anew."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    data = instantiate(OmegaConf.load("run/config.yaml").data, _convert_="all")
    data.setup()
    return data.rows("train")


def test_nan_can_be_skipped(dien_train, small, monkeypatch, capsys):
    nan = NanAt(monkeypatch, 4)
    assert dien_train(*small, "on_nan=skip") == 0
    assert "skipped: the loss of step 4 (epoch 0, batch 4) is nan" in capsys.readouterr().out
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["train/skipped_batches"] == 1
    assert 0 < metrics["test/logloss"] < 1
    (weights, moments), (weights_after, moments_after) = nan.states
    for key, value in weights.items():
        assert torch.equal(value, weights_after[key]), key
    for key, values in moments.items():
        assert all(map(torch.equal, values, moments_after[key])), key
    assert torch.load("run/bad_batch_step4.pt", weights_only=True)["step"] == 4


def test_skipping_does_not_hide_a_training_that_diverged(dien_train, small, capsys):
    assert dien_train(*small, "on_nan=skip", "optimizer.lr=1e38") == 2
    assert "the weights are not finite either: lower optimizer.lr" in capsys.readouterr().err


def test_on_nan_is_one_of_two(dien_train, small, capsys):
    assert dien_train(*small, "on_nan=ignore") == 2
    assert "on_nan='ignore' is not one of stop, skip" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize("option", ["checkpoint.steps=0", "checkpoint.minutes=-1", "checkpoint.minute=3"])
def test_options_of_checkpoints(dien_train, small, capsys, option):
    assert dien_train(*small, option) == 2
    assert option.split("=")[0] in capsys.readouterr().err
    assert not Path("run").exists()


def test_other_data_is_refused_with_both_fingerprints(dien_train, small, capsys, events):
    assert dien_train(*small, "trainer.max_epochs=1") == 0
    before = json.loads(Path("run/environment.json").read_text())["dataset_fingerprint"]
    events.write_text(events.read_text() + "u0,i3,99,c3\n")
    Path("run/environment.json").unlink()  # the checkpoint itself says so
    capsys.readouterr()
    assert dien_train(*small, "ckpt=run") == 2
    error = capsys.readouterr().err
    fingerprints = re.findall(r"\b[0-9a-f]{64}\b", error)
    assert fingerprints[0] == before
    assert len(set(fingerprints)) == 2


def test_a_damaged_dataset_is_named(dien_train, small, capsys):
    assert dien_train(*small, "trainer.max_epochs=1") == 0
    (array,) = Path("cache").glob("*/click_item.npy")
    array.write_bytes(array.read_bytes()[:-4])
    capsys.readouterr()
    assert dien_train(*small, "ckpt=run", "trainer.max_epochs=2") == 2
    error = capsys.readouterr().err
    assert "click_item.npy is damaged" in error
    assert "delete the folder and prepare it again" in error


def test_a_damaged_best_checkpoint_is_found_before_training_goes_on(dien_train, small, capsys):
    assert dien_train(*small, "trainer.max_epochs=1") == 0
    best = Path("run/checkpoints/best.ckpt")
    best.write_bytes(best.read_bytes()[:1000])
    capsys.readouterr()
    assert dien_train("ckpt=run", "trainer.max_epochs=2") == 2
    assert "best.ckpt is not a whole checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("blocked", ["run", "run/checkpoints"])
def test_a_place_that_cannot_be_written(dien_train, small, capsys, blocked):
    """Tests may run as root, whom no permission stops: a file is where a folder has to be."""
    Path(blocked).parent.mkdir(exist_ok=True)
    Path(blocked).write_text("")
    assert dien_train(*small) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dien-train: ")
    assert str(Path(blocked)) in error
    assert Path(blocked).read_text() == ""
    assert not list(Path().glob("run/metrics.json"))


@pytest.fixture
def permissions() -> Iterator[Callable[[Path, int], None]]:
    """`permissions(path, mode)`, which then hold for this thread even if it is root's."""
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective, changed = sets[0], list[tuple[Path, int]]()

    def change(path: Path, mode: int) -> None:
        changed.append((path, path.stat().st_mode))
        path.chmod(mode)
        sets[0] = effective & ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        assert libc.capset(header, sets) == 0

    yield change
    sets[0] = effective
    assert libc.capset(header, sets) == 0
    for path, mode in changed:
        if path.exists():  # an empty run folder is taken away
            path.chmod(mode)


@pytest.mark.parametrize("closed", ["place", "run", "dataset"])
def test_what_permissions_forbid(dien_train, dien_prepare, small, capsys, permissions, closed):
    """The place of the run folder is read-only, or the run folder is, or an array of the dataset may not be read."""
    assert dien_prepare(*[override for override in small if override.startswith("data")]) == 0
    capsys.readouterr()
    run = Path("place/run").absolute()
    run.mkdir(parents=True)
    if closed == "place":
        run.rmdir()
    before = set(Path().rglob("*"))
    forbidden = {"place": run.parent, "run": run, "dataset": next(Path("cache").absolute().glob("*/click_item.npy"))}
    permissions(forbidden[closed], 0 if closed == "dataset" else 0o555)
    assert dien_train(*small, f"hydra.run.dir={run}") == 2
    error = capsys.readouterr().err
    assert error.startswith("dien-train: ")
    assert error.count("\n") == 1
    assert "Permission denied" in error
    assert str(run if closed == "place" else forbidden[closed]) in error
    assert set(Path().rglob("*")) <= before


@pytest.mark.parametrize("command", ["alone", "sweep", "evaluation"])
def test_a_signal_while_the_data_are_prepared(dien_train, small, monkeypatch, capsys, command):
    """One sentence, a status, and SLURM is asked to requeue the job, as in training."""
    if command == "evaluation":
        assert dien_train(*small, "trainer.max_epochs=1") == 0
        small = ["ckpt=run", "train=false"]
    if command == "sweep":
        small = ["-m", *small[:-1], "hydra.sweep.dir=.", "hydra.sweep.subdir=run"]
    requeued: list[list[str]] = []
    monkeypatch.setattr("dien.cluster.subprocess.run", lambda command, **options: requeued.append(command))
    monkeypatch.setenv("SLURM_JOB_ID", "12")

    def unheard(number: int, frame: object) -> None:
        pytest.fail("nobody took the signal")

    for number in (signal.SIGUSR1, signal.SIGTERM):

        def prepare_data(self: DataModule, number: int = number) -> None:
            with suppress(Exception):  # whoever takes it for a failure of his own
                os.kill(os.getpid(), number)

        monkeypatch.setattr(DataModule, "prepare_data", prepare_data)
        before = signal.signal(number, unheard)
        try:
            assert dien_train(*small) == 128 + number
        finally:
            signal.signal(number, before)
        sentence = f"stopped by {number.name}: give the same command again."
        assert f"dien-train: {sentence}\n" in capsys.readouterr().err
        status = runs.read_status(Path("run"))
        wanted = ("finished", None) if command == "evaluation" else ("stopped", sentence)
        assert (status["status"], status["error"]) == wanted
    assert requeued == [["scontrol", "requeue", "12"]]
