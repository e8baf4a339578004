"""Preparing: order, histories, splits, vocabularies and features of hand-made logs; folders, whole or absent."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dien.cache import cache_root
from dien.data.dataset import Prepared
from dien.data.prepare import dataset_fingerprint, prepare
from dien.data.protocol import Protocol
from dien.errors import ConfigError, DataError

# Rows: items w 2, x 3, y 4, z 5; users a 2, b 3, c 4. User a has a basket {z, y} at time 2 and buys x twice.
EVENTS = [
    ("b", "x", 4),
    ("a", "w", 5),
    ("a", "z", 2),
    ("c", "z", 3),
    ("a", "x", 1),
    ("a", "y", 2),
    ("b", "y", 1),
    ("a", "x", 3),
]
SORTED_ITEMS = [3, 5, 4, 3, 2, 4, 3, 5]  # a: x, z, y, x, w; b: y, x; c: z

# y is an impression without a click at the time of the click on z, w one between two clicks.
LABELLED = [
    ("a", "x", 1, 1),
    ("a", "y", 2, 0),
    ("a", "z", 2, 1),
    ("a", "w", 3, 0),
    ("a", "y", 4, 1),
    ("b", "x", 1, 1),
    ("b", "w", 2, 0),
    ("b", "z", 3, 1),
]


def samples(data: Prepared) -> list[list[int]]:
    return [data.samples(split).tolist() for split in ("train", "val", "test")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("ties", "history_end"),
    [("strict", [0, 1, 1, 3, 4, 5, 6, 7]), ("order", [0, 1, 2, 3, 4, 5, 6, 7])],
)
def test_events_are_sorted_and_histories_end_before_the_tie(make_prepared, ties, history_end):
    data = make_prepared(EVENTS, ties=ties)
    assert data.event_item.tolist() == SORTED_ITEMS
    assert data.event_user.tolist() == [2, 2, 2, 2, 2, 3, 3, 4]
    assert data.event_time.tolist() == [1, 2, 2, 3, 5, 1, 4, 3]
    assert data.event_history_end.tolist() == history_end
    assert data.user_offsets.tolist() == [0, 0, 0, 5, 7, 8]
    assert data.click_basket.tolist() == [0, 1, 1, 2, 3, 4, 5, 6]
    assert data.basket_offsets.tolist() == [0, 1, 3, 4, 5, 6, 7, 8]
    assert data.item_clicks.tolist() == [0, 0, 1, 3, 2, 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1, 2], [3], [4, 6]]),  # the basket stays whole; b has two units, c one: train only
        ({"ties": "order"}, [[1, 2], [3], [4, 6]]),
        ({"min_history": 0}, [[0, 1, 2, 5, 7], [3], [4, 6]]),
        ({"samples": "last"}, [[2], [3], [4, 6]]),
        ({"split": "temporal", "val_from": 3, "test_from": 4}, [[1, 2], [3], [4, 6]]),
        ({"split": "temporal", "val_from": 0.5, "test_from": 0.8}, [[1, 2], [3], [4, 6]]),
    ],
)
def test_samples_of_each_split(make_prepared, options, expected):
    assert samples(make_prepared(EVENTS, **options)) == expected


def test_last_out_takes_whole_baskets_with_strict_ties_and_single_events_with_order(make_prepared):
    events = [("a", "x", 1), ("a", "y", 2), ("a", "z", 3), ("a", "w", 3), ("a", "x", 4), ("a", "y", 4)]
    assert samples(make_prepared(events)) == [[1], [2, 3], [4, 5]]
    assert samples(make_prepared(events, samples="last")) == [[1], [3], [5]]
    assert samples(make_prepared(events, ties="order")) == [[1, 2, 3], [4], [5]]


def test_by_user_holds_out_whole_users_by_a_seed(make_prepared):
    events = [(f"u{u:02}", f"i{(u * 7 + t) % 5}", t) for u in range(40) for t in range(u % 4 + 1)]
    parts = {}
    for split_seed in (0, 1):
        data = make_prepared(
            events, split="by_user", split_seed=split_seed, test_fraction=0.25, val_fraction=0.2, samples="last"
        )
        users = [set(data.event_user[data.samples(split)].tolist()) for split in ("train", "val", "test")]
        assert len(users[0] | users[1] | users[2]) == sum(map(len, users))
        known = data.tables()[1][0].values[2:] != 1
        assert int(known.sum()) == 40 - 10 - 6  # a quarter is test, a fifth of the rest validation
        assert all(known[row - 2] for row in users[0])
        assert not any(known[row - 2] for row in users[1] | users[2])
        rows = np.concatenate([data.samples(split) for split in ("train", "val", "test")])
        last = data.user_offsets[3:] - 1  # the users of u % 4 == 0 have one event and no history
        assert sorted(rows.tolist()) == [e for e in last.tolist() if data.event_time[e] > 0]
        parts[split_seed] = users
    assert parts[0] != parts[1]


def test_histories_hold_clicks_only_and_skips_are_counted_apart(make_prepared):
    data = make_prepared(LABELLED)
    assert data.has_labels
    assert data.event_label.tolist() == [1, 0, 1, 0, 1, 1, 0, 1]
    assert data.click_item.tolist() == [3, 5, 4, 3, 5]  # a: x, z, y; b: x, z
    assert data.event_history_end.tolist() == [0, 1, 1, 2, 2, 3, 4, 4]
    assert data.skip_item.tolist() == [4, 2, 2]  # a: y, w; b: w
    assert data.event_skip_end.tolist() == [0, 0, 0, 1, 2, 2, 2, 3]
    assert samples(data) == [[1, 2], [3, 6], [4, 7]]
    assert data.item_clicks.tolist() == [0, 0, 0, 2, 1, 2]


def test_order_of_ties_decides_which_skip_is_earlier(make_prepared):
    data = make_prepared(LABELLED, ties="order")
    assert data.event_history_end.tolist() == [0, 1, 1, 2, 2, 3, 4, 4]
    assert data.event_skip_end.tolist() == [0, 0, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("min_count", "items", "users"),
    [(1, [0, 1, 1, 4, 2, 3], [0, 1, 2, 3, 4]), (2, [0, 1, 1, 1, 2, 3], [0, 1, 2, 1, 1])],
)
def test_vocabulary_is_made_of_training_events_by_count_then_id(make_prepared, min_count, items, users):
    """Training is a: x, {z, y}; b: y; c: z. So y and z count 2, x 1, and w is unknown but keeps its row."""
    item_table, user_table = make_prepared(EVENTS, min_count=min_count).tables()
    assert item_table[0].values.tolist() == items
    assert item_table[0].size == max(items) + 1
    assert user_table[0].values.tolist() == users


def test_features_are_encoded_by_training_count_and_floats_standardised(make_prepared):
    data = make_prepared(
        EVENTS,
        items={
            "item_id": ["z", "y", "w", "v", "x"],  # v has no event
            "category": ["odd", "even", "never", "even", None],
            "tags": [["p", "q"], ["q"], ["r", "q", "p"], [], None],
            "price": [1.0, 3.0, 50.0, None, 2.0],
        },
        users={"user_id": ["c", "a"], "age": [30, 40]},
    )
    items, users = data.tables()
    assert [(c.name, c.kind, c.size) for c in items] == [
        ("item_id", "categorical", 5),
        ("category", "categorical", 4),
        ("tags", "multi", 4),
        ("price", "float", 1),
    ]
    # rows: padding, unknown, v, w, x, y, z; the tie of odd and even (2 events each) goes by value
    assert items[0].values.tolist() == [0, 1, 1, 1, 4, 2, 3]
    assert items[1].values.tolist() == [0, 1, 2, 1, 1, 2, 3]
    assert items[2].values.tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 0, 0],
        [1, 2, 3],
        [1, 0, 0],
        [2, 0, 0],
        [3, 2, 0],
    ]
    std = np.std([1.0, 2.0, 3.0])  # of the rows in training: x, y, z
    np.testing.assert_allclose(items[3].values, [0, 0, 0, 48 / std, 0, 1 / std, -1 / std], rtol=1e-6)
    assert users[1].values.tolist() == [0, 1, 2, 1, 3]  # age of a (3 events), of b (unknown), of c
    vocabulary = pl.read_parquet(data.folder / "item_vocabulary_2.parquet")
    assert vocabulary.rows() == [("q", 2, 4), ("p", 3, 2)]


def test_a_constant_float_and_one_without_training_values_become_zero(make_prepared):
    items = {"item_id": ["w", "x", "y", "z"], "same": [7.0, 3.0, 3.0, 3.0], "untrained": [5.0, None, None, None]}
    same, untrained = make_prepared(EVENTS, items=items).tables()[0][1:]
    assert same.values.tolist() == [0, 0, 4, 0, 0, 0]
    assert untrained.values.tolist() == [0, 0, 5, 0, 0, 0]


def test_lookups_of_raw_ids(make_prepared):
    data = make_prepared(EVENTS)
    assert data.item_rows(["z", "nothing", "w"]).tolist() == [5, 1, 2]
    assert data.user_rows(["c"]).tolist() == [4]
    assert data.user_rows([]).tolist() == []
    assert data.item_ids().to_list() == ["w", "x", "y", "z"]
    assert data.user_id(3) == "b"


def test_manifest_counts(make_prepared):
    manifest = make_prepared(LABELLED).manifest
    counts = {key: manifest[key] for key in ("users", "items", "events", "clicks", "labels", "samples")}
    assert counts == {
        "users": 2,
        "items": 4,
        "events": 8,
        "clicks": 5,
        "labels": True,
        "samples": {"train": 2, "val": 2, "test": 2},
    }
    assert manifest["history"]["test"] == {"mean": 1.5, "median": 1.5, "longest": 2}
    assert manifest["most_items_of_a_user"] == 3


def test_second_preparation_is_byte_identical(make_source, tmp_path):
    items = {"item_id": ["x", "y"], "tags": [["p", "q"], ["q"]], "price": [1.0, 2.5]}
    folders = [
        prepare(make_source(EVENTS, items=items), Protocol(), name="n", folder=tmp_path / f) for f in ("one", "two")
    ]
    first, second = map(contents, folders)
    assert first == second
    assert len(first) > 20


def test_present_dataset_is_reused_without_loading(make_source, tmp_path, monkeypatch):
    monkeypatch.setenv("DIEN_CACHE", str(tmp_path / "cache"))
    source = make_source(EVENTS)
    folder = prepare(source, Protocol(), name="n")
    assert folder.parent == cache_root(None) == tmp_path / "cache"
    assert folder.name == f"n-{dataset_fingerprint(source, Protocol())[:16]}"
    assert prepare(source, Protocol(), name="n") == folder
    assert source.loads == 1
    assert prepare(source, Protocol(min_history=0), name="n") != folder


def test_fingerprint_depends_on_inputs_and_used_options_only(make_source):
    source = make_source(EVENTS)
    base = dataset_fingerprint(source, Protocol())
    assert dataset_fingerprint(source, Protocol(val_from=0.5, split_seed=3)) == base
    assert dataset_fingerprint(source, Protocol(ties="order")) != base
    assert dataset_fingerprint(replace(source, name="other"), Protocol()) != base
    temporal = Protocol(split="temporal")
    assert dataset_fingerprint(source, replace(temporal, val_from=0.5)) != dataset_fingerprint(source, temporal)


def test_explicit_folder_with_another_dataset_is_refused(make_source, tmp_path):
    source = make_source(EVENTS)
    folder = prepare(source, Protocol(), name="n", folder=tmp_path / "here")
    before = contents(folder)
    wanted = dataset_fingerprint(source, Protocol(ties="order"))
    with pytest.raises(DataError, match=f"{dataset_fingerprint(source, Protocol())}, not {wanted}"):
        prepare(source, Protocol(ties="order"), name="n", folder=folder)
    assert contents(folder) == before


def test_a_folder_of_something_else_is_left_alone(make_source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a prepared dataset"):
        prepare(make_source(EVENTS), Protocol(), name="n", folder=tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.txt": b"years of work"}


def test_loser_of_two_simultaneous_preparations_keeps_the_winner(make_source, tmp_path):
    folder = tmp_path / "both"
    slow, quick = make_source(EVENTS), make_source(EVENTS)
    load = slow.load

    def overtaken() -> Any:
        prepare(quick, Protocol(), name="quick", folder=folder)
        return load()

    slow.load = overtaken
    prepare(slow, Protocol(), name="slow", folder=folder)
    assert Prepared(folder, verify=True).name == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


def test_nothing_is_left_after_an_error(make_source, tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dien.data.prepare.write_manifest", full)
    with pytest.raises(DataError, match="No space left on device"):
        prepare(make_source(EVENTS), Protocol(), name="n", folder=tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place(make_source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        prepare(make_source(EVENTS), Protocol(), name="n", cache=tmp_path / "file")


def truncate(folder: Path) -> str:
    path = folder / "click_item.npy"
    path.write_bytes(path.read_bytes()[:-1])
    return r"click_item\.npy is damaged \(\d+ bytes"


def remove(folder: Path) -> str:
    (folder / "samples_val.npy").unlink()
    return r"samples_val\.npy is missing"


def flip(folder: Path) -> str:
    path = folder / "event_item.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\x07\x00\x00\x00")
    return r"event_item\.npy is damaged \(SHA-256"


def cut_manifest(folder: Path) -> str:
    path = folder / "dataset.json"
    path.write_text(path.read_text()[:100])
    return r"dataset\.json cannot be read"


def other_format(folder: Path) -> str:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    return "format 2"


@pytest.mark.parametrize("damage", [truncate, remove, flip, cut_manifest, other_format])
def test_damaged_folders_name_the_file(make_prepared, damage):
    folder = make_prepared(EVENTS).folder
    message = damage(folder)
    with pytest.raises(DataError, match=message):
        Prepared(folder, verify=True)


def test_manifest_lists_every_file_with_its_digest(make_prepared):
    data = make_prepared(EVENTS)
    files = contents(data.folder)
    del files["dataset.json"]
    assert data.manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }


@pytest.mark.parametrize(
    ("events", "options", "message"),
    [
        ([], {}, "empty"),
        ([("a", "x", 1), ("b", "y", 1), ("c", "z", 1)], {}, r"min_history=1 .* \(the most is 0\)"),
        ([("a", "x", 1), ("a", "y", 1)], {}, "data.ties=order"),
        ([("a", "x", 1), ("a", "x", 2), ("a", "x", 3), ("a", "x", 4)], {}, "single item"),
        ([("a", "x", 1), ("a", "y", 2)], {}, "leaves no training sample"),
        ([("a", "x", 1), ("a", "y", 2), ("a", "z", 3)], {"min_history": 2}, "leaves no training sample"),
        (EVENTS, {"split": "temporal", "val_from": 5, "test_from": 6}, "no test sample: .*test_from=6"),
        (EVENTS, {"split": "temporal", "val_from": 1, "test_from": 2}, "no training sample"),
        ([("a", "x", t) for t in range(5)] + [("b", "y", t) for t in range(5)], {"split": "by_user"}, "3 users"),
        ([(*e[:3], 1) for e in EVENTS], {}, "Every label of the log is 1"),
        ([(*e[:3], 0) for e in EVENTS], {}, "no click"),
    ],
)
def test_logs_that_cannot_be_used(make_source, tmp_path, events, options, message):
    with pytest.raises(DataError, match=message):
        prepare(make_source(events), Protocol(**options), name="n", folder=tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "random"}, r"data\.split='random' is not one of last_out, by_user, temporal"),
        ({"ties": "none"}, r"data\.ties"),
        ({"samples": "first"}, r"data\.samples"),
        ({"min_history": -1}, r"data\.min_history=-1"),
        ({"min_history": 1.5}, r"data\.min_history=1\.5"),
        ({"min_count": 0}, r"data\.min_count=0"),
        ({"split_seed": -1}, r"data\.split_seed"),
        ({"test_fraction": 1.0}, r"data\.test_fraction=1\.0"),
        ({"val_fraction": 0}, r"data\.val_fraction=0"),
        ({"val_from": 0.9, "test_from": 0.8}, r"data\.val_from=0\.9 must lie before data\.test_from=0\.8"),
        ({"val_from": 0.5, "test_from": 100}, "both be fractions"),
        ({"val_from": 1.5, "test_from": 3}, r"data\.val_from=1\.5 is neither"),
        ({"test_from": "late"}, r"data\.test_from='late' is neither"),
        ({"test_from": float("nan")}, r"data\.test_from=nan is neither"),
    ],
)
def test_protocol_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**options)
