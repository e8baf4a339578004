"""RecBole's `DIEN`, built from a RecBole dataset that knows every user and item, as its own commands do.

One `mlp_hidden_size` serves its attention, its auxiliary network and its head; 80-40 is the choice that costs least.
Importing RecBole's sequential models switches autograd's anomaly mode on for the whole process (in `sine.py`).
Shims: three names that RecBole reads and NumPy 2 no longer has; the padding's category, which pandas 3 leaves unset.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import DIEN
from torch import Tensor

from bench.adapter import ATTENTION, EMBEDDING, Adapter
from bench.rows import HISTORY_LENGTH, Catalogue, Rows

REMOVED_FROM_NUMPY = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}


class RecBole(Adapter[Interaction]):
    def __init__(self, network: DIEN, user_ids: Tensor, item_ids: Tensor) -> None:
        super().__init__(network)
        self.user_ids, self.item_ids = user_ids, item_ids

    def batch(self, rows: Rows) -> Interaction:
        network = self.network
        return Interaction(
            {
                network.USER_ID: self.user_ids[rows.user_B],
                network.ITEM_SEQ: self.item_ids[rows.history_BT],
                network.NEG_ITEM_SEQ: self.item_ids[rows.negative_BT],
                network.ITEM_SEQ_LEN: rows.length_B,
                network.POS_ITEM_ID: self.item_ids[rows.target_B],
                network.LABEL_FIELD: rows.label_B,
            }
        )

    def loss(self, batch: Interaction) -> Tensor:
        return self.network.calculate_loss(batch)

    def scores(self, batch: Interaction) -> Tensor:
        return self.network.predict(batch)


def build(catalogue: Catalogue, *, anomaly: bool) -> RecBole:
    """`anomaly`: leave autograd's anomaly mode on, as RecBole ships."""
    torch.autograd.set_detect_anomaly(anomaly)
    for name, value in REMOVED_FROM_NUMPY.items():
        setattr(np, name, value)
    with tempfile.TemporaryDirectory() as folder:
        _write_dataset(Path(folder) / "bench", catalogue)
        config = Config(
            model="DIEN",
            dataset="bench",
            config_dict={
                "data_path": folder,
                "load_col": {
                    "inter": ["user_id", "item_id", "timestamp"],
                    "item": ["item_id", "category"],
                },
                "MAX_ITEM_LIST_LENGTH": HISTORY_LENGTH,
                "embedding_size": EMBEDDING,
                "mlp_hidden_size": list(ATTENTION),
                "gru_type": "AUGRU",
                "alpha": 1.0,
                "use_gpu": False,
                "state": "ERROR",
            },
        )
        dataset = create_dataset(config).build()[0]
    dataset.get_item_feature()["category"][0] = 0
    network = DIEN(config, dataset)
    return RecBole(
        network,
        _ids(dataset, "user_id", catalogue.users),
        _ids(dataset, "item_id", catalogue.items),
    )


def _write_dataset(folder: Path, catalogue: Catalogue) -> None:
    """Atomic files in which every user and every item occurs; RecBole numbers them by itself."""
    folder.mkdir()
    clicks = [f"{n % catalogue.users}\t{n % catalogue.items}\t{n}" for n in range(2 * catalogue.items)]
    items = [f"{item}\t{category}" for item, category in enumerate(catalogue.category_of_item.tolist())]
    (folder / "bench.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *clicks]) + "\n")
    (folder / "bench.item").write_text("\n".join(["item_id:token\tcategory:token", *items]) + "\n")


def _ids(dataset: Dataset, field: str, size: int) -> Tensor:
    """RecBole's number of each id; padding stays 0."""
    ids = torch.from_numpy(dataset.token2id(field, [str(n) for n in range(size)])).long()
    ids[0] = 0
    return ids
