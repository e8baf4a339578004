"""What a run logs beside its folder, written for real and read back: W&B offline, TensorBoard."""

import csv
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dien.looks import WIDE
from dien.runs import offline_wandb
from dien.runs.offline_wandb import WandbLog
from dien.telemetry import Telemetry
from dien.tracking import DPI

SECRETS = {"WANDB_API_KEY": "0123456789" * 4, "AWS_SECRET_ACCESS_KEY": "a-sentinel-that-nobody-may-see"}


@pytest.fixture
def small(small: list[str]) -> list[str]:
    return [*small, "callbacks=quiet", "trainer.log_every_n_steps=4"]


def legs_of(folder: str | Path) -> list[Path]:
    return sorted(Path(folder).glob("wandb/offline-run-*/*.wandb"))


def wandb_log(folder: str | Path) -> WandbLog:
    log = offline_wandb.read(legs_of(folder))
    assert log.damage is None
    return log


def csv_rows(folder: str) -> list[dict[str, str]]:
    with Path(folder, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_wandb_offline_has_everything_and_a_resumed_run_goes_on_in_it(dien_train, small, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    options = ["logger=[csv,wandb]", "logger.wandb.mode=offline", "logger.wandb.tags=[one,two]"]
    assert dien_train(*small, *options, "logger.wandb.group=mine", "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    log = wandb_log("run")
    assert log.exit_code == 0
    assert log.config["model"]["alpha"] == 1
    assert log.config["data"]["batch_size"] == 32
    rows = csv_rows("run")
    assert {name for name, value in rows[0].items()} <= {*log.summary, "epoch", "step"}
    for name in ("train/ctr_loss", "train/aux_loss", "train/gradient_norm", "val/attention_entropy"):
        logged = [float(row[name]) for row in rows if row[name]]
        assert [row[name] for row in log.history if name in row] == pytest.approx(logged), name
        assert logged
    assert log.summary["best_epoch"] == 0
    images = list(Path("run").glob("wandb/offline-run-*/files/media/images/figures/*.png"))
    assert sorted(path.name.partition("_")[0] for path in images) == ["learning", "selection"]
    for path in images:
        with Image.open(path) as image:
            assert image.width == DPI * WIDE

    Path("run").rename("moved")
    assert dien_train("ckpt=moved", "trainer.max_epochs=2") == 0
    first, second = legs_of("moved")
    assert first.name == second.name  # one id, two legs
    epochs = [row["epoch"] for row in wandb_log("moved").history if "val/update_gate" in row]
    assert epochs == [0, 1]

    for path in Path("moved").rglob("*"):
        for secret in SECRETS.values():
            assert path.is_dir() or secret.encode() not in path.read_bytes(), path


def test_jobs_of_a_sweep_are_runs_of_one_group_and_say_how_they_ended(dien_train, small, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    rates = "optimizer.lr=0.02,1e30"  # the second diverges
    assert dien_train("-m", *small, "logger=wandb", rates, "trainer.max_epochs=1", "hydra.sweep.dir=a/b/sweep") != 0
    jobs = sorted(path for path in Path("a/b/sweep").iterdir() if path.is_dir())
    assert [wandb_log(job).exit_code for job in jobs] == [0, 1]
    runs = [record.run for job in jobs for record in _records(legs_of(job)[0]) if record.HasField("run")]
    assert {run.run_group for run in runs} == {"b/sweep"}
    assert len({run.run_id for run in runs}) == 2


def _records(path: Path):
    return list(offline_wandb._records(path.read_bytes(), path.name))


def test_an_interrupted_run_is_closed(dien_train, small, monkeypatch, capsys):
    monkeypatch.setattr(Telemetry, "on_train_epoch_end", lambda *_: signal.raise_signal(signal.SIGINT))
    assert dien_train(*small, "logger=wandb", "logger.wandb.mode=offline", "hydra.run.dir=run") == 130
    assert "stopped by SIGINT" in capsys.readouterr().err
    assert wandb_log("run").exit_code == 1


def test_disabled_writes_nothing(dien_train, small):
    options = ["logger=wandb", "logger.wandb.mode=disabled", "hydra.run.dir=run", "trainer.max_epochs=1"]
    assert dien_train(*small, *options) == 0
    assert legs_of("run") == []


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("logger.wandb.mode=offlien", ["logger.wandb.mode='offlien'", "online, offline, disabled"]),
        ("logger.wandb.tags=one", ["logger.wandb.tags='one'", "[one]"]),
        ("+logger.wandb.projekt=x", ["projekt"]),
    ],
)
def test_mistakes_are_one_sentence(dien_train, small, capsys, option, named):
    assert dien_train(*small, "logger=wandb", option) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    for name in named:
        assert name in printed
    assert not list(Path("outputs").rglob("*.json"))


def test_tensorboard_beside_the_csv(dien_train, small):
    assert dien_train(*small, "logger=[csv,tensorboard]", "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    tags = events.Tags()
    assert {"figures/learning_curves", "figures/selection"} <= set(tags["images"])
    logged = [float(row["train/gradient_norm"]) for row in csv_rows("run") if row["train/gradient_norm"]]
    assert [event.value for event in events.Scalars("train/gradient_norm")] == pytest.approx(logged)
    assert "final/test/auc" in tags["scalars"]


@pytest.mark.parametrize("model", ["dien", "din", "base"])
def test_telemetry_in_the_csv(dien_train, small, model):
    assert dien_train(*small, f"model={model}", "hydra.run.dir=run") == 0
    rows = csv_rows("run")

    def values(name: str) -> list[float]:
        return [float(row[name]) for row in rows if row.get(name)]

    weights = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    norm = weights["network.item.weight"].norm(dim=1).mean().item()
    assert values("train/item_embedding_norm")[-1] == pytest.approx(norm)
    assert len(values("train/data_wait")) == 2
    assert all(0 < share < 1 for share in values("train/data_wait"))
    assert all(speed > 0 for speed in values("train/samples_per_second"))
    assert all(norm > 0 for norm in values("train/gradient_norm"))
    assert len(values("train/gradient_norm")) == len(values("train/loss"))
    assert len(values("val/attention_entropy")) == (0 if model == "base" else 2)
    assert len(values("val/update_gate")) == (2 if model == "dien" else 0)
    assert all(0 < share <= 1 for share in values("val/attention_entropy") + values("val/update_gate"))
