"""Ranking and calibration metrics, exact and over all rows.

Axes: S scored rows of an evaluation.

- AUC: over all rows; the probability that a click scores above a non-click, ties counting one half.
- GAUC: the mean of the AUC of each user who has both clicks and non-clicks, weighted by the user's rows (Zhu et al.,
  Optimized Cost per Click in Taobao Display Advertising, KDD 2017).
- Log loss: mean binary cross-entropy. Calibration: mean prediction / mean label, 1 is perfect.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def grouped_auc(score_S: Tensor, label_S: Tensor, group_S: Tensor) -> tuple[Tensor, Tensor]:
    """AUC within each group by the rank-sum identity, ties counting one half.

    Args:
        score_S: any real scores; only their order matters.
        label_S: 1 for a click, 0 otherwise.
        group_S: int64, rows with the same number belong together.

    Returns:
        float64 AUC of each group (NaN where a group lacks clicks or non-clicks, and everywhere if a score is NaN: a
        model that diverged ranks nothing) and its number of rows (int64), groups in ascending order.
    """
    order_S = score_S.argsort(stable=True)
    order_S = order_S[group_S[order_S].argsort(stable=True)]
    score_S, label_S, group_S = score_S[order_S], label_S[order_S].double(), group_S[order_S]
    _, group_S, size_G = group_S.unique_consecutive(return_inverse=True, return_counts=True)

    # Equal scores of one group share the mean of their ranks.
    position_S = torch.arange(len(score_S), dtype=torch.float64, device=score_S.device)
    new_tie_S = torch.ones_like(group_S, dtype=torch.bool)
    new_tie_S[1:] = (score_S[1:] != score_S[:-1]) | (group_S[1:] != group_S[:-1])
    tie_S = new_tie_S.cumsum(0) - 1
    tie_size = tie_S.bincount()
    first_of_tie = position_S[new_tie_S]
    first_of_group_G = (size_G.cumsum(0) - size_G).double()
    rank_S = (first_of_tie + (tie_size - 1) / 2)[tie_S] - first_of_group_G[group_S] + 1

    zero_G = torch.zeros(len(size_G), dtype=torch.float64, device=score_S.device)
    clicks_G = zero_G.index_add(0, group_S, label_S)
    rank_sum_G = zero_G.index_add(0, group_S, rank_S * label_S)
    pairs_G = clicks_G * (size_G - clicks_G)
    if score_S.isnan().any():
        return zero_G / 0, size_G
    return (rank_sum_G - clicks_G * (clicks_G + 1) / 2) / pairs_G, size_G


class AUC(Metric):
    """Area under the ROC curve over all rows; NaN unless there are both clicks and non-clicks."""

    higher_is_better = True
    full_state_update = False
    score: list[Tensor]
    label: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("score", default=[], dist_reduce_fx="cat")
        self.add_state("label", default=[], dist_reduce_fx="cat")

    def update(self, logit_B: Tensor, label_B: Tensor, user_B: Tensor) -> None:
        self.score.append(logit_B.detach().float())
        self.label.append(label_B.float())

    def compute(self) -> Tensor:
        score_S = dim_zero_cat(self.score)
        group_S = torch.zeros(len(score_S), dtype=torch.int64, device=score_S.device)
        return grouped_auc(score_S, dim_zero_cat(self.label), group_S)[0][0]


class GAUC(Metric):
    """Impression-weighted mean of the per-user AUC, over users with both classes; NaN if there is none."""

    higher_is_better = True
    full_state_update = False
    score: list[Tensor]
    label: list[Tensor]
    user: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("score", "label", "user"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, logit_B: Tensor, label_B: Tensor, user_B: Tensor) -> None:
        self.score.append(logit_B.detach().float())
        self.label.append(label_B.float())
        self.user.append(user_B)

    def compute(self) -> Tensor:
        auc_G, size_G = grouped_auc(dim_zero_cat(self.score), dim_zero_cat(self.label), dim_zero_cat(self.user))
        both_G = ~auc_G.isnan()
        return (auc_G[both_G] * size_G[both_G]).sum() / size_G[both_G].sum()


class LogLoss(Metric):
    """Mean binary cross-entropy in nats, accumulated in float64."""

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logit_B: Tensor, label_B: Tensor, user_B: Tensor) -> None:
        loss = F.binary_cross_entropy_with_logits(logit_B.detach().double(), label_B.double(), reduction="sum")
        self.total += loss
        self.count += len(label_B)

    def compute(self) -> Tensor:
        return self.total / self.count


class Calibration(Metric):
    """Mean predicted probability / mean label: above 1 the model promises too many clicks; inf without a click."""

    full_state_update = False
    predicted: Tensor
    clicks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("predicted", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clicks", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logit_B: Tensor, label_B: Tensor, user_B: Tensor) -> None:
        self.predicted += logit_B.detach().double().sigmoid().sum()
        self.clicks += label_B.double().sum()

    def compute(self) -> Tensor:
        return self.predicted / self.clicks
