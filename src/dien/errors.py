"""What a user can get wrong, as exceptions whose message is one sentence: the thing, and what to do about it."""


class DienError(Exception):
    """A mistake in the input or the configuration; commands print its message and exit with a non-zero status."""


class DataError(DienError):
    """A log, archive, table or prepared dataset that cannot be used as it is."""


class ConfigError(DienError):
    """An option whose value is not allowed; the message names the key, the value and the allowed ones."""


def check_choice(key: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not one of {', '.join(allowed)}.")


def check_at_least(key: str, value: float, minimum: float) -> None:
    """Raise `ConfigError` unless `value` is a number >= `minimum` (NaN is not)."""
    if not value >= minimum:
        raise ConfigError(f"{key}={value} is out of range: it must be at least {minimum}.")
