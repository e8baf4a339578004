"""Amazon reviews (J. McAuley's group, UC San Diego): who reviewed what when, and the category of every item."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from dien.data.log import Log
from dien.data.sources.amazon_lines import Format, OnBadLine, Tally, Which, metadata, read, reviews
from dien.data.sources.archive import UnreachableError, download, downloads_folder
from dien.data.sources.base import fingerprint, validate
from dien.data.sources.convert import TimeUnit
from dien.errors import ConfigError, DataError, check_choice, check_whole

logger = logging.getLogger(__name__)

READER = 2
"""Counts the changes of what lines mean: a dataset that an older reader prepared is prepared again."""
DEFAULT_CATEGORY = "default_cat"
"""Category of items without metadata, and of those whose metadata names none, as in the authors' code."""


@dataclass(frozen=True)
class Release:
    """Where the files of a release lie, and how their fields are called."""

    address: str
    reviews_file: str
    metadata_file: str
    reviews: tuple[str, str, str]
    """User, item and time."""
    categories: str
    core: int
    """What `Amazon.core` is by default: the reviews come filtered, or (0 here) they do not."""
    literals: bool = False
    """The metadata are Python literals."""

    def review_format(self) -> Format:
        return reviews(*self.reviews)

    def metadata_format(self, which: Which) -> Format:
        return metadata(self.reviews[1], self.categories, which, literals=self.literals)


_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"

