"""The user's own tables: formats, timestamps, labels, features, and every way in which a file can be wrong."""

import gzip
import json
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from dien.data.sources import Table
from dien.errors import ConfigError, DataError

ROWS = {"user_id": ["u1", "u1", "u2"], "item_id": ["07", "8", "07"], "timestamp": [30, 10, 20]}
EVENTS = pl.DataFrame(ROWS)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def write_csv(path: Path, frame: pl.DataFrame = EVENTS) -> str:
    frame.write_csv(path)
    return str(path)


def write_gz(path: Path, content: bytes) -> str:
    path.write_bytes(gzip.compress(content))
    return str(path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "csv": lambda path: EVENTS.write_csv(path),
    "tsv": lambda path: EVENTS.write_csv(path, separator="\t"),
    "csv.gz": lambda path: write_gz(path, EVENTS.write_csv().encode()),
    "parquet": lambda path: EVENTS.write_parquet(path),
    "jsonl": lambda path: EVENTS.write_ndjson(path),
    "ndjson.gz": lambda path: write_gz(path, EVENTS.write_ndjson().encode()),
}


@pytest.mark.parametrize("extension", WRITERS)
def test_every_format_gives_the_same_log_in_input_order(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"events.{extension}"
    WRITERS[extension](path)
    log = Table(events=str(path)).load()
    assert_frame_equal(log.events, EVENTS)
    assert log.items is None
    assert log.users is None


def test_columns_are_mapped_and_others_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews.csv", "reviewerID;asin;unixReviewTime;stars\nA;B1;5;4.5\nA;B2;6;1\n")
    columns = {"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime"}
    log = Table(events=path, columns=columns, separator=";").load()
    assert log.events.rows() == [("A", "B1", 5), ("A", "B2", 6)]


def test_several_files_and_patterns_continue_each_other(tmp_path: Path) -> None:
    write(tmp_path / "part-2.csv", "user_id,item_id,timestamp\nb,y,2\n")
    write(tmp_path / "part-1.csv", "timestamp,user_id,item_id\n1,a,x\n")
    log = Table(events=str(tmp_path / "part-*.csv")).load()
    assert log.events.rows() == [("a", "x", 1), ("b", "y", 2)]
    back = Table(events=[str(tmp_path / "part-2.csv"), str(tmp_path / "part-1.csv")])
    assert back.load().events.rows() == [("b", "y", 2), ("a", "x", 1)]
    assert back.fingerprint() != Table(events=str(tmp_path / "part-*.csv")).fingerprint()


def test_integer_ids_stay_integers_unless_another_file_has_strings(tmp_path: Path) -> None:
    events = tmp_path / "events.parquet"
    pl.DataFrame({"user_id": [1], "item_id": [2.0], "timestamp": [3]}).write_parquet(events)
    assert Table(events=str(events)).load().events.rows() == [(1, 2, 3)]
    items = write(tmp_path / "items.csv", "item_id,brand\n2,x\n")
    log = Table(events=str(events), items=items).load()
    assert log.events.rows() == [(1, "2", 3)]
    assert log.items is not None
    assert log.items.rows() == [("2", "x")]


def test_blank_lines_and_a_byte_order_mark_are_harmless(tmp_path: Path) -> None:
    path = write(tmp_path / "events.csv", "\ufeffuser_id,item_id,timestamp\r\na,x,1\r\n\r\na,y,2\r\n\r\n")
    assert Table(events=path).load().events.rows() == [("a", "x", 1), ("a", "y", 2)]


SECOND = 1_700_000_000


@pytest.mark.parametrize(
    ("given", "options", "expected"),
    [
        ([5, -6], {}, [5, -6]),
        ([1_700_000_000_123], {}, [1_700_000_000_123]),
        ([1_700_000_000.0], {}, [SECOND]),
        ([1_700_000_000.25], {"time_unit": "ms"}, [SECOND * 1_000 + 250]),
        (["1700000000.5"], {"time_unit": "us"}, [SECOND * 1_000_000 + 500_000]),
        (["1700000000", "-3"], {}, [SECOND, -3]),
        (["2023-11-14T22:13:20"], {}, [SECOND]),
        (["2023-11-14 22:13:20.000"], {}, [SECOND]),
        (["2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00"], {}, [SECOND, SECOND]),
        (["2023-11-14 22:13:20Z", "2023-11-14T22:13:20", "2023-11-14"], {}, [SECOND, SECOND, 1_699_920_000]),
        (["2023-11-14 22:13"], {}, [SECOND - 20]),
        ([datetime(2023, 11, 14, 22, 13, 20)], {}, [SECOND]),
        ([datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)], {"time_unit": "ms"}, [SECOND * 1_000]),
        ([date(2023, 11, 14)], {}, [1_699_920_000]),
        (["14.11.2023 22:13"], {"time_format": "%d.%m.%Y %H:%M"}, [SECOND - 20]),
        ([20231114], {"time_format": "%Y%m%d"}, [1_699_920_000]),
    ],
)
def test_timestamps(tmp_path: Path, given: list[Any], options: dict[str, Any], expected: list[int]) -> None:
    frame = pl.DataFrame({"user_id": ["a"] * len(given), "item_id": ["x"] * len(given), "timestamp": given})
    path = tmp_path / "events.parquet"
    frame.write_parquet(path)
    assert Table(events=str(path), **options).load().events["timestamp"].to_list() == expected


