"""`model.embedding=sharded`: tables shared out over two processes by TorchRec train as one process with whole ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

from dien.checkpoint import read_checkpoint
from dien.errors import ConfigError
from dien.runs import load_model
from dien.sharding import SMALLEST, check_available

RUN = [sys.executable, "-W", "ignore", "-m", "dien.train"]
ALIKE = [
    "data=sample",
    "trainer.limit_train_batches=25",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "callbacks=quiet",
]
ONE = ["data.batch_size=66", "data.eval_batch_size=999"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=33", "data.eval_batch_size=333"]
CLOCK = ["train/samples_per_second", "train/data_wait"]


@pytest.fixture(scope="module")
def start(tmp_path_factory, free_port):
    """`start("name", ...)`: a training in the folder of that name, as a process that is under way."""
    pytest.importorskip("torchrec", reason="TorchRec is not installed", exc_type=ImportError)
    place = tmp_path_factory.mktemp("sharded")

    def begin(name: str, *overrides: str) -> tuple[Path, subprocess.Popen]:
        environment = os.environ | {"DIEN_CACHE": str(place / "cache"), "MASTER_PORT": str(free_port())}
        command = [*RUN, *overrides, f"hydra.run.dir={place / name}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return place / name, subprocess.Popen(command, env=environment, **pipes)

    return begin


def finished(run: tuple[Path, subprocess.Popen]) -> Path:
    folder, process = run
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return folder


@pytest.fixture(scope="module")
def one(start) -> Path:
    return finished(start("one", *ALIKE, *ONE))


@pytest.fixture(scope="module")
def two(start, one) -> Path:
    return finished(start("two", *ALIKE, *TWO, "model.embedding=sharded"))


def test_losses_gradients_and_metrics_are_those_of_whole_tables(one, two):
    names = ["train/loss", "train/ctr_loss", "train/aux_loss", "train/gradient_norm"]
    curves = [pl.read_csv(folder / "metrics.csv").select(names).drop_nulls().to_torch() for folder in (one, two)]
    assert curves[0].shape == (50, 4)
    torch.testing.assert_close(*curves, rtol=0, atol=1e-5)
    norms = ["train/item_embedding_norm", "train/user_embedding_norm"]
    torch.testing.assert_close(
        *(pl.read_csv(folder / "metrics.csv").select(norms).drop_nulls().to_torch() for folder in (one, two)),
        rtol=0,
        atol=1e-6,
    )
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    for name in ("val/auc", "val/gauc", "val/logloss", "test/auc", "test/gauc", "test/logloss"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-5)


def test_checkpoints_hold_whole_tables_and_moments(one, two):
    whole, shared = (read_checkpoint(folder / "checkpoints/last.ckpt") for folder in (one, two))
    assert whole["state_dict"]["network.item.weight"].shape[0] > SMALLEST
    assert {name: weight.shape for name, weight in whole["state_dict"].items()} == {
        name: weight.shape for name, weight in shared["state_dict"].items()
    }
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (whole, shared)]
    assert states[0].keys() == states[1].keys()
    for number, moments in states[0].items():
        for key, moment in moments.items():
            torch.testing.assert_close(states[1][number][key], moment, rtol=0, atol=1e-6)


def test_later_commands_read_the_run_like_any_other(two):
    network = load_model(two).network
    weight = read_checkpoint(two / "checkpoints/best.ckpt")["state_dict"]["network.item.weight"]
    assert torch.equal(network.item.weight, weight)
    assert network.item.shares is None


def test_a_stopped_training_goes_on_to_the_same_bits(start, two):
    folder, process = start("stopped", *ALIKE, *TWO, "model.embedding=sharded", "checkpoint.steps=6")
    while process.poll() is None and not (folder / "checkpoints/last.ckpt").exists():
        time.sleep(0.01)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    saved = read_checkpoint(folder / "checkpoints/last.ckpt")["resume"]
    assert (saved["epoch"], saved["batches"]) < (2, 0)
    finished(start("stopped", f"ckpt={folder}"))
    rows = [pl.read_csv(run / "metrics.csv").drop(CLOCK) for run in (two, folder)]
    assert rows[0].equals(rows[1])
    weights = [read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (two, folder)]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["model.embedding=halved"], ["model.embedding='halved'", "whole, sharded"]),
        (
            ["model.embedding=sharded", "trainer.gradient_clip_val=1"],
            ["model.embedding=sharded", "trainer.gradient_clip_val=null"],
        ),
        (["model.embedding=sharded", "trainer.precision=16-mixed"], ["model.embedding=sharded", "bf16-mixed"]),
    ],
)
def test_what_does_not_go_together_is_one_sentence(dien_train, small, capsys, options, names):
    assert dien_train(*small, *options) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert all(name in said for name in names), said


def test_the_networks_of_the_authors_have_no_such_option(dien_train, capsys):
    assert dien_train("data=sample", "model=authors", "model.embedding=sharded") == 2
    assert "'model.embedding'" in capsys.readouterr().err


def test_without_torchrec_the_sentence_says_where_to_look(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(ConfigError, match=r"model.embedding=sharded needs TorchRec .*docs/cluster.md"):
        check_available()


def test_one_process_keeps_its_tables_whole(start, one):
    alone = finished(
        start("alone", *ALIKE, "data.batch_size=66", "data.eval_batch_size=999", "model.embedding=sharded")
    )
    weights = [read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (one, alone)]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
