"""What was measured, and the tables made of it."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.systems import SYSTEMS

OURS = "dien"
MODES = {"train": "training", "predict": "inference"}


@dataclass(frozen=True)
class Speed:
    """Samples a second of one system in one setting, one number for each round."""

    system: str
    dataset: str
    mode: str
    batch: int
    threads: int
    rates: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        return (max(self.rates) - min(self.rates)) / self.median


@dataclass
class Results:
    """Everything one run of the benchmark found."""

    machine: dict[str, Any]
    mean_length: dict[str, float]
    batches: list[int]
    speeds: list[Speed] = field(default_factory=list)
    described: dict[str, dict[str, Any]] = field(default_factory=dict)
    memory: dict[str, dict[int, float]] = field(default_factory=dict)
    """Peak resident megabytes of training, by system and batch size."""
    epochs: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    """By set and system, one entry for each seed."""
    failed: dict[str, str] = field(default_factory=dict)

    def best(self, system: str, dataset: str, mode: str, batch: int) -> Speed | None:
        """The speed at the better thread count."""
        key = (system, dataset, mode, batch)
        speeds = [speed for speed in self.speeds if (speed.system, speed.dataset, speed.mode, speed.batch) == key]
        return max(speeds, key=lambda speed: speed.median, default=None)

    def threads(self, system: str, dataset: str, mode: str, batch: int) -> int:
        best = self.best(system, dataset, mode, batch)
        return best.threads if best else 1

    def systems(self) -> list[str]:
        """Those that were measured, ours first, the others from fast to slow."""
        first = (next(iter(self.mean_length)), "train", self.batches[0])

        def key(system: str) -> tuple[bool, float]:
            best = self.best(system, *first)
            return system != OURS, -best.median if best else 0.0

        return sorted(self.described, key=key)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


@dataclass(frozen=True)
class Sheet:
    """A table as plain strings."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        align = ["---", *["--:"] * (len(self.header) - 1)]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.header, align, *self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        table = Table(*self.header, title=self.title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


def sheets(results: Results) -> Iterator[Sheet]:
    """One table for each set, and one of memory and size."""
    systems, notes = results.systems(), _notes(results)
    for dataset, mean in results.mean_length.items():
        settings = [(mode, batch) for mode in MODES for batch in results.batches]
        header = ["samples/s", *(f"{MODES[mode]}, {batch}" for mode, batch in settings), "AUC", "notes"]
        rows = []
        for system in systems:
            cells = [_speed(results, system, dataset, mode, batch) for mode, batch in settings]
            auc = _auc(results, system, dataset)
            rows.append([SYSTEMS[system].title, *cells, auc, ", ".join(map(str, notes[system])) or "-"])
        yield Sheet(f"{dataset} set, mean history length {mean:.1f}", header, rows)
    rows = []
    for system in systems:
        peaks = [results.memory.get(system, {}).get(batch) for batch in results.batches]
        memory = ["-" if peak is None else f"{peak:,.0f}" for peak in peaks]
        parameters = f"{results.described[system]['parameters']:,}"
        rows.append([SYSTEMS[system].title, *memory, parameters])
    header = ["peak resident MB of training", *(f"batch {batch}" for batch in results.batches), "parameters"]
    yield Sheet("Memory and size", header, rows)


def remarks(results: Results) -> Iterator[str]:
    """What the tables need to be read: conventions, footnotes, the ratios that matter, failures."""
    yield (
        "Median over the rounds at the better thread count, which follows the letter t; in brackets how many times "
        f"faster {SYSTEMS[OURS].title} is. AUC on each user's last clicks after one epoch over 80,000 rows: one "
        "popularity-weighted negative for each positive, in training and test."
    )
    for number, text in enumerate(_texts(results), start=1):
        yield f"({number}) {text}."
    if results.speeds:
        yield f"Largest (max - min) / median over the rounds: {max(speed.spread for speed in results.speeds):.0%}."
    for dataset in results.mean_length:
        for mode in MODES:
            for batch in results.batches:
                yield from _against_fastest(results, dataset, mode, batch)
    for system, reason in results.failed.items():
        yield f"FAILED: {SYSTEMS[system].title}: {reason}"


def _against_fastest(results: Results, dataset: str, mode: str, batch: int) -> Iterator[str]:
    ours = results.best(OURS, dataset, mode, batch)
    peers = [system for system in results.described if system != OURS and SYSTEMS[system].auxiliary]
    speeds = [speed for system in peers if (speed := results.best(system, dataset, mode, batch))]
    if ours and speeds:
        fastest = max(speeds, key=lambda speed: speed.median)
        yield (
            f"{dataset}, {MODES[mode]}, batch {batch}: {ours.median / fastest.median:.1f} times the fastest system "
            f"that trains with an auxiliary loss, {SYSTEMS[fastest.system].title}."
        )


def _speed(results: Results, system: str, dataset: str, mode: str, batch: int) -> str:
    speed, ours = results.best(system, dataset, mode, batch), results.best(OURS, dataset, mode, batch)
    if speed is None:
        return "-"
    ratio = "" if ours is None or system == OURS else f" ({ours.median / speed.median:.1f})"
    return f"{speed.median:,.0f} t{speed.threads}{ratio}"


def _auc(results: Results, system: str, dataset: str) -> str:
    values = [epoch["auc"] for epoch in results.epochs.get(dataset, {}).get(system, [])]
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def _texts(results: Results) -> list[str]:
    """The footnotes, each once, in the order of the rows."""
    return list(dict.fromkeys(note for system in results.systems() for note in SYSTEMS[system].notes))


def _notes(results: Results) -> dict[str, list[int]]:
    texts = _texts(results)
    return {system: [texts.index(note) + 1 for note in SYSTEMS[system].notes] for system in results.systems()}
