"""`dien-predict`: the scores are those of the trainer, for any format, and mistakes are one sentence."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from dien import Ranker, impressions, predict, runs
from dien.data.sources.amazon import Amazon
from dien.data.sources.reading import FILE, ROW
from dien.errors import DataError
from dien.export.archive import read_ids
from dien.export.command import export
from dien.histories import Clock
from dien.metrics import AUC

FORMATS = ["parquet", "csv", "csv.gz", "tsv", "jsonl", "ndjson.gz"]


def write(frame: pl.DataFrame, path: Path) -> Path:
    with impressions.Writer(path) as writer:
        writer.write(frame)
    return path


def read(path: Path) -> pl.DataFrame:
    return pl.concat([frame for frame, _ in impressions.pieces(path, 1000)])


@pytest.fixture
def tested(finished_run):
    """The test rows of a run as raw ids, with the trainer's scores and labels."""
    loaded = runs.load_model(finished_run)
    data, rows = loaded.data.data, loaded.data.rows("test")
    with torch.no_grad():
        batches = [(batch, loaded.network(batch).logit_B) for batch in loaded.data.test_dataloader()]
    target = torch.cat([batch.target_B for batch, _ in batches]).numpy()
    event = rows.samples[np.arange(len(rows)) // rows.rows_per_sample]
    frame = pl.DataFrame(
        {
            "note": [f"row, {i}" for i in range(len(rows))],
            "user": data.user_ids().gather(data.event_user[event] - 2),
            "item": data.item_ids().gather(target - 2),
            "time": data.event_time[event],
        }
    )
    scores = torch.cat([logit_B for _, logit_B in batches]).sigmoid().numpy()
    labels = torch.cat([batch.label_B for batch, _ in batches])
    return finished_run, frame, scores, labels


def test_the_test_rows_score_as_the_trainer_scored_them_in_every_format(tested, tmp_path):
    run, frame, scores, labels = tested
    for suffix in FORMATS:
        source, target = write(frame, tmp_path / f"in.{suffix}"), tmp_path / f"out.{suffix}"
        counts = predict.predict(run, input=source, output=target, batch_size=7)
        out = read(target)
        assert out.columns == [*frame.columns, "score", "unknown_user", "unknown_item"]
        assert out["note"].to_list() == frame["note"].to_list()
        assert np.allclose(out["score"].cast(pl.Float64), scores, rtol=0, atol=1e-6), suffix
        assert counts == (len(frame), 0, 0, 0)
    auc = AUC()
    auc.update(torch.logit(torch.tensor(out["score"].cast(pl.Float64).to_numpy())), labels, torch.zeros(len(labels)))
    expected = json.loads((run / "metrics.json").read_text())["test/auc"]
    assert auc.compute().item() == pytest.approx(expected, abs=1e-6)


def test_the_history_may_come_from_a_table(tested, events, tmp_path):
    run, frame, scores, _ = tested
    source = write(frame, tmp_path / "in.parquet")
    counts = predict.predict(run, input=source, output=tmp_path / "out.parquet", history=events)
    assert np.allclose(read(tmp_path / "out.parquet")["score"], scores, rtol=0, atol=1e-6)
    assert counts.unknown_users == 0
    # A user whom the model does not know is scored with the clicks of the table, not with none.
    clicks = pl.read_csv(events).with_columns(pl.col("user") + "!")
    theirs = write(clicks, tmp_path / "clicks.csv")
    source = write(frame.with_columns(pl.col("user") + "!"), tmp_path / "in2.parquet")
    assert predict.predict(run, input=source, output=tmp_path / "out2.csv", history=theirs).unknown_users == len(frame)
    with_history = read(tmp_path / "out2.csv")["score"].cast(pl.Float64).to_numpy()
    predict.predict(run, input=source, output=tmp_path / "out3.csv")
    without = read(tmp_path / "out3.csv")["score"].cast(pl.Float64).to_numpy()
    assert np.abs(with_history - without).max() > 1e-3


def test_times_in_another_unit_are_refused(dien_train, small, events, tmp_path):
    """In milliseconds against a log in seconds every row would see clicks that came after it."""
    second = pl.col("time") + 1_700_000_000
    pl.read_csv(events).with_columns(second).write_csv(events)
    assert dien_train(*small, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run") == 0
    rows = pl.read_csv(events)[:40]
    out = tmp_path / "out.parquet"
    seconds = predict.predict(tmp_path / "run", input=write(rows, tmp_path / "s.csv"), output=out)
    expected = read(out)["score"].to_list()
    assert 0 < seconds.empty_histories < 40
    moments = rows.with_columns(pl.from_epoch("time").dt.strftime("%Y-%m-%dT%H:%M:%S"))
    assert predict.predict(tmp_path / "run", input=write(moments, tmp_path / "iso.csv"), output=out) == seconds
    assert read(out)["score"].to_list() == expected
    for factor in (1000, 0.001):
        odd = write(rows.with_columns((pl.col("time") * factor).cast(pl.Int64)), tmp_path / "odd.csv")
        with pytest.raises(DataError, match=r"the column time has times from .* in the unit of the log"):
            predict.predict(tmp_path / "run", input=odd, output=out)


def test_a_source_says_the_unit_of_its_times():
    units = {release: Amazon(category="Books", release=release).time_unit for release in (2014, 2018, 2023)}
    assert units == {2014: "s", 2018: "s", 2023: "ms"}
    frame = pl.DataFrame({"time": ["2023-11-14T22:13:20"], FILE: "table.csv", ROW: [1]})
    assert Clock(unit=units[2023], first=10**12, last=2 * 10**12).read(frame, "time").tolist() == [1_700_000_000_000]


def test_without_a_time_the_whole_history_counts(tested, tmp_path):
    run, frame, _, _ = tested
    end = frame.with_columns(pl.lit(10**6).alias("time"))
    for name, table in (("late", end), ("none", frame.drop("time"))):
        predict.predict(run, input=write(table, tmp_path / f"{name}.parquet"), output=tmp_path / f"{name}.csv")
    late, none = (read(tmp_path / f"{name}.csv")["score"] for name in ("late", "none"))
    assert late.to_list() == none.to_list()


def test_unknown_ids_are_scored_and_flagged(tested, tmp_path):
    run, frame, _, _ = tested
    odd = frame[:4].with_columns(
        user=pl.Series(["nobody", "u1", None, "u2"]), item=pl.Series(["i1", "nothing", "i2", None])
    )
    predict.predict(run, input=write(odd, tmp_path / "in.jsonl"), output=tmp_path / "out.parquet")
    out = read(tmp_path / "out.parquet")
    assert out["unknown_user"].to_list() == [True, False, True, False]
    assert out["unknown_item"].to_list() == [False, True, False, True]
    loaded = runs.load_model(run)
    batch = next(iter(loaded.data.test_dataloader()))
    batch = batch._replace(
        user_B=torch.tensor([1]),
        target_B=torch.tensor(loaded.data.data.item_rows(["i1"])),
        history_BT=torch.zeros(1, 0, dtype=torch.int64),
        length_B=torch.tensor([0]),
    )
    with torch.no_grad():
        expected = loaded.network(batch).logit_B.sigmoid().item()
    assert out["score"][0] == pytest.approx(expected, abs=1e-6)


def test_memory_holds_a_piece_only_and_order_is_kept(tmp_path):
    frame = pl.DataFrame({"n": np.arange(10_001), "text": [f'a "quoted"\nline {i}' for i in range(10_001)]})
    for suffix in FORMATS:
        path = write(frame, tmp_path / f"t.{suffix}")
        parts = list(impressions.pieces(path, 1000))
        assert [len(part) for part, _ in parts] == [1000] * 10 + [1], suffix
        assert parts[-1][1] == pytest.approx(1.0)
        whole = pl.concat([part for part, _ in parts])
        assert whole["n"].cast(pl.Int64).to_list() == list(range(10_001))
        assert whole["text"].to_list() == frame["text"].to_list()


def test_empty_fields_of_csv_stay_as_they_were(tmp_path):
    text = 'a,b,c\n1,,x\n,"",\nNA,null,nan\n'
    (tmp_path / "in.csv").write_text(text)
    write(read(tmp_path / "in.csv"), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == text


def test_a_late_key_of_json_lines_is_a_column(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n' * 70_000 + '{"a": 2.5, "b": "x"}\n')
    last = list(impressions.pieces(path, 1 << 16))[-1][0]
    assert last.row(-1) == (2.5, "x")
    assert last.row(0) == (1.0, None)


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dien-predict", *map(str, arguments)])
        try:
            predict.main()
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def test_mistakes_are_one_sentence_and_leave_nothing(tested, tmp_path, command):
    run, frame, _, _ = tested
    good = write(frame, tmp_path / "good.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(good.read_bytes()[:-100])
    packed = tmp_path / "cut.csv.gz"
    packed.write_bytes(gzip.compress(frame.write_csv().encode())[:-20])
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("user,item,time\nu1,i1,3\nu1,i2\n")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"user": "u1", "item": "i1"}\n{"user": "u1", "it')
    late = write(frame[:3].with_columns(time=pl.Series(["1", "2", "soon"])), tmp_path / "late.csv")
    empty = write(frame.clear(), tmp_path / "empty.parquet")
    (tmp_path / "empty.csv").write_text("")
    scored = write(frame.with_columns(score=pl.lit(1.0)), tmp_path / "scored.parquet")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out.csv"
    for message, arguments in {
        "there is no such file": (run, "--input", tmp_path / "no.csv", "--output", out),
        "the extension is not one of": (run, "--input", good, "--output", tmp_path / "out.xlsx"),
        "cut.parquet: cannot be read": (run, "--input", cut, "--output", out),
        "cut.csv.gz: cannot be read": (run, "--input", packed, "--output", out),
        "ragged.csv: cannot be read": (run, "--input", ragged, "--output", out),
        "broken.jsonl: cannot be read": (run, "--input", broken, "--output", out),
        "late.csv, row 3": (run, "--input", late, "--output", out),
        "there are no rows in it": (run, "--input", empty, "--output", out),
        "the file is empty": (run, "--input", tmp_path / "empty.csv", "--output", out),
        "no column 'who' for --user, only note, user": (run, "--input", good, "--output", out, "--user", "who"),
        "the column score is there already": (run, "--input", scored, "--output", out),
        "are the same file": (run, "--input", good, "--output", good),
        "there is no folder": (run, "--input", good, "--output", tmp_path / "no" / "out.csv"),
        "is not a run folder": (tmp_path, "--input", good, "--output", out),
        "--batch-size=0 is out of range": (run, "--input", good, "--output", out, "--batch-size", 0),
    }.items():
        status, said = command(*arguments)
        assert (status, message in said, said.count("\n")) == (2, True, 1), (message, said)
    assert sorted(tmp_path.iterdir()) == before
    assert command(run, "--input", good, "--output", out)[0] == 0


def test_blank_lines_are_no_rows_and_messages_count_rows(tested, tmp_path, command):
    run, _, _, _ = tested
    (tmp_path / "in.csv").write_text('user,item,note\n\nu1,i1,"two\nlines"\n\n\nu2,i2,\n\n')
    (tmp_path / "in.jsonl").write_text('{"user": "u1", "item": "i1"}\n\n{"user": "u2", "item": "i2"}\n\n')
    for suffix in ("csv", "jsonl"):
        assert command(run, "--input", tmp_path / f"in.{suffix}", "--output", tmp_path / "out.parquet") == (0, "")
        assert read(tmp_path / "out.parquet")["user"].to_list() == ["u1", "u2"]
    (tmp_path / "late.csv").write_text('user,item,time,note\n\nu1,i1,1,"two\nlines"\n\nu2,i2,soon,\nu3,i3,3,\n')
    (tmp_path / "late.jsonl").write_text(
        '{"user": 1, "item": 7, "time": "1"}\n\n{"user": 2, "item": 7, "time": "soon"}\n'
    )
    for suffix in ("csv", "jsonl"):
        status, said = command(run, "--input", tmp_path / f"late.{suffix}", "--output", tmp_path / "out.parquet")
        assert (status, f"late.{suffix}, row 2: time 'soon'" in said) == (2, True), said


def test_a_folder_of_weights_has_no_histories(finished_run, tmp_path, command):
    export(finished_run, "weights", tmp_path / "weights")
    write(pl.DataFrame({"user": ["u1"], "item": ["i1"]}), tmp_path / "in.csv")
    status, said = command(tmp_path / "weights", "--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")
    assert (status, said.count("\n"), "lacks the prepared dataset that dien-predict needs" in said) == (2, 1, True)


def test_a_table_is_walked_over_once_for_its_columns(tested, events, tmp_path, monkeypatch):
    """JSON lines have to be read as a whole for that."""
    run, frame, _, _ = tested
    walk, walked = impressions._json_schema, []
    monkeypatch.setattr(impressions, "_json_schema", lambda path: walked.append(path) or walk(path))
    source = write(frame[:5], tmp_path / "in.jsonl")
    history = write(pl.read_csv(events), tmp_path / "clicks.jsonl")
    predict.predict(run, input=source, output=tmp_path / "out.csv", history=history)
    assert walked == [source, history]


def test_a_failed_write_keeps_the_old_output(tmp_path):
    out = write(pl.DataFrame({"a": [1]}), tmp_path / "out.csv")
    with pytest.raises(DataError, match="a column does not fit"), impressions.Writer(out) as writer:
        writer.write(pl.DataFrame({"a": [[1, 2]]}))
    assert out.read_text() == "a\n1\n"
    assert list(tmp_path.glob(".out*")) == []


def test_an_id_that_training_did_not_know_is_flagged_wherever_it_is_scored(dien_train, small, events, tmp_path):
    """In the log, but in its test rows alone, or too rare: the embedding is the unknown one."""
    events.write_text(events.read_text() + "u1,rare,100,c1\nonce,i1,50,c1\n")
    assert dien_train(*small, "data.min_count=2", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run") == 0
    items, users = ["rare", "i1", "never", "i1"], ["u1", "once", "never", "u2"]
    frame = pl.DataFrame({"user": users, "item": items})
    counts = predict.predict(tmp_path / "run", input=write(frame, tmp_path / "in.csv"), output=tmp_path / "out.parquet")
    out = read(tmp_path / "out.parquet")
    assert out["unknown_item"].to_list() == [True, False, True, False]
    assert out["unknown_user"].to_list() == [False, True, True, False]
    assert (counts.unknown_users, counts.unknown_items) == (2, 2)
    export(tmp_path / "run", "weights", tmp_path / "weights")
    for ranker in (Ranker.load(tmp_path / "run"), Ranker.load(tmp_path / "weights")):
        assert ranker.known(items) == [False, True, False, True]
        assert [ranker.known_user(user) for user in users] == [True, False, False, True]
    exported_items, exported_users = read_ids(tmp_path / "weights")  # all that the runtime knows of ids
    assert exported_items.known(items) == [False, True, False, True]
    assert exported_users.known(users) == [True, False, False, True]