RELEASES = {
    2014: Release(
        address="https://snap.stanford.edu/data/amazon/productGraph/categoryFiles",
        reviews_file="reviews_{}_5.json.gz",
        metadata_file="meta_{}.json.gz",
        reviews=("reviewerID", "asin", "unixReviewTime"),
        categories="categories",
        core=0,
        literals=True,
    ),
    2018: Release(
        address=f"{_UCSD}/amazon_v2",
        reviews_file="categoryFilesSmall/{}_5.json.gz",
        metadata_file="metaFiles2/meta_{}.json.gz",
        reviews=("reviewerID", "asin", "unixReviewTime"),
        categories="category",
        core=0,
    ),
    2023: Release(
        address=f"{_UCSD}/amazon_2023/raw",
        reviews_file="review_categories/{}.jsonl.gz",
        metadata_file="meta_categories/meta_{}.jsonl.gz",
        reviews=("user_id", "parent_asin", "timestamp"),
        categories="categories",
        core=5,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Amazon:
    """The reviews of one category of shop: every review is a click, in the order of its time and, within a tie, of
    the file.

    Timestamps are seconds (2014, 2018: whole days) or milliseconds (2023). The official files are fetched once and
    kept in the cache; their publishers give no checksums, so a file counts as whole when its length is what the
    server announced and the checksum inside of gzip is right.
    """

    category: str
    """As in the names of the files: `Books`, `Electronics`, `Toys_and_Games`."""
    release: Literal[2014, 2018, 2023] = 2014
    path: str | None = None
    """A folder with the two files, under their official names, gz or not; None to fetch them."""
    on_bad_line: OnBadLine = "skip"
    """`skip`: count and report what is not as it should be, and go on without it (or with `default_cat`). `error`:
    end at the first malformed, incomplete or blank line, duplicate or missing metadata, or missing category."""
    category_path: Which = "first"
    """Items of 2014 may have several paths of categories: the category is the last element of the `first` path (DIEN's
    authors) or of the `last` one (DIN's)."""
    core: int | None = None
    """Keep users and items with at least this many reviews of each other only; 0 keeps all. None: 0 for the releases
    of 2014 and 2018, whose 5-core files come filtered, and 5 for that of 2023, which does not."""
    address: str | None = None
    """Where to fetch the files instead of the official address: a mirror."""
    cache: str | None = None
    """Files are kept in `downloads` in this folder; None for `$DIEN_CACHE` or `~/.cache/dien`."""

    @property
    def time_unit(self) -> TimeUnit:
        """Of the timestamps."""
        return "ms" if self.release == 2023 else "s"

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            raise ConfigError(f"data.source.release={self.release!r} is not one of 2014, 2018, 2023.")
        if not isinstance(self.category, str) or not re.fullmatch(r"[A-Za-z0-9_]+", self.category):
            raise ConfigError(
                f"data.source.category={self.category!r} is not the name of a category as it stands in the names of "
                "the files, such as Books or Toys_and_Games."
            )
        check_choice("data.source.on_bad_line", self.on_bad_line, ("skip", "error"))
        check_choice("data.source.category_path", self.category_path, ("first", "last"))
        if self.core is not None:
            check_whole("data.source.core", self.core, 0)

    def load(self) -> Log:
        """Read reviews and metadata, side by side.

        Raises:
            DataError: a file can be neither found nor fetched, or is damaged; there is no review; or something is
                not as it should be and `on_bad_line` is `error`.
        """
        release = RELEASES[self.release]
        review_file, metadata_file = self._files()
        assert review_file is not None
        tally, metadata_tally = Tally(self.on_bad_line), Tally(self.on_bad_line)
        with ThreadPoolExecutor(1) as pool:
            form = release.metadata_format(self.category_path)
            coming = pool.submit(_categories, metadata_file, form, metadata_tally)
            rows = read(review_file, release.review_format(), tally)
            known = coming.result()
        rows.columns = ["user_id", "item_id", "timestamp"]
        if rows.is_empty():
            raise DataError(f"{review_file}: there is no review in this file.")
        tally.counts += metadata_tally.counts
        events = k_core(rows, release.core if self.core is None else self.core)
        if events.is_empty():
            raise DataError(f"{review_file}: no review is left with data.source.core={self.core or release.core}.")
        tally.counts["reviews"] = events.height
        items = _with_categories(events, known, tally)
        report = dict(sorted(tally.counts.items()))
        logger.info(
            "%s: %s", review_file.name, ", ".join(f"{count:,} {name}" for name, count in report.items() if count)
        )
        return validate(Log(events, items, report=report))

    def fingerprint(self) -> str:
        """Hash the options, the version of the reader and the content of the files."""
        options = {name: value for name, value in vars(self).items() if name not in ("path", "cache", "address")}
        files = self._files()
        options |= {"reader": READER, "files": [file is not None for file in files]}
        return fingerprint(self, options, [file for file in files if file])

    def _files(self) -> list[Path | None]:
        """The reviews and the metadata, which may be missing from a folder of the user's; fetched if need be."""
        release = RELEASES[self.release]
        names = [name.format(self.category) for name in (release.reviews_file, release.metadata_file)]
        if self.path is None:
            return [self._fetched(name) for name in names]
        folder = Path(self.path).expanduser()
        review_file, metadata_file = (_in_folder(folder, name.rpartition("/")[2]) for name in names)
        if review_file is None:
            wanted = names[0].rpartition("/")[2]
            raise DataError(f"{folder}: there is no file {wanted} in this folder, with or without .gz.")
        if metadata_file is None:
            wanted = names[1].rpartition("/")[2]
            complaint = f"{folder}: there is no file {wanted} in this folder, with or without .gz"
            if self.on_bad_line == "error":
                raise DataError(f"{complaint}; data.source.on_bad_line=skip goes on without it.")
            logger.warning("%s, so every item has the category %s", complaint, DEFAULT_CATEGORY)
        return [review_file, metadata_file]

    def _fetched(self, name: str) -> Path:
        file = downloads_folder(self.cache) / f"amazon-{self.release}" / name.rpartition("/")[2]
        if not file.is_file():
            address = (self.address or RELEASES[self.release].address).rstrip("/")
            try:
                download(f"{address}/{name}", file, None)
            except UnreachableError as error:
                raise DataError(
                    f"{error} Fetch the files elsewhere and set data.source.path to their folder, or name a mirror in "
                    "data.source.address."
                ) from error
        return file


def k_core(rows: pl.DataFrame, k: int) -> pl.DataFrame:
    """The largest part of the log in which every user and every item has at least `k` events, in the same order."""
    while k > 1:
        kept = rows.filter(pl.len().over("item_id") >= k).filter(pl.len().over("user_id") >= k)
        if kept.height == rows.height:
            break
        rows = kept
    return rows


def _in_folder(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    files = [folder / name, folder / name.removesuffix(".gz")]
    return next((file for file in files if file.is_file()), None)


def _categories(file: Path | None, form: Format, tally: Tally) -> pl.DataFrame:
    """`item_id` and `category` of every item of the metadata; the first line of an item counts, as for the authors."""
    if file is None:
        return pl.DataFrame(schema={"item_id": pl.String, "category": pl.String})
    rows = read(file, form, tally)
    rows.columns = ["item_id", "category"]
    known = rows.unique("item_id", keep="first", maintain_order=True)
    twice = rows.height - known.height
    if twice and tally.on_bad_line == "error":
        item = rows.filter(pl.col("item_id").is_duplicated())["item_id"][0]
        tally.add("metadata_duplicates", twice, f"{file}: there is more than one line of item {item!r}")
    tally.counts["metadata_duplicates"] = twice
    return known


def _with_categories(events: pl.DataFrame, known: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """The table of the items that have events."""
    known = known.with_columns(there=pl.lit(True))
    items = events.select("item_id").unique().sort("item_id").join(known, on="item_id", how="left")
    for what, missing, complaint in (
        ("items_without_metadata", items["there"].is_null(), "has no metadata"),
        ("items_without_category", items["there"] & items["category"].is_null(), "has no category in its metadata"),
    ):
        if number := int(missing.sum()):
            tally.add(what, number, f"Item {items.filter(missing)['item_id'][0]!r} {complaint} (as {number} items)")
    names = [items["item_id"], items["category"].drop_nulls(), events["user_id"]]
    tally.counts["names_beyond_ascii"] = sum(
        name.filter(name.str.len_bytes() != name.str.len_chars()).n_unique() for name in names
    )
    return items.select("item_id", pl.col("category").fill_null(DEFAULT_CATEGORY))
