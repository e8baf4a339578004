"""Files that somebody else wrote, or damaged: a clear sentence or a result, never a crash, a hang or endless memory.

For Amazon's lines the fast readers must also give what the careful one gives, line by line.
"""

import gzip
import json
import pickle
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dien.data.log import Log
from dien.data.sources import AuthorsFiles, RecBoleAtomic, Table, amazon_lines
from dien.data.sources.amazon import RELEASES, Amazon
from dien.data.sources.amazon_lines import BadLineError, Format, Tally, read
from dien.data.sources.literals import literal
from dien.data.sources.plain_pickle import read_plain_pickle
from dien.errors import DataError, DienError

quick = settings(max_examples=60, deadline=None)

texts = st.text(max_size=8) | st.sampled_from(
    ["u", "A1", "asin", "'asin': 'x'", "categories", "[", '"', "\\", "é", "\x00"]
)
scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
paths = st.lists(texts, max_size=3)
keys = st.sampled_from(
    ["reviewerID", "asin", "unixReviewTime", "user_id", "parent_asin", "timestamp", "categories", "category", "title"]
)


def objects(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Mostly what the format says; sometimes without a field, with a strange value, or with more."""
    common = st.fixed_dictionaries({}, optional=fields)
    strange = st.dictionaries(keys, values, max_size=3)
    return st.one_of(common, common, st.builds(lambda a, b: {**a, **b}, common, strange))


def lines_of(fields: dict[str, st.SearchStrategy[Any]], *writers: Any) -> st.SearchStrategy[bytes]:
    """Lines as a file has them: written in one of the ways, or cut off, or anything at all."""
    written = st.builds(lambda value, writer: writer(value), objects(fields), st.sampled_from(writers)).map(
        lambda text: text.encode("utf-8", "surrogatepass").replace(b"\n", b" ")
    )
    cut = st.builds(lambda line, at: line[: at % (len(line) + 1)], written, st.integers(0, 500))
    noise = st.binary(max_size=20).map(lambda data: data.replace(b"\n", b""))
    return mutated(
        st.one_of(written, written, written, cut, noise, st.sampled_from([b"", b" ", b"null", b"[]", b"{}"]))
    )


def write(root: str, name: str, content: bytes) -> Path:
    path = Path(root) / name
    path.write_bytes(content)
    return path


ODD_BYTES = st.sampled_from(
    [
        *(bytes([byte]) for byte in b"\r\x00\t \\'\"{}[],:0-.u\xff"),
        *(b"\\q", b"\\x4", b"\\477", b'"""', b"''", b", ", b"e5", b"None", b"null", b"\xef\xbb\xbf", b"\xc2\x85"),
        *(
            b"'asin': 'z', ",
            b'"asin": "z", ',
            b"'categories': [['q']], ",
            b'"reviewerID": "z", ',
            b'"category": ["q"], ',
        ),
    ]
)


