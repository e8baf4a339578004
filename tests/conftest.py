"""Shared fixtures: small feature tables, ragged batches and networks, all from a seed."""

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads cost more than they give

import pytest
import torch
from torch import Tensor, nn

from dien.batch import Batch
from dien.model.attention import BilinearAttention, MLPAttention
from dien.model.baselines import DIN, PNN, Base, WideDeep
from dien.model.dien import DIEN
from dien.model.evolution import AGRU, AIGRU, AUGRU, GRU, AUGRUCode
from dien.model.extractor import DotScorer, MLPScorer
from dien.model.features import FeatureEmbedding
from dien.model.layers import Head
from dien.tables import Column, Table

EVOLUTIONS = {"gru": GRU, "aigru": AIGRU, "agru": AGRU, "augru": AUGRU, "augru_code": AUGRUCode}
BASELINES = {"base": Base, "wide_deep": WideDeep, "pnn": PNN, "din": DIN}
ITEMS, USERS = 30, 12


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def item_table() -> Table:
    """Item id, category, a multi-valued feature of up to 3 entries and a float."""
    rows = ITEMS + 2
    generator = torch.Generator().manual_seed(1)
    category = torch.randint(2, 7, (rows,), generator=generator)
    tags = torch.randint(2, 9, (rows, 3), generator=generator)
    tags[torch.arange(3) >= torch.randint(0, 4, (rows, 1), generator=generator)] = 0
    price = torch.randn(rows, generator=generator)
    category[:2], tags[:2], price[:2] = torch.tensor([0, 1]), 0, 0.0
    return (
        Column("item_id", "categorical", rows, torch.arange(rows)),
        Column("category", "categorical", 7, category),
        Column("tags", "multi", 9, tags),
        Column("price", "float", 1, price),
    )


@pytest.fixture
def user_table() -> Table:
    rows = USERS + 2
    return (Column("user_id", "categorical", rows, torch.arange(rows)),)


MakeBatch = Callable[..., Batch]


@pytest.fixture
def make_batch() -> MakeBatch:
    """`make_batch(lengths, negatives=1, seed=0)`: random rows with histories of the given lengths."""

    def make(lengths: Sequence[int], *, negatives: int = 1, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        rows, width = len(lengths), max(lengths, default=0)
        length_B = torch.tensor(lengths)
        real_BT = torch.arange(width) < length_B[:, None]

        def items(*shape: int) -> Tensor:
            return torch.randint(2, ITEMS + 2, shape, generator=generator)

        negative_BT = items(rows, width) if negatives == 1 else items(rows, width, negatives)
        return Batch(
            user_B=torch.randint(2, USERS + 2, (rows,), generator=generator),
            history_BT=items(rows, width) * real_BT,
            negative_BT=negative_BT * (real_BT if negatives == 1 else real_BT[..., None]),
            length_B=length_B,
            target_B=items(rows),
            label_B=torch.randint(0, 2, (rows,), generator=generator).float(),
        )

    return make


MakeNetwork = Callable[..., nn.Module]


@pytest.fixture
def make_network(item_table: Table, user_table: Table) -> MakeNetwork:
    """`make_network("augru", scorer="mlp", attention="mlp", ...)`: a DIEN variant or a baseline with small layers."""

    def make(
        name: str = "augru",
        *,
        scorer: str = "mlp",
        attention: str = "mlp",
        activation: str = "dice",
        pooling: str = "mean",
        ignore: Sequence[str] = (),
        dropout: float = 0.0,
        hidden_size: int | None = None,
    ) -> nn.Module:
        features = partial(FeatureEmbedding, embedding_size=3, pooling=pooling, ignore=ignore, std=0.5)
        head = partial(Head, hidden=(8, 4), activation=activation, dropout=dropout)
        attend = partial(MLPAttention, hidden=(6, 5)) if attention == "mlp" else BilinearAttention
        if name in BASELINES:
            options = {"attention": attend} if name == "din" else {}
            return BASELINES[name](item_table, user_table, features=features, head=head, **options)
        return DIEN(
            item_table,
            user_table,
            features=features,
            scorer=partial(MLPScorer, hidden=(7, 5)) if scorer == "mlp" else DotScorer,
            attention=attend,
            evolution=EVOLUTIONS[name],
            head=head,
            hidden_size=hidden_size,
        )

    return make


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """`free_port()`: a port of this machine that nobody listens on."""

    def find() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]

    return find
