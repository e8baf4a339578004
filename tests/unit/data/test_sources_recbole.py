"""RecBole's atomic files."""

from pathlib import Path
from typing import Any

import pytest

from dien.data.sources import RecBoleAtomic
from dien.errors import ConfigError, DataError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t5\t881250949\n2\t10\t3.5\t881250950.0\n"
ITEM = 'item_id:token\ttitle:token_seq\tprice:float\temb:float_seq\n10\tToy Story\t1.5\t0.1 0.2\n11\t"Seven"\t\t\n'
USER = "user_id:token\tage:token\n1\t24\n2\t53\n"


def write(folder: Path, name: str = "ml", **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for extension, content in ({"inter": INTER, "item": ITEM, "user": USER} | files).items():
        (folder / f"{name}.{extension}").write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize("path", ["ml", "ml/ml.inter", "ml/ml"])
def test_a_folder_a_file_or_a_prefix(tmp_path: Path, path: str) -> None:
    write(tmp_path / "ml")
    log = RecBoleAtomic(path=str(tmp_path / path)).load()
    assert log.items is not None
    assert log.users is not None
    assert log.events.rows() == [("1", "10", 881250949), ("2", "10", 881250950)]
    assert log.items.columns == ["item_id", "title", "price", "emb_0", "emb_1"]
    assert log.items.rows() == [
        ("10", ["Toy", "Story"], 1.5, 0.1, 0.2),
        ("11", ['"Seven"'], None, None, None),
    ]
    assert log.users.rows() == [("1", "24"), ("2", "53")]


def test_fields_labels_and_separators_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "x.inter").write_text("uid:token,iid:token,t:float,rating:float\na,p,1,4\na,q,2,3.9\n")
    (folder / "x.item").write_text("iid:token,tags:token_seq,other:token\np,r|s,o\n")
    source = RecBoleAtomic(
        path=str(folder),
        user_field="uid",
        item_field="iid",
        time_field="t",
        label_field="rating",
        threshold=4,
        item_features=["tags"],
        separator=",",
        seq_separator="|",
    )
    log = source.load()
    assert log.items is not None
    assert log.events.rows() == [("a", "p", 1, 1), ("a", "q", 2, 0)]
    assert log.items.rows() == [("p", ["r", "s"])]
    assert log.users is None


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"inter": "user_id\titem_id:token\n1\t2\n"}, {}, "ml.inter, line 1: 'user_id' is not a name and one of"),
        ({"inter": "user_id:str\n1\n"}, {}, "ml.inter, line 1: 'user_id:str' is not a name and one of the types"),
        (
            {"inter": INTER.replace("timestamp", "time")},
            {},
            "no field 'timestamp', only user_id, item_id, rating, time",
        ),
        ({"inter": INTER.partition("\n")[0] + "\n"}, {}, "ml.inter: the log is empty"),
        ({"inter": INTER.replace("881250949", "late")}, {}, "ml.inter, line 2: timestamp 'late' is neither a number"),
        ({"inter": INTER + "\t10\t1\t5\n"}, {}, r"ml.inter, line 4: user_id is empty\.$"),
        ({}, {"label_field": "rating"}, "ml.inter, line 2: label '5' is not 0 or 1; for ratings set data.source"),
        ({}, {"item_features": ["brand"]}, "ml.item, line 1: there is no field 'brand', only item_id, title"),
        ({"item": ITEM.replace("1.5", "cheap")}, {}, "ml.item, line 2: price 'cheap' is not a number"),
        ({"item": ITEM + "12\tx\t1\t0.1\n"}, {}, "ml.item, line 4: emb has 1 values and another line 2"),
        ({"user": USER + "1\t25\n"}, {}, "ml.user: user_id '1' has two values of the feature age, '24' and '25'"),
        ({"user": "\x00\n"}, {}, "ml.user, line 1: "),
    ],
)
def test_bad_files_are_one_sentence(
    tmp_path: Path, files: dict[str, str], options: dict[str, Any], message: str
) -> None:
    folder = write(tmp_path / "ml", **files)
    with pytest.raises(DataError, match=message) as caught:
        RecBoleAtomic(path=str(folder), **options).load()
    assert "\n" not in str(caught.value)


def test_latin_1_is_not_read_as_something_else(tmp_path: Path) -> None:
    folder = write(tmp_path / "ml")
    (folder / "ml.item").write_bytes(ITEM.replace("Toy", "Misérables").encode("latin-1"))
    with pytest.raises(DataError, match=r"ml.item: cannot be read.*it is not UTF-8 text"):
        RecBoleAtomic(path=str(folder)).load()


def test_which_inter_file_is_meant(tmp_path: Path) -> None:
    write(tmp_path / "data", "one")
    assert RecBoleAtomic(path=str(tmp_path / "data")).load().events.height == 2
    write(tmp_path / "data", "two")
    with pytest.raises(DataError, match=r"one .inter file is needed in this folder, there are: one.inter, two.inter"):
        RecBoleAtomic(path=str(tmp_path / "data")).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"one .inter file is needed in this folder, there are: none"):
        RecBoleAtomic(path=str(tmp_path / "empty")).fingerprint()
    with pytest.raises(DataError, match=r"gone.inter: there is no such file"):
        RecBoleAtomic(path=str(tmp_path / "gone")).load()


def test_bad_options_name_their_key() -> None:
    with pytest.raises(ConfigError, match=r"data.source.time_unit='h'"):
        RecBoleAtomic(path="x", time_unit="h")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"data.source.separator=''"):
        RecBoleAtomic(path="x", separator="")


def test_the_fingerprint_follows_options_and_content_only(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", "a"), write(tmp_path / "two", "b")
    given = RecBoleAtomic(path=str(one)).fingerprint()
    assert RecBoleAtomic(path=str(two)).fingerprint() == given
    assert RecBoleAtomic(path=str(two), time_unit="ms").fingerprint() != given
    (two / "b.user").write_text(USER.replace("53", "54"))
    assert RecBoleAtomic(path=str(two)).fingerprint() != given
