"""Checks of option values that only the data layer needs; the shared ones are in `dien.errors`."""

import math

from dien.errors import ConfigError


def check_whole(key: str, value: object, minimum: int) -> None:
    """Raise `ConfigError` unless `value` is a whole number >= `minimum` (a bool or 1.5 is not)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{key}={value!r} is not allowed: it must be a whole number of at least {minimum}.")


def check_number(key: str, value: object, minimum: float) -> None:
    """Raise `ConfigError` unless `value` is a finite number >= `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value < math.inf:
        raise ConfigError(f"{key}={value!r} is not allowed: it must be a number of at least {minimum}.")


def check_fraction(key: str, value: object) -> None:
    """Raise `ConfigError` unless `value` lies strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"{key}={value!r} is not allowed: it must be a fraction between 0 and 1.")