def test_cut_off_fractions_of_a_second_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "events.csv", "user_id,item_id,timestamp\na,x,1.75\na,y,-1.25\n")
    with caplog.at_level(logging.WARNING):
        assert Table(events=path).load().events["timestamp"].to_list() == [1, -2]
    assert [record.message for record in caplog.records] == [
        "timestamp has fractions of data.source.time_unit=s, which are cut off"
    ]


@pytest.mark.parametrize("written", ["1,0", "1.0,0.0"])
def test_a_label_column_is_read_if_it_is_there(tmp_path: Path, written: str) -> None:
    one, zero = written.split(",")
    path = write(tmp_path / "e.csv", f"user_id,item_id,timestamp,label\na,x,1,{one}\na,y,2,{zero}\n")
    labels = Table(events=path).load().events["label"]
    assert labels.dtype == pl.Int8
    assert labels.to_list() == [1, 0]
    assert Table(events=path, columns={"label": None}).load().events["label"].to_list() == [1, 0]
    assert "label" not in Table(events=path, columns={"label": False}).load().events.columns


def test_ratings_become_labels_by_a_threshold(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", "user_id,item_id,timestamp,stars\na,x,1,4.5\na,y,2,4\na,z,3,3.5\n")
    events = Table(events=path, columns={"label": "stars"}, threshold=4).load().events
    assert events["label"].to_list() == [1, 1, 0]


def test_kinds_of_features_in_a_text_file(tmp_path: Path) -> None:
    events = write(tmp_path / "e.csv", "user_id,item_id,timestamp\na,1,1\n")
    items = write(
        tmp_path / "items.csv",
        "asin,cat,price,year,genres,code,count\n1,05,9.5,1999,Drama| War|,1.5,3\n2,,,,,2.0,\n3,x,10,2001,War,3,4\n",
    )
    table = Table(
        events=events,
        items=items,
        item_columns={"item_id": "asin", "category": "cat"},
        multi={"genres": "|"},
        categorical=["code"],
        numerical=["count"],
    )
    expected = pl.DataFrame(
        {
            "item_id": ["1", "2", "3"],
            "category": ["05", None, "x"],
            "price": [9.5, None, 10.0],
            "year": ["1999", None, "2001"],
            "genres": [["Drama", "War"], None, ["War"]],
            "code": ["1.5", "2.0", "3"],
            "count": [3.0, None, 4.0],
        }
    )
    items_read = table.load().items
    assert items_read is not None
    assert_frame_equal(items_read, expected)


def test_kinds_of_features_in_a_typed_file(tmp_path: Path) -> None:
    events, users = write_csv(tmp_path / "e.csv"), tmp_path / "users.jsonl"
    rows = [
        {"user_id": "u1", "age": 30, "tags": ["a", None, "b"], "weight": 1.5, "member": True, "group": 2.0},
        {"user_id": "u2", "age": None, "tags": None, "weight": None, "member": False, "group": None},
    ]
    users.write_text("\n".join(map(json.dumps, rows)))
    read = Table(events=events, users=str(users), categorical=["group"]).load().users
    assert read is not None
    assert read.schema == {
        "user_id": pl.String,
        "age": pl.Int64,
        "tags": pl.List(pl.String),
        "weight": pl.Float64,
        "member": pl.String,
        "group": pl.Int64,
    }
    assert read.rows() == [("u1", 30, ["a", "b"], 1.5, "true", 2), ("u2", None, None, None, "false", None)]


def test_features_may_be_columns_of_the_events(tmp_path: Path) -> None:
    events = write(
        tmp_path / "e.csv",
        "user_id,item_id,timestamp,category_id,city\na,1,1,c1,Rome\na,2,2,,Rome\nb,1,3,,\nb,2,4,c2,Oslo\n",
    )
    table = Table(
        events=events,
        columns={"category": "category_id"},
        item_features=["category"],
        user_features=["city"],
    )
    log = table.load()
    assert log.items is not None
    assert log.users is not None
    assert log.items.rows() == [("1", "c1"), ("2", "c2")]
    assert log.users.rows() == [("a", "Rome"), ("b", "Oslo")]
    items = write(tmp_path / "items.csv", "item_id,brand\n2,x\n9,y\n")
    both = Table(events=events, items=items, columns={"category": "category_id"}, item_features=["category", "brand"])
    joined = both.load().items
    assert joined is not None
    assert sorted(joined.select("item_id", "brand", "category").rows()) == [
        ("1", None, "c1"),
        ("2", "x", "c2"),
        ("9", "y", None),
    ]


def test_duplicate_rows_of_features_are_merged_unless_they_conflict(tmp_path: Path) -> None:
    events = write_csv(tmp_path / "e.csv")
    items = write(tmp_path / "i.csv", "item_id,brand,size\n8,x,1\n07,,2\n8,x,\n07,z,2\n")
    read = Table(events=events, items=items).load().items
    assert read is not None
    assert read.rows() == [("8", "x", "1"), ("07", "z", "2")]
    write(tmp_path / "i.csv", "item_id,brand,size\n8,x,1\n07,,2\n8,x,3\n")
    with pytest.raises(
        DataError, match=r"i.csv: item_id '8' has two values of the feature size, '1' and '3'; give it one\.$"
    ):
        Table(events=events, items=items).load()


def test_conflicting_lists_and_conflicts_between_event_files(tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", "user_id,item_id,timestamp,tags\na,x,1,p q\n")
    second = write(tmp_path / "2.csv", "user_id,item_id,timestamp,tags\na,x,2,p\n")
    table = Table(events=[first, second], item_features=["tags"], multi={"tags": " "})
    with pytest.raises(DataError, match=r"1.csv, .*2.csv: item_id 'x' .* tags, \['p', 'q'\] and \['p'\]"):
        table.load()


HEADER = "user_id,item_id,timestamp,label\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"events.csv: the file is empty\.$"),
        (HEADER, r"events.csv: the log is empty: there are no events in it\.$"),
        ("user_id,item,timestamp\na,x,1\n", "no column 'item_id' for item_id, only user_id, item, timestamp; say in"),
        (HEADER + "a,x,1,1\na,y,noon,1\n", "events.csv, line 3: timestamp 'noon' is neither a number of seconds nor"),
        (HEADER + "a,x,2020-01-01,1\na,y,5,1\na,y,2020-13-01,1\na,z,2020-01-02,0\n", "line 3: timestamp '5' is"),
        (HEADER + "a,x,1,1\n\na,y,,1\n", r"events.csv, line 4: timestamp is empty\.$"),
        (HEADER + "a,x,1,1\n,y,2,1\n", r"events.csv, line 3: user_id is empty\.$"),
        (HEADER + 'a,x,1,1\na,"",2,1\n', r"events.csv, line 3: item_id is empty\.$"),
        (HEADER + "a,x,1,1\na,y\n", r"events.csv, line 3: timestamp is empty\.$"),
        (HEADER + "a,x,1,1\na,y,2,3\n", "line 3: label '3' is not 0 or 1; for ratings set data.source.threshold"),
        (HEADER + "a,x,1,1\na,y,2,yes\n", "line 3: label 'yes' is not 0 or 1"),
        (HEADER + "a,x,1,1\na,y,2,\n", "line 3: label is not 0 or 1"),
        (HEADER + "a,x,1,1\na,y,2,1,9,9\n", "a line has more fields than the header; is the separator right"),
        (HEADER + 'a,x,1,1\na,"y,2,1\n', "events.csv: cannot be read, it is damaged or of another format"),
        (HEADER + "a,x,1,0\n", "has no click"),
    ],
)
def test_bad_events_are_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Table(events=write(tmp_path / "events.csv", content)).load()
    assert "\n" not in str(caught.value)


