"""Amazon's raw files: a hand-made set against a hand-written expectation, and everything that can be wrong with one."""

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dien.data.dataset import Prepared
from dien.data.prepare import prepare
from dien.data.protocol import Protocol
from dien.data.sources import Amazon, amazon, amazon_lines, lines
from dien.errors import ConfigError, DataError

# User, item, time. ann: a tie at 5, in the order of the file, and a repeat of w; bob: one review only, of an item
# without metadata; cem: written between the others, latest first; dot: two reviews.
REVIEWS = [
    ("ann", "w", 5),
    ("cem", "z", 9),
    ("ann", "x", 5),
    ("bob", "none", 1),
    ("cem", "y", 2),
    ("ann", "y", 3),
    ("dot", "x", 4),
    ("ann", "w", 7),
    ("cem", "w", 4),
    ("dot", "ü", 6),
]
METADATA: list[dict[str, Any]] = [
    {"asin": "w", "title": "It's", "categories": [["Books", "Women's"], ["Kindle", "Deep"]]},
    {"asin": "x", "categories": [["Books"]], "description": "say 'categories': [['Fake']] and 'asin': 'fake'"},
    {"asin": "y", "categories": [[]], "salesRank": {"Books": 3}, "price": 7.5, "imUrl": None},
    {"asin": "ü", "categories": [["Bücher", 'a "b" \\ c']], "related": {"also_bought": ["w", "x"]}},
    {"asin": "z"},
    {"asin": "w", "categories": [["Another"]]},
    {"asin": "never", "categories": [["Nobody"]]},
]
FIRST = {"w": "Women's", "x": "Books", "y": "default_cat", "z": "default_cat", "none": "default_cat", "ü": 'a "b" \\ c'}


def review(user: Any, item: Any, time: Any, release: int = 2014) -> str:
    names = amazon.RELEASES[release].reviews
    return json.dumps(dict(zip(names, (user, item, time), strict=True)) | {"overall": 5.0, "reviewText": "\u00e9 \n"})


def write(
    folder: Path, *, reviews: list[str] | None = None, metadata: list[str] | None = None, release: int = 2014
) -> Path:
    """The two files of the category Books, by default those above."""
    folder.mkdir(exist_ok=True)
    form = amazon.RELEASES[release]
    reviews = [review(*row, release) for row in REVIEWS] if reviews is None else reviews
    if metadata is None:
        metadata = [(repr if release == 2014 else json.dumps)(_as_of(release, row)) for row in METADATA]
    for name, rows in ((form.reviews_file, reviews), (form.metadata_file, metadata)):
        text = "".join(f"{row}\n" for row in rows)
        plain = folder / name.format("Books").rpartition("/")[2].removesuffix(".gz")
        plain.write_bytes(text.encode("utf-8", "surrogatepass"))
    return folder


def _as_of(release: int, row: dict[str, Any]) -> dict[str, Any]:
    if release == 2014:
        return row
    names = amazon.RELEASES[release]
    renamed = {names.reviews[1]: row["asin"], **{k: v for k, v in row.items() if k not in ("asin", "categories")}}
    return renamed | ({names.categories: row["categories"][0]} if "categories" in row else {})


def source(folder: Path, **options: Any) -> Amazon:
    return Amazon(category="Books", path=str(folder), **({"core": 0} | options))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("release", [2014, 2018, 2023])
def test_histories_positives_and_categories_of_a_hand_made_log(tmp_path: Path, release: int, compress: bool) -> None:
    folder = write(tmp_path / "raw", release=release)
    if compress:
        for file in list(folder.iterdir()):
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    log = source(folder, release=release).load()
    assert log.events.rows() == REVIEWS
    assert log.items is not None
    assert dict(log.items.rows()) == FIRST
    wanted = {
        "review_lines": 10,
        "reviews": 10,
        "metadata_lines": 7,
        "metadata_duplicates": 1,
        "items_without_metadata": 1,
        "items_without_category": 2,
        "names_beyond_ascii": 1,
    }
    assert {name: number for name, number in log.report.items() if number} == wanted

    # The paper's protocol: the last review of each user with two or more, after all the earlier ones.
    protocol = Protocol(split="by_user", ties="order", samples="last", test_fraction=0.3, val_fraction=0.3)
    try:
        place = prepare(source(folder, release=release), protocol, name="raw", folder=tmp_path / "prepared")
    except DataError as error:  # four users, one of whom has no sample: the draw may leave a split without one
        pytest.fail(str(error))
    data = Prepared(place)
    users, items = [None, None, *data.user_ids()], [None, None, *data.item_ids()]
    found = {}
    for split in ("train", "val", "test"):
        for event in data.samples(split):
            click_N, _ = data.history(np.array([event]), 100)
            history = [items[row] for row in data.click_item[click_N]]
            found[users[data.event_user[event]]] = (history, items[data.event_item[event]])
    assert found == {"ann": (["y", "w", "x"], "w"), "cem": (["y", "w"], "z"), "dot": (["x"], "ü")}
    assert data.manifest["input"] == dict(log.report)


