"""A user's mistake ends in one sentence that names the thing, a status that is not 0, and nothing half-written."""

import gzip
from pathlib import Path

import polars as pl
import pytest


def half_written() -> list[str]:
    """What a failed command left, but for the test's own files and datasets that were prepared whole."""
    whole = [path.parent for path in Path().rglob("dataset.json") if not path.parent.name.startswith(".")]
    return [
        str(path)
        for path in Path().rglob("*")
        if path.is_file() and path.parent not in whole and path.suffix not in (".csv", ".gz", ".zip", ".so")
    ]


def expect_sentence(capsys, status: int, *names: str) -> None:
    printed = capsys.readouterr()
    assert status == 2, printed.err
    assert printed.err.count("\n") == 1, printed.err
    for name in names:
        assert name in printed.err
    assert half_written() == []


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["model.alpha=-1"], ["model.alpha=-1", "at least 0"]),
        (["model.alpha=nan"], ["model.alpha"]),
        (["data.history_length=0"], ["data.history_length=0", "at least 1"]),
        (["data.batch_size=0"], ["data.batch_size=0"]),
        (["data.num_workers=-1"], ["data.num_workers=-1"]),
        (["data.negatives.strategy=random"], ["data.negatives.strategy='random'", "uniform, popularity, observed"]),
        (["data.negatives.strategy=observed"], ["data.negatives.strategy=observed", "label"]),
        (["data.negatives.counts=test"], ["data.negatives.counts='test'", "log, train"]),
        (["data.split=given"], ["data.split=given", "data=authors"]),
        (["data.split=random"], ["data.split='random'", "last_out, by_user, temporal, given"]),
        (["data.ties=none"], ["data.ties"]),
        (["model.features.pooling=median"], ["pooling", "mean, max, sum"]),
        (["model.features.ignore=[brand]"], ["model.features.ignore", "brand", "category"]),
        (["model.head.activation=swish"], ["swish", "dice, prelu, relu"]),
        (["model.hidden_size=0"], ["model.hidden_size=0"]),
        (["model/scorer=dot", "model.hidden_size=5"], ["model.hidden_size"]),
        (["model=din", "model.alpha=1"], ["model.alpha=1", "DIN has no auxiliary loss"]),
        (["objective=test/auc"], ["objective='test/auc'", "val/auc"]),
        (["seed=-1"], ["seed=-1"]),
        (["threads=0"], ["threads=0"]),
        (["ckpt=nowhere"], ["nowhere does not exist: give a run folder or a checkpoint in one."]),
        (["train=false"], ["train=false", "ckpt"]),
        (["data.source.events=missing.csv"], ["missing.csv"]),
        (["data.source.columns.timestamp=when"], ["when", "user, item, time, category"]),
        (["callbacks.early_stopping.patience=0"], ["patience=0"]),
        (["callbacks.early_stopping.patience=abc"], ["patience='abc'"]),
        (["model.alpha=abc"], ["model.alpha='abc'"]),
        (["model.alpha=inf"], ["model.alpha=inf"]),
        (["model.hidden_size=2.5"], ["model.hidden_size=2.5"]),
        (["model.features.embedding_size=abc"], ["embedding_size='abc'"]),
        (["model.head.hidden=5"], ["hidden=5"]),
        (["model.head.dropout=abc"], ["dropout='abc'"]),
        (["model.scorer.activation=swish"], ["swish", "dice, prelu, relu"]),
        (["model.attention.hidden=[0]"], ["hidden=0"]),
        (["model.features.ignore=[item_id,category]"], ["model.features.ignore", "keep at least one"]),
        (["model.features.ignore=category"], ["model.features.ignore='category'", "list"]),
        (["data.negatives.auxiliary=0"], ["data.negatives.auxiliary=0", "model.alpha=0"]),
        (["optimizer.lr=-1"], ["optimizer", "learning rate"]),
        (["optimizer.lr=abc"], ["optimizer"]),
        (["+optimizer.betaz=1"], ["optimizer", "betaz"]),
        (["+schedule.gama=1"], ["schedule", "gama"]),
        (["trainer.precision=bf16-true"], ["trainer.precision='bf16-true'", "bf16-mixed"]),
        (["trainer.precision=8"], ["trainer.precision='8'"]),
        (["trainer.limit_val_batches=0"], ["trainer.limit_val_batches=0"]),
        (["trainer.accelerator=tpu"], ["trainer", "torch_xla"]),
        (["trainer.max_epochs=-5"], ["max_epochs"]),
        (["threads=1.5"], ["threads"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_options(dien_train, small, capsys, overrides, names):
    expect_sentence(capsys, dien_train(*small, *overrides), *names)


def test_missing_mandatory_path(dien_train, capsys):
    expect_sentence(capsys, dien_train("data=table"), "data.source.events")


def write(rows: list[tuple]) -> str:
    pl.DataFrame(rows, ["user", "item", "time", "category"], orient="row", strict=False).write_csv("bad.csv")
    return "data.source.events=bad.csv"


GOOD = [(f"u{u}", f"i{i}", 10 * i, f"c{i % 2}") for u in range(4) for i in range(5)]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([], ["bad.csv", "no event"]),
        ([*GOOD, ("u1", "i1", "yesterday", "c1")], ["yesterday"]),
        ([*GOOD, ("u1", "i1", 99, "c0")], ["i1", "c0", "c1"]),
        ([*GOOD, (None, "i1", 99, "c1")], ["user"]),
        ([("u1", "i1", time, "c1") for time in range(9)], ["single item"]),
        ([(f"u{user}", f"i{user % 3}", 1, "c1") for user in range(9)], ["data.min_history"]),
    ],
    ids=["empty", "timestamp", "conflict", "null id", "one item", "one event a user"],
)
def test_logs(dien_train, small, capsys, rows, names):
    expect_sentence(capsys, dien_train(*small, write(rows)), *names)


