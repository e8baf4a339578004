"""Two processes train what one does: the same rows, losses and metrics; and leave one run folder."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import torch

SMOOTH = ["+optimizer.eps=1e-3", "optimizer.lr=0.03"]
"""With its usual eps Adam makes whole steps of gradients that are nothing but the last bits of a sum, and these depend
on how many processes add up."""
STEPS = ["trainer.limit_train_batches=25", "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
METRICS = [f"{split}/{name}" for split in ("val", "test") for name in ("auc", "gauc", "logloss", "calibration")]
ALIKE = ["data=sample", *STEPS, *SMOOTH]


def run(folder, *overrides: str, alike: Sequence[str] = ALIKE) -> str:
    command = [sys.executable, "-m", "dien.train", *alike, *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.fixture(scope="module")
def both(tmp_path_factory, free_port):
    """The folders of one process with 66 rows a batch, and of two with 33 each; 4,438 validation rows are even,
    39 test rows a batch are not."""
    place = tmp_path_factory.mktemp("ddp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIEN_CACHE", str(place / "cache"))
        run(place / "one", "data.batch_size=66", "data.eval_batch_size=999", "data.bucket=5")
        patch.setenv("MASTER_PORT", str(free_port()))
        options = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.bucket=5"]
        said = run(place / "two", *options, "data.batch_size=33", "data.eval_batch_size=333")
    return place / "one", place / "two", said


def expect_alike(*folders: Path, steps: int) -> None:
    """The losses of every step and the weights to 1e-5, the metrics to 1e-6."""
    losses = ["train/loss", "train/ctr_loss", "train/aux_loss"]
    curves = [pl.read_csv(folder / "metrics.csv").select(losses).drop_nulls().to_torch() for folder in folders]
    assert curves[0].shape == (steps, 3)
    torch.testing.assert_close(*curves, rtol=0, atol=1e-5)
    states = [torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for folder in folders]
    torch.testing.assert_close(*states, rtol=0, atol=1e-5)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    for name in METRICS:
        assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-6), name


def test_losses_and_metrics_are_those_of_one_process(both):
    one, two, _ = both
    expect_alike(one, two, steps=50)


def test_three_processes_and_a_last_batch_that_is_short(dien_train, small, free_port, monkeypatch):
    alike = [*small, *SMOOTH, "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "callbacks=quiet"]
    assert dien_train(*alike, "data.batch_size=96", "hydra.run.dir=one") == 0
    (dataset,) = Path("cache").glob("*/dataset.json")
    rows = 2 * json.loads(dataset.read_text())["samples"]["train"]  # each with a negative
    assert rows % 96 == 34  # 12, 11 and 11
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    run("three", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3", "data.batch_size=32", alike=alike)
    expect_alike(Path("one"), Path("three"), steps=-(-rows // 96))


def test_one_folder_and_one_voice(both):
    one, two, said = both
    names = {path.name for path in two.iterdir()}
    assert names == {path.name for path in one.iterdir()}
    assert sorted(path.name for path in two.parent.iterdir()) == ["cache", "one", "two"]
    assert said.count("gated scan") == 1
    assert "2 processes: 66 rows a step in all" in said


def test_a_signal_to_one_process_stops_both_and_they_go_on_to_the_same_bits(both, free_port, monkeypatch):
    one, two, _ = both
    place, stopped = one.parent, one.parent / "elsewhere" / "stopped"
    monkeypatch.setenv("DIEN_CACHE", str(place / "cache"))
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    options = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.bucket=5", "callbacks=quiet"]
    options += ["data.batch_size=33", "data.eval_batch_size=333", "checkpoint.steps=6"]
    command = [sys.executable, "-m", "dien.train", *ALIKE, *options, f"hydra.run.dir={stopped}"]
    last = stopped / "checkpoints" / "last.ckpt"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not last.exists():
            time.sleep(0.01)
        process.terminate()
        _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, error
    saved = torch.load(last, weights_only=True)["resume"]
    assert (saved["epoch"], saved["batches"]) < (2, 0)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    resumed = subprocess.run([*command[:3], f"ckpt={stopped}"], capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    clock = ["train/samples_per_second", "train/data_wait"]
    rows = [pl.read_csv(run / "metrics.csv").drop(clock) for run in (two, stopped)]
    assert rows[0].equals(rows[1])
    weights = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (two, stopped)]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def test_evaluation_over_processes_is_exact(both, free_port, monkeypatch):
    """The same weights score the same, to the last row, however many processes share them."""
    one, two, _ = both
    before = json.loads((two / "metrics.json").read_text())
    weights = (two / "checkpoints/best.ckpt").read_bytes()
    monkeypatch.setenv("DIEN_CACHE", str(one.parent / "cache"))
    run(
        one.parent / "three",
        f"ckpt={two}",
        "train=false",
        "trainer=cpu",
        "trainer.devices=1",
        "data.eval_batch_size=17",
    )
    after = json.loads((two / "metrics.json").read_text())
    assert (two / "checkpoints/best.ckpt").read_bytes() == weights
    for name in METRICS:
        assert after[name] == pytest.approx(before[name], abs=1e-6), name


def test_torchrun_leaves_one_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIEN_CACHE", str(tmp_path / "cache"))
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dien.train"]
    options = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_steps=4", "callbacks=quiet"]
    command = [sys.executable, "-m", *launcher, "data=sample", *options, "trainer.limit_val_batches=1", "test=false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs/default").iterdir()
    assert {"metrics.json", "config.yaml", "environment.json", "checkpoints"} <= {
        path.name for path in folder.iterdir()
    }


def test_a_sweep_cannot_start_processes(dien_train, small, capsys):
    assert dien_train("-m", *small, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=1") == 1
    assert "one device" in capsys.readouterr().err
