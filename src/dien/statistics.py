"""What a comparison of runs may claim: spreads over seeds, paired tests on the same seeds, a bootstrap over users.

Axes: S scored rows of a test split, U users, R rounds of a bootstrap.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dien.errors import DataError

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of every interval that a report gives."""


class Spread(NamedTuple):
    """A metric over seeds."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single value."""
    values: int
    """How many there are."""
    low: float | None
    """Ends of the 95 % interval of the mean, by Student's t; None for a single value."""
    high: float | None


class Paired(NamedTuple):
    """A variant against the baseline, on the seeds that both have."""

    difference: float | None
    """Mean of variant - baseline; None without a common seed."""
    low: float | None
    """Ends of the 95 % interval of the difference; None below two pairs."""
    high: float | None
    p_value: float | None
    """Two-sided paired t-test; None below two pairs, and where all differences are equal, where it says nothing."""
    pairs: int


class Bootstrap(NamedTuple):
    """A metric of two runs on the same test rows, and how sure their difference is given these users."""

    a: float
    b: float
    difference: float
    """a - b."""
    low: float
    """Ends of the 95 % percentile interval of the difference."""
    high: float
    users: int
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and interval of at least one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Spread(mean, None, len(values), None, None)
    std = float(np.std(values, ddof=1))
    half = _half_width(std, len(values))
    return Spread(mean, std, len(values), mean - half, mean + half)


def paired(values: Mapping[Hashable, float], baseline: Mapping[Hashable, float]) -> Paired:
    """Compare values by seed with those of the baseline; seeds that only one of them has do not count."""
    seeds = [seed for seed in values if seed in baseline]
    if not seeds:
        return Paired(None, None, None, None, 0)
    first, second = (np.array([group[seed] for seed in seeds], float) for group in (values, baseline))
    differences = first - second
    mean = float(differences.mean())
    if len(seeds) < 2:
        return Paired(mean, None, None, None, len(seeds))
    # A t-test of equal differences divides by rounding errors.
    equal = np.ptp(differences) <= 1e-12 * max(np.abs(first).max(), np.abs(second).max())
    half = _half_width(float(differences.std(ddof=1)), len(seeds))
    p_value = None if equal else float(stats.ttest_rel(first, second).pvalue)
    return Paired(mean, mean - half, mean + half, p_value, len(seeds))


def _half_width(std: float, count: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * std / math.sqrt(count)


def relative_improvement(auc: float, baseline: float) -> float | None:
    """RelaImpr = (AUC - 0.5) / (AUC_base - 0.5) - 1, as a fraction; None if the baseline is not better than chance."""
    return (auc - 0.5) / (baseline - 0.5) - 1 if baseline > 0.5 else None


def weighted_auc(label_S: Floats, weight_S: Floats, tie_S: NDArray[np.int64]) -> float:
    """AUC with a weight for each row, ties counting one half.

    Args:
        label_S: 1 for a click, 0 otherwise, in ascending order of the scores.
        weight_S: in the same order.
        tie_S: the number of the score that each row has, equal scores the same one, ascending from 0.

    Returns:
        NaN unless there are clicks and non-clicks of positive weight.
    """
    clicks_T = np.bincount(tie_S, weight_S * label_S)
    others_T = np.bincount(tie_S, weight_S * (1 - label_S))
    below_T = np.cumsum(others_T) - others_T
    pairs = clicks_T.sum() * others_T.sum()
    return float((clicks_T * (below_T + others_T / 2)).sum() / pairs) if pairs else math.nan


def bootstrap_users(
    score_a_S: Floats,
    score_b_S: Floats,
    label_S: Floats,
    user_S: NDArray[np.int64],
    *,
    metric: str = "auc",
    rounds: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Difference of a metric between two runs, with an interval from resampling the test users with replacement.

    Users are drawn and not rows, because the rows of one user depend on each other.

    Args:
        score_a_S: scores of run A for the same rows as `score_b_S`.
        label_S: 1 for a click, 0 otherwise.
        user_S: who each row belongs to, any numbers.
        metric: `auc`, or `gauc` (the mean of the users' AUC weighted by their rows; users with one class are left out).

    Raises:
        DataError: if the rows lack clicks or non-clicks.
    """
    user_S = np.unique(user_S, return_inverse=True)[1]
    users = int(user_S.max(initial=-1)) + 1
    estimates = [_estimator(metric, score_S, label_S, user_S) for score_S in (score_a_S, score_b_S)]
    a, b = (estimate(np.ones(users)) for estimate in estimates)
    if math.isnan(a - b):
        raise DataError(f"the {metric} of these test rows is undefined: it takes clicks and non-clicks.")
    rng = np.random.default_rng(seed)
    differences_R = np.empty(rounds)
    for number in range(rounds):
        weight_U = np.bincount(rng.integers(users, size=users), minlength=users).astype(float)
        differences_R[number] = estimates[0](weight_U) - estimates[1](weight_U)
    low, high = np.nanquantile(differences_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Bootstrap(a, b, a - b, float(low), float(high), users, rounds)


def _estimator(metric: str, score_S: Floats, label_S: Floats, user_S: NDArray[np.int64]) -> Callable[[Floats], float]:
    """The metric as a function of how often each user was drawn."""
    if metric == "gauc":
        import torch  # here, so that a table of runs does without it

        from dien.metrics import grouped_auc

        auc_U, size_U = (
            values_U.double().numpy()
            for values_U in grouped_auc(*(torch.from_numpy(values_S) for values_S in (score_S, label_S, user_S)))
        )
        both_U = ~np.isnan(auc_U)
        size_U, auc_U = size_U[both_U], auc_U[both_U]

        def gauc(weight_U: Floats) -> float:
            total = (weight_U[both_U] * size_U).sum()
            return float((weight_U[both_U] * size_U * auc_U).sum() / total) if total else math.nan

        return gauc
    order_S = score_S.argsort(kind="stable")
    label_S, user_S = label_S[order_S], user_S[order_S]
    tie_S = np.unique(score_S, return_inverse=True)[1][order_S]
    return lambda weight_U: weighted_auc(label_S, weight_U[user_S], tie_S)
