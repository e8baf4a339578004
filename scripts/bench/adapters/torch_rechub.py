"""torch-rechub's `DIEN`: a GRU and an AUGRU for each history field, bilinear attention, inner-product auxiliary loss.

The hidden size of a field is its embedding size, so two fields of 18 are two recurrences of 18. One history field
with an embedding of 36 would be one recurrence of 36 without the category; measured here, that is slower.
"""

import torch.nn.functional as F
from torch import Tensor
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIEN

from bench.adapter import EMBEDDING, HEAD, Adapter
from bench.rows import Catalogue, Rows

Batch = dict[str, Tensor]


class TorchRecHub(Adapter[Batch]):
    def __init__(self, network: DIEN, category_of_item: Tensor) -> None:
        super().__init__(network)
        self.category_of_item = category_of_item

    def batch(self, rows: Rows) -> Batch:
        category = self.category_of_item
        return {
            "user": rows.user_B,
            "item": rows.target_B,
            "category": category[rows.target_B],
            "hist_item": rows.history_BT,
            "hist_category": category[rows.history_BT],
            "neg_hist_item": rows.negative_BT,
            "neg_hist_category": category[rows.negative_BT],
            "label": rows.label_B,
        }

    def loss(self, batch: Batch) -> Tensor:
        """As `CTRTrainer` of torch_rechub computes it with `loss_mode=False`."""
        prediction, auxiliary_loss = self.network(batch)
        return F.binary_cross_entropy(prediction, batch["label"]) + auxiliary_loss

    def scores(self, batch: Batch) -> Tensor:
        return self.network(batch)[0]


def build(catalogue: Catalogue) -> TorchRecHub:
    fields = {"item": catalogue.items, "category": catalogue.categories}
    history, negative = (
        [
            SequenceFeature(prefix + name, size, EMBEDDING, pooling="concat", shared_with=name, padding_idx=0)
            for name, size in fields.items()
        ]
        for prefix in ("hist_", "neg_hist_")
    )
    network = DIEN(
        features=[SparseFeature("user", catalogue.users, EMBEDDING)],
        history_features=history,
        neg_history_features=negative,
        target_features=[SparseFeature(name, size, EMBEDDING, padding_idx=0) for name, size in fields.items()],
        mlp_params={"dims": list(HEAD)},
        alpha=1.0,
    )
    return TorchRecHub(network, catalogue.category_of_item)
