"""MovieLens 100K and 1M (GroupLens, University of Minnesota): ratings with the time they were given."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from dien.data.log import Log
from dien.data.sources.archive import (
    UnreachableError,
    download,
    downloads_folder,
    md5_of,
    pip_download,
    read_members,
)
from dien.data.sources.base import chosen, fingerprint, validate
from dien.data.sources.movielens_files import Parser, official_1m, official_100k, recbole_100k
from dien.data.sources.reading import readable
from dien.errors import ConfigError, DataError, check_choice

logger = logging.getLogger(__name__)

ADDRESS = "https://files.grouplens.org/datasets/movielens"
MD5 = {"100k": "0e33842e24a9c977be4e0107933c0723", "1m": "c4d9eecfca2ab87c1945afe126590906"}
MEMBERS = {
    "100k": ("ml-100k/u.data", "ml-100k/u.item", "ml-100k/u.user"),
    "1m": ("ml-1m/ratings.dat", "ml-1m/movies.dat", "ml-1m/users.dat"),
}
PARSERS: dict[str, Parser] = {"100k": official_100k, "1m": official_1m}

RECBOLE = "recbole==1.2.1"
RECBOLE_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
RECBOLE_SHA256 = {
    f"{_FOLDER}.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    f"{_FOLDER}.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    f"{_FOLDER}.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}

ITEM_FEATURES = ("genres", "year", "title")
USER_FEATURES = ("age", "gender", "occupation", "zip_code")

AGES = (18, 25, 35, 45, 50, 56)
"""Where the age groups of the 1M set begin; the 100K set, which has years, is grouped alike."""
AGE_NAMES = ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")


@dataclass(frozen=True, kw_only=True)
class MovieLens:
    """100,000 ratings of 1,682 films by 943 people, or 1,000,209 of 3,706 by 6,040.

    The official archive is fetched once, verified, and kept in the cache. If its address cannot be reached,
    the 100K set is taken from the wheel `recbole==1.2.1`, which carries it: the same log, but for titles,
    which lack the year.
    """

    size: Literal["100k", "1m"] = "100k"
    path: str | None = None
    """The official archive, or the folder it unpacks to, on this machine; None to fetch it."""
    min_rating: float | None = None
    """If given, events with at least this rating are clicks and others are not; None makes all clicks."""
    cache: str | None = None
    """Archives are kept in `downloads` in this folder; None for `$DIEN_CACHE` or `~/.cache/dien`."""
    item_features: Sequence[str] = ("genres", "year")
    """Out of `genres` (multi-valued), `year` of release and `title` (one for each film: only for show)."""
    user_features: Sequence[str] = ("age", "gender", "occupation")
    """Out of `age` (seven groups), `gender`, `occupation` and `zip_code`."""

    def __post_init__(self) -> None:
        check_choice("data.source.size", self.size, tuple(MD5))
        if self.min_rating is not None and not 1 <= self.min_rating <= 5:
            raise ConfigError(f"data.source.min_rating={self.min_rating} is out of range: it is 1 to 5, or null.")
        for key, allowed in (("item_features", ITEM_FEATURES), ("user_features", USER_FEATURES)):
            object.__setattr__(self, key, chosen(f"data.source.{key}", getattr(self, key), allowed))

    def load(self) -> Log:
        """Read the set, fetching it if need be.

        Raises:
            DataError: it can neither be fetched nor found, its checksum is wrong, or a file in it is missing.
        """
        parse, contents = self._files()
        with readable(f"MovieLens {self.size}"):
            ratings, films, people = parse(*contents)
        events = ratings.select("user_id", "item_id", "timestamp")
        if self.min_rating is not None:
            events = events.with_columns(label=(ratings["rating"] >= self.min_rating).cast(pl.Int8))
        items = films.select("item_id", *self.item_features)
        groups = pl.Series(AGES).search_sorted(people["age"], side="right")
        users = people.with_columns(age=pl.Series(AGE_NAMES).gather(groups))
        return validate(Log(events, items, users.select("user_id", *self.user_features)))

    def fingerprint(self) -> str:
        """Hash the options and the content of the three files used."""
        options = {name: value for name, value in vars(self).items() if name not in ("path", "cache")}
        return fingerprint(self, options, self._files()[1])

    def _files(self) -> tuple[Parser, list[bytes]]:
        """The files of ratings, films and people, and what reads them."""
        if self.path is not None:
            return self._local(Path(self.path).expanduser())
        folder = downloads_folder(self.cache)
        archive, wheel = folder / f"ml-{self.size}.zip", folder / RECBOLE_WHEEL
        if archive.is_file() and md5_of(archive) == MD5[self.size]:
            return PARSERS[self.size], read_members(archive, MEMBERS[self.size])
        if self.size == "100k" and wheel.is_file():
            return _from_recbole(wheel)
        try:
            download(f"{ADDRESS}/{archive.name}", archive, MD5[self.size])
        except UnreachableError as error:
            if self.size != "100k":
                raise DataError(f"{error} Fetch it elsewhere and set data.source.path to the archive.") from error
            logger.warning("%s The copy in the wheel %s is used instead.", error, RECBOLE)
            try:
                pip_download(RECBOLE, wheel)
            except UnreachableError as second:
                raise DataError(f"{error} {second} Set data.source.path to a copy of the archive.") from second
            return _from_recbole(wheel)
        return PARSERS[self.size], read_members(archive, MEMBERS[self.size])

    def _local(self, path: Path) -> tuple[Parser, list[bytes]]:
        names = MEMBERS[self.size]
        if path.is_file():
            if (got := md5_of(path)) != MD5[self.size]:
                raise DataError(
                    f"{path}: the checksum is wrong (MD5 {got}, not {MD5[self.size]}), so this is not the official "
                    f"ml-{self.size}.zip; set data.source.path to the folder with its files if they are good."
                )
            return PARSERS[self.size], read_members(path, names)
        if not path.is_dir():
            raise DataError(f"{path}: there is no such file or folder.")
        inner = path / f"ml-{self.size}"
        folder = inner if inner.is_dir() else path
        contents = []
        for file in (folder / Path(name).name for name in names):
            with readable(file):
                contents.append(file.read_bytes())
        return PARSERS[self.size], contents


def _from_recbole(wheel: Path) -> tuple[Parser, list[bytes]]:
    contents = read_members(wheel, tuple(RECBOLE_SHA256))
    for (name, digest), content in zip(RECBOLE_SHA256.items(), contents, strict=True):
        if hashlib.sha256(content).hexdigest() != digest:
            raise DataError(f"{wheel}: the checksum of {name} in it is wrong; delete this file and try again.")
    return recbole_100k, contents