def test_rows_of_parquet_files_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    EVENTS.with_columns(item_id=pl.Series(["x", None, "y"])).write_parquet(path)
    with pytest.raises(DataError, match=r"events.parquet, row 2: item_id is empty\.$"):
        Table(events=str(path)).load()
    EVENTS.with_columns(item_id=pl.Series([1.0, 2.0, 2.5])).write_parquet(path)
    with pytest.raises(DataError, match=r"events.parquet, row 3: item_id 2.5 is not a whole number\.$"):
        Table(events=str(path)).load()
    EVENTS.with_columns(timestamp=pl.Series([1.0, float("nan"), 2.0])).write_parquet(path)
    with pytest.raises(DataError, match=r"events.parquet, row 2: timestamp nan is not a number of seconds"):
        Table(events=str(path)).load()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"user_id": [[1], [2], [3]]}, r"user_id is List\(Int64\), but ids are strings or integers"),
        ({"timestamp": [[1], [2], [3]]}, r"timestamp is List\(Int64\), but timestamps are"),
        ({"label": [[1], [2], [3]]}, r"label is List\(Int64\), but labels are numbers"),
    ],
)
def test_columns_of_an_impossible_type(tmp_path: Path, column: dict[str, Any], message: str) -> None:
    path = tmp_path / "events.parquet"
    pl.DataFrame(ROWS | column).write_parquet(path)
    with pytest.raises(DataError, match=message):
        Table(events=str(path)).load()


