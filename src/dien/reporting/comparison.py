"""The comparison of variants on one dataset: spreads over seeds, and tests against a baseline on the same seeds."""

from collections.abc import Sequence
from typing import NamedTuple

from dien.errors import ConfigError, DienError
from dien.reporting.variants import Variant, variants_of
from dien.runs.read import FINISHED, Run
from dien.statistics import Paired, Spread, paired, relative_improvement, spread

METRICS = ("test/auc", "test/gauc", "test/logloss", "train/samples_per_second")
LOWER_IS_BETTER = ("loss", "seconds")


class NothingFinishedError(DienError):
    """There is nothing to compare, but runs that can be named."""

    status = 1


class Row(NamedTuple):
    """One variant in a comparison."""

    variant: Variant
    spreads: dict[str, Spread]
    """By metric; without those that it has no value of."""
    paired: Paired | None
    """Against the baseline, in the first metric; None for the baseline itself, or without one."""
    improvement: float | None
    """RelaImpr in the first AUC among the metrics, as a fraction; None for the baseline, or where it has no meaning."""


class Comparison(NamedTuple):
    """Variants on one dataset, best first."""

    data: str
    metrics: tuple[str, ...]
    """The first is the one that variants are sorted and tested by."""
    auc: str | None
    """The metric that RelaImpr is of."""
    baseline: str | None
    rows: tuple[Row, ...]
    fingerprints: int
    """Number of different test rows: of prepared datasets, and of ways to draw their negatives. With more than one
    nothing is tested against the baseline."""
    lacks: str | None = None
    """The baseline that was asked for, if no variant here is it."""

    @property
    def runs(self) -> list[Run]:
        return [run for row in self.rows for run in row.variant.runs]


def compare(
    runs: Sequence[Run],
    *,
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
) -> list[Comparison]:
    """Compare the finished ones among some runs, one comparison a dataset (`data.name`).

    Args:
        by: see `variants_of`.
        metrics: names in `metrics.json`; None: `METRICS`, of the validation split where nothing was tested.
        baseline: name of a variant; None: the one whose model is `base`, or else the first of the sweep.

    Raises:
        NothingFinishedError: if no run has finished.
        ConfigError: for a metric that no run has, a baseline that is no variant, or a key that no run has.
    """
    finished = [run for run in runs if run.status == FINISHED and run.metrics]
    if not finished:
        raise NothingFinishedError(f"none of the {len(runs)} runs there has finished: nothing can be compared.")
    chosen = _metrics(finished, metrics)
    by_data: dict[str, list[Run]] = {}
    for run in finished:
        by_data.setdefault(str(run.config.get("data.name", "")), []).append(run)
    groups = {data: variants_of(group, _keys_for(group, by, finished)) for data, group in by_data.items()}
    names = dict.fromkeys(variant.name for group in groups.values() for variant in group)
    if baseline is not None and baseline not in names:
        raise ConfigError(f"--baseline {baseline}: the variants are {'; '.join(names)}.")
    return [_comparison(data, group, chosen, baseline) for data, group in groups.items()]


def _keys_for(group: Sequence[Run], by: Sequence[str] | None, finished: Sequence[Run]) -> Sequence[str] | None:
    """A key that only other datasets' runs have is a key all the same."""
    if by is None:
        return None
    known = {key for run in finished for key in run.config}
    here = {key for run in group for key in run.config}
    return [key for key in by if key in here or key not in known]


def _metrics(finished: Sequence[Run], asked: Sequence[str] | None) -> tuple[str, ...]:
    known = sorted({name for run in finished for name in run.metrics})
    if asked is None:
        usual = METRICS if METRICS[0] in known else [name.replace("test/", "val/") for name in METRICS]
        return tuple(name for name in usual if name in known) or tuple(known[:1])
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"--metrics {unknown[0]}: the metrics are {', '.join(known)}.")
    return tuple(dict.fromkeys(asked))


def _comparison(data: str, variants: list[Variant], metrics: tuple[str, ...], asked: str | None) -> Comparison:
    base = _baseline(variants, asked)
    auc = next((name for name in metrics if name.endswith("auc")), None)
    base_auc = None if base is None or auc is None else base.by_seed(auc)
    lacks = asked if asked is not None and all(variant.name != asked for variant in variants) else None
    different, rows = _different_rows(variants), []
    for variant in variants:
        values = {metric: variant.by_seed(metric) for metric in metrics}
        spreads = {metric: spread(list(seeds.values())) for metric, seeds in values.items() if seeds}
        test, improvement = None, None
        if base is not None and variant is not base and different == 1:
            test = paired(values[metrics[0]], base.by_seed(metrics[0]))
            if auc in spreads and base_auc:
                improvement = relative_improvement(spreads[auc].mean, spread(list(base_auc.values())).mean)
        rows.append(Row(variant, spreads, test, improvement))
    sign = 1 if any(word in metrics[0] for word in LOWER_IS_BETTER) else -1
    rows.sort(key=lambda row: sign * row.spreads[metrics[0]].mean if metrics[0] in row.spreads else float("inf"))
    return Comparison(data, metrics, auc, base and base.name, tuple(rows), different, lacks)


def _different_rows(variants: Sequence[Variant]) -> int:
    """How many different sets of rows these were tested on; a run that does not name its dataset has that of others."""
    runs = [run for variant in variants for run in variant.runs]
    prints = [run.environment.get("dataset_fingerprint") for run in runs]
    usual = next((name for name in prints if name is not None), None)
    return len({(usual if name is None else name, *_negatives(run)) for name, run in zip(prints, runs, strict=True)})


def _negatives(run: Run) -> list[object]:
    """What decides the negatives of the evaluation; null follows training."""
    found: list[object] = [run.config.get("data.negatives.eval")]
    for key in ("strategy", "exponent", "counts", "exclude"):
        own = run.config.get(f"data.negatives.eval_{key}")
        found.append(run.config.get(f"data.negatives.{key}") if own is None else own)
    return found


def _baseline(variants: list[Variant], asked: str | None) -> Variant | None:
    if len(variants) < 2:
        return None
    if asked is not None:
        return next((variant for variant in variants if variant.name == asked), None)
    plain = (variant for variant in variants if variant.runs[0].config.get("model.name") == "base")
    return next(plain, variants[0])
