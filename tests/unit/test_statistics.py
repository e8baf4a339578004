"""Statistics of reports, against values worked out by hand or by another implementation."""

import math

import numpy as np
import pytest

from dien.errors import DataError
from dien.statistics import bootstrap_users, paired, relative_improvement, spread, weighted_auc


def test_spread_is_the_sample_standard_deviation_and_students_interval() -> None:
    found = spread([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.std == pytest.approx(math.sqrt(7 / 3))
    half = 4.302652729911275 * math.sqrt(7 / 3) / math.sqrt(3)  # t of two degrees of freedom, 97.5 %
    assert (found.low, found.high) == pytest.approx((7 / 3 - half, 7 / 3 + half))
    assert spread([0.7]) == (0.7, None, 1, None, None)


def test_paired_compares_common_seeds_only() -> None:
    found = paired({0: 0.72, 1: 0.70, 2: 0.75, 9: 0.1}, {0: 0.70, 1: 0.69, 2: 0.72, 5: 0.9})
    assert found.pairs == 3
    assert found.difference == pytest.approx(0.02)
    t = 0.02 / (0.01 / math.sqrt(3))  # two degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))
    half = 4.302652729911275 * 0.01 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.02 - half, 0.02 + half))


def test_paired_with_too_little() -> None:
    assert paired({0: 0.7}, {1: 0.6}) == (None, None, None, None, 0)
    one = paired({0: 0.7, 1: 0.8}, {0: 0.6})
    assert one.difference == pytest.approx(0.1)
    assert (one.low, one.high, one.p_value, one.pairs) == (None, None, None, 1)
    equal = paired({0: 0.7, 1: 0.8, 2: 0.1}, {0: 0.6, 1: 0.7, 2: 0.0})  # equal up to rounding
    assert equal.p_value is None
    assert equal.pairs == 3


def test_relative_improvement() -> None:
    assert relative_improvement(0.7, 0.6) == pytest.approx(1.0)
    assert relative_improvement(0.55, 0.6) == pytest.approx(-0.5)
    assert relative_improvement(0.7, 0.5) is None
    assert relative_improvement(0.7, 0.4) is None


def test_weighted_auc_is_the_auc_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    score, label, weight = rng.integers(0, 6, 40) / 6, rng.integers(0, 2, 40), rng.integers(0, 4, 40)
    click, other = (np.repeat(score[label == kind], weight[label == kind]) for kind in (1, 0))
    by_hand = ((click[:, None] > other) + 0.5 * (click[:, None] == other)).mean()
    order = score.argsort()
    tie = np.unique(score, return_inverse=True)[1][order]
    assert weighted_auc(label[order].astype(float), weight[order].astype(float), tie) == pytest.approx(by_hand)
    assert math.isnan(weighted_auc(np.ones(2), np.ones(2), np.array([0, 1])))


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Useful scores, labels and users of 3000 rows; users have 2 to 40 rows and a taste of their own."""
    rng = np.random.default_rng(1)
    user = rng.permutation(np.repeat(np.arange(150), rng.integers(2, 40, 150))[:3000])
    label = (rng.random(len(user)) < 0.4).astype(float)
    score = label + rng.normal(0, 1.5, len(user)) + rng.normal(0, 1, 150)[user]
    return score, label, user


@pytest.mark.parametrize("metric", ["auc", "gauc"])
def test_bootstrap_of_equal_scores_is_zero_and_of_better_ones_is_not(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], metric: str
) -> None:
    score, label, user = rows
    same = bootstrap_users(score, score.copy(), label, user, metric=metric, rounds=50)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert same.users == len(np.unique(user))
    better = bootstrap_users(score + 0.5 * label, score, label, user, metric=metric, rounds=200)
    assert 0 < better.low < better.difference < better.high
    again = bootstrap_users(score + 0.5 * label, score, label, user, metric=metric, rounds=200)
    assert again == better  # the seed decides
    order = np.random.default_rng(2).permutation(len(user))
    shuffled = bootstrap_users((score + 0.5 * label)[order], score[order], label[order], user[order] + 7, metric=metric)
    assert shuffled.a == pytest.approx(better.a)


def test_bootstrap_metrics_are_those_of_the_evaluation(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    import torch

    from dien.metrics import AUC, GAUC

    score, label, user = rows
    for name, metric in (("auc", AUC()), ("gauc", GAUC())):
        metric.update(*(torch.from_numpy(values) for values in (score, label, user)))
        found = bootstrap_users(score, -score, label, user, metric=name, rounds=2)
        assert found.a == pytest.approx(float(metric.compute()), abs=1e-6)
        assert found.b == pytest.approx(1 - found.a)


def test_bootstrap_interval_covers_like_resampling_rows_of_one_row_users() -> None:
    """With a row a user, the standard error is that of the mean of independent rows: Hanley and McNeil's, about."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 2000).astype(float)
    score, noise = label + rng.normal(0, 1, 2000), rng.normal(0, 1, 2000)
    found = bootstrap_users(score, noise, label, np.arange(2000), rounds=400)
    clicks, auc = label.sum(), found.a
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    others = len(label) - clicks
    error = math.sqrt((auc * (1 - auc) + (clicks - 1) * (q1 - auc**2) + (others - 1) * (q2 - auc**2)) / clicks / others)
    noise_error = math.sqrt((len(label) + 1) / (12 * clicks * others))
    width = 2 * 1.96 * math.hypot(error, noise_error)
    assert found.high - found.low == pytest.approx(width, rel=0.15)


def test_bootstrap_without_both_classes_is_an_error() -> None:
    with pytest.raises(DataError, match="auc of these test rows is undefined"):
        bootstrap_users(np.arange(3.0), np.arange(3.0), np.ones(3), np.arange(3))