def test_the_category_of_din_is_that_of_the_last_path(tmp_path: Path) -> None:
    log = source(write(tmp_path / "raw"), category_path="last").load()
    assert log.items is not None
    assert dict(log.items.rows()) == FIRST | {"w": "Deep"}


GOOD = [review("u", "w", 1), review("u", "x", 2)]
BAD_REVIEWS: list[tuple[str, str, str]] = [
    ("", "blank", "the line is blank"),
    (" \t\r", "blank", "the line is blank"),
    ("{bad", "malformed", "the line is not JSON"),
    ("null", "malformed", "the line is a NoneType, not an object"),
    ("[1]", "malformed", "the line is a list, not an object"),
    ("7", "malformed", "the line is a int, not an object"),
    ('{"reviewerID": "u"}', "incomplete", "unixReviewTime is None"),
    (review(None, "w", 1), "incomplete", "reviewerID is missing or empty"),
    (review("", "w", 1), "incomplete", "reviewerID is missing or empty"),
    (review("u", "", 1), "incomplete", "asin is missing or empty"),
    (review("u", ["w"], 1), "malformed", r"asin is \['w'\]"),
    (review({"u": 1}, "w", 1), "malformed", "reviewerID is"),
    (review("u", "w", "1"), "malformed", "unixReviewTime is '1'"),
    (review("u", "w", 1.5), "malformed", "unixReviewTime is 1.5"),
    (review("u", "w", True), "malformed", "unixReviewTime is True"),
    (review("u", "w", 2**63), "malformed", "unixReviewTime is 9223372036854775808"),
    (review("\ud800", "w", 1), "malformed", "reviewerID is"),
    (review("u\x00", "w", 1), "malformed", "reviewerID is"),
    (GOOD[0] + GOOD[1], "malformed", "the line is not JSON"),
    ('{"z":' + "[" * 100_000 + "]" * 100_000 + "}", "malformed", "the line is not JSON"),
    ("1" * 5000, "malformed", "the line is not JSON"),
]


@pytest.mark.parametrize(("line", "kind", "reason"), BAD_REVIEWS)
@pytest.mark.parametrize("many", [1, 400])  # a small block is read line by line, a large one cut up first
def test_bad_reviews_are_counted_or_an_error(tmp_path: Path, line: str, kind: str, reason: str, many: int) -> None:
    folder = write(tmp_path / "raw", reviews=GOOD * many + [line] + GOOD, metadata=[])
    log = source(folder).load()
    assert log.events.rows() == [("u", "w", 1), ("u", "x", 2)] * (many + 1)
    assert log.report[f"review_{kind}_lines"] == 1
    assert log.report["review_lines"] == 2 * many + 3
    message = rf"reviews_Books_5.json, line {2 * many + 1}: {reason}.*; data.source.on_bad_line=skip goes on without it"
    with pytest.raises(DataError, match=message) as caught:
        source(folder, on_bad_line="error").load()
    assert "\n" not in str(caught.value)


