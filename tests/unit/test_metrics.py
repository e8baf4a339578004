"""Metrics against loops over pairs, and on the ordinary edge cases."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc

from dien.metrics import AUC, GAUC, Calibration, LogLoss, grouped_auc


def auc_by_pairs(score, label) -> float:
    clicks = [s for s, y in zip(score, label, strict=True) if y]
    others = [s for s, y in zip(score, label, strict=True) if not y]
    if not clicks or not others:
        return math.nan
    wins = sum((c > o) + 0.5 * (c == o) for c in clicks for o in others)
    return wins / (len(clicks) * len(others))


def gauc_by_loop(score, label, user) -> float:
    total = weight = 0.0
    for u in set(user):
        rows = [i for i, v in enumerate(user) if v == u]
        auc = auc_by_pairs([score[i] for i in rows], [label[i] for i in rows])
        if not math.isnan(auc):
            total, weight = total + len(rows) * auc, weight + len(rows)
    return total / weight if weight else math.nan


rows = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 4)), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(rows, st.integers(1, 7))
def test_auc_and_gauc_equal_a_loop_over_pairs_in_any_batches(rows, batch_size):
    score, label, user = (list(column) for column in zip(*rows, strict=True))
    auc, gauc = AUC(), GAUC()
    for i in range(0, len(rows), batch_size):
        part = slice(i, i + batch_size)
        args = torch.tensor(score[part]).float(), torch.tensor(label[part]).float(), torch.tensor(user[part])
        auc.update(*args)
        gauc.update(*args)
    assert auc.compute().item() == pytest.approx(auc_by_pairs(score, label), abs=1e-12, nan_ok=True)
    assert gauc.compute().item() == pytest.approx(gauc_by_loop(score, label, user), abs=1e-12, nan_ok=True)


def test_auc_equals_torchmetrics_on_many_rows():
    logit, label = torch.randn(5000).round(decimals=2), torch.randint(0, 2, (5000,))
    auc = AUC()
    auc.update(logit, label, label)
    assert auc.compute().item() == pytest.approx(binary_auroc(logit.sigmoid(), label).item(), abs=1e-6)


def test_all_equal_scores_are_one_half():
    auc, size = grouped_auc(torch.zeros(6), torch.tensor([1, 0, 1, 0, 0, 1]), torch.tensor([7, 7, 7, 3, 3, 3]))
    assert auc.tolist() == [0.5, 0.5]
    assert size.tolist() == [3, 3]


def test_gauc_weights_by_impressions_and_skips_one_class_users():
    # user 1: a perfect pair; user 2: four rows, one of three pairs right; user 3: clicks only.
    score = torch.tensor([2.0, 1.0, 5.0, 1.0, 6.0, 7.0, 0.0])
    label = torch.tensor([1, 0, 1, 0, 0, 0, 1]).float()
    user = torch.tensor([1, 1, 2, 2, 2, 2, 3])
    gauc = GAUC()
    gauc.update(score, label, user)
    assert gauc.compute().item() == pytest.approx((2 * 1 + 4 * (1 / 3)) / 6)


def test_log_loss_and_calibration():
    logit, label, user = torch.randn(50), torch.randint(0, 2, (50,)).float(), torch.zeros(50).long()
    loss, calibration = LogLoss(), Calibration()
    for part in (slice(0, 1), slice(1, 50)):
        loss.update(logit[part], label[part], user[part])
        calibration.update(logit[part], label[part], user[part])
    assert loss.compute().item() == pytest.approx(F.binary_cross_entropy_with_logits(logit, label).item())
    assert calibration.compute().item() == pytest.approx((logit.sigmoid().mean() / label.mean()).item())


def test_a_diverged_model_has_no_auc():
    """NaNs sort last: without care they would rank the rows by their order."""
    score, label = torch.tensor([0.1, torch.nan, torch.nan]), torch.tensor([0, 0, 1])
    auc, gauc = AUC(), GAUC()
    for metric in (auc, gauc):
        metric.update(score, label, torch.tensor([2, 2, 2]))
        assert metric.compute().isnan()


def test_saturated_logits_still_rank():
    """Sigmoids of large logits are all 1 in float32; the metric ranks by the logits."""
    auc = AUC()
    auc.update(torch.tensor([100.0, 90.0]), torch.tensor([1.0, 0.0]), torch.tensor([2, 2]))
    assert auc.compute() == 1
