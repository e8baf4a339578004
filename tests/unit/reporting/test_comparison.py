"""Variants and their comparison: what is grouped, how it is called, and the numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dien.errors import ConfigError, DienError
from dien.reporting.comparison import compare
from dien.reporting.tables import notes_of, table_of
from dien.reporting.variants import variants_of
from dien.runs.read import read

MakeRun = Callable[..., Path]
AUCS = {"base": (0.60, 0.62, 0.61), "din": (0.66, 0.67, 0.65), "dien-augru": (0.70, 0.69, 0.72)}


@pytest.fixture
def three_models(make_run: MakeRun, tmp_path: Path) -> Path:
    """Three models with three seeds each, and what a sweep leaves besides: a running and a failed job."""
    number = 0
    for model, aucs in AUCS.items():
        for seed, auc in enumerate(aucs):
            make_run(f"{number}_{model}", model=model, seed=seed, auc=auc, alpha=float(model == "dien-augru"))
            number += 1
    make_run("98_late", seed=8, auc=None, status={"status": "running"})
    make_run("99_bad", seed=9, auc=None, status={"status": "failed", "error": "the disk is full."})
    return tmp_path / "runs"


def names(folder: Path, by: list[str] | None = None) -> list[str]:
    return [variant.name for variant in variants_of(read(folder), by)]


def test_means_tests_and_improvement_against_the_baseline(three_models: Path) -> None:
    (comparison,) = compare(read(three_models))
    assert comparison.data == "sample"
    assert [row.variant.name for row in comparison.rows] == ["dien-augru", "din", "base"]  # best first
    assert comparison.baseline == "base"
    for row in comparison.rows:
        aucs, base = np.array(AUCS[row.variant.name]), np.array(AUCS["base"])
        assert row.spreads["test/auc"].mean == pytest.approx(aucs.mean())
        assert row.spreads["test/auc"].std == pytest.approx(aucs.std(ddof=1))
        if row.variant.name == "base":
            assert (row.paired, row.improvement) == (None, None)
            continue
        assert row.paired is not None
        assert row.paired.difference == pytest.approx((aucs - base).mean())
        t = (aucs - base).mean() / ((aucs - base).std(ddof=1) / np.sqrt(3))
        assert row.paired.p_value == pytest.approx(2 * stats.t.sf(abs(t), 2))
        assert row.paired.pairs == 3
        assert row.improvement == pytest.approx((aucs.mean() - 0.5) / (base.mean() - 0.5) - 1)


def test_the_first_metric_decides_order_and_test(three_models: Path) -> None:
    (comparison,) = compare(read(three_models), metrics=["test/logloss", "val/auc"], baseline="din")
    assert [row.variant.name for row in comparison.rows] == ["dien-augru", "din", "base"]  # lower is better
    test = comparison.rows[0].paired
    assert test is not None
    assert test.difference == pytest.approx(np.mean(np.subtract(AUCS["din"], AUCS["dien-augru"]) / 2))
    assert comparison.auc == "val/auc"
    assert comparison.rows[0].improvement == pytest.approx((0.7033333 - 0.5) / (0.66 - 0.5) - 1, rel=1e-5)


def test_seeds_that_only_one_has_are_no_pairs(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, auc in ((0, 0.6), (1, 0.61)):
        make_run(f"base{seed}", model="base", alpha=0.0, seed=seed, auc=auc)
    for seed, auc in ((1, 0.7), (2, 0.71)):
        make_run(f"dien{seed}", seed=seed, auc=auc)
    make_run("din3", model="din", alpha=0.0, seed=3)
    (comparison,) = compare(read(tmp_path))
    rows = {row.variant.name: row for row in comparison.rows}
    assert rows["dien-augru"].paired == (pytest.approx(0.09), None, None, None, 1)
    assert rows["din"].paired == (None, None, None, None, 0)
    assert rows["din"].spreads["test/auc"].std is None


def test_runs_of_one_seed_count_as_their_mean(make_run: MakeRun, tmp_path: Path) -> None:
    for name, seed, auc in (("a", 0, 0.6), ("again", 0, 0.7), ("b", 1, 0.8)):
        make_run(name, seed=seed, auc=auc)
    (comparison,) = compare(read(tmp_path))
    (row,) = comparison.rows
    assert row.spreads["test/auc"].mean == pytest.approx((0.65 + 0.8) / 2)
    assert row.spreads["test/auc"].values == 2
    assert comparison.baseline is None


def test_each_dataset_is_compared_with_its_own_baseline(make_run: MakeRun, tmp_path: Path) -> None:
    for data, better in (("sample", 0.1), ("ml_100k", 0.2)):
        for seed in (0, 1):
            make_run(f"{data}base{seed}", model="base", alpha=0.0, data=data, seed=seed, auc=0.6)
            make_run(f"{data}dien{seed}", data=data, seed=seed, auc=0.6 + better + 0.01 * seed)
    sample, movies = sorted(compare(read(tmp_path)), key=lambda comparison: comparison.data, reverse=True)
    for comparison, better in ((sample, 0.1), (movies, 0.2)):
        assert [row.variant.name for row in comparison.rows] == ["dien-augru", "base"]
        assert comparison.rows[0].paired is not None
        assert comparison.rows[0].paired.difference == pytest.approx(better + 0.005)
        assert comparison.fingerprints == 1


def test_variants_tested_on_different_rows_are_counted(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a")
    make_run("b", seed=1, environment={"dataset_fingerprint": "other"})
    assert compare(read(tmp_path))[0].fingerprints == 2


@pytest.mark.parametrize(("key", "value", "different"), [("eval_strategy", "uniform", 2), ("strategy", "uniform", 2),
    ("eval_strategy", "popularity", 1), ("eval", 9, 2), ("train", 9, 1)])  # fmt: skip
def test_other_negatives_in_the_evaluation_are_other_rows(make_run, tmp_path, key, value, different) -> None:
    """`eval_*=null` follows training."""
    for seed in (0, 1):
        make_run(f"a{seed}", model="base", seed=seed, config={"data.negatives.eval_strategy": None})
        make_run(f"b{seed}", model="din", seed=seed, auc=0.8, config={f"data.negatives.{key}": value})
    runs = read(tmp_path)
    (comparison,) = compare(runs)
    assert comparison.fingerprints == different
    tested = [row for row in comparison.rows if row.paired is not None and row.improvement is not None]
    assert len(tested) == 2 - different
    assert any("not tested on the same rows" in note for note in notes_of([comparison], runs)) == (different == 2)


def test_without_a_test_split_the_validation_metrics_are_compared(make_run: MakeRun, tmp_path: Path) -> None:
    metrics = make_run("a") / "metrics.json"
    metrics.write_text('{"val/auc": 0.6, "val/logloss": 0.5}')
    assert compare(read(tmp_path))[0].metrics == ("val/auc", "val/logloss")


def test_a_name_has_what_tells_variants_apart_and_no_more(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("base", model="base", alpha=0.0)
    for alpha in (0.0, 1.0):
        make_run(f"dien{alpha}", alpha=alpha, seed=int(alpha))
    assert names(tmp_path) == ["base", "dien-augru, alpha=0", "dien-augru, alpha=1"]


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([{"optimizer.lr": 0.01}, {"optimizer.lr": 0.003}], ["lr=0.01", "lr=0.003"]),
        ([{"data.negatives.train": 1}, {"data.negatives.train": 5}], ["negatives.train=1", "negatives.train=5"]),
        (  # a class with options of its own: its name tells more than they do
            [
                {"model.attention": {"_target_": "dien.MLP", "hidden": [8], "activation": "relu"}},
                {"model.attention": {"_target_": "dien.Bilinear"}},
            ],
            ["attention=MLP", "attention=Bilinear"],
        ),
        ([{"data.a.k": 1, "model.a.k": 1}, {"data.a.k": 1, "model.a.k": 2}, {"data.a.k": 2, "model.a.k": 2}],
         ["data.a.k=1, model.a.k=1", "data.a.k=1, model.a.k=2", "data.a.k=2, model.a.k=2"]),
        ([{"model.size": None}, {"model.size": 36}], ["size=null", "size=36"]),
        ([{"model.flag": True}, {"model.flag": False}], ["flag=true", "flag=false"]),
        # none of these decides a number
        ([{"data.num_workers": 0, "logger.wandb.project": "a", "callbacks.progress": 1, "data.cache": "b"}, {}],
         ["dien-augru"]),
    ],
)  # fmt: skip
def test_names_of_variants(make_run: MakeRun, tmp_path: Path, configs: list[dict], expected: list[str]) -> None:
    for number, config in enumerate(configs):
        make_run(str(number), seed=number, config=config)
    assert names(tmp_path) == expected


def test_keys_to_group_by_can_be_chosen(make_run: MakeRun, tmp_path: Path) -> None:
    for number, (alpha, rate) in enumerate([(0.0, 0.1), (0.0, 0.2), (1.0, 0.1), (1.0, 0.2)]):
        make_run(str(number), alpha=alpha, config={"optimizer.lr": rate}, auc=0.6 + number / 10, seed=number % 2)
    assert len(names(tmp_path)) == 4
    assert names(tmp_path, ["model.alpha"]) == ["alpha=0", "alpha=1"]
    (comparison,) = compare(read(tmp_path), by=["optimizer.lr"])
    assert {row.variant.name: row.spreads["test/auc"].mean for row in comparison.rows} == {
        "lr=0.1": pytest.approx(0.7),
        "lr=0.2": pytest.approx(0.8),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["test/auk"]}, "--metrics test/auk: the metrics are .*test/auc, test/calibration"),
        ({"baseline": "bass"}, "--baseline bass: the variants are base; din; dien-augru"),
        ({"by": ["model.nam"]}, "--by model.nam: no run has that key; those that differ are .*model.name"),
    ],
)
def test_mistakes_name_what_there_is(three_models: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(read(three_models), **options)


def test_nothing_finished_is_one_sentence(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", auc=None)
    with pytest.raises(DienError, match="none of the 1 runs there has finished"):
        compare(read(tmp_path))


def test_a_table_without_the_baseline_says_so_and_relaimpr_says_of_what(make_run, tmp_path) -> None:
    for seed in (0, 1):
        for model, data in (("base", "one"), ("din", "one"), ("din", "two"), ("dien-augru", "two")):
            make_run(f"{model}_{data}_{seed}", model=model, data=data, seed=seed)
    runs = read(tmp_path)
    comparisons = compare(runs, baseline="base", metrics=["test/gauc"])
    said = [note for note in notes_of(comparisons, runs) if "no variant is called base" in note]
    assert [note.partition(":")[0] for note in said] == ["two"]
    one = next(comparison for comparison in comparisons if comparison.data == "one")
    assert "RelaImpr (test GAUC)" in table_of(one).columns
    assert "RelaImpr" in table_of(compare(runs)[0]).columns
