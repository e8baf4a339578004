"""`dien-report`: run folders in; a table over seeds, figures, a page, or the differences between two runs out."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from dien import plots, runs
from dien.config import mistakes_in_one_sentence
from dien.errors import DataError, DienError
from dien.progress import counted
from dien.reporting.comparison import Comparison, NothingFinishedError, compare
from dien.reporting.difference import difference_tables, run_in
from dien.reporting.page import page
from dien.reporting.tables import Table, as_csv, as_latex, as_markdown, notes_of, print_table, table_of
from dien.runs.read import Run, read

_EPILOG = """\
Runs are grouped into variants by whatever keys of their configuration differ, the seed aside; each dataset (data.name)
has a table of its own. RelaImpr = (AUC - 0.5) / (AUC of the baseline - 0.5) - 1. The p-value is of a paired two-sided
t-test of the first metric on the seeds that both variants have; several runs of one seed count as their mean.

  dien-report multirun/default/2026-11-23_22-00-00-000000           a table on the terminal
  dien-report multirun --baseline din --markdown - > results.md     for a document; progress and notes are in it too
  dien-report multirun --by model.name --metrics val/auc,test/auc   other groups, other metrics
  dien-report multirun --html report.html --figures figures         a page to look at, figures for a paper
  dien-report --diff RUN_A RUN_B                                    why do these two differ?
  dien-report --bootstrap RUN_A RUN_B                               how sure is their difference on these test users?

Offline folders of W&B (wandb/offline-run-*) are runs too. Exit status: 0 if all was done; 1 if no run has finished: the
page and the notes then tell why; 2 for a mistake.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dien-report",
        description="Compare runs: mean ± standard deviation over seeds, and a paired test against a baseline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="run folders, or folders that contain them")
    parser.add_argument("--by", type=_names, metavar="KEY,...", help="group by these configuration keys only")
    parser.add_argument("--metrics", type=_names, metavar="NAME,...", help="metrics; the first is sorted by and tested")
    parser.add_argument("--baseline", metavar="NAME", help="variant to compare with (default: base, else the first)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown; - is the standard output")
    parser.add_argument("--csv", metavar="FILE", help="write it as CSV, numbers in full precision")
    parser.add_argument("--latex", metavar="FILE", help="write it as LaTeX (booktabs)")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write figures as PNG and SVG")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page with all of it")
    parser.add_argument("--diff", nargs=2, type=Path, metavar=("A", "B"), help="what differs between two runs")
    parser.add_argument(
        "--bootstrap", nargs=2, type=Path, metavar=("A", "B"), help="difference of two runs, resampling the test users"
    )
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def report(arguments: argparse.Namespace) -> None:
    """Do what the arguments say.

    Raises:
        NothingFinishedError: no run has finished; all that can be told of them has been.
        DienError: for any mistake in the arguments.
    """
    to_output = [kind for kind in ("markdown", "csv", "latex") if getattr(arguments, kind) == "-"]
    if len(to_output) > 1:
        raise DienError(f"--{to_output[0]} - and --{to_output[1]} - cannot share the standard output.")
    if not arguments.runs and not arguments.diff and not arguments.bootstrap:
        raise DienError("name run folders, or folders that contain them; --help says what else there is.")
    console = Console(file=sys.stderr if to_output else sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = 1000  # plain columns are never wrapped
    extra = _between_two(arguments)
    for table in extra:
        print_table(table, console)
    if not arguments.runs:
        if asked := [kind for kind in ("markdown", "csv", "latex", "figures", "html") if getattr(arguments, kind)]:
            raise DienError(f"--{asked[0]} takes runs to compare: name their folders first.")
        return
    found = read(*arguments.runs, each=partial(counted, "reading the runs"))
    if not found:
        raise DataError(f"no runs in {', '.join(map(str, arguments.runs))}.")
    nothing, comparisons = None, []
    try:
        comparisons = compare(found, by=arguments.by, metrics=arguments.metrics, baseline=arguments.baseline)
    except NothingFinishedError as error:
        nothing = error
    notes = notes_of(comparisons, found)
    if not to_output:
        for comparison in comparisons:
            print_table(table_of(comparison), console)
    for note in notes if to_output in ([], ["csv"]) else []:  # the others contain them
        console.print(note, markup=False, soft_wrap=True)
    _write(arguments, comparisons, found, notes, extra)
    if nothing is not None:
        raise nothing


def _between_two(arguments: argparse.Namespace) -> list[Table]:
    """The tables of `--diff` and `--bootstrap`."""
    tables = []
    if arguments.diff:
        a, b = map(run_in, arguments.diff)
        names = [Path(run.folder).name for run in (a, b)]
        first, second = names if names[0] != names[1] else (a.folder, b.folder)
        found = difference_tables(a, b) or [Table("nothing differs", [], [])]
        tables += [table._replace(title=f"{table.title}: A {first}, B {second}") for table in found]
    if arguments.bootstrap:
        from dien.reporting.bootstrap import bootstrap_table  # it needs the model, which nothing else here does

        tables.append(bootstrap_table(*(Path(run_in(folder).folder) for folder in arguments.bootstrap)))
    return tables


def _write(
    arguments: argparse.Namespace,
    comparisons: Sequence[Comparison],
    found: Sequence[Run],
    notes: Sequence[str],
    extra: Sequence[Table],
) -> None:
    tables = [table_of(comparison) for comparison in comparisons]
    texts: dict[str, Callable[[], str]] = {
        "markdown": lambda: as_markdown(tables, notes),
        "csv": lambda: as_csv(comparisons),
        "latex": lambda: as_latex(tables, notes),
    }
    for kind, text in texts.items():
        place = getattr(arguments, kind)
        if place == "-":
            sys.stdout.write(text())
        elif place:
            _save(Path(place), text())
    if not arguments.figures and not arguments.html:
        return
    drawn: list[dict[str, Figure]] = [{} for _ in comparisons]
    drawings = [(number, name) for number in range(len(comparisons)) for name in plots.DRAWINGS]
    for number, name in counted("drawing", drawings):
        if (figure := plots.DRAWINGS[name](comparisons[number])) is not None:
            drawn[number][name] = figure
    if arguments.figures:
        _save_figures(arguments.figures, comparisons, drawn)
    if arguments.html:
        place = arguments.html.absolute().parent
        _save(arguments.html, page(comparisons, found, notes, figures=drawn, place=place, extra=extra))


def _save_figures(folder: Path, comparisons: Sequence[Comparison], drawn: Sequence[dict[str, Figure]]) -> None:
    named = {
        f"{name}-{comparison.data}" if len(comparisons) > 1 else name: figure
        for comparison, figures in zip(comparisons, drawn, strict=True)
        for name, figure in figures.items()
    }
    with _names_what_cannot_be_written(folder):
        for name, figure in counted("writing figures", list(named.items())):
            plots.save(figure, folder, name)


def _save(path: Path, text: str) -> None:
    with _names_what_cannot_be_written(path):
        runs.write_text(path, text)


@contextmanager
def _names_what_cannot_be_written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DienError(f"{path} cannot be written: {error.strerror or error}.") from error


def main() -> None:
    """`dien-report`"""
    with mistakes_in_one_sentence("dien-report"):
        report(_parser().parse_args())


if __name__ == "__main__":
    main()
