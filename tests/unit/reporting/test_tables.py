"""The same table on a terminal, in Markdown, LaTeX and CSV, and what stands below it."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from dien.reporting.comparison import Comparison, compare
from dien.reporting.tables import as_csv, as_latex, as_markdown, metric_name, notes_of, print_table, table_of
from dien.runs.read import Run, read


@pytest.fixture
def runs(make_run: Callable[..., Path], tmp_path: Path) -> list[Run]:
    for seed, (base, dien) in enumerate(((0.60, 0.70), (0.62, 0.74))):
        make_run(f"{seed}_base", model="base", alpha=0.0, seed=seed, auc=base, speed=9000.0)
        make_run(f"{seed}_dien", model="dien-augru_code", seed=seed, auc=dien, speed=1234.0)
    make_run("9_bad", seed=9, auc=None, status={"status": "failed", "error": "no space left | on <device>."})
    (make_run("8_hurt", model="base", alpha=0.0, seed=8) / "checkpoints" / "best.ckpt").unlink()
    return read(tmp_path)


@pytest.fixture
def comparison(runs: list[Run]) -> Comparison:
    return compare(runs)[0]


def test_cells(comparison: Comparison) -> None:
    table = table_of(comparison)
    assert table.columns == [
        *("variant", "runs", "test AUC", "test GAUC", "test log loss", "training samples/s"),
        *("RelaImpr", "Δ test AUC", "paired p (pairs)"),
    ]
    dien, base = table.rows
    assert dien[:3] == ["dien-augru_code", "2", "0.7200 ± 0.0283"]
    assert dien[5:] == ["1,234 ± 0", "+57.1 %", "+0.1100", "0.06 (2)"]  # t = 0.11 / 0.01: p = 2 / pi * atan(1 / 11)
    assert base[2:] == ["0.6400 ± 0.0529", "0.6300 ± 0.0529", "0.6200 ± 0.0265", "7,333 ± 2,887", "", "baseline", ""]


def test_notes_name_what_is_not_there_or_damaged(comparison: Comparison, runs: list[Run], tmp_path: Path) -> None:
    method, failed, damaged = notes_of([comparison], runs)
    assert method.startswith("baseline base; mean ± sample standard deviation")
    assert failed == f"not in the table: {tmp_path}/runs/9_bad: it failed: no space left | on <device>."
    assert damaged == f"in the table, but: {tmp_path}/runs/8_hurt: checkpoints/best.ckpt is missing."


def test_markdown_escapes_what_would_break_it(comparison: Comparison) -> None:
    text = as_markdown([table_of(comparison)], ["a | b <c> *d*"])
    header, ruler, dien, base, _, note = text.splitlines()
    assert header.count("|") == ruler.count("|") == dien.count("|") == base.count("|") == 10
    assert dien.startswith("| dien-augru\\_code | 2 | 0.7200 ± 0.0283 |")
    assert note == "- a \\| b \\<c\\> \\*d\\*"


def test_latex_escapes_what_would_break_it(comparison: Comparison) -> None:
    text = as_latex([table_of(comparison)], ["a note"])
    assert r"\begin{tabular}{lrrrrrrrr}" in text
    assert r"dien-augru\_code & 2 & 0.7200 $\pm$ 0.0283" in text
    assert r"+57.1 \%" in text
    assert text.count("&") == 3 * 8
    assert text.endswith("% a note\n")


def test_csv_has_the_numbers_in_full(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv([comparison]))))
    assert [row["variant"] for row in rows] == ["dien-augru_code", "base"]
    dien, base = rows
    assert float(dien["test/auc mean"]) == pytest.approx(0.72, abs=1e-12)
    assert float(dien["test/auc std"]) == pytest.approx(0.02 * 2**0.5)
    assert float(dien["relaimpr"]) == pytest.approx(0.22 / 0.14 - 1)
    assert float(dien["difference"]) == pytest.approx(0.11)
    assert (dien["pairs"], dien["baseline"], dien["data"], dien["seeds"]) == ("2", "base", "sample", "2")
    assert base["p"] == base["relaimpr"] == ""


def test_plain_output_has_no_control_codes_and_no_wrapped_lines(comparison: Comparison) -> None:
    file = io.StringIO()
    print_table(table_of(comparison), Console(file=file, width=1000))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert len(lines) == 4
    assert "\x1b" not in file.getvalue()
    assert lines[2].split()[:4] == ["dien-augru_code", "2", "0.7200", "±"]


def test_names_of_metrics() -> None:
    assert metric_name("test/auc") == "test AUC"
    assert metric_name("val/logloss") == "val log loss"
    assert metric_name("best_epoch") == "best epoch"