GOOD_METADATA = [repr({"asin": "w", "categories": [["A"]]}), repr({"asin": "x", "categories": [["B"]]})]


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("", "blank", "the line is blank"),
        ("{'asin': 'a'", "malformed", "the line is no Python literal"),
        ("{'asin': 'a'} + {}", "malformed", "it is not a plain Python literal"),
        ("__import__('os').system('true')", "malformed", "it is not a plain Python literal"),
        ("{'asin': open('x')}", "malformed", "it is not a plain Python literal"),
        ("{'asin': '''a'''}", "malformed", "it is not a plain Python literal"),
        ("{'asin': 'a\\q'}", "malformed", "it is not a plain Python literal"),
        ("{'asin': " + "-" * 1000 + "1}", "malformed", "it is not a plain Python literal"),
        ("{'asin': " + "[" * 1000 + "]" * 1000 + "}", "malformed", "nested deeper than 20"),
        ("{[]: 1}", "malformed", "it is not a Python literal"),
        ("['asin']", "malformed", "the line is a list"),
        ("None", "malformed", "the line is a NoneType"),
        ("{'asin': None}", "incomplete", "asin is missing or empty"),
        ("{'title': 'asin'}", "incomplete", "asin is missing or empty"),
        ("{'asin': ['a']}", "malformed", r"asin is \['a'\]"),
        ("{'asin': {'a', 'b'}}", "malformed", "asin is"),
        ("{'asin': '\ud800'}", "malformed", "the line is not UTF-8"),
    ],
)
@pytest.mark.parametrize("many", [1, 100])
def test_bad_metadata_is_counted_or_an_error(tmp_path: Path, line: str, kind: str, reason: str, many: int) -> None:
    metadata = [GOOD_METADATA[0], *(repr({"asin": f"i{n}", "categories": [["C"]]}) for n in range(many)), line]
    folder = write(tmp_path / "raw", reviews=GOOD, metadata=metadata + GOOD_METADATA[1:])
    log = source(folder).load()
    assert log.items is not None
    assert log.items.rows() == [("w", "A"), ("x", "B")]
    assert log.report[f"metadata_{kind}_lines"] == 1
    with pytest.raises(DataError, match=rf"meta_Books.json, line {many + 2}: .*{reason}"):
        source(folder, on_bad_line="error").load()


@pytest.mark.parametrize(
    "value", ["[]", "[[]]", "[['']]", "[[None]]", "None", "'B'", "[['A', ' ']]", "{}", "[[['A']]]"]
)
def test_no_category_is_the_default_one(tmp_path: Path, value: str) -> None:
    folder = write(
        tmp_path / "raw", reviews=GOOD, metadata=[GOOD_METADATA[0], f"{{'asin': 'x', 'categories': {value}}}"]
    )
    log = source(folder).load()
    assert log.items is not None
    assert log.items.rows() == [("w", "A"), ("x", "default_cat")]
    assert log.report["items_without_category"] == 1
    with pytest.raises(DataError, match=r"Item 'x' has no category in its metadata"):
        source(folder, on_bad_line="error").load()


def test_duplicate_and_missing_metadata_are_errors_if_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", reviews=GOOD, metadata=GOOD_METADATA + GOOD_METADATA[:1])
    assert source(folder).load().report["metadata_duplicates"] == 1
    with pytest.raises(DataError, match=r"there is more than one line of item 'w'"):
        source(folder, on_bad_line="error").load()
    folder = write(tmp_path / "raw", reviews=GOOD, metadata=GOOD_METADATA[:1])
    with pytest.raises(DataError, match=r"Item 'x' has no metadata"):
        source(folder, on_bad_line="error").load()


def test_no_metadata_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "raw", reviews=GOOD)
    (folder / "meta_Books.json").unlink()
    with caplog.at_level(logging.WARNING):
        log = source(folder).load()
    assert log.items is not None
    assert log.items.rows() == [("w", "default_cat"), ("x", "default_cat")]
    assert log.report["items_without_metadata"] == 2
    assert "there is no file meta_Books.json.gz" in caplog.text
    with pytest.raises(DataError, match=r"no file meta_Books.json.gz.*on_bad_line=skip"):
        source(folder, on_bad_line="error").load()


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", reviews=[])
    with pytest.raises(DataError, match=r"reviews_Books_5.json: there is no review in this file"):
        source(folder).load()
    (folder / "reviews_Books_5.json").unlink()
    with pytest.raises(DataError, match=r"no file reviews_Books_5.json.gz in this folder, with or without .gz"):
        source(folder).load()
    whole = gzip.compress("".join(f"{line}\n" for line in GOOD * 1000).encode())
    for content in (whole[:100], whole[:-4] + b"\x00\x00\x00\x00", b"\x1f\x8bnothing"):
        (folder / "reviews_Books_5.json.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"reviews_Books_5.json.gz: cannot be read, it is damaged"):
            source(folder).load()
    with pytest.raises(DataError, match=r"gone: there is no such folder"):
        source(tmp_path / "gone").load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"release": 2015}, "data.source.release=2015 is not one of 2014, 2018, 2023"),
        ({"category": "../Books"}, "data.source.category='../Books' is not the name"),
        ({"on_bad_line": "ignore"}, "data.source.on_bad_line='ignore' is not one of skip, error"),
        ({"category_path": "all"}, "data.source.category_path='all' is not one of first, last"),
        ({"core": -1}, "data.source.core=-1"),
    ],
)
def test_bad_options_name_their_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Amazon(**({"category": "Books"} | options))