def mutated(line: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Some lines with a few bytes taken out or put in."""

    def apply(line: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
        for where, length, new in edits:
            at = round(where * len(line))
            line = line[:at] + new + line[at + length :]
        return line

    edit = st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 1]), ODD_BYTES | st.just(b""))
    return line | st.builds(apply, line, st.lists(edit, min_size=1, max_size=3))


def one_by_one(form: Format, lines: list[bytes]) -> tuple[list[tuple[Any, ...]], Counter[str]]:
    """The rows that the careful reader gives, and how many lines it refuses as what."""
    rows, counts = [], Counter({f"{form.kind}_lines": len(lines)})
    for line in lines:
        try:
            if not line.strip(b" \t\r\n"):
                raise BadLineError("blank", "")
            rows.append(form.careful(line))
        except BadLineError as error:
            counts[f"{form.kind}_{error.kind}_lines"] += 1
    return rows, counts


def check(form: Format, lines: list[bytes]) -> None:
    """All lines at once, each of them alone and each beside good ones, through the fast reader and the careful one."""
    assume(not b"\n".join(lines).startswith(b"\x1f\x8b"))  # that would be gzip
    lines = [line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line for number, line in enumerate(lines)]
    expected, counts = one_by_one(form, lines)
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        path = write(root, "file", b"".join(line + b"\n" for line in lines))
        for smallest, mark in ((8, b""), (1, b"\xef\xbb\xbf")):  # 1: single lines, too, are tried fast
            patch.setattr(amazon_lines, "_SMALLEST", smallest)
            path.write_bytes(mark + b"".join(line + b"\n" for line in lines))
            tally = Tally("skip")
            assert read(path, form, tally).rows() == expected
            assert +tally.counts == +counts
        strict = Tally("error")
        if counts.total() > len(lines):
            with pytest.raises(DataError, match="on_bad_line"):
                read(path, form, strict)
        else:
            assert read(path, form, strict).rows() == expected
    good = [line for line in lines if not one_by_one(form, [line])[1].total() > 1][:1]
    for line in lines:
        for block in ([line], [*good, line, *good]):
            frame = form.fast(b"".join(text + b"\n" for text in block))
            if frame is not None:
                whole = frame.drop_nulls(form.required)
                rows, counts = one_by_one(form, block)
                assert whole.rows() == rows
                assert counts[f"{form.kind}_malformed_lines"] == 0
                assert counts[f"{form.kind}_incomplete_lines"] == frame.height - whole.height


REVIEW = {
    **dict.fromkeys(("reviewerID", "user_id", "asin", "parent_asin"), texts),
    **dict.fromkeys(("unixReviewTime", "timestamp"), st.integers(-5, 2**64)),
}


@quick
@given(st.lists(lines_of(REVIEW, json.dumps), max_size=12), st.sampled_from([2014, 2018, 2023]))
@example([b'{"asin": "a", "reviewerID": "b", "unixReviewTime": 1}' + b" " * 3, b"\xef\xbb\xbf{}"], 2014)
@example([b'{"asin": "\\ud800"}', b'{"asin": "a", "asin": "b", "reviewerID": "u", "unixReviewTime": 1}'], 2014)
def test_reviews(lines: list[bytes], release: int) -> None:
    check(RELEASES[release].review_format(), lines)


@quick
@given(
    st.lists(
        lines_of({"asin": texts, "categories": st.lists(paths, max_size=2), "title": values}, repr, json.dumps),
        max_size=12,
    ),
    st.sampled_from(["first", "last"]),
)
@example([b"{'asin': 'a', 'x': \"'categories': [['q']]\", 'categories': [['b']]}"], "first")
@example([b"{'asin': 'a', 'categories': [[\"it's\", 'x \\\\ y']]}", b"{'asin': 'a', 'b': u'c'}"], "last")
@example([b"{'asin': 'a', 'x': 'the \"\"\"best\"\"\" one', 'categories': [['b']]}", b"{bad"], "first")
@example([b"{'asin': 'i\r0'}", b"{'asin': 'a', 'x': '\x00'}", b"{'asin': 'a', 'x': 'a\\q'}"], "first")
@example(
    [b"{'asin': 'a', 'categori\\x65s': [['b']]}", b"{'asin': 'a', 'x': 07}", b"{'asin': 'a', 'asin': 'b'}"], "first"
)
@example([b'{"asin": "a", "categories": [["\\u001f"]]}'], "first")
def test_metadata_of_2014(lines: list[bytes], which: Any) -> None:
    check(RELEASES[2014].metadata_format(which), lines)


@quick
@given(
    st.lists(
        lines_of({"asin": texts, "category": paths, "parent_asin": texts, "categories": paths}, json.dumps),
        max_size=12,
    ),
    st.sampled_from([2018, 2023]),
)
def test_metadata_of_2018_and_2023(lines: list[bytes], release: int) -> None:
    check(RELEASES[release].metadata_format("first"), lines)


@quick
@given(st.text("'\"\\[]{}():,-+.0123456789eEjxuUNoneTrFals_ \n", max_size=60) | values.map(repr))
def test_literals(text: str) -> None:
    try:
        value = literal(text)
    except ValueError:
        return
    assert literal(repr(value)) == value or value != value


def outcome(load: Any) -> None:
    """A log, or a sentence of one line."""
    sentence = "none"
    try:
        assert isinstance(load(), Log)
    except DienError as error:
        sentence = str(error)
    assert sentence
    assert "\n" not in sentence


def damaged(*wholes: bytes) -> st.SearchStrategy[bytes]:
    """One of the files with some bytes exchanged, cut off, or put in."""
    edits = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 2), st.binary(max_size=4)), max_size=4)

    def apply(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for at, length, new in changes:
            at %= len(content) + 1
            content = content[:at] + new + content[at + length :]
        return content

    return st.builds(apply, st.sampled_from(wholes), edits) | st.binary(max_size=60)


REVIEWS = b"".join(
    json.dumps({"reviewerID": f"u{n % 3}", "asin": f"i{n % 4}", "unixReviewTime": n}).encode() + b"\n" for n in range(9)
)
METADATA = b"".join(repr({"asin": f"i{n}", "categories": [["A", f"c{n}"]]}).encode() + b"\n" for n in range(4))


@quick
@given(damaged(REVIEWS, gzip.compress(REVIEWS)), damaged(METADATA, gzip.compress(METADATA)), st.booleans())
def test_damaged_amazon_files(reviews: bytes, metadata: bytes, strict: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        write(root, "reviews_Books_5.json", reviews)
        write(root, "meta_Books.json", metadata)
        outcome(Amazon(category="Books", path=root, on_bad_line="error" if strict else "skip").load)


INTER = (
    b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + b"1\t10\t5\t881250949\n2\t10\t3.5\t881250950\n"
)
ITEM = b"item_id:token\ttitle:token_seq\tprice:float\temb:float_seq\n10\tToy Story\t1.5\t0.1 0.2\n11\tSeven\t\t\n"
headers = st.lists(
    st.builds(
        lambda name, kind: f"{name}:{kind}",
        st.sampled_from(["user_id", "item_id", "timestamp", "label", "x", "", ":", "é"]),
        st.sampled_from(["token", "float", "token_seq", "float_seq", "str", ""]),
    ),
    max_size=6,
).map(lambda names: ("\t".join(names) + "\n1\t2\t3\t0.5 0.5\t1\t1\n").encode())


@quick
@given(damaged(INTER) | headers, damaged(ITEM) | headers)
def test_recbole_files(inter: bytes, item: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        write(root, "x.inter", inter)
        write(root, "x.item", item)
        outcome(RecBoleAtomic(path=root).load)


CSV = b'user_id,item_id,timestamp,label,tags\nu,"i, 1",2020-01-01,1,a|b\nu,j,2020-01-02,0,\nv,i,2020-01-03,1,c\n'


@quick
@given(damaged(CSV, gzip.compress(CSV)), st.sampled_from([".csv", ".tsv", ".csv.gz", ".jsonl", ".parquet"]))
def test_tables(content: bytes, extension: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = write(root, f"log{extension}", content)
        outcome(Table(events=str(path), item_features=["tags"], multi={"tags": "|"}).load)


AUTHORS = b"0\tu\tp\tP\tx\x02y\tX\x02Y\n1\tu\tz\tZ\tx\x02y\tX\x02Y\n0\tv\tx\tX\tz\tZ\n1\tv\ty\tY\tz\tZ\n"
VOC = json.dumps({"u": 0, "v": 1}).encode()


@quick
@given(damaged(AUTHORS), damaged(AUTHORS, gzip.compress(AUTHORS)), damaged(VOC))
def test_authors_files(train: bytes, test: bytes, table: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        write(root, "local_train_splitByUser", train)
        write(root, "local_test_splitByUser", test)
        write(root, "uid_voc.json", table)
        outcome(AuthorsFiles(path=root).load)


PICKLES = [pickle.dumps({"a": 1, "b": 70_000, "é": 2**40}, protocol) for protocol in range(6)]


@settings(max_examples=200, deadline=None)
@given(damaged(*PICKLES, b"(dp1\nS'A1'\np2\nI0\ns."))
def test_pickles(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        try:
            table = read_plain_pickle(write(root, "voc.pkl", content))
        except DienError:
            return
    assert all(type(key) is str and type(value) is int for key, value in table.items())