@pytest.mark.parametrize(
    ("feature", "options", "message"),
    [
        ([date(2020, 1, 1)], {}, "f is Date, which no feature can be; leave it out"),
        ([[1.5]], {}, r"f is List\(Float64\), but lists hold strings or integers"),
        ([1.5], {"multi": {"f": "|"}}, "f is Float64, which data.source.multi cannot split"),
        (["cheap"], {"numerical": ["f"]}, r"items.parquet, row 1: f 'cheap' is not a number"),
        ([float("inf")], {}, r"items.parquet, row 1: f inf is not a number"),
    ],
)
def test_features_of_an_impossible_type(
    tmp_path: Path, feature: list[Any], options: dict[str, Any], message: str
) -> None:
    events, items = write_csv(tmp_path / "e.csv"), tmp_path / "items.parquet"
    pl.DataFrame({"item_id": ["8"], "f": feature}).write_parquet(items)
    with pytest.raises(DataError, match=message):
        Table(events=events, items=str(items), **options).load()


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet", "csv.gz", "ndjson.gz"])
def test_damaged_files(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"events.{extension}"
    WRITERS[extension](path)
    content = path.read_bytes()
    damaged = content.replace(b"u2", b"\xff\xfe") if extension in ("csv", "jsonl") else content[: len(content) // 2]
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=rf"events.{extension}: cannot be read, it is damaged or of another format"):
        Table(events=str(path)).load()
    if extension == "csv":
        with pytest.raises(DataError, match="it is not UTF-8 text; convert it, for example with iconv"):
            Table(events=str(path)).load()


def test_missing_files_and_unknown_extensions(tmp_path: Path) -> None:
    events = write_csv(tmp_path / "e.csv")
    missing = str(tmp_path / "no.csv")
    for table in (Table(events=missing), Table(events=events, items=missing)):
        for call in (table.load, table.fingerprint):
            with pytest.raises(DataError, match=r"no.csv: (there is no such file|cannot be read)"):
                call()
    other = write(tmp_path / "events.xlsx", "x")
    with pytest.raises(DataError, match=r"events.xlsx: the extension is not one of .parquet, .pq, .csv"):
        Table(events=other).load()


def test_files_that_disagree_in_a_type(tmp_path: Path) -> None:
    EVENTS.write_parquet(tmp_path / "1.parquet")
    EVENTS.with_columns(user_id=pl.Series([[1], [2], [3]])).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"1.parquet, .*2.parquet: a column has different types in these files"):
        Table(events=str(tmp_path / "*.parquet")).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"events": []}, "data.source.events is empty"),
        ({"time_unit": "h"}, "data.source.time_unit='h' is not one of s, ms, us"),
        ({"separator": "::"}, "data.source.separator='::' is not one ASCII character"),
        ({"threshold": "high"}, "data.source.threshold='high' is not a number"),
        ({"threshold": 3}, "data.source.threshold needs a label"),
        ({"item_features": "brand"}, "data.source.item_features='brand' is not a list of different names"),
        ({"columns": {"usr_id": "u"}}, "data.source.columns names 'usr_id', which is not one of: item_id, label"),
        ({"item_columns": {"brand": "b"}}, "data.source.item_columns names 'brand', which is not one of: item_id"),
        ({"columns": "user_id"}, "data.source.columns='user_id' is not a mapping of names"),
        ({"multi": {"genre": "|"}}, "data.source.multi names 'genre', which is not one of: none"),
        ({"numerical": ["x"], "categorical": ["x"]}, "data.source.categorical and .* both name x"),
        ({"time_format": "%Q"}, "data.source.time_format='%Q'"),
    ],
)
def test_bad_options_name_their_key(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        Table(**({"events": write_csv(tmp_path / "e.csv")} | options)).load()


def test_the_fingerprint_follows_options_and_content_only(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        write_csv(folder / "e.csv")
    given = Table(events=str(here / "e.csv")).fingerprint()
    assert Table(events=str(there / "e.csv")).fingerprint() == given
    assert Table(events=str(here / "e.csv"), time_unit="ms").fingerprint() != given
    write_csv(there / "e.csv", EVENTS.reverse())
    assert Table(events=str(there / "e.csv")).fingerprint() != given


AMAZON = Path(__file__).parents[4] / "shared" / "data" / "amazon-beauty-2014"


@pytest.mark.skipif(not AMAZON.is_dir(), reason="the Amazon data is not beside the repository")
def test_amazon_beauty() -> None:
    events, items = str(AMAZON / "interactions.csv.gz"), str(AMAZON / "items.csv.gz")
    log = Table(events=events, columns={"category": "category_id"}, item_features=["category"]).load()
    assert log.items is not None
    assert log.events.height == 198_502
    assert log.events.select(pl.col("user_id", "item_id").n_unique()).row(0) == (22_363, 12_101)
    assert log.items["category"].n_unique() == 195
    of_file = Table(
        events=events,
        items=items,
        item_columns={"category": "category_id"},
        item_features=["category", "s3rec_attributes"],
        multi={"s3rec_attributes": " "},
    ).load()
    assert of_file.items is not None
    assert of_file.items.schema["s3rec_attributes"] == pl.List(pl.String)
    assert_frame_equal(of_file.items.select("item_id", "category"), log.items, check_row_order=False)
