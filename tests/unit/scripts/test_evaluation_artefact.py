"""The orders in which `scripts/evaluation_artefact.py` cuts test rows into batches."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LENGTHS = np.repeat(np.random.default_rng(0).integers(0, 9, 3_000), 2)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "evaluation_artefact.py"))


@pytest.mark.parametrize("name", ["sorted", "apart", "pairs", "shuffled"])
def test_orders(script: dict[str, Any], name: str) -> None:
    order = script["row_order"](name, LENGTHS, np.random.default_rng(1))
    assert np.array_equal(np.sort(order), np.arange(6_000))
    together = np.mean(np.isin(order[::2] ^ 1, order[1::2]) & (order[1::2] == order[::2] + 1))
    assert (together == 1) == (name in ("sorted", "pairs"))
    assert together == 1 or together < 0.05
    windows = np.split(order, range(2_560, 6_000, 2_560))
    in_window = all(np.array_equal(rows // 2_560, np.full(len(rows), i)) for i, rows in enumerate(windows))
    rising = all((np.diff(LENGTHS[rows]) >= 0).all() for rows in windows)
    assert in_window == rising == (name in ("sorted", "apart"))


def test_the_tables_by_hand(script: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    first = [[0.70, 0.70, 0.70, 0.68], [0.72, 0.72, 0.72, 0.68]]
    second = [[0.80, 0.80, 0.80, 0.73], [0.80, 0.80, 0.80, 0.71]]
    script["print_tables"](["dnn", "dien"], np.array([first, second]))
    printed = capsys.readouterr().out
    assert (
        "| dnn | 0.7100 ± 0.0141 | 0.7100 ± 0.0141 | 0.7100 ± 0.0141 | 0.6800 ± 0.0000 | +0.0300 ± 0.0141 |" in printed
    )
    # Sorted, dien is ahead by .10 and .08; shuffled, by .05 and .03: 0.04 of 0.09 remain.
    assert "| dien | +0.0900 ± 0.0141 |" in printed
    assert "| +0.0400 ± 0.0141 | 44 % |" in printed
