"""The files of the DIEN authors: samples as text, in a split that is already made, and their tables of ids.

A line is `label, user, item, category, items of the history, their categories`, separated by tabs and, within the two
histories, by the character \x02. A sample becomes a pointer into its user's clicks again: the longest history of a
user is the sequence of clicks that the shorter ones are beginnings of, and a target stands at the place after its
history. There are no ties in this format: such files are written with `data.ties=order`.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dien.data.log import Log
from dien.data.protocol import SPLITS
from dien.data.sources.archive import MEMBER_LIMIT
from dien.data.sources.base import fingerprint, validate
from dien.data.sources.reading import check_compressed, readable
from dien.errors import DataError

logger = logging.getLogger(__name__)

FILES = ("local_train_splitByUser", "local_val_splitByUser", "local_test_splitByUser")
"""Of training, validation (which the authors do not have) and test."""
TABLES = {"user_id": "uid_voc.json", "item_id": "mid_voc.json", "category": "cat_voc.json"}
COLUMNS = ("label", "user_id", "item_id", "category", "history", "categories")
SEPARATOR = "\x02"


@dataclass(frozen=True, kw_only=True)
class AuthorsFiles:
    """`local_train_splitByUser`, `local_test_splitByUser` and, if there, `local_val_splitByUser`, gz or not.

    With `data.split=given` the samples are exactly theirs: targets and negatives as they stand in the files. Without a
    validation file, `data.val_fraction` of the training users become validation users. Columns after the sixth (the
    negative histories of some copies) are ignored.

    Tables of ids (`uid_voc.json`, `mid_voc.json`, `cat_voc.json`; `dien-id-tables` makes them of the authors' pickles)
    that lie beside the files must know every id of the training file, or they belong to another split. Their numbers
    are not taken over: the rows of an embedding have no order.
    """

    path: str
    """The folder."""

    def load(self) -> Log:
        """Read the files.

        Raises:
            DataError: a file is missing or damaged, a line is malformed, the histories of a user contradict each other,
                an item has two categories, or a table of ids does not know a training id.
        """
        frames = [_rows(file, part) for part, file in enumerate(self._files()) if file is not None]
        rows = pl.concat(frames)
        if rows.is_empty():
            raise DataError(f"{self.path}: the files have no sample.")
        self._check_tables(rows)
        clicks = _clicks(rows)
        items = _items(rows, clicks)
        names = ["user_id", "item_id", "timestamp", "label", "part", "sample"]
        events = pl.concat([_skips(rows).select(names), _targets(rows, clicks).select(names)])
        report = {f"{split}_rows": int((rows["part"] == part).sum()) for part, split in enumerate(SPLITS)}
        logger.info("%s: %s", self.path, ", ".join(f"{count:,} {name}" for name, count in report.items()))
        return validate(Log(events, items, report=report))

    def fingerprint(self) -> str:
        """Hash the content of the files."""
        files = self._files()
        return fingerprint(self, {"files": [file is not None for file in files]}, [file for file in files if file])

    def _files(self) -> list[Path | None]:
        folder = Path(self.path).expanduser()
        found = []
        for name in FILES:
            file = next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)
            if file is None and name != FILES[1]:
                raise DataError(f"{folder}: there is no file {name} in this folder, with or without .gz.")
            found.append(file)
        return found

    def _check_tables(self, rows: pl.DataFrame) -> None:
        training = rows.filter(pl.col("part") == 0)
        for column, name in TABLES.items():
            file = Path(self.path).expanduser() / name
            if not file.is_file():
                continue
            known = pl.Series("id", list(read_table(file)), dtype=pl.String)
            unknown = training.filter(~pl.col(column).is_in(known.implode()))[column]
            if len(unknown):
                raise DataError(
                    f"{file}: the table does not know {unknown[0]!r} of the training file, so it is of another split."
                )


def read_table(path: Path) -> dict[str, int]:
    """A table of ids: a JSON object of whole numbers.

    Raises:
        DataError: it is something else, or larger than `MEMBER_LIMIT` bytes.
    """
    with readable(path):
        if (size := path.stat().st_size) > MEMBER_LIMIT:
            raise DataError(f"{path}: the file has {size} bytes, more than {MEMBER_LIMIT}.")
        try:
            table: Any = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: the file is not JSON.") from error
    if not isinstance(table, dict) or not all(type(number) is int for number in table.values()):
        raise DataError(f"{path}: the file is not an object whose values are whole numbers.")
    return table


def _rows(path: Path, part: int) -> pl.DataFrame:
    """The lines of a file in the columns `COLUMNS`, `length` (of the history), `line` and `part`."""
    schema = {name: pl.String() for name in COLUMNS}
    check_compressed(path)
    with readable(path):
        head = pl.read_csv(path, separator="\t", quote_char=None, has_header=False, n_rows=1, infer_schema=False)
        if head.width < len(COLUMNS):
            raise DataError(f"{path}, line 1: there are {head.width} fields, not {len(COLUMNS)}, separated by tabs.")
        more = {f"ignored_{number}": pl.String() for number in range(head.width - len(COLUMNS))}
        rows = pl.read_csv(path, separator="\t", quote_char=None, has_header=False, schema=schema | more)
    rows = rows.select(*COLUMNS).with_row_index("line", offset=1)
    rows = rows.with_columns(
        pl.col("history", "categories").fill_null(""), file=pl.lit(str(path)), part=pl.lit(part, pl.Int8)
    )
    length = [
        pl.when(pl.col(name) == "").then(0).otherwise(pl.col(name).str.count_matches(SEPARATOR, literal=True) + 1)
        for name in ("history", "categories")
    ]
    rows = rows.with_columns(length=length[0].cast(pl.Int64), named=length[1].cast(pl.Int64))
    _reject(rows, ~pl.col("label").is_in(["0", "1"]).fill_null(False), "the label is not 0 or 1")
    for name in ("user_id", "item_id", "category"):
        _reject(rows, pl.col(name).is_null() | (pl.col(name) == ""), f"{name.removesuffix('_id')} is empty")
    _reject(rows, pl.col("length") != pl.col("named"), "the history has not as many items as categories")
    empty = pl.col("history").str.contains(f"^{SEPARATOR}|{SEPARATOR}{SEPARATOR}|{SEPARATOR}$")
    _reject(rows, empty, "an item of the history is empty")
    return rows.drop("named").with_columns(pl.col("label").cast(pl.Int8))


def _reject(rows: pl.DataFrame, bad: pl.Expr, complaint: str) -> None:
    for line, file in rows.filter(bad).select("line", "file").head(1).iter_rows():
        raise DataError(f"{file}, line {line}: {complaint}.")


def _clicks(rows: pl.DataFrame) -> pl.DataFrame:
    """Every user's longest history: `user_id`, `item_id`, `category`, `timestamp` (its place) and `part`."""
    last = pl.col("history", "categories").sort_by("length").last()
    reach = [pl.col("length").filter(pl.col("part") == part).max().alias(f"reach_{part}") for part in (0, 1)]
    users = rows.group_by("user_id", maintain_order=True).agg(last, *reach)
    longest = rows.select("user_id", "line", "file", "length", "history").join(
        users.select("user_id", longest="history"), on="user_id", maintain_order="left"
    )
    begins = (pl.col("longest") + SEPARATOR).str.starts_with(pl.col("history") + SEPARATOR)
    _reject(longest, (pl.col("length") > 0) & ~begins, "the history is not the beginning of its user's longest one")
    users = users.filter(pl.col("history") != "").with_columns(pl.col("history", "categories").str.split(SEPARATOR))
    clicks = users.explode("history", "categories").rename({"history": "item_id", "categories": "category"})
    place = pl.int_range(pl.len(), dtype=pl.Int64).over("user_id")
    part = pl.when(place < pl.col("reach_0")).then(0).when(place < pl.col("reach_1")).then(1).otherwise(2)
    return clicks.select("user_id", "item_id", "category", timestamp=place, part=part.cast(pl.Int8))


def _skips(rows: pl.DataFrame) -> pl.DataFrame:
    """The targets of label 0, each a sample; in the order of events they come before a click of the same place."""
    return rows.filter(pl.col("label") == 0).with_columns(timestamp="length", sample=pl.lit(True))


def _targets(rows: pl.DataFrame, clicks: pl.DataFrame) -> pl.DataFrame:
    """All clicks, of histories and targets; a target that a longer history holds too is one click."""
    targets = rows.filter(pl.col("label") == 1).with_columns(timestamp="length")
    targets = targets.unique(["user_id", "item_id", "timestamp"], keep="first", maintain_order=True)
    there = targets.join(
        clicks.select("user_id", "timestamp", clicked="item_id"), on=["user_id", "timestamp"], maintain_order="left"
    )
    _reject(
        there, pl.col("item_id") != pl.col("clicked"), "a longer history of the user has another item at this place"
    )
    keys = ["user_id", "timestamp"]
    inside = targets.join(clicks, on=keys, how="semi")
    marks = inside.select(*keys, part_of_sample="part", sample=pl.lit(True))
    clicks = clicks.join(marks, on=keys, how="left", maintain_order="left").with_columns(
        part=pl.coalesce("part_of_sample", "part"), sample=pl.col("sample").fill_null(False), label=pl.lit(1, pl.Int8)
    )
    after = targets.join(clicks, on=keys, how="anti", maintain_order="left").with_columns(sample=pl.lit(True))
    names = ["user_id", "item_id", "timestamp", "label", "part", "sample"]
    return pl.concat([clicks.select(names), after.select(names)])


def _items(rows: pl.DataFrame, clicks: pl.DataFrame) -> pl.DataFrame:
    pairs = pl.concat([rows.select("item_id", "category"), clicks.select("item_id", "category")]).unique()
    twice = pairs.filter(pl.col("item_id").is_duplicated()).sort("item_id", "category")
    if twice.height:
        item, one, other = twice["item_id"][0], twice["category"][0], twice["category"][1]
        raise DataError(f"Item {item!r} has two categories in the files, {one!r} and {other!r}.")
    return pairs.sort("item_id")
