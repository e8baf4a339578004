"""`load` and `curves`: whatever the state of a run folder, a row that says so and no exception."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dien import runs
from dien.errors import DataError
from dien.runs.frames import IDENTITY
from dien.runs.status import died

FILES = (
    "config.yaml",
    "environment.json",
    "metrics.csv",
    "metrics.json",
    "status.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
)
MakeRun = Callable[..., Path]


def the_row(*paths: Path) -> dict[str, object]:
    (row,) = runs.load(*paths).to_dicts()
    return row


def test_one_row_a_run_with_what_differs_the_metrics_and_the_environment(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("2_b", model="din", alpha=0.0, seed=1, auc=0.6)
    make_run("10_a", seed=1, auc=0.7, environment={"threads": 2})
    make_run("sweep/deeper/1_c", seed=0, auc=0.65)
    frame = runs.load(tmp_path)
    assert [Path(run).name for run in frame["run"]] == ["2_b", "10_a", "1_c"]  # natural order, at any depth
    assert frame["status"].to_list() == ["finished"] * 3
    assert frame["problem"].to_list() == [None] * 3
    assert frame["test/auc"].to_list() == [0.6, 0.7, 0.65]
    assert frame["model.name"].to_list() == ["din", "dien-augru", "dien-augru"]
    assert frame["model.alpha"].to_list() == [0.0, 1.0, 1.0]
    assert frame["seed"].to_list() == [1, 1, 0]
    assert frame["env/threads"].to_list() == [1, 2, 1]
    assert frame["env/packages.torch"].unique().to_list() == ["2.13.0"]
    assert "data.name" in frame.columns  # part of what a run is, though it is the same everywhere
    for same in ("data.batch_size", "model.head.hidden", "run_dir", "env/config_sha256"):
        assert same not in frame.columns


def test_keys_without_an_effect_are_no_columns(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(
        "a", config={"ckpt": "auto", "logger.wandb.folder": "a", "data.num_workers": 0, "schedule._partial_": True}
    )
    make_run("b", config={"ckpt": None, "logger": {}, "data.num_workers": 2, "trainer.max_epochs": 5})
    columns = runs.load(tmp_path).columns
    assert columns[4 : columns.index("best_epoch")] == [*IDENTITY, "trainer.max_epochs"]


def test_a_folder_that_is_given_twice_counts_once(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run("a")
    monkeypatch.chdir(tmp_path)
    assert len(runs.load(tmp_path, folder, "runs", "runs/a")) == 1


def test_paths_that_are_no_folders_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is not a folder"):
        runs.load(tmp_path / "file")
    with pytest.raises(DataError, match="nowhere is missing"):
        runs.load(tmp_path / "nowhere")
    assert len(runs.load(tmp_path)) == 0
    assert len(runs.curves(tmp_path)) == 0


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_a_row_that_says_so(make_run: MakeRun, name: str) -> None:
    folder = make_run("a")
    (folder / name).unlink()
    row = the_row(folder)
    assert f"{name} is missing" in str(row["problem"])
    assert row["status"] == "finished"
    runs.curves(folder)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(part=st.floats(0, 1, exclude_max=True))
@example(part=1.0)
def test_a_cut_file_is_a_row_that_says_so(make_run: MakeRun, name: str, part: float) -> None:
    folder = make_run(f"{time.monotonic_ns()}")
    whole = (folder / name).read_bytes()
    # The product with a part just below 1 can round to the whole length.
    (folder / name).write_bytes(whole[: min(int(part * len(whole)), len(whole) - 1)])
    assert f"{name} is damaged" in str(the_row(folder)["problem"])
    runs.curves(folder)


def test_a_checkpoint_without_its_last_bytes_is_damaged(make_run: MakeRun) -> None:
    folder = make_run("a")
    path = folder / "checkpoints" / "best.ckpt"
    whole = path.read_bytes()
    for cut in range(1, 100):  # the last 71 bytes are a comment, without which a zip archive is a whole one
        path.write_bytes(whole[:-cut])
        assert the_row(folder)["problem"] == "checkpoints/best.ckpt is damaged.", cut
    torch.save({"state_dict": {}}, path)  # whole, without a checksum
    assert the_row(folder)["problem"] is None


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"3", b"null", b"[" * 100_000, b"a: {b: *x", b"\0"])
@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.csv", "metrics.json", "status.json"])
def test_nonsense_in_a_file_is_a_row_that_says_so(make_run: MakeRun, name: str, content: bytes) -> None:
    folder = make_run("a", status={"status": "finished"})
    (folder / name).write_bytes(content)
    problem = str(the_row(folder)["problem"])
    assert name in problem
    assert "damaged" in problem or "cannot be read" in problem
    runs.curves(folder)


def test_a_configuration_of_before_its_digest_was_kept(make_run: MakeRun) -> None:
    folder = make_run("a")
    environment = json.loads((folder / "environment.json").read_text())
    del environment["config_sha256"]
    (folder / "environment.json").write_text(json.dumps(environment))
    assert the_row(folder)["problem"] is None
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text[: text.index("trainer:")])
    assert the_row(folder)["problem"] == "config.yaml is damaged."


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({"status": "running", "error": None}, "it has not finished: its process ended without a word."),
        ({"status": "failed", "error": "training diverged."}, "it failed: training diverged."),
        ({"status": "stopped", "error": None}, "it stopped: no reason is known."),
        ({"status": "nonsense"}, "it has not finished: metrics.json is missing."),
        (None, "it has not finished: metrics.json is missing; status.json is missing."),
    ],
)
def test_runs_that_did_not_finish(make_run: MakeRun, status: dict[str, object] | None, problem: str) -> None:
    row = the_row(make_run("a", auc=None, status=status))
    assert row["problem"] == problem
    known = status is not None and status["status"] in ("failed", "stopped")
    assert row["status"] == (status["status"] if known and status else "unfinished")
    assert "test/auc" not in row


def test_running_is_what_a_process_holds_the_lock_of(make_run: MakeRun) -> None:
    begun = {"status": "running", "process": 12, "host": "node7"}
    folder = make_run("a", auc=None, status=begun)
    (folder / runs.LOCK).touch()  # left behind
    died = "it has not finished: process 12 on node7 ended without a word."
    before = sorted(folder.rglob("*"))
    assert (the_row(folder)["status"], the_row(folder)["problem"]) == ("unfinished", died)
    assert sorted(folder.rglob("*")) == before  # reading leaves nothing behind
    with runs.claimed(folder):
        assert (the_row(folder)["status"], the_row(folder)["problem"]) == ("running", "it is still running.")


def test_a_run_that_ends_while_it_is_read_did_not_die(make_run: MakeRun) -> None:
    folder = make_run("a", status={"status": "finished"})
    assert not died(folder, {"status": "running"})  # what was read before its end


def test_a_run_that_ended_before_anything_but_its_configuration(make_run: MakeRun) -> None:
    folder = make_run("a", auc=None)
    shutil.rmtree(folder / "checkpoints")
    for name in ("environment.json", "metrics.csv"):
        (folder / name).unlink()
    row = the_row(folder)
    assert row["status"] == "unfinished"
    assert row["seed"] == 0


def test_other_configurations_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("theme: dark\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "metrics.json").write_text("{}")
    assert len(runs.load(tmp_path)) == 0


def test_values_of_several_kinds_become_text(make_run: MakeRun, tmp_path: Path) -> None:
    for number, value in enumerate((3, "auto", None, True, [1, 2])):
        make_run(str(number), config={"trainer.devices": value}, seed=2**70)
    frame = runs.load(tmp_path)
    assert frame["trainer.devices"].to_list() == ["3", "auto", None, "true", "[1, 2]"]
    assert frame["seed"].to_list() == [str(2**70)] * 5


def test_metrics_that_are_no_numbers_are_null(make_run: MakeRun) -> None:
    folder = make_run("a")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"test/auc": None, "note": "x"}))
    row = the_row(folder)
    assert "test/auc" not in row
    assert "note" not in row
    assert row["val/auc"] == 0.7


def test_curves_are_long(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", auc=0.7)
    make_run("b", auc=0.6, alpha=0.0)
    frame = runs.curves(tmp_path)
    assert frame.columns == ["run", "step", "epoch", "name", "value"]
    of_a = frame.filter(frame["run"].str.ends_with("a"))
    assert of_a.filter(of_a["name"] == "val/auc").select("step", "epoch", "value").rows() == [(300, 3, 0.7)]
    aux = of_a.filter(of_a["name"] == "train/aux_loss")
    assert aux["value"].to_list() == pytest.approx([1.4 - 0.002 * step for step in range(9, 300, 10)])
    assert not (frame.filter(frame["run"].str.ends_with("b"))["name"] == "train/aux_loss").any()


def test_200_runs_load_in_less_than_2_seconds(make_run: MakeRun, tmp_path: Path) -> None:
    many = {f"data.source.option_{number}.value": number for number in range(100)}  # as long as a real configuration
    first = make_run("0", config=many)
    for number in range(1, 200):
        shutil.copytree(first, first.parent / str(number))
    start = time.process_time()
    frame = runs.load(tmp_path)
    seconds = time.process_time() - start
    assert len(frame) == 200
    assert frame["problem"].null_count() == 200
    assert seconds < 2
