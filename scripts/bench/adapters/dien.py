"""This project's DIEN, built as `dien-train model=dien` builds it."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.adapter import ATTENTION, AUXILIARY, EMBEDDING, HEAD, Adapter
from bench.rows import HISTORY_LENGTH, Catalogue, Rows
from dien.allocator import keep_freed_memory
from dien.batch import Batch
from dien.model.attention import MLPAttention
from dien.model.dien import DIEN
from dien.model.evolution import AUGRU
from dien.model.extractor import MLPScorer
from dien.model.features import FeatureEmbedding
from dien.model.layers import Head
from dien.raw_ids import IdRows
from dien.tables import Column

USERS_AT_A_TIME = 100


class Dien(Adapter[Batch]):
    network: DIEN

    def __init__(self, network: DIEN) -> None:
        super().__init__(network, fused=True)

    def batch(self, rows: Rows) -> Batch:
        longest = int(rows.length_B.max())
        return Batch(
            user_B=rows.user_B,
            history_BT=rows.history_BT[:, :longest],
            negative_BT=rows.negative_BT[:, :longest],
            length_B=rows.length_B,
            target_B=rows.target_B,
            label_B=rows.label_B,
        )

    def loss(self, batch: Batch) -> Tensor:
        """As `ClickModule.training_step` computes it."""
        output = self.network(batch)
        click_loss = F.binary_cross_entropy_with_logits(output.logit_B, batch.label_B)
        return click_loss + self.network.auxiliary_loss(output, batch)

    def scores(self, batch: Batch) -> Tensor:
        return self.network(batch).logit_B

    def ranking(self, catalogue: Catalogue, users: int, candidates: int) -> Callable[[], None]:
        """What ranks `candidates` items for each of `users` histories, from raw ids."""
        from dien.rank import Ranker  # the peak memory of training is that of training alone

        rng = np.random.default_rng(1)
        items = range(2, catalogue.items)
        ranker = Ranker(
            self.network, items=IdRows(items), users=IdRows(range(2, catalogue.users)), history_length=HISTORY_LENGTH
        )
        history_UT = rng.choice(items, (users, HISTORY_LENGTH)).tolist()
        candidate_UC = rng.choice(items, (users, candidates)).tolist()

        def run() -> None:
            for first in range(0, users, USERS_AT_A_TIME):
                part = slice(first, first + USERS_AT_A_TIME)
                for state, wanted in zip(ranker.states(history_UT[part]), candidate_UC[part], strict=True):
                    ranker.score(state, wanted)

        return run


def build(catalogue: Catalogue) -> Dien:
    keep_freed_memory()  # as `dien-train` does
    users, items, categories, category_of_item = catalogue
    network = DIEN(
        (
            Column("item_id", "categorical", items, torch.arange(items)),
            Column("category", "categorical", categories, category_of_item),
        ),
        (Column("user_id", "categorical", users, torch.arange(users)),),
        features=partial(FeatureEmbedding, embedding_size=EMBEDDING),
        scorer=partial(MLPScorer, hidden=AUXILIARY),
        attention=partial(MLPAttention, hidden=ATTENTION),
        evolution=AUGRU,
        head=partial(Head, hidden=HEAD),
    )
    return Dien(network)
