"""A comparison as a table: for the terminal, Markdown, LaTeX, CSV; and what stands below it."""

import csv
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from dien.reporting.comparison import METRICS, Comparison, Row
from dien.runs.read import FINISHED, Run
from dien.statistics import Spread

NAMES = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss"}
NOTHING = ""


class Table(NamedTuple):
    """Text cells under a heading; the first column is aligned left, the others right."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def metric_name(metric: str) -> str:
    """`test/auc` -> `test AUC`, `train/samples_per_second` -> `training samples/s`."""
    if metric == "train/samples_per_second":
        return "training samples/s"
    split, _, name = metric.rpartition("/")
    return f"{split} {NAMES.get(name, name.replace('_', ' '))}".strip()


def table_of(comparison: Comparison) -> Table:
    """The comparison as text cells: mean ± standard deviation, RelaImpr, difference and p-value with its pairs."""
    tested = any(row.paired for row in comparison.rows)
    columns = ["variant", "runs", *(metric_name(metric) for metric in comparison.metrics)]
    if tested:
        first = metric_name(comparison.metrics[0])
        columns += [*([_relaimpr(comparison.auc)] if comparison.auc else []), f"Δ {first}", "paired p (pairs)"]
    rows = []
    for row in comparison.rows:
        cells = [row.variant.name, _runs(row)]
        cells += [number(row.spreads[metric]) if metric in row.spreads else NOTHING for metric in comparison.metrics]
        if tested:
            cells += [*([_percent(row.improvement)] if comparison.auc else []), *_test(row, comparison)]
        rows.append(cells)
    return Table(comparison.data, columns, rows)


def _relaimpr(auc: str) -> str:
    return "RelaImpr" if auc == METRICS[0] else f"RelaImpr ({metric_name(auc)})"


def _runs(row: Row) -> str:
    runs = len(row.variant.runs)
    seeds = len({run.config.get("seed", run.folder) for run in row.variant.runs})
    return str(runs) if runs == seeds else f"{runs} ({seeds} seeds)"


def number(spread: Spread) -> str:
    """Four decimals for what is of the size of 1, whole numbers with thousands separators for what is large."""
    decimals = 4 if abs(spread.mean) < 100 else 0
    std = NOTHING if spread.std is None else f" ± {spread.std:,.{decimals}f}"
    return f"{spread.mean:,.{decimals}f}{std}"


def _percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:+.1f} %"


def _test(row: Row, comparison: Comparison) -> tuple[str, str]:
    if row.paired is None:
        return ("baseline" if row.variant.name == comparison.baseline else NOTHING), NOTHING
    test = row.paired
    if test.difference is None:
        return NOTHING, "no common seed"
    difference = f"{test.difference:+.{4 if abs(test.difference) < 100 else 0}f}"
    return difference, f"{NOTHING if test.p_value is None else f'{test.p_value:.1g} '}({test.pairs})"


def notes_of(comparisons: Sequence[Comparison], runs: Sequence[Run]) -> list[str]:
    """What a reader of the tables must know: how they are made, and which runs are not in them, or damaged."""
    notes = []
    for comparison in comparisons:
        where = f"{comparison.data}: " if len(comparisons) > 1 else ""
        if comparison.baseline is not None and comparison.fingerprints == 1:
            notes.append(
                f"{where}baseline {comparison.baseline}; mean ± sample standard deviation over seeds; paired two-sided "
                f"t-test of {metric_name(comparison.metrics[0])} on the same seeds."
            )
        if comparison.lacks is not None:
            notes.append(f"{where}no variant is called {comparison.lacks}, so none is tested against that baseline.")
        if comparison.fingerprints > 1:
            notes.append(
                f"{where}{comparison.fingerprints} different prepared datasets or ways to draw test negatives: these "
                "variants were not tested on the same rows, so none is tested against a baseline."
            )
    left_out = [run for run in runs if run.status != FINISHED or not run.metrics]
    damaged = [run for run in runs if run.problem and run not in left_out]
    for title, group in (("not in the table", left_out), ("in the table, but", damaged)):
        notes += [f"{title}: {run.folder}: {run.problem or 'it has no metrics.'}" for run in group]
    return notes


def print_table(table: Table, console: Console) -> None:
    """Lines and colours on a terminal; elsewhere plain columns, never wrapped."""
    terminal = console.is_terminal
    if table.title:
        console.print(table.title, style="bold", markup=False, soft_wrap=True)
    rich = RichTable(
        box=box.SIMPLE_HEAD if terminal else None,
        pad_edge=False,
        padding=(0, 1) if terminal else (0, 2, 0, 0),
    )
    for place, column in enumerate(table.columns):
        rich.add_column(escape(column), justify="right" if place else "left", no_wrap=not terminal)
    for row in table.rows:
        rich.add_row(*map(escape, row))
    console.print(rich)


def as_markdown(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """Pipe tables with their titles as headings, and the notes as a list."""
    blocks = []
    for table in tables:
        lines = [_pipes(table.columns), _pipes(["---", *["---:"] * (len(table.columns) - 1)])]
        lines += [_pipes([_markdown(cell) for cell in row]) for row in table.rows]
        blocks.append("\n".join([*([f"### {_markdown(table.title)}\n"] if len(tables) > 1 else []), *lines]))
    if notes:
        blocks.append("\n".join(f"- {_markdown(note)}" for note in notes))
    return "\n\n".join(blocks) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text)


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def as_latex(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """`tabular`s for the package booktabs; the notes are comments."""
    blocks = []
    for table in tables:
        lines = [f"% {table.title}"] if len(tables) > 1 else []
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule", _latex_row(table.columns)]
        lines += [r"\midrule", *(_latex_row(row) for row in table.rows), r"\bottomrule", r"\end{tabular}"]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *(f"% {note}" for note in notes)]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(_LATEX.get(character, character) for character in cell) for cell in cells) + r" \\"


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """One line a variant with numbers in full precision, for other programs; an empty field is an unknown value."""
    keys = list(dict.fromkeys(key for c in comparisons for row in c.rows for key in row.variant.keys))
    metrics = comparisons[0].metrics if comparisons else ()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["data", "variant", *keys, "runs", "seeds"]
        + [f"{metric} {part}" for metric in metrics for part in ("mean", "std", "low", "high")]
        + ["baseline", "relaimpr", "difference", "difference low", "difference high", "p", "pairs"]
    )
    for comparison in comparisons:
        for row in comparison.rows:
            seeds = len({run.config.get("seed", run.folder) for run in row.variant.runs})
            cells = [comparison.data, row.variant.name, *(row.variant.keys.get(key) for key in keys)]
            cells += [len(row.variant.runs), seeds]
            for metric in metrics:
                spread = row.spreads.get(metric)
                cells += [None] * 4 if spread is None else [spread.mean, spread.std, spread.low, spread.high]
            writer.writerow([*cells, comparison.baseline, row.improvement, *(row.paired or [None] * 5)])
    return file.getvalue()