def test_prepare_fails_alike_and_leaves_no_dataset(dien_prepare, small, capsys):
    data = [override for override in small if override.startswith("data")]
    expect_sentence(capsys, dien_prepare(*data, write([*GOOD, ("u1", "i1", "yesterday", "c1")])), "yesterday")
    assert not Path("cache").exists() or not any(Path("cache").iterdir())


def test_truncated_archive(dien_train, small, capsys, events):
    whole = gzip.compress(events.read_bytes())
    Path("cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    expect_sentence(capsys, dien_train(*small, "data.source.events=cut.csv.gz"), "cut.csv.gz")


def test_archive_with_a_wrong_checksum(dien_train, capsys, tmp_path):
    Path("ml-100k.zip").write_bytes(b"not the archive")
    expect_sentence(capsys, dien_train("data=ml_100k", "data.source.path=ml-100k.zip"), "ml-100k.zip")


def test_diverged_training(dien_train, small, capsys):
    assert dien_train(*small, "optimizer.lr=1e20", "hydra.run.dir=run") == 2
    printed = capsys.readouterr()
    assert "training diverged" in printed.err
    assert not Path("run/metrics.json").exists()


def test_corrupt_checkpoint(dien_train, small, capsys):
    assert dien_train(*small, "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    capsys.readouterr()
    checkpoint = Path("run/checkpoints/last.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert dien_train(*small, "ckpt=run") == 2
    assert str(checkpoint) in capsys.readouterr().err


def test_prepare_prints_the_folder_and_repeats_itself_to_the_byte(dien_prepare, small, capsys):
    data = [override for override in small if override.startswith("data")]
    contents = []
    for cache in ("first", "second"):
        assert dien_prepare(*data, f"data.cache={cache}") == 0
        folder = Path(capsys.readouterr().out.splitlines()[-1])
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert "dataset.json" in contents[0]
