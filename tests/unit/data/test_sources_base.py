"""The check that every log passes, and fingerprints."""

from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest

from dien.data.log import Log
from dien.data.sources import base, validate
from dien.data.sources.base import chosen, content_hash, fingerprint
from dien.errors import ConfigError, DataError

EVENTS = pl.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "timestamp": [5, 6]})
ITEMS = pl.DataFrame({"item_id": ["a", "c"], "tags": [["x"], None], "price": [1.5, None], "brand": [3, None]})


class Anything:
    """Stands for a source; only its name counts."""


def test_a_log_with_every_kind_of_feature_passes_unchanged() -> None:
    log = Log(EVENTS.with_columns(label=pl.Series([0, 1], dtype=pl.Int8)), ITEMS)
    assert validate(log) is log


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (EVENTS.head(0), "The log is empty"),
        (EVENTS.drop("timestamp"), "have the columns user_id, item_id, not user_id, item_id, timestamp"),
        (EVENTS.with_columns(rating=1), "have the columns user_id, item_id, timestamp, rating, not"),
        (EVENTS.with_columns(timestamp=pl.lit(1.5)), "timestamp of the events is Float64, not Int64"),
        (EVENTS.with_columns(user_id=pl.lit(True)), "user_id of the events is Boolean, not String or Int64"),
        (EVENTS.with_columns(item_id=pl.Series(["a", None])), "item_id of the events has 1 empty values"),
        (EVENTS.with_columns(label=pl.Series([0, 2], dtype=pl.Int8)), "label of the events has values other"),
        (EVENTS.with_columns(label=pl.Series([0, 0], dtype=pl.Int8)), "has no click"),
        (EVENTS.with_columns(label=pl.Series([0, None], dtype=pl.Int8)), "label of the events has 1 empty"),
    ],
)
def test_broken_events_are_refused(events: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        validate(Log(events))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (ITEMS.drop("item_id"), "items has no column item_id: it has tags, price, brand"),
        (ITEMS.with_columns(item_id=pl.Series([1, 2])), "item_id of the items is Int64, not String"),
        (pl.concat([ITEMS, ITEMS]), "item_id 'a' has more than one row in the table of items"),
        (ITEMS.with_columns(item_id=pl.Series(["a", None])), "item_id of the items has 1 empty"),
        (ITEMS.with_columns(price=pl.Series([1.0, float("inf")])), "price of the items has values that are not"),
        (ITEMS.with_columns(price=pl.Series([1.0, float("nan")])), "price of the items has values that are not"),
        (ITEMS.with_columns(tags=pl.Series([[1.5], []])), r"tags of the items is List\(Float64\)"),
        (ITEMS.with_columns(day=pl.date(2020, 1, 1)), "day of the items is Date"),
    ],
)
def test_broken_features_are_refused(items: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        validate(Log(EVENTS, items))


def test_user_features_are_checked_too() -> None:
    with pytest.raises(DataError, match="user_id 1 has more than one row in the table of users"):
        validate(Log(EVENTS, users=pl.DataFrame({"user_id": [1, 1]})))


def test_a_fingerprint_depends_on_options_and_content_but_not_on_the_place(tmp_path: Path) -> None:
    one, other, changed = tmp_path / "one", tmp_path / "other", tmp_path / "changed"
    one.write_bytes(b"events")
    other.write_bytes(b"events")
    changed.write_bytes(b"event")
    given = fingerprint(Anything(), {"a": (1, 2), "b": None}, [one])
    assert given == fingerprint(Anything(), {"b": None, "a": [1, 2]}, [other])
    assert given == fingerprint(Anything(), {"b": None, "a": [1, 2]}, [b"events"])
    assert len({given, fingerprint(Anything(), {"a": (1, 2), "b": 0}, [one])}) == 2
    assert len({given, fingerprint(Anything(), {"a": (1, 2), "b": None}, [changed])}) == 2
    assert len({given, fingerprint(object(), {"a": (1, 2), "b": None}, [one])}) == 2


def test_a_large_file_is_hashed_by_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PIECE", 8)
    monkeypatch.setattr(base, "_READ", 4)
    path = tmp_path / "file"
    for content in (b"", b"1", b"12345678", b"123456789", b"1234567812345678", b"0" * 100):
        path.write_bytes(content)
        pieces = [sha256(content[start : start + 8]) for start in range(0, len(content), 8)]
        by_hand = sha256(b"".join(piece.digest() for piece in pieces)) if len(pieces) > 1 else sha256(content)
        assert content_hash(path) == content_hash(content) == by_hand.hexdigest()


def test_files_that_cannot_be_hashed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: cannot be read \(No such file"):
        content_hash(tmp_path / "gone")


@pytest.mark.parametrize("value", ["brand", ["brand", "brand"], ["brand", "colour"]])
def test_names_out_of_a_closed_list(value: object) -> None:
    with pytest.raises(ConfigError, match=r"data.source.x=.* different names out of brand, category"):
        chosen("data.source.x", value, ["brand", "category"])  # type: ignore[arg-type]
