"""A run and its prepared dataset on another machine: no path of the old one is needed, or it is named."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dien import Ranker, explain, impressions, predict, runs
from dien.errors import DienError
from dien.export import command as export_command


class Moved:
    """A run that was trained under `old` and lies under `new` now, as does the cache; of `old` nothing is left."""

    def __init__(self, old: Path, new: Path, run: Path, cache: Path, events: Path) -> None:
        self.scores = Ranker.load(run).score(["i1", "i2"], ["i3", "i4"], user="u1")
        self.metrics = json.loads((run / "metrics.json").read_text())
        new.mkdir()
        self.events = Path(shutil.copy(events, new / "clicks.csv"))
        self.run, self.cache = (Path(shutil.move(one, new / one.name)) for one in (run, cache))
        (self.dataset,) = self.cache.glob("table-*")
        shutil.rmtree(old)

    def is_whole(self, ranker: Ranker) -> bool:
        return np.array_equal(ranker.score(["i1", "i2"], ["i3", "i4"], user="u1"), self.scores)


@pytest.fixture
def moved(finished_run, events, tmp_path, monkeypatch):
    old = tmp_path / "old"
    old.mkdir()
    # As if everything had been in the folder `old`: its path is in the configuration.
    for path in (finished_run / "config.yaml", finished_run / "environment.json"):
        path.write_text(path.read_text().replace(str(tmp_path), str(old)))
    run, cache, log = (Path(shutil.move(tmp_path / one, old / one)) for one in ("run", "cache", "events.csv"))
    monkeypatch.setenv("DIEN_CACHE", str(cache))
    return Moved(old, tmp_path / "new", run, cache, log)


@pytest.fixture
def run_command(monkeypatch, capsys):
    def run(main, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def commands(moved: Moved, rows: Path, out: Path) -> dict[str, tuple]:
    return {
        "predict": (predict.main, moved.run, "--input", rows, "--output", out / "scores.csv"),
        "export": (export_command.main, moved.run, "--format", "weights", "--output", out / "weights"),
        "explain": (explain.main, moved.run, "--user", "u1"),
    }


@pytest.mark.parametrize("how", ["DIEN_CACHE", "override"])
def test_with_its_dataset_a_moved_run_needs_nothing_else(
    moved, how, run_command, dien_train, tmp_path, monkeypatch, capsys
):
    override = [f"data.prepared={moved.dataset}"]
    if how == "DIEN_CACHE":
        override = []
        monkeypatch.setenv("DIEN_CACHE", str(moved.cache))
    assert moved.is_whole(Ranker.load(moved.run, overrides=override))
    loaded = runs.load_model(moved.run, overrides=override)
    with torch.no_grad():
        assert next(iter(loaded.data.test_dataloader())).label_B.sum() > 0
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item\nu1,i3\nu2,i4\n")
    for name, arguments in commands(moved, rows, tmp_path).items():
        options = [word for one in override for word in ("--override", one)]
        assert run_command(*arguments, *options) == (0, ""), name
    assert sum(len(part) for part, _ in impressions.pieces(tmp_path / "scores.csv", 10)) == 2
    assert moved.is_whole(Ranker.load(tmp_path / "weights"))
    assert dien_train(f"ckpt={moved.run}", "train=false", *override) == 0
    again = json.loads((moved.run / "metrics.json").read_text())
    assert again["test/auc"] == pytest.approx(moved.metrics["test/auc"], abs=1e-6)


def test_without_its_dataset_it_says_which_is_missing_and_what_to_give(
    moved, run_command, dien_train, tmp_path, capsys
):
    place = tmp_path / "old" / "cache" / moved.dataset.name
    said = f"the dataset that {moved.run} was trained on is not at {place}, and cannot be made again ({tmp_path}/old"
    give = "give its place as the override data.prepared=FOLDER, or set DIEN_CACHE to the folder that holds it."
    for use in (Ranker.load, runs.load_model):
        with pytest.raises(DienError) as refusal:
            use(moved.run)
        assert str(refusal.value).startswith(said)
        assert str(refusal.value).endswith(give)
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item\nu1,i3\n")
    before = sorted(tmp_path.rglob("*"))
    for name, arguments in commands(moved, rows, tmp_path).items():
        status, error = run_command(*arguments)
        assert (status, error.count("\n"), said in error, give in error) == (2, 1, True, True), (name, error)
    assert dien_train(f"ckpt={moved.run}", "train=false") == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "file").touch()
    with pytest.raises(DienError, match=r"is damaged or another one at .*wrong"):
        Ranker.load(moved.run, overrides=[f"data.prepared={tmp_path}/wrong"])
    # The log, where it lies now, is as good: the dataset is made again.
    assert moved.is_whole(Ranker.load(moved.run, overrides=[f"data.source.events={moved.events}"]))
