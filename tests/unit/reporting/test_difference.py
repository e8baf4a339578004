"""What differs between two runs, and what several have in common."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dien.errors import DataError
from dien.reporting.difference import difference_tables, differences, run_in, shared_and_differing
from dien.reporting.variants import ABSENT
from dien.runs.read import read

MakeRun = Callable[..., Path]


def test_every_part_is_compared(make_run: MakeRun) -> None:
    a = run_in(make_run("a", auc=0.6, config={"model.only": True}, environment={"threads": 2}))
    b = run_in(make_run("b", auc=0.7, seed=1, environment={"packages": {"torch": "2.14.0"}, "git_commit": "f" * 40}))
    found = {(part, key): (one, other) for part, key, one, other in differences(a, b)}
    assert found[("configuration", "seed")] == (0, 1)
    assert found[("configuration", "model.only")] == (True, ABSENT)
    assert found[("environment", "threads")] == (2, 1)
    assert found[("environment", "packages.torch")] == ("2.13.0", "2.14.0")
    assert found[("environment", "git_commit")] == ("0" * 40, "f" * 40)
    assert found[("metrics", "test/auc")] == (0.6, 0.7)
    assert ("configuration", "run_dir") not in found
    assert not any("config_sha256" in key for _, key in found)
    configuration, environment, metrics = difference_tables(a, b)
    assert ["model.only", "true", "(absent)"] in configuration.rows
    assert ["threads", "2", "1"] in environment.rows
    assert ["test/auc", "0.6", "0.7", "+0.1"] in metrics.rows


def test_equal_runs_do_not_differ(make_run: MakeRun) -> None:
    assert difference_tables(run_in(make_run("a")), run_in(make_run("b"))) == []


def test_a_folder_of_one_run(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a")
    assert run_in(tmp_path).folder.endswith("a")
    make_run("b")
    with pytest.raises(DataError, match="holds 2 runs: name the folder of a single one"):
        run_in(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no runs"):
        run_in(tmp_path / "empty")


def test_what_runs_share(make_run: MakeRun, tmp_path: Path) -> None:
    for number in range(3):
        make_run(str(number), environment={"threads": number // 2})
    shared, differing = shared_and_differing(read(tmp_path), "environment")
    assert shared["packages.torch"] == "2.13.0"
    assert differing == {"threads": {"0": 2, "1": 1}}