def test_the_core_is_what_a_loop_leaves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"u{rng.integers(12)}", f"i{rng.integers(12)}", int(time)) for time in range(40)]
    expected = rows
    while True:
        users, items = [row[0] for row in expected], [row[1] for row in expected]
        kept = [row for row in expected if users.count(row[0]) >= 3 and items.count(row[1]) >= 3]
        if len(kept) == len(expected):
            break
        expected = kept
    assert 0 < len(expected) < 40
    folder = write(tmp_path / "raw", reviews=[review(*row, 2023) for row in rows], metadata=[], release=2023)
    assert source(folder, release=2023, core=3).load().events.rows() == expected
    with pytest.raises(DataError, match=r"no review is left with data.source.core=50"):
        source(folder, release=2023, core=50).load()
    with pytest.raises(DataError, match=r"no review is left with data.source.core=5\."):  # the default of 2023
        source(write(folder, reviews=[review("u", "i", 1, 2023)], release=2023), release=2023, core=None).load()


def test_small_blocks_and_long_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks end anywhere in a line; one that is too long is passed over without being kept."""
    path = tmp_path / "file"
    long = b"x" * 50
    path.write_bytes(b"\n".join([b"a", long, b"", "é".encode() * 4, long, b"c" * 20, b"last"]))
    expected = [(1, b"a"), (2, None), (3, b""), (4, "é".encode() * 4), (5, None), (6, b"c" * 20), (7, b"last")]
    for size in (1, 3, 7, 64, 1000):
        found: list[tuple[int, bytes | None]] = []
        for block in lines.blocks(path, block_bytes=size, line_bytes=20):
            texts = [None] if block.too_long else block.lines()
            assert len(texts) == block.number
            found += enumerate(texts, start=block.first)
        assert found == expected
        assert list(lines.blocks(tmp_path / "file", block_bytes=size, line_bytes=20))
    path.write_bytes(b"\n".join(GOOD[0].encode() for _ in range(2)) + b"\n" + b" " * 100 + GOOD[1].encode())
    monkeypatch.setattr(lines.blocks, "__kwdefaults__", {"block_bytes": 64, "line_bytes": 110})
    tally = amazon_lines.Tally("skip")
    rows = amazon_lines.read(path, amazon.RELEASES[2014].review_format(), tally)
    assert rows.rows() == [("u", "w", 1)] * 2
    assert tally.counts["review_malformed_lines"] == 1


Serve = Callable[[Path], str]


def test_files_are_fetched_once_from_an_address(tmp_path: Path, serve_folder: Serve, caplog: Any) -> None:
    folder = write(tmp_path / "raw")
    for file in list(folder.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    address = serve_folder(folder)
    remote = Amazon(category="Books", address=address, cache=str(tmp_path / "cache"))
    with caplog.at_level(logging.INFO):
        assert remote.load().events.rows() == REVIEWS
    assert caplog.text.count("SHA-256") == 2
    for file in folder.iterdir():
        file.unlink()  # the copies are used from now on
    assert remote.load().events.rows() == REVIEWS
    assert remote.fingerprint() == Amazon(category="Books", cache=str(tmp_path / "cache")).fingerprint()
    missing = Amazon(category="Toys", address=address, cache=str(tmp_path / "cache"))
    with pytest.raises(
        DataError, match=r"reviews_Toys_5.json.gz: cannot be fetched \(.*set data.source.path"
    ) as caught:
        missing.load()
    assert "\n" not in str(caught.value)


def test_the_official_addresses() -> None:
    for release, ends in {
        2014: ("reviews_Books_5.json.gz", "meta_Books.json.gz"),
        2018: ("categoryFilesSmall/Books_5.json.gz", "metaFiles2/meta_Books.json.gz"),
        2023: ("review_categories/Books.jsonl.gz", "meta_categories/meta_Books.jsonl.gz"),
    }.items():
        form = amazon.RELEASES[release]
        assert form.address.startswith("https://")
        assert (form.reviews_file.format("Books"), form.metadata_file.format("Books")) == ends


def test_the_fingerprint_follows_options_content_and_reader_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    given = source(one).fingerprint()
    assert source(two).fingerprint() == given
    assert source(two, category_path="last").fingerprint() != given
    assert source(two, on_bad_line="error").fingerprint() != given
    (two / "meta_Books.json").unlink()
    assert source(two).fingerprint() != given
    monkeypatch.setattr("dien.data.sources.amazon.READER", 0)
    assert source(one).fingerprint() != given
