"""DeepCTR-Torch's `DIEN`: every feature of a row is a column of one float matrix.

Its loss is the sum over the rows, to which its trainer adds the auxiliary mean once. Its head takes no Dice.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DIEN
from torch import Tensor

from bench.adapter import ATTENTION, EMBEDDING, HEAD, Adapter
from bench.rows import HISTORY_LENGTH, Catalogue, Rows


class Batch(NamedTuple):
    x: Tensor
    y: Tensor


class DeepCTR(Adapter[Batch]):
    def __init__(self, network: DIEN, category_of_item: Tensor) -> None:
        super().__init__(network)
        self.category_of_item = category_of_item

    def batch(self, rows: Rows) -> Batch:
        category = self.category_of_item
        columns = {
            "user": rows.user_B,
            "item": rows.target_B,
            "category": category[rows.target_B],
            "hist_item": rows.history_BT,
            "hist_category": category[rows.history_BT],
            "neg_hist_item": rows.negative_BT,
            "neg_hist_category": category[rows.negative_BT],
            "length": rows.length_B,
        }
        # The order in which the network expects the columns, each one [B] or [B, T].
        x = [columns[name].view(len(rows.user_B), -1) for name in self.network.feature_index]
        return Batch(torch.cat(x, 1).float(), rows.label_B)

    def loss(self, batch: Batch) -> Tensor:
        """As `BaseModel.fit` of deepctr_torch computes it."""
        network = self.network
        click_loss = F.binary_cross_entropy(network(batch.x).squeeze(-1), batch.y, reduction="sum")
        return (click_loss + network.get_regularization_loss() + network.aux_loss).squeeze()

    def scores(self, batch: Batch) -> Tensor:
        return self.network(batch.x).squeeze(-1)


def build(catalogue: Catalogue) -> DeepCTR:
    sizes = {"item": catalogue.items, "category": catalogue.categories}
    columns: list[SparseFeat | VarLenSparseFeat] = [
        SparseFeat(name, size, embedding_dim=EMBEDDING) for name, size in {"user": catalogue.users, **sizes}.items()
    ]
    for prefix in ("hist_", "neg_hist_"):
        for name, size in sizes.items():
            feature = SparseFeat(prefix + name, size, embedding_dim=EMBEDDING, embedding_name=name)
            columns.append(VarLenSparseFeat(feature, maxlen=HISTORY_LENGTH, length_name="length"))
    network = DIEN(
        columns,
        list(sizes),
        gru_type="AUGRU",
        use_negsampling=True,
        alpha=1.0,
        dnn_hidden_units=HEAD,
        dnn_activation="relu",
        att_hidden_units=ATTENTION,
        att_activation="sigmoid",
        att_weight_normalization=True,
        l2_reg_embedding=0.0,
        init_std=0.1,
    )
    return DeepCTR(network, catalogue.category_of_item)
