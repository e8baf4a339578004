"""Offline logs of W&B: read to the last whole record, as rows and curves like those of run folders."""

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from dien import runs

BLOCK = 32768


def record(kind: str, values: dict[str, Any] | None = None, **fields: Any) -> Any:
    """One protocol buffer; `values` are its items, with `/` in a key as it stands and nesting as nested keys."""
    made = wandb_internal_pb2.Record()
    part = getattr(made, kind)
    part.SetInParent()
    for key, value in (values or {}).items():
        item = (part.item if kind == "history" else part.update).add(value_json=json.dumps(value))
        item.nested_key.extend(key.split("."))
    for key, value in fields.items():
        setattr(part, key, value)
    return made


def encoded(records: Sequence[Any]) -> bytes:
    """LevelDB's log format with W&B's header and checksum."""
    content = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
    for made in records:
        data, first = made.SerializeToString(), True
        while first or data:
            room = BLOCK - len(content) % BLOCK
            if room < 7:
                content += b"\0" * room
                continue
            piece, data = data[: room - 7], data[room - 7 :]
            kind = (1 if not data else 2) if first else (4 if not data else 3)
            content += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
    return content


Log = Callable[..., Path]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """`log(records, leg=..., run=...)` writes one leg of a run below `tmp_path/wandb`."""

    def write(records: Sequence[Any], *, leg: str = "20261124_000000", run: str = "abc") -> Path:
        path = tmp_path / "wandb" / f"offline-run-{leg}-{run}" / f"run-{run}.wandb"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(records))
        return path

    return write


def a_run(*, auc: float = 0.7, step: int = 19, end: bool = True) -> list[Any]:
    begin = record("run", run_id="abc", display_name="dien-augru_sample_seed3")
    config = record(
        "config", {"seed": 3, "model": {"name": "dien-augru", "alpha": 1.0}, "_wandb": {}, "data.name": "x"}
    )
    loss = {"train/ctr_loss": 0.6, "epoch": 0, "trainer/global_step": step, "_step": 0, "_runtime": 1.5}
    final = {
        "test/auc": auc,
        "epoch": 1,
        "trainer/global_step": step + 1,
        "_step": 1,
        "figure": {"_type": "image-file"},
    }
    last = [record("exit", exit_code=0)] if end else []
    return [begin, config, record("history", loss), record("history", final), record("summary", final), *last]


def test_a_log_is_a_row(log: Log, tmp_path: Path) -> None:
    path = log(a_run())
    (row,) = runs.load(tmp_path).to_dicts()
    assert row["origin"] == "wandb"
    assert row["run"] == str(path.parent)
    assert (row["status"], row["problem"]) == ("finished", None)
    assert (row["seed"], row["model.name"], row["model.alpha"], row["data.name"]) == (3, "dien-augru", 1.0, "x")
    assert row["name"] == "dien-augru_sample_seed3"
    assert {key: row[key] for key in row if "/" in key} == {"test/auc": 0.7, "train/ctr_loss": 0.6}
    curves = runs.curves(tmp_path)
    assert curves.select("step", "epoch", "name", "value").rows() == [
        (19, 0, "train/ctr_loss", 0.6),
        (20, 1, "test/auc", 0.7),
    ]


def test_a_log_of_several_blocks(log: Log, tmp_path: Path) -> None:
    log([*a_run(end=False), *(record("config", {f"key{n}": "v" * 30_000}) for n in range(9)), record("exit")])
    (row,) = runs.load(tmp_path).to_dicts()
    assert (row["status"], row["problem"]) == ("finished", None)


def test_a_failed_run_and_one_that_did_not_end(log: Log, tmp_path: Path) -> None:
    log([*a_run(end=False), record("exit", exit_code=1)], run="failed")
    log(a_run(end=False), run="killed")
    rows = {Path(row["run"]).name[-6:]: row for row in runs.load(tmp_path).to_dicts()}
    assert rows["failed"]["status"] == "failed"
    assert rows["failed"]["problem"] == "it failed with exit status 1."
    assert rows["killed"]["status"] == "unfinished"
    assert rows["killed"]["test/auc"] == 0.7


def test_the_legs_of_a_resumed_run_are_one_row(log: Log, tmp_path: Path) -> None:
    log(a_run(auc=0.6, end=False))
    last = log(a_run(auc=0.8, step=39), leg="20261124_010000")
    (tmp_path / "wandb" / "latest-run").symlink_to(last.parent)
    (row,) = runs.load(tmp_path).to_dicts()
    assert (row["status"], row["test/auc"], row["run"]) == ("finished", 0.8, str(last.parent))
    curves = runs.curves(tmp_path)
    assert curves.filter(curves["name"] == "train/ctr_loss")["step"].to_list() == [19, 39]


def test_any_cut_of_a_log_is_a_row_with_a_problem(log: Log, tmp_path: Path) -> None:
    path = log(a_run())
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        (row,) = runs.load(tmp_path).to_dicts()
        assert row["status"] == "unfinished", length
        assert row["problem"], length
        runs.curves(tmp_path)


def test_a_changed_byte_is_found(log: Log, tmp_path: Path) -> None:
    path = log(a_run())
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        (row,) = runs.load(tmp_path).to_dicts()
        assert any(word in row["problem"] for word in ("damaged", "cut")), place


def test_the_log_of_a_run_folder_is_no_second_run(make_run: Callable[..., Path], log: Log, tmp_path: Path) -> None:
    folder = make_run("a", status={"status": "finished", "wandb_id": "abc"})
    inside = log(a_run())
    assert len(runs.load(tmp_path)) == 1  # a copy elsewhere has the same id
    inside.parent.parent.rename(folder / "wandb")
    (folder / "status.json").unlink()
    assert runs.load(tmp_path)["origin"].to_list() == ["folder"]
    assert runs.load(folder / "wandb")["origin"].to_list() == ["wandb"]
