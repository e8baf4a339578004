"""Faults of the data, of the numbers and of the place: one sentence, nothing half-written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

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
