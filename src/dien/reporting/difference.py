"""What differs between runs: between two of them, and what a group has in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dien.errors import DataError
from dien.reporting.tables import Table
from dien.reporting.variants import ABSENT, as_text
from dien.runs.frames import has_no_effect
from dien.runs.read import Run, read

PARTS: dict[str, Literal["config", "environment", "metrics"]] = {
    "configuration": "config",
    "environment": "environment",
    "metrics": "metrics",
}


class Difference(NamedTuple):
    """A key that two runs have different values of; `ABSENT` where one of them lacks it."""

    part: str
    """One of `PARTS`."""
    key: str
    a: Any
    b: Any


def run_in(folder: str | Path) -> Run:
    """The one run in a folder.

    Raises:
        DataError: if there is none, or more than one.
    """
    runs = read(folder)
    if len(runs) != 1:
        raise DataError(f"{folder} holds {len(runs) or 'no'} runs: name the folder of a single one.")
    return runs[0]


def differences(a: Run, b: Run) -> list[Difference]:
    """All keys whose values differ, without those of the configuration that have no effect."""
    found = []
    for part, field in PARTS.items():
        one, other = getattr(a, field), getattr(b, field)
        for key in [*one, *(key for key in other if key not in one)]:
            values = one.get(key, ABSENT), other.get(key, ABSENT)
            same = values[0] == values[1] and isinstance(values[0], bool) == isinstance(values[1], bool)
            if not same and not (part == "configuration" and has_no_effect(key)):
                found.append(Difference(part, key, *values))
    return found


def difference_tables(a: Run, b: Run) -> list[Table]:
    """The differences as tables, one a part that has any."""
    found = differences(a, b)
    tables = []
    for part in PARTS:
        mine = [difference for difference in found if difference.part == part]
        if not mine:
            continue
        metrics = part == "metrics"
        rows = []
        for _, key, one, other in mine:
            cells = [key, _shown(one), _shown(other)]
            if metrics:
                cells.append("" if ABSENT in (one, other) else f"{other - one:+.6g}")
            rows.append(cells)
        tables.append(Table(part, ["key", "A", "B", *(["B - A"] if metrics else [])], rows))
    return tables


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "(absent)"
    return repr(value) if isinstance(value, float) else as_text(value)


def shared_and_differing(runs: Sequence[Run], part: str) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Of one of `PARTS`: keys with one value in all runs, and for the others how many runs have each value."""
    field = PARTS[part]
    shared, differing = {}, {}
    for key in dict.fromkeys(key for run in runs for key in getattr(run, field)):
        counts: dict[str, int] = {}
        for run in runs:
            text = _shown(getattr(run, field).get(key, ABSENT))
            counts[text] = counts.get(text, 0) + 1
        if len(counts) == 1:
            shared[key] = next(iter(counts))
        else:
            differing[key] = counts
    return shared, differing
