"""The benchmarks: what they refuse, what their tables say, and which operations a profile knows."""

import importlib
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("benchmark --heavy-mean 50", "--heavy-mean: 50 is not between 5.95 and 24"),
        ("benchmark --heavy-mean ten", "--heavy-mean: 'ten' is not a number above 0"),
        ("benchmark --seconds nan", "--seconds: 'nan' is not a number above 0"),
        ("benchmark --batches 0", "--batches: '0' is not a whole number above 0"),
        ("benchmark_scan --batch 0", "--batch: '0' is not a whole number above 0"),
        ("benchmark_scan --threads 0", "--threads: '0' is not a whole number above 0"),
        ("profile_step --steps 0", "--steps: '0' is not a whole number above 0"),
        ("profile_step --threads -1", "--threads: '-1' is not a whole number above 0"),
        ("benchmark_batches --batch 0", "--batch: '0' is not a whole number above 0"),
        ("benchmark_batches --workers 9", "--workers: invalid choice: 9"),
    ],
)
def test_wrong_numbers_are_named(command: str, message: str, monkeypatch, capsys) -> None:
    name, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_an_engine_that_runs_nowhere_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark_scan", "--engines", "cpu", "triton"])
    with pytest.raises(SystemExit):
        importlib.import_module("benchmark_scan").main()
    assert "--engines triton: DIEN_SCAN=triton cannot run here" in capsys.readouterr().err


def test_a_missing_peak_leaves_its_own_cell_empty() -> None:
    results = importlib.import_module("bench.results")
    found = results.Results({}, {"full": 63.6}, [128, 1024])
    found.described = {name: {"parameters": 1234} for name in ("dien", "recbole", "fuxictr")}
    found.memory = {"dien": {128: 500.0, 1024: 1500.0}, "recbole": {1024: 1365.0}}
    *_, sheet = results.sheets(found)
    assert [row[1:] for row in sheet.rows] == [["500", "1,500", "1,234"], ["-", "1,365", "1,234"], ["-", "-", "1,234"]]


def test_a_profile_knows_the_operations_of_a_step() -> None:
    script = importlib.import_module("profile_step")
    spent, unknown, median, steps = script.measure("heavy", 3)
    assert sum(spent.values()) == pytest.approx(median)
    assert spent["perceptrons"] > 0.02 * median
    ours = ("_Linear", "_Perceptron", "_Lookup", "_Dice", "_Softmax", "_Last", "_Recurrence")
    assert not [name for name in unknown if name.startswith(ours)]
    assert 128 <= steps <= 128 * 100


def test_a_profile_says_what_it_does_not_know() -> None:
    script = importlib.import_module("profile_step")
    assert script.complaint("full", {"gated scan": 85.0, "other": 15.0}, Counter(new=15.0)) is None
    said = script.complaint("full", {"gated scan": 80.0, "other": 20.0}, Counter(small=1.0, new=19.0))
    assert said.startswith("full: 20% of a step")
    assert said.endswith("new, small.")


def test_rows_of_chosen_lengths() -> None:
    script = importlib.import_module("benchmark_batches")
    length_R, wanted_R = np.array([3, 1, 3, 2, 1, 3]), np.repeat([1, 2, 3], [50, 5, 90])
    chosen = script.rows_with(wanted_R, length_R, np.random.default_rng(0))
    assert length_R[chosen].tolist() == wanted_R.tolist()
    assert set(chosen) == set(range(6))

    prepared = SimpleNamespace(history_lengths=lambda event_B, history_length: length_R[event_B])
    rows = SimpleNamespace(prepared=prepared, samples=np.arange(6), rows_per_sample=1, history_length=100)
    rows = script.ChosenRows(rows, chosen)
    assert len(rows) == 145
    assert rows.lengths(np.array([0, 50, 144])).tolist() == [1, 2, 3]
