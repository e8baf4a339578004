"""The protocol of a prepared dataset: which events are samples of which split, and of what history."""

from dataclasses import asdict, dataclass
from typing import Literal

from dien.errors import ConfigError, check_choice, check_fraction, check_whole

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_KEYS = {
    "last_out": (),
    "by_user": ("split_seed", "test_fraction", "val_fraction"),
    "temporal": ("val_from", "test_from"),
    "given": ("split_seed", "val_fraction"),
}
"""The options that only some splits have."""
SPLIT_RULES = tuple(_KEYS)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How events become samples. Part of the dataset's fingerprint; independent of the run's seed.

    A *unit* is one event with `ties="order"`; with `ties="strict"` it is all events of a user at one
    timestamp (a basket), which no split tears apart.

    Raises:
        ConfigError: an option is out of its range; the message names the key as the user writes it.
    """

    split: str = "last_out"
    """`last_out`: a user's last unit is test, the one before validation, the rest train (two units: train and
    test; one unit: train). `by_user`: whole users are held out, validation users taken from the training
    users (the paper, which has no validation). `temporal`: train before `val_from`, validation before
    `test_from`, test from there. `given`: the log says which events are samples of which split; where it has
    none for validation, they are taken from the training users."""
    ties: str = "strict"
    """A history holds the clicks of strictly earlier timestamps (`strict`), or all clicks earlier in order,
    where equal timestamps keep their input order (`order`, the paper)."""
    samples: str = "all"
    """Every event of a split is a sample (`all`), or only each user's last one in it (`last`, the paper)."""
    min_history: int = 1
    """Events with fewer earlier clicks are no samples (they are still history); 0 allows empty histories."""
    min_count: int = 1
    """Ids and feature values with fewer training events share the unknown id 1."""
    split_seed: int = 0
    """Which users `by_user` holds out, and `given` for validation."""
    test_fraction: float = 0.1
    """`by_user`: part of all users, at least one user."""
    val_fraction: float = 0.1
    """`by_user` and `given`: part of the users that are not test users, at least one user."""
    val_from: float = 0.8
    """`temporal`: a fraction of the events in time order (a float between 0 and 1), or a timestamp."""
    test_from: float = 0.9
    """`temporal`: as `val_from`."""

    def __post_init__(self) -> None:
        check_choice("data.split", self.split, SPLIT_RULES)
        check_choice("data.ties", self.ties, ("strict", "order"))
        check_choice("data.samples", self.samples, ("all", "last"))
        if self.split == "given" and self.samples != "all":
            raise ConfigError("data.samples=last does not go with data.split=given, where the log names the samples.")
        check_whole("data.min_history", self.min_history, 0)
        check_whole("data.min_count", self.min_count, 1)
        check_whole("data.split_seed", self.split_seed, 0)
        check_fraction("data.test_fraction", self.test_fraction)
        check_fraction("data.val_fraction", self.val_fraction)
        if _is_fraction("data.val_from", self.val_from) != _is_fraction("data.test_from", self.test_from):
            raise ConfigError(
                f"data.val_from={self.val_from} and data.test_from={self.test_from} must both be fractions "
                "between 0 and 1 or both be timestamps."
            )
        if not self.val_from < self.test_from:
            raise ConfigError(f"data.val_from={self.val_from} must lie before data.test_from={self.test_from}.")

    @property
    def cuts_are_fractions(self) -> bool:
        """Whether `val_from` and `test_from` are fractions of the events rather than timestamps."""
        return _is_fraction("data.val_from", self.val_from)

    def relevant(self) -> dict[str, str | int | float]:
        """The options that shape the dataset: those of other splits are left out and cannot rename it."""
        unused = {key for keys in _KEYS.values() for key in keys} - set(_KEYS[self.split])
        return {key: value for key, value in asdict(self).items() if key not in unused}


def _is_fraction(key: str, value: object) -> bool:
    """True for a fraction, False for a timestamp, which YAML may have read as a float."""
    if isinstance(value, float) and 0 < value < 1:
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1 or value == 0:
        raise ConfigError(f"{key}={value!r} is neither a fraction between 0 and 1 nor a timestamp (a whole number).")
    return False
