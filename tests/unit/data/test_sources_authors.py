"""The authors' text files: read as pointers into clicks, written from a prepared dataset, and their pickled tables."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dien import id_tables
from dien.data import authors_format
from dien.data.datamodule import DataModule
from dien.data.dataset import Prepared
from dien.data.prepare import prepare
from dien.data.protocol import Protocol
from dien.data.sources import AuthorsFiles
from dien.data.sources.authors import read_table
from dien.data.sources.plain_pickle import read_plain_pickle
from dien.errors import ConfigError, DataError

S = "\x02"
TRAIN = [
    ("0", "ann", "p", "P", f"x{S}y", f"X{S}Y"),
    ("1", "ann", "z", "Z", f"x{S}y", f"X{S}Y"),
    ("0", "bob", "x", "X", "z", "Z"),
    ("1", "bob", "y", "Y", "z", "Z"),
    ("0", "cem", "y", "Y", f"x{S}x{S}z", f"X{S}X{S}Z"),
    ("1", "cem", "p", "P", f"x{S}x{S}z", f"X{S}X{S}Z"),
]
TEST = [
    ("0", "dot", "x", "X", f"y{S}new", f"Y{S}New"),
    ("1", "dot", "q", "Q", f"y{S}new", f"Y{S}New"),
]


def write(folder: Path, **files: list[tuple[str, ...]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in ({"train": TRAIN, "test": TEST} | files).items():
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / f"local_{split}_splitByUser").write_text(text, encoding="utf-8")
    return folder


def rows_of(data: Prepared, split: Any) -> set[tuple[str, str, str, str]]:
    """Label, user, target and history of the samples."""
    users, items = [None, None, *data.user_ids()], [None, None, *data.item_ids()]
    found = []
    for event in data.samples(split):
        click_N, _ = data.history(np.array([event]), 100)
        history = S.join(items[row] for row in data.click_item[click_N])
        label = str(data.event_label[event])
        found.append((label, users[data.event_user[event]], items[data.event_item[event]], history))
    assert len(set(found)) == len(found)
    return set(found)


def wanted(rows: list[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {(label, user, item, history) for label, user, item, _, history, _ in rows}


@pytest.mark.parametrize("ties", ["strict", "order"])
def test_the_samples_are_those_of_the_files(tmp_path: Path, ties: str) -> None:
    source = AuthorsFiles(path=str(write(tmp_path / "raw")))
    data = Prepared(prepare(source, Protocol(split="given", ties=ties), name="a", folder=tmp_path / "prepared"))
    train, val = rows_of(data, "train"), rows_of(data, "val")
    assert rows_of(data, "test") == wanted(TEST)
    assert train | val == wanted(TRAIN)
    assert not train & val
    (val_user,) = {user for _, user, _, _ in val}  # a whole user, taken from the training users
    known = {row[2] for row in TRAIN if row[1] != val_user}
    known |= {item for row in TRAIN if row[1] != val_user for item in row[4].split(S)}
    vocabulary = dict(zip(data.item_ids(), data.tables()[0][0].values[2:].tolist(), strict=True))
    assert {item for item, number in vocabulary.items() if number > 1} == known  # training only
    assert data.manifest["input"] == {"train_rows": 6, "val_rows": 0, "test_rows": 2}
    assert data.event_user.size == 2 + 1 + 3 + 2 + 2 * 4  # histories and targets, each once: not one for each row


def test_a_validation_file_is_taken_as_it_is(tmp_path: Path) -> None:
    source = AuthorsFiles(path=str(write(tmp_path / "raw", train=TRAIN[:4], val=TRAIN[4:])))
    data = Prepared(prepare(source, Protocol(split="given"), name="a", folder=tmp_path / "prepared"))
    assert [rows_of(data, split) for split in ("train", "val", "test")] == [*map(wanted, (TRAIN[:4], TRAIN[4:], TEST))]


def test_shorter_histories_are_beginnings_of_the_longest(tmp_path: Path) -> None:
    """Every position a sample, the last one test: one user in two files."""
    train = [
        ("0", "u", "d", "D", "a", "A"),
        ("1", "u", "b", "B", "a", "A"),
        ("1", "u", "c", "C", f"a{S}b", f"A{S}B"),
        ("1", "v", "c", "C", "b", "B"),
        ("0", "v", "a", "A", "", ""),
    ]
    test = [("0", "u", "e", "E", f"a{S}b{S}c", f"A{S}B{S}C"), ("1", "u", "d", "D", f"a{S}b{S}c", f"A{S}B{S}C")]
    source = AuthorsFiles(path=str(write(tmp_path / "raw", train=train, test=test)))
    events = source.load().events
    assert events.filter(pl.col("user_id") == "u").sort("timestamp", "label").rows() == [
        ("u", "a", 0, 1, 0, False),
        ("u", "d", 1, 0, 0, True),
        ("u", "b", 1, 1, 0, True),
        ("u", "c", 2, 1, 0, True),
        ("u", "e", 3, 0, 2, True),
        ("u", "d", 3, 1, 2, True),
    ]
    protocol = Protocol(split="given", min_history=0)
    data = Prepared(prepare(source, protocol, name="a", folder=tmp_path / "prepared"))
    assert rows_of(data, "train") | rows_of(data, "val") == wanted(train)
    assert rows_of(data, "test") == wanted(test)


def test_negative_histories_are_ignored(tmp_path: Path) -> None:
    more = [(*row, "n1", "N1") for row in TEST]
    with_more = AuthorsFiles(path=str(write(tmp_path / "one", test=more))).load()
    assert with_more.events.equals(AuthorsFiles(path=str(write(tmp_path / "two"))).load().events)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("2", *TRAIN[0][1:])], "line 1: the label is not 0 or 1"),
        ([TRAIN[0], ("1", "", "p", "P", "x", "X")], "line 2: user is empty"),
        ([("1", "u", "p", "", "x", "X")], "line 1: category is empty"),
        ([("1", "u", "p", "P", f"x{S}y", "X")], "line 1: the history has not as many items as categories"),
        ([("1", "u", "p", "P", f"x{S}", f"X{S}Y")], "line 1: an item of the history is empty"),
        ([TRAIN[0], ("1", "ann", "z", "Z", f"y{S}x{S}z", f"Y{S}X{S}Z")], "line 1: the history is not the beginning"),
        (
            [("1", "u", "z", "Z", "x", "X"), ("1", "u", "z", "Z", f"x{S}y", f"X{S}Y")],
            "line 1: a longer history of the user has another item at this place",
        ),
        ([TRAIN[0], ("1", "bob", "x", "Other", "z", "Z")], "Item 'x' has two categories in the files, 'Other' and 'X'"),
        ([("1", "u", "p")], "local_train_splitByUser, line 1: there are 3 fields, not 6"),
        ([TRAIN[0], (*TRAIN[1], "n", "N")], "cannot be read, it is damaged or of another format"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, rows: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        AuthorsFiles(path=str(write(tmp_path / "raw", train=rows))).load()
    assert "\n" not in str(caught.value)


def test_missing_files_and_protocols_that_do_not_fit(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw")
    with pytest.raises(ConfigError, match=r"data.samples=last does not go with data.split=given"):
        Protocol(split="given", samples="last")
    (folder / "local_test_splitByUser").unlink()
    with pytest.raises(DataError, match=r"there is no file local_test_splitByUser in this folder"):
        AuthorsFiles(path=str(folder)).fingerprint()
    folder = write(tmp_path / "raw", train=[], test=[])
    with pytest.raises(DataError, match=r"local_train_splitByUser: the file is empty"):
        AuthorsFiles(path=str(folder)).load()


def test_given_needs_a_log_that_says_so(make_source: Any, tmp_path: Path) -> None:
    source = make_source([("a", "x", 1), ("a", "y", 2), ("b", "x", 1), ("b", "y", 2)])
    with pytest.raises(DataError, match=r"data.split=given needs a log that names its samples, such as data=authors"):
        prepare(source, Protocol(split="given"), name="a", folder=tmp_path / "prepared")


def test_tables_of_another_split_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw")
    (folder / "mid_voc.json").write_text(json.dumps({"default_mid": 0, "p": 1, "x": 2, "y": 3, "z": 4}))
    AuthorsFiles(path=str(folder)).load()
    (folder / "uid_voc.json").write_text(json.dumps({"ann": 0, "bob": 1}))
    with pytest.raises(DataError, match=r"uid_voc.json: the table does not know 'cem' of the training file"):
        AuthorsFiles(path=str(folder)).load()
    for content in ("[", "[1]", '{"a": "b"}', '{"a": true}', '{"a": 1.5}', "[" * 100_000):
        (folder / "uid_voc.json").write_text(content)
        with pytest.raises(DataError, match=r"uid_voc.json: the file is not"):
            AuthorsFiles(path=str(folder)).load()


EVENTS = "user_id,item_id,timestamp,category\n" + "".join(
    f"u{user},i{(user * step) % 7},{step},c{(user * step) % 7 % 3}\n"
    for user in range(1, 9)
    for step in range(1, 3 + user)
)


def module(tmp_path: Path, name: str, **options: Any) -> DataModule:
    from dien.data.sources import Table

    (tmp_path / "log.csv").write_text(EVENTS)
    source = options.pop("source", None) or Table(events=str(tmp_path / "log.csv"), item_features=["category"])
    return DataModule(name=name, source=source, prepared=str(tmp_path / name), **options)


@pytest.mark.parametrize("split", ["last_out", "by_user"])
def test_what_is_written_is_read_again(tmp_path: Path, split: str) -> None:
    """The exact samples, negatives included, come back; and the tables number the training file as the authors do."""
    data = module(tmp_path, "one", split=split, ties="order", test_fraction=0.3, val_fraction=0.3)
    splits: Any = ("train", "val", "test")
    authors_format.write({name: data.rows(name) for name in splits}, data.source.load(), tmp_path / "files")
    again = Prepared(
        prepare(AuthorsFiles(path=str(tmp_path / "files")), Protocol(split="given"), name="b", folder=tmp_path / "two")
    )
    written = {}
    for name in splits:
        lines = (tmp_path / "files" / f"local_{name}_splitByUser").read_text().splitlines()
        written[name] = [tuple(line.split("\t")) for line in lines]
        assert len(lines) == len(data.rows(name))
        assert [row[0] for row in written[name]] == ["0", "1"] * (len(lines) // 2)
        assert rows_of(again, name) == wanted(written[name])
        rows = data.rows(name)
        _, target_B, label_B = rows.targets(0, np.arange(len(rows)))
        items = [None, None, *data.data.item_ids()]
        pairs = sorted((str(int(label)), items[target]) for label, target in zip(label_B, target_B, strict=True))
        assert pairs == sorted((row[0], row[2]) for row in written[name])

    count: dict[str, int] = {}
    for _, _, item, _, history, _ in written["train"]:
        for name in [item, *history.split(S)]:
            count[name] = count.get(name, 0) + 1
    expected = ["default_mid", *sorted(count, key=lambda name: (-count[name], name))]
    assert read_table(tmp_path / "files" / "mid_voc.json") == {name: number for number, name in enumerate(expected)}
    assert read_table(tmp_path / "files" / "cat_voc.json")["default_cat"] == 0
    assert set(read_table(tmp_path / "files" / "uid_voc.json")) == {row[1] for row in written["train"]}


def test_names_that_separate_and_places_that_are_taken(tmp_path: Path) -> None:
    data = module(tmp_path, "one", ties="order")
    splits: Any = {name: data.rows(name) for name in ("train", "val", "test")}
    log = data.source.load()
    with pytest.raises(DataError, match=r"is there already: name a new folder"):
        authors_format.write(splits, log, tmp_path)
    assert log.items is not None
    odd = type(log)(log.events, log.items.with_columns(category=pl.lit("a\tb")))
    with pytest.raises(DataError, match=r"The name 'a\\tb' holds a tab"):
        authors_format.write(splits, odd, tmp_path / "files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "one"]


# What Python 2's cPickle wrote, protocol 0, memo numbers and all.
PYTHON_2 = b"(dp1\nS'A1'\np2\nI0\nsS'caf\\xc3\\xa9'\np3\nI12\ns."


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_dictionaries_are_read(tmp_path: Path, protocol: int) -> None:
    table = {f"item é {number}": number * 1000 for number in range(3000)} | {"": 2**40}
    path = tmp_path / "voc.pkl"
    path.write_bytes(pickle.dumps(table, protocol))
    assert read_plain_pickle(path) == table
    path.write_bytes(PYTHON_2)
    assert read_plain_pickle(path) == {"A1": 0, "café": 12}


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(
    "content",
    [
        *(pickle.dumps(Hostile(), protocol) for protocol in range(6)),
        *(pickle.dumps({"a": Hostile()}, protocol) for protocol in range(6)),
        b"cos\nsystem\n(S'touch hacked'\ntR.",  # GLOBAL, REDUCE
        b"(S'touch hacked'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch hacked'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch hacked\x85R.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # an extension
        b"Psomething\n.",  # a persistent id
        b"}r\xff\xff\xff\xff.",  # a memo of four thousand million places
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",  # a frame of eight exabytes
        b"X\xff\xff\xff\xff.",  # a string of four gigabytes
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of two gigabytes
        b"I" + b"9" * 10_000 + b"\n.",
        pickle.dumps([1]),
        pickle.dumps({}),
        pickle.dumps({"a": [1]}),
        pickle.dumps({"a": 1.5}),
        pickle.dumps({"a": True}),
        pickle.dumps({1: 1}),
        pickle.dumps({"a": {"b": 1}}),
        pickle.dumps({"a": b"b"}),
        pickle.dumps("a"),
        b"",
        b".",
        b"}",
        b"not a pickle",
        b"(dS'\\xff'\nI1\ns.",
        b"h\x05.",
    ],
)
def test_hostile_pickles_are_refused(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"^voc.pkl: (this is no pickle|the pickle)") as caught:
        read_plain_pickle(Path("voc.pkl"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["voc.pkl"]


def test_the_converter_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = tmp_path / "uid_voc.pkl"
    path.write_bytes(PYTHON_2)
    monkeypatch.setattr("sys.argv", ["dien-id-tables", str(path), "--to", str(tmp_path / "json")])
    id_tables.main()
    assert read_table(tmp_path / "json" / "uid_voc.json") == {"A1": 0, "café": 12}
    assert capsys.readouterr().out == f"{tmp_path}/json/uid_voc.json: 2 ids\n"
    path.write_bytes(pickle.dumps(Hostile()))
    monkeypatch.setattr("sys.argv", ["dien-id-tables", str(path)])
    with pytest.raises(SystemExit) as stop:
        id_tables.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"dien-id-tables: {path}: the pickle is more than a plain dictionary")
    assert not path.with_suffix(".json").exists()
