"""Deep Interest Evolution Network (Zhou et al., AAAI 2019, arXiv 1809.03672).

Axes: B rows, T padded and N real time steps, D item vector, U user vector, H hidden, K negatives a step.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dien.batch import Batch
from dien.errors import ConfigError, check_whole
from dien.model.evolution import Evolution
from dien.model.extractor import InterestExtractor
from dien.model.features import FeatureEmbedding, check_ignored
from dien.model.layers import Head
from dien.model.steps import Steps
from dien.tables import Table


class Embedded(NamedTuple):
    """A batch as vectors; the history as its real steps only."""

    steps: Steps
    user_BU: Tensor
    target_BD: Tensor
    history_ND: Tensor
    sum_BD: Tensor
    """Sum of the item vectors of each history."""


class Output(NamedTuple):
    """What a network says of a batch. Networks without interests leave the step-wise entries out."""

    logit_B: Tensor
    steps: Steps
    history_ND: Tensor
    attention_N: Tensor | None = None
    interest_NH: Tensor | None = None
    evolved_NH: Tensor | None = None


class ClickNetwork(nn.Module):
    """What every network of the project shares: features in, a head on top, a `forward(batch) -> Output` between.

    Args:
        item_table: features of the items, first column `item_id`.
        user_table: features of the users, first column `user_id`.
        features: `FeatureEmbedding` but for its table.
    """

    def __init__(self, item_table: Table, user_table: Table, features: Callable[[Table], FeatureEmbedding]) -> None:
        super().__init__()
        self.item = features(item_table)
        self.user = features(user_table)
        check_ignored(self.item.ignore, item_table, user_table)
        if not self.item.width:
            raise ConfigError("model.features.ignore leaves no feature of the items: keep at least one.")

    def embed(self, batch: Batch) -> Embedded:
        steps = Steps.of(batch.length_B, batch.history_BT.shape[1])
        history_N = steps.flat(batch.history_BT)
        # One lookup: the gradient of a table is as large as the table, whatever was looked up.
        history_ND, target_BD = self.item(torch.cat([history_N, batch.target_B])).split([len(history_N), steps.rows])
        return Embedded(steps, self.user(batch.user_B), target_BD, history_ND, steps.sum(history_ND))


class DIEN(ClickNetwork):
    """Interest extractor (GRU), attention to the target, interest evolution (AUGRU), head.

    Args:
        item_table, user_table, features: see `ClickNetwork`.
        scorer: auxiliary scorer, built with (H, D).
        attention: attention network, built with (H, D).
        evolution: evolution layer, built with (H).
        head: head, built with the width of `[user, e_a, sum, e_a * sum, evolved interest]`.
        hidden_size: H; None makes it D, as in the paper.
    """

    def __init__(
        self,
        item_table: Table,
        user_table: Table,
        *,
        features: Callable[[Table], FeatureEmbedding],
        scorer: Callable[[int, int], nn.Module],
        attention: Callable[[int, int], nn.Module],
        evolution: Callable[[int], Evolution],
        head: Callable[[int], Head],
        hidden_size: int | None = None,
    ) -> None:
        super().__init__(item_table, user_table, features)
        item_size = self.item.width
        hidden_size = item_size if hidden_size is None else hidden_size
        check_whole("model.hidden_size", hidden_size, 1)
        self.extractor = InterestExtractor(item_size, hidden_size, scorer(hidden_size, item_size))
        self.attention = attention(hidden_size, item_size)
        self.evolution = evolution(hidden_size)
        self.head = head(self.user.width + 3 * item_size + hidden_size)

    def forward(self, batch: Batch) -> Output:
        steps, user_BU, target_BD, history_ND, sum_BD = self.embed(batch)
        interest_NH = self.extractor(history_ND, steps)
        evolved = self.evolution(interest_NH, lambda state_NH: self.attention(state_NH, target_BD, steps), steps)
        joined = torch.cat([user_BU, target_BD, sum_BD, target_BD * sum_BD, evolved.final_BH], 1)
        return Output(self.head(joined), steps, history_ND, evolved.attention_N, interest_NH, evolved.states_NH)

    def auxiliary_loss(self, output: Output, batch: Batch) -> Tensor:
        """`L_aux` (eq. 7) of a batch from what `forward` made of it; a scalar."""
        assert output.interest_NH is not None
        negative_NK = output.steps.flat(batch.negative_BT)[1:]
        negative_NKD = self.item(negative_NK if negative_NK.ndim == 2 else negative_NK[:, None])
        return self.extractor.auxiliary_loss(output.interest_NH, output.history_ND, negative_NKD, output.steps)
