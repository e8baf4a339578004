"""The interest extractor: a GRU over the clicked items, and the auxiliary loss that supervises its states.

Axes: B rows, N real steps, D item vector, H hidden, K negatives a step, C = 1 + K candidates for the next click.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dien import distributed
from dien.errors import ConfigError
from dien.model.layers import AfterFirst, check_hidden
from dien.model.steps import Steps


class GatedRecurrence(nn.Module):
    """One recurrent layer with the parameters and the initialisation of a one-layer `nn.GRU`.

    `h' = h + w(a, u) * (n - h)`, where u = 1 - z is the write gate and `rule` names w; see `dien.ops.gated_scan`.
    With the rule `gru` (w = u) it is `nn.GRU`. Every recurrence of the network is one of these, so that variants
    differ in the rule and in nothing else.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(3 * hidden_size).uniform_(-bound, bound))

    def forward(self, x_NI: Tensor, steps: Steps, *, rule: str = "gru", attention_N: Tensor | None = None) -> Tensor:
        """[N, I] -> states [N, H]"""
        weights = (self.weight_ih, self.bias_ih, self.weight_hh, self.bias_hh)
        return steps.recurrence(x_NI, attention_N, *weights, rule=rule)


class DotScorer(nn.Module):
    """Eq. 6 of the paper: the inner product of the state and the item."""

    def __init__(self, hidden_size: int, item_size: int) -> None:
        super().__init__()
        if hidden_size != item_size:
            raise ConfigError(
                f"model.scorer=dot needs model.hidden_size = {item_size}, the width of an item, not {hidden_size}."
            )

    def forward(self, interest_NH: Tensor, candidate_NCD: Tensor) -> Tensor:
        """Logits [N, C]"""
        return (interest_NH[:, None] * candidate_NCD).sum(-1)


class MLPScorer(nn.Module):
    """The authors' network: a perceptron on `[h_t, e_{t+1}]`, 100-50-1 with sigmoids.

    Raises:
        ConfigError: without a hidden layer.
    """

    def __init__(
        self,
        hidden_size: int,
        item_size: int,
        *,
        hidden: Sequence[int] = (100, 50),
        activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        check_hidden(hidden, fewest=1)
        self.first = nn.Linear(hidden_size + item_size, hidden[0])
        self.rest = AfterFirst(hidden, activation=activation)

    def forward(self, interest_NH: Tensor, candidate_NCD: Tensor) -> Tensor:
        """Logits [N, C]; what the first layer makes of the state is computed once for all candidates of a step."""
        steps, candidates, _ = candidate_NCD.shape
        step_NC = torch.arange(steps, device=interest_NH.device).repeat_interleave(candidates)
        scores_NC = self.rest.scores(
            candidate_NCD.flatten(0, 1), interest_NH, step_NC, self.first.weight, self.first.bias
        )
        return scores_NC.view(steps, candidates)


class InterestExtractor(nn.Module):
    """Eq. 2-5: the interest `h_t` of every step, a GRU over the item vectors.

    Args:
        item_size: D.
        hidden_size: H.
        scorer: `DotScorer` or `MLPScorer`, built with (H, D).
    """

    def __init__(self, item_size: int, hidden_size: int, scorer: nn.Module) -> None:
        super().__init__()
        self.recurrence = GatedRecurrence(item_size, hidden_size)
        self.scorer = scorer

    def forward(self, history_ND: Tensor, steps: Steps) -> Tensor:
        """[N, D] -> interest [N, H]"""
        return self.recurrence(history_ND, steps)

    def auxiliary_loss(self, interest_NH: Tensor, history_ND: Tensor, negative_NKD: Tensor, steps: Steps) -> Tensor:
        """Eq. 7: is `h_t` closer to the next click than to items not clicked in its place?

        The mean over the steps with a next step of `-log sigmoid(score(h_t, e_{t+1})) - log(1 - sigmoid(score(h_t,
        n_{t+1})))`, the second term averaged over the K negatives; 0 if no step has a next one.

        Args:
            interest_NH, history_ND: of all steps.
            negative_NKD: in the place of the clicks after the first, so one step less: a first click is not predicted.
            steps: where rows begin and end.
        """
        # Flat neighbours t, t + 1 are scored whether or not they lie in one row: the few that do not cost less
        # than gathering the others, and the weight keeps them out of the loss and of every gradient.
        has_next_N = steps.row_N[1:] == steps.row_N[:-1]
        candidate_NCD = torch.cat([history_ND[1:, None], negative_NKD], 1)
        score_NC = self.scorer(interest_NH[:-1], candidate_NCD).float()
        # Of several processes each divides by their mean count: the mean of their losses is that over all steps.
        steps_with_next = distributed.mean(has_next_N.sum().float()).clamp(min=1 / distributed.processes())
        candidates = score_NC.shape[1]
        clicked_C = (torch.arange(candidates, device=score_NC.device) == 0).float()
        share_C = clicked_C + (1 - clicked_C) / max(candidates - 1, 1)
        weight_NC = has_next_N[:, None] * (share_C / steps_with_next)
        return F.binary_cross_entropy_with_logits(
            score_NC, clicked_C.expand_as(score_NC), weight=weight_NC, reduction="sum"
        )
