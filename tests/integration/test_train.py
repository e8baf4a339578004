"""`dien-train` from end to end on a small log: the run folder, seeds, resuming, sweeps."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

EVOLUTIONS = ["gru", "aigru", "agru", "augru", "augru_code"]


def metrics_of(folder: str) -> dict[str, float]:
    return json.loads(Path(folder, "metrics.json").read_text())


def weights_of(folder: str, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(Path(folder, "checkpoints", name), weights_only=True)["state_dict"]


def numbers(folder: str) -> dict[str, float]:
    """Metrics that the clock does not change."""
    return {k: v for k, v in metrics_of(folder).items() if k not in ("seconds", "train/samples_per_second")}


def test_a_run_leaves_everything_that_later_commands_read(dien_train, small, capsys):
    assert dien_train(*small) == 0
    printed = capsys.readouterr().out
    (folder,) = Path("outputs/default").iterdir()
    assert folder.name.endswith("_dien-augru_table_seed0")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoints", "config.yaml", "environment.json", "metrics.csv", "metrics.json", "status.json", "train.log"),
    ]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]

    metrics = metrics_of(folder)
    for split in ("val", "test"):
        for name in ("auc", "gauc"):
            assert 0.5 < metrics[f"{split}/{name}"] <= 1
        assert 0 < metrics[f"{split}/logloss"] < 1
        assert metrics[f"{split}/calibration"] == pytest.approx(1, abs=0.3)
    assert metrics["train/samples_per_second"] > 0
    assert metrics["seconds"] > 0
    assert metrics["best_epoch"] in (0, 1)
    assert f"{metrics['test/auc']:.4f}" in printed
    assert str(folder) in printed

    config = OmegaConf.load(folder / "config.yaml")
    assert config.model.alpha == 1
    assert config.run_dir == str(folder.resolve())
    assert "${" not in (folder / "config.yaml").read_text()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["parameters"] == sum(
        value.numel() for key, value in weights_of(folder).items() if "running" not in key
    )
    assert len(environment["dataset_fingerprint"]) == 64

    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["train/learning_rate"]) for row in rows if row["train/learning_rate"]]
    assert rates == pytest.approx([0.02, 0.01])
    losses = [row for row in rows if row["train/loss"]]
    assert losses
    for row in losses:  # alpha is 1
        assert float(row["train/loss"]) == pytest.approx(float(row["train/ctr_loss"]) + float(row["train/aux_loss"]))


def test_best_is_chosen_on_validation(dien_train, small):
    assert dien_train(*small, "hydra.run.dir=run", "trainer.max_epochs=4", "schedule=constant") == 0
    with Path("run/metrics.csv").open() as file:
        seen = {int(row["epoch"]): float(row["val/auc"]) for row in csv.DictReader(file) if row["val/auc"]}
    metrics = metrics_of("run")
    fitted = {epoch: auc for epoch, auc in seen.items() if epoch < metrics["epochs"]}
    assert metrics["best_epoch"] == max(fitted, key=fitted.__getitem__)
    assert metrics["val/auc"] == pytest.approx(max(fitted.values()), abs=1e-6)


def test_checkpoints_hold_weights_and_not_the_data(dien_train, small):
    """Trap of RecBole: 133 MB of checkpoint for 0.16 MB of weights, unreadable without unpickling."""
    assert dien_train(*small, "hydra.run.dir=run") == 0
    size = sum(value.numel() * value.element_size() for value in weights_of("run").values())
    assert Path("run/checkpoints/best.ckpt").stat().st_size < 4 * size + 50_000  # weights, two moments, and names


def test_a_seed_repeats_its_numbers_and_another_changes_them(dien_train, small):
    """Trap of many templates: seed 0 is taken for no seed."""
    for folder, seed, workers in (("a", 0, 0), ("b", 0, 2), ("c", 1, 0)):
        assert dien_train(*small, f"hydra.run.dir={folder}", f"seed={seed}", f"data.num_workers={workers}") == 0, folder
    assert numbers("a") == numbers("b")
    assert numbers("a") != numbers("c")
    for key, value in weights_of("a").items():
        assert torch.equal(value, weights_of("b")[key]), key


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(dien_train, small, workers):
    whole, parts = "whole", "parts"
    small = [*small, f"data.num_workers={workers}", "optimizer.lr=0.3"]  # so large that later epochs get worse
    assert dien_train(*small, f"hydra.run.dir={whole}", "trainer.max_epochs=4") == 0
    assert dien_train(*small, f"hydra.run.dir={parts}", "trainer.max_epochs=2") == 0
    Path("parts").rename("moved")  # a run folder can be moved
    assert dien_train("ckpt=moved", "trainer.max_epochs=4") == 0  # the other options are those it was started with
    assert not Path("outputs").exists()  # it went on in its own folder
    assert numbers("moved") == numbers(whole)
    for key, value in weights_of(whole).items():
        assert torch.equal(value, weights_of("moved")[key]), key
    curves = []
    for folder in (whole, "moved"):
        with Path(folder, "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        curves.append([(int(row["step"]), float(row["train/loss"])) for row in rows])
    assert curves[0] == curves[1]


def test_only_whole_epochs_are_resumed(dien_train, small, capsys):
    assert dien_train(*small, "hydra.run.dir=run", "trainer.max_steps=5") == 0
    assert dien_train("ckpt=run/checkpoints/best.ckpt", "trainer.max_steps=9") == 2
    assert "in the midst of an epoch: go on from last.ckpt" in capsys.readouterr().err


def test_last_is_the_newest_epoch_and_best_the_best(dien_train, small):
    assert dien_train(*small, "hydra.run.dir=run", "optimizer.lr=0.3", "trainer.max_epochs=4") == 0
    epochs = [torch.load(f"run/checkpoints/{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")]
    assert epochs[0] == metrics_of("run")["best_epoch"]
    assert epochs[1] == 3


def test_training_stops_when_the_objective_no_longer_improves(dien_train, small):
    overrides = ["optimizer.lr=0.3", "schedule=constant", "callbacks.early_stopping.patience=1"]
    assert dien_train(*small, *overrides, "hydra.run.dir=run", "trainer.max_epochs=30") == 0
    metrics = metrics_of("run")
    assert metrics["epochs"] == metrics["best_epoch"] + 2 < 30


def test_a_run_is_resumed_on_its_own_data_and_network_only(dien_train, small, capsys):
    assert dien_train(*small, "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    before = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    capsys.readouterr()
    for overrides, named in (
        (["data.ties=order"], "dataset_fingerprint"),
        (["seed=5"], "seed 0"),
        (["model.hidden_size=5"], "another network"),
        (["model=din"], "another network"),
    ):
        assert dien_train("ckpt=run", *overrides) == 2
        assert named in capsys.readouterr().err
    after = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    assert {k: v for k, v in after.items() if k != "train.log"} == {k: v for k, v in before.items() if k != "train.log"}


def test_auto_continues_the_unfinished_run_of_the_same_name(dien_train, small):
    assert dien_train(*small, "trainer.max_epochs=1") == 0
    (folder,) = Path("outputs/default").iterdir()
    (folder / "metrics.json").unlink()  # as if it had been killed after its first epoch
    assert dien_train(*small, "ckpt=auto") == 0
    assert list(Path("outputs/default").iterdir()) == [folder]
    assert metrics_of(folder)["epochs"] == 2
    assert dien_train(*small, "ckpt=auto") == 0  # nothing is unfinished now
    assert len(list(Path("outputs/default").iterdir())) == 2


def test_a_checkpoint_can_be_evaluated_alone(dien_train, small):
    assert dien_train(*small, "hydra.run.dir=run") == 0
    before = {
        path.name: path.read_bytes() for path in Path("run").iterdir() if path.suffix in (".csv", ".yaml", ".json")
    }
    assert dien_train("ckpt=run", "train=false") == 0
    after = {name: Path("run", name).read_bytes() for name in before}
    assert after == before


def test_a_sweep_runs_every_variant_in_its_own_folder(dien_train, small):
    assert dien_train("-m", *small, f"model/evolution={','.join(EVOLUTIONS)}", "trainer.max_epochs=1") == 0
    (sweep,) = Path("multirun/default").iterdir()
    folders = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == [
        f"{job}_dien-{evolution}_table_seed0" for job, evolution in enumerate(EVOLUTIONS)
    ]
    assert len({metrics_of(folder)["val/auc"] for folder in folders}) > 1
    assert len({json.loads((f / "environment.json").read_text())["parameters"] for f in folders}) == 1


@pytest.mark.parametrize("model", ["base", "wide_deep", "pnn", "din"])
def test_baselines_train(dien_train, small, model):
    assert dien_train(*small, f"model={model}", "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    assert 0.4 < metrics_of("run")["test/auc"] <= 1
    with Path("run/metrics.csv").open() as file:
        assert "train/aux_loss" not in file.readline()


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.alpha=0"],
        ["model/scorer=dot", "model/attention=bilinear"],
        ["data.negatives.auxiliary=3", "data.negatives.strategy=uniform", "data.negatives.exclude=history"],
        ["model.head.activation=prelu", "model.head.dropout=0.2", "trainer.gradient_clip_val=0.5"],
        ["optimizer=adamw", "schedule=cosine", "objective=val/logloss"],
        ["optimizer=sgd", "callbacks=quiet", "trainer.precision=bf16-mixed"],
        ["data.split=temporal", "data.samples=last", "data.ties=order"],
        ["data.split=by_user", "data.bucket=4", "data.min_history=0", "data.batch_size=1", "trainer.max_steps=5"],
    ],
)
def test_options_run(dien_train, small, overrides):
    assert dien_train(*small, *overrides, "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    assert metrics_of("run")["val/logloss"] > 0


def test_quiet_is_quiet(dien_train, small, capsys):
    assert dien_train(*small, "callbacks=quiet", "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    printed = capsys.readouterr()
    assert "Epoch" not in printed.out + printed.err


@pytest.mark.parametrize("place", [["hydra.run.dir=run"], ["-m", "seed=0,1", "hydra.sweep.dir=sweep"]])
def test_sigterm_has_its_own_status_and_says_how_to_continue(small, place):
    command = [sys.executable, "-m", "dien.train", *place, *small, "trainer.max_epochs=100000"]
    with subprocess.Popen([*command, "callbacks=quiet"], stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3000):  # compiling the kernels takes its time on a busy machine
            if list(Path().glob("**/last.ckpt")):
                break
            time.sleep(0.1)
        process.terminate()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM: continue with ckpt=" in error
    assert len(list(Path().glob("**/checkpoints"))) == 1  # the jobs after it were not begun


def test_a_sweep_goes_over_any_groups(dien_train, small):
    groups = ["model=base,din", "optimizer=adam,sgd", "schedule=halve,constant", "callbacks=default,quiet"]
    assert dien_train("-m", *small, *groups, "trainer.max_steps=3", "hydra.sweep.dir=sweep") == 0
    assert len(list(Path("sweep").glob("*/metrics.json"))) == 16
