"""The files of MovieLens: functions from the bytes of ratings, films and people to the same three frames.

Ratings: `user_id`, `item_id`, `rating`, `timestamp` (seconds). Films: `item_id`, `title`, `year`, `genres`.
People: `user_id`, `age` (years, or the first year of a group), `gender`, `occupation`, `zip_code`.
"""

from collections.abc import Callable
from typing import NamedTuple

import polars as pl

GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""The flags of `u.item`, in their order."""
OCCUPATIONS = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
"""What the numbers in `users.dat` stand for."""

_RATING = ["user_id", "item_id", "rating", "timestamp"]
_PERSON = ["user_id", "age", "gender", "occupation", "zip_code"]


class Frames(NamedTuple):
    """What the files hold."""

    ratings: pl.DataFrame
    films: pl.DataFrame
    people: pl.DataFrame


Parser = Callable[[bytes, bytes, bytes], Frames]


def official_100k(ratings: bytes, films: bytes, people: bytes) -> Frames:
    """`u.data`, `u.item` (Latin-1, a flag for each genre) and `u.user`."""
    film = _split(films, "|", ["item_id", "title", "released", "video", "url", *GENRES])
    flagged = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES]
    film = film.with_columns(genres=pl.concat_list(flagged).list.drop_nulls(), year=_year_in_title())
    return _frames(_split(ratings, "\t", _RATING), film, _split(people, "|", _PERSON))


def official_1m(ratings: bytes, films: bytes, people: bytes) -> Frames:
    """`ratings.dat`, `movies.dat` (Latin-1) and `users.dat`, their fields separated by `::`."""
    film = _split(films, "::", ["item_id", "title", "genres"])
    film = film.with_columns(genres=pl.col("genres").str.split("|"), year=_year_in_title())
    person = _split(people, "::", ["user_id", "gender", "age", "occupation", "zip_code"])
    codes = {str(code): name for code, name in enumerate(OCCUPATIONS)}
    return _frames(
        _split(ratings, "::", _RATING), film, person.with_columns(pl.col("occupation").replace_strict(codes))
    )


def recbole_100k(ratings: bytes, films: bytes, people: bytes) -> Frames:
    """RecBole's atomic files: the titles lack the year, and one film's year went astray into its title."""
    film = _split(films, "\t", ["item_id", "title", "year", "genres"], header=True, encoding="utf-8")
    year = pl.coalesce(pl.col("year").cast(pl.Int64, strict=False), _year_in_title())
    film = film.with_columns(genres=pl.col("genres").str.split(" "), year=year)
    return _frames(_split(ratings, "\t", _RATING, header=True), film, _split(people, "\t", _PERSON, header=True))


def _year_in_title() -> pl.Expr:
    """The last year in brackets: `Toy Story (1995)`."""
    return pl.col("title").str.extract(r".*\((\d{4})\)").cast(pl.Int64)


def _split(
    content: bytes, separator: str, names: list[str], *, header: bool = False, encoding: str = "latin-1"
) -> pl.DataFrame:
    """Fields as strings; a separator of two characters becomes a tab, which no field of these files has."""
    text = content.decode(encoding)
    if len(separator) > 1:
        text, separator = text.replace(separator, "\t"), "\t"
    return pl.read_csv(
        text.encode(),
        separator=separator,
        has_header=False,
        skip_rows=int(header),
        schema=dict.fromkeys(names, pl.String),
        quote_char=None,
    )


def _frames(ratings: pl.DataFrame, films: pl.DataFrame, people: pl.DataFrame) -> Frames:
    return Frames(
        ratings.select(pl.all().cast(pl.Int64)),
        films.select(pl.col("item_id").cast(pl.Int64), "title", "year", "genres"),
        people.select(pl.col("user_id", "age").cast(pl.Int64), "gender", "occupation", "zip_code"),
    )
