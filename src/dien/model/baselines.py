"""The models that the paper compares DIEN with; they share its features, its head and its trainer.

Input widths of the heads are those of the authors' code (with 18-d embeddings: 90, 90, 126 and 162).
Axes: B rows, N real time steps, D item vector, U user vector.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from dien.batch import Batch
from dien.model.dien import ClickNetwork, Output
from dien.model.features import FeatureEmbedding
from dien.model.layers import Head
from dien.tables import Table

Features = Callable[[Table], FeatureEmbedding]


class Base(ClickNetwork):
    """Embedding & MLP: the history is the sum of its items. Head on `[user, e_a, sum]`."""

    item_vectors: ClassVar[int] = 2
    """How many vectors of width D the head reads."""

    def __init__(
        self, item_table: Table, user_table: Table, *, features: Features, head: Callable[[int], Head]
    ) -> None:
        super().__init__(item_table, user_table, features)
        self.head = head(self.user.width + self.item_vectors * self.item.width)

    def forward(self, batch: Batch) -> Output:
        steps, user_BU, target_BD, history_ND, sum_BD = self.embed(batch)
        return Output(self.head(torch.cat([user_BU, target_BD, sum_BD], 1)), steps, history_ND)


class WideDeep(Base):
    """Base plus a linear model of `[e_a, sum, e_a * sum]` (Cheng et al., Wide & Deep, DLRS 2016)."""

    def __init__(
        self, item_table: Table, user_table: Table, *, features: Features, head: Callable[[int], Head]
    ) -> None:
        super().__init__(item_table, user_table, features=features, head=head)
        self.wide = nn.Linear(3 * self.item.width, 1)

    def forward(self, batch: Batch) -> Output:
        steps, user_BU, target_BD, history_ND, sum_BD = self.embed(batch)
        deep_B = self.head(torch.cat([user_BU, target_BD, sum_BD], 1))
        wide_B = self.wide(torch.cat([target_BD, sum_BD, target_BD * sum_BD], 1)).squeeze(1)
        return Output(deep_B + wide_B, steps, history_ND)


class PNN(Base):
    """Base plus the product of target and history (Qu et al., Product-based Neural Networks, ICDM 2016)."""

    item_vectors = 3

    def forward(self, batch: Batch) -> Output:
        steps, user_BU, target_BD, history_ND, sum_BD = self.embed(batch)
        return Output(self.head(torch.cat([user_BU, target_BD, sum_BD, target_BD * sum_BD], 1)), steps, history_ND)


class DIN(ClickNetwork):
    """Deep Interest Network (Zhou et al., KDD 2018): PNN plus the history summed by its attention to the target."""

    def __init__(
        self,
        item_table: Table,
        user_table: Table,
        *,
        features: Features,
        attention: Callable[[int, int], nn.Module],
        head: Callable[[int], Head],
    ) -> None:
        super().__init__(item_table, user_table, features)
        self.attention = attention(self.item.width, self.item.width)
        self.head = head(self.user.width + 4 * self.item.width)

    def forward(self, batch: Batch) -> Output:
        steps, user_BU, target_BD, history_ND, sum_BD = self.embed(batch)
        attention_N = self.attention(history_ND, target_BD, steps)
        pooled_BD: Tensor = steps.sum(attention_N[:, None] * history_ND)
        joined = torch.cat([user_BU, target_BD, sum_BD, target_BD * sum_BD, pooled_BD], 1)
        return Output(self.head(joined), steps, history_ND, attention_N)
