"""Which runs are runs of the same thing: variants by the configuration keys that differ, with names to read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dien.errors import ConfigError
from dien.runs.frames import differing_keys
from dien.runs.read import Run

SEEDS = ("seed", "data.seed")
"""`data.seed` follows `seed`."""
ABSENT = object()
"""In place of the value of a key that a configuration does not have."""


class Variant(NamedTuple):
    """Runs that differ in nothing but the seed (or, where keys were chosen, in none of these)."""

    name: str
    keys: dict[str, Any]
    """What sets it apart from the others; a key that its configuration lacks is missing here too."""
    runs: tuple[Run, ...]

    def by_seed(self, metric: str) -> dict[Any, float]:
        """A metric of each seed; several runs of one seed count as their mean. A run without a seed is its own."""
        values: dict[Any, list[float]] = {}
        for run in self.runs:
            if metric in run.metrics:
                values.setdefault(run.config.get("seed", run.folder), []).append(run.metrics[metric])
        return {seed: sum(several) / len(several) for seed, several in values.items()}


def variants_of(runs: Sequence[Run], by: Sequence[str] | None = None) -> list[Variant]:
    """Group runs by the keys in `by`, or else by all keys that differ and have an effect, but for the seed.

    Of keys that say the same (`model.name=din`, `model._target_=...DIN`) the name of a variant gives one.

    Raises:
        ConfigError: for a key in `by` that no configuration has.
    """
    if by is None:
        keys = _telling_keys(runs, [key for key in differing_keys(runs) if key not in SEEDS])
    else:
        keys = list(by)
        known = {key for run in runs for key in run.config}
        if unknown := [key for key in keys if key not in known]:
            differ = ", ".join(differing_keys(runs)) or "none"
            raise ConfigError(f"--by {unknown[0]}: no run has that key; those that differ are {differ}.")
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_values(run, keys), []).append(run)
    settings = [
        {key: value for key, value in zip(keys, values, strict=True) if value is not ABSENT} for values in groups
    ]
    found = [
        Variant(_name(mine, settings, members[0]), mine, tuple(members))
        for mine, members in zip(settings, groups.values(), strict=True)
    ]
    names = [variant.name for variant in found]
    return [
        variant if names.count(variant.name) == 1 else variant._replace(name=f"{variant.name} ({number})")
        for number, variant in enumerate(found, 1)
    ]


def _values(run: Run, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(run.config.get(key, ABSENT) for key in keys)


def _telling_keys(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """The fewest keys that tell the runs apart like all of them do, names before values before classes."""

    def preference(key: str) -> tuple[bool, bool, bool, int]:
        everywhere = all(key in run.config for run in runs)
        return (not key.endswith(".name"), not everywhere, key.endswith("_target_"), key.count("."))

    chosen: list[str] = []
    for key in sorted(keys, key=preference):
        if _group_count(runs, [*chosen, key]) > _group_count(runs, chosen):
            chosen.append(key)
    for key in reversed(chosen):  # one that came early may have become superfluous
        others = [other for other in chosen if other != key]
        if _group_count(runs, others) == _group_count(runs, chosen):
            chosen = others
    return chosen


def _group_count(runs: Sequence[Run], keys: Sequence[str]) -> int:
    return len({_values(run, keys) for run in runs})


def _name(mine: dict[str, Any], all_settings: Sequence[dict[str, Any]], example: Run) -> str:
    """The values of names, and those of other keys that differ among the variants which share these names."""
    named = [key for key in mine if key.endswith(".name")]
    akin = [other for other in all_settings if all(other.get(key, ABSENT) == mine[key] for key in named)]
    labels = [_label(key) for key in mine]
    parts = [str(mine[key]) for key in named]
    for key, value in mine.items():
        if key in named or all(other.get(key, ABSENT) == value for other in akin):
            continue
        label = _label(key) if labels.count(_label(key)) == 1 else key
        is_class = key.endswith("_target_")
        parts.append(f"{label}={str(value).rsplit('.', 1)[-1] if is_class else as_text(value)}")
    return ", ".join(parts) or str(example.config.get("model.name") or example.config.get("name") or "all runs")


def _label(key: str) -> str:
    """`model.alpha` -> `alpha`, `data.negatives.train` -> `negatives.train`, `optimizer._target_` -> `optimizer`."""
    parts = key.removesuffix("._target_").split(".")
    return ".".join(parts[1:] if len(parts) > 1 else parts)


def as_text(value: Any) -> str:
    """A value of a configuration as it is written there."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
