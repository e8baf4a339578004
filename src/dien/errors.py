"""What a user can get wrong, as exceptions whose message is one sentence: the thing, and what to do about it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DienError(Exception):
    """A mistake in the input or the configuration; commands print its message and exit with its status."""

    status = 2

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # names from a foreign file may hold line ends


class StoppedError(DienError):
    """A signal ended a run before its time; the status is the shell's for that signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


class DataError(DienError):
    """A log, archive, table or prepared dataset that cannot be used as it is."""


class ConfigError(DienError):
    """An option whose value is not allowed; the message names the key, the value and the allowed ones."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Give an `OSError` of the block the name of the file, which a failing write (a full disk) does not know."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless they are there; `DienError` if one of them is a file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(place for place in (folder, *folder.parents) if place.exists())
        raise DienError(f"{file} is a file, not a folder.") from error


def check_choice(key: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not one of {', '.join(allowed)}.")


def check_at_least(key: str, value: object, minimum: float) -> None:
    """Raise `ConfigError` unless `value` is a finite number >= `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value < math.inf:
        raise ConfigError(f"{key}={value!r} is out of range: it must be a number of at least {minimum}.")


def check_whole(key: str, value: object, minimum: int) -> None:
    """Raise `ConfigError` unless `value` is a whole number >= `minimum` (a bool or 1.5 is not)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{key}={value!r} is out of range: it must be a whole number of at least {minimum}.")


def check_fraction(key: str, value: object) -> None:
    """Raise `ConfigError` unless `value` lies strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"{key}={value!r} is out of range: it must be a fraction between 0 and 1.")
