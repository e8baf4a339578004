"""FuxiCTR's `DIEN` (its LongCTR zoo), which has no auxiliary loss; `auxiliary=True` adds one in a subclass of ours.

The DIEN of earlier FuxiCTR repositories, which never was in the package, had an auxiliary loss that failed
on shapes for every weight above 0. The subclass computes what that code was meant to: a network (100-50-1) on
`[h_t, e_{t+1}]` for every cell of the padded batch, and the mean over the real ones.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import MLP_Block
from model_zoo.LongCTR.DIEN.DIEN import DIEN
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from bench.adapter import ATTENTION, AUXILIARY, EMBEDDING, HEAD, LEARNING_RATE, Adapter
from bench.rows import Catalogue, Rows

GRADIENT_NORM = 10.0
"""FuxiCTR's trainer clips gradients at this norm by default."""


class Batch(NamedTuple):
    """What `LongCTRDataLoader` makes of a batch; histories are as long as the longest of the batch."""

    features: dict[str, Tensor]
    items: dict[str, Tensor]
    """Of each row its history and then its target, [B * (T + 1)]"""
    mask_BT: Tensor
    negatives: dict[str, Tensor]
    """Item features of the negatives, [B, T] each; FuxiCTR itself has none"""


class AuxiliaryDIEN(DIEN):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auxiliary = MLP_Block(2 * self.item_info_dim, list(AUXILIARY), "Sigmoid", output_dim=1)
        self.compile(kwargs["optimizer"], kwargs["loss"], kwargs["learning_rate"])

    def interest_extraction(self, idx: int, sequence_emb: Tensor, mask: Tensor) -> tuple[PackedSequence, Tensor]:
        """Keep what the auxiliary loss needs."""
        packed, interest = super().interest_extraction(idx, sequence_emb, mask)
        self.kept = interest, sequence_emb, mask
        return packed, interest

    def auxiliary_loss(self, negatives: dict[str, Tensor]) -> Tensor:
        interest, clicked, mask = self.kept
        rejected = self.embedding_layer(negatives, flatten_emb=True)
        losses = [
            F.softplus(sign * self.auxiliary(torch.cat([interest[:, :-1], item[:, 1:]], -1)).squeeze(-1))
            for sign, item in ((-1, clicked), (1, rejected))
        ]
        real = mask[:, 1:]  # steps with a next step
        return ((losses[0] + losses[1]) * real).sum() / real.sum().clamp(min=1)


class FuxiCTR(Adapter[Batch]):
    def __init__(self, network: DIEN, category_of_item: Tensor) -> None:
        super().__init__(network)
        self.category_of_item = category_of_item
        self.optimizer = network.optimizer

    def batch(self, rows: Rows) -> Batch:
        longest = int(rows.length_B.max())
        history_BT = rows.history_BT[:, :longest]
        item = torch.cat([history_BT, rows.target_B[:, None]], 1).flatten()
        negative = rows.negative_BT[:, :longest]
        category = self.category_of_item
        return Batch(
            {"user": rows.user_B, "label": rows.label_B},
            {"item": item, "category": category[item]},
            (history_BT > 0).float(),
            {"item": negative, "category": category[negative]},
        )

    def loss(self, batch: Batch) -> Tensor:
        network = self.network
        inputs = batch[:3]
        loss = network.compute_loss(network(inputs), network.get_labels(inputs))
        return loss + network.auxiliary_loss(batch.negatives) if isinstance(network, AuxiliaryDIEN) else loss

    def step(self, batch: Batch) -> Tensor:
        """As `train_step` of the model."""
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def scores(self, batch: Batch) -> Tensor:
        return self.network(batch[:3])["y_pred"].squeeze(-1)


def build(catalogue: Catalogue, *, auxiliary: bool) -> FuxiCTR:
    feature_map = FeatureMap("bench", ".")
    feature_map.labels = ["label"]
    feature_map.features = {
        "user": {"type": "categorical", "source": "user", "vocab_size": catalogue.users},
        "item": {"type": "categorical", "source": "item", "vocab_size": catalogue.items, "padding_idx": 0},
        "category": {"type": "categorical", "source": "item", "vocab_size": catalogue.categories, "padding_idx": 0},
    }
    feature_map.default_emb_dim = EMBEDDING
    network = (AuxiliaryDIEN if auxiliary else DIEN)(
        feature_map,
        dnn_hidden_units=list(HEAD),
        dnn_activations="Dice",
        learning_rate=LEARNING_RATE,
        embedding_dim=EMBEDDING,
        batch_norm=False,
        gru_type="AUGRU",
        enable_sum_pooling=True,
        attention_type="din_attention",
        attention_hidden_units=list(ATTENTION),
        attention_activation="Sigmoid",
        optimizer="adam",
        loss="binary_crossentropy",
        verbose=0,
        model_root=".",
        metrics=["AUC"],
    )
    return FuxiCTR(network, catalogue.category_of_item)
