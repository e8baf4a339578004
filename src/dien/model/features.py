"""From rows of a feature table to vectors.

Axes: R rows of the table, M entries of a multi-valued feature, C single-valued categorical columns, F float columns,
E embedding size, D width.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dien.errors import ConfigError, check_at_least, check_choice, check_whole
from dien.ops import lookup
from dien.tables import PADDING, UNKNOWN, Table

POOLINGS = ("mean", "max", "sum")

SPARSE_FROM = 8_000_000
"""Numbers in a table from which sparse gradients train faster than dense ones; measured by
`scripts/benchmark_embedding.py`, see docs/performance.md."""


class FeatureEmbedding(nn.Module):
    """The concatenated embeddings of a row's features: the `e_t` and `e_a` of the paper for an item.

    A categorical feature is looked up; a multi-valued one is looked up and pooled (mean, max or sum over its
    entries; none gives zeros); a float feature scales a learned vector. All ids live in ONE matrix, each feature in
    its own band of rows, so that C categorical features cost one gather. Embeddings of padding and unknown start at
    0: until training says otherwise they carry no information.

    Args:
        table: the columns to embed; see `dien.tables`.
        embedding_size: E, the same for every feature.
        pooling: `mean | max | sum`, for multi-valued features (hopwise's `pooling_mode`).
        ignore: names of columns to leave out.
        std: standard deviation of the initial embeddings.

    Raises:
        ConfigError: if a value is out of range.
    """

    single_RC: Tensor
    float_RF: Tensor

    def __init__(
        self,
        table: Table,
        *,
        embedding_size: int = 18,
        pooling: str = "mean",
        ignore: Sequence[str] = (),
        std: float = 0.01,
    ) -> None:
        super().__init__()
        check_whole("model.features.embedding_size", embedding_size, 1)
        check_at_least("model.features.std", std, 0)
        check_choice("model.features.pooling", pooling, POOLINGS)
        columns = [column for column in table if column.name not in ignore]
        self.pooling, self.ignore, self.sparse = pooling, ignore, False
        self.shares: Callable[[Tensor], Tensor] | None = None
        """Looks rows up that are shared out over processes; `weight` is then the share of this one."""
        self.width = embedding_size * len(columns)

        band = 0
        single: list[Tensor] = []
        multi: list[Tensor] = []
        floats: list[Tensor] = []
        for column in columns:
            if column.kind == "float":
                floats.append(column.values)
                continue
            (single if column.kind == "categorical" else multi).append(column.values + band)
            band += column.size
        rows = len(table[0].values)
        self.register_buffer("single_RC", _stack(single, rows, torch.int64), persistent=False)
        self.register_buffer("float_RF", _stack(floats, rows, torch.float32), persistent=False)
        for m, ids_RM in enumerate(multi):
            self.register_buffer(f"multi_{m}", ids_RM, persistent=False)
            self.register_buffer(f"real_{m}", ids_RM != ids_RM[0, 0], persistent=False)
        self.multi_count = len(multi)

        weight = torch.randn(band, embedding_size) * std
        starts = torch.tensor([0] + [column.size for column in columns if column.kind != "float"]).cumsum(0)[:-1]
        weight[starts + PADDING] = weight[starts + UNKNOWN] = 0.0
        self.weight = nn.Parameter(weight)
        self.float_FE = nn.Parameter(torch.randn(len(floats), embedding_size) * std) if floats else None

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of the table, any shape [...] -> [..., D]."""
        parts = [self._look_up(rows, self.single_RC)]
        parts += [self._pool(m, rows) for m in range(self.multi_count)]
        if self.float_FE is not None:
            parts.append((self.float_RF[rows][..., None] * self.float_FE).flatten(-2))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def _look_up(self, rows: Tensor, ids_RC: Tensor) -> Tensor:
        """Embeddings of the ids of rows, side by side: [..., C * E]."""
        if self.shares is None and not self.sparse:
            return lookup(self.weight, rows, ids_RC)
        ids = ids_RC[rows]
        found = F.embedding(ids, self.weight, sparse=True) if self.shares is None else self.shares(ids)
        return found.flatten(-2)

    def _pool(self, m: int, rows: Tensor) -> Tensor:
        entries = self._look_up(rows, self.get_buffer(f"multi_{m}")).unflatten(-1, (-1, self.weight.shape[1]))
        real = self.get_buffer(f"real_{m}")[rows][..., None]
        if self.pooling == "max":
            return entries.masked_fill(~real, -torch.inf).amax(-2).masked_fill(~real.any(-2), 0.0)
        total = (entries * real).sum(-2)
        return total / real.sum(-2).clamp(min=1) if self.pooling == "mean" else total


def _stack(columns: list[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
    return torch.stack(columns, 1) if columns else torch.zeros(rows, 0, dtype=dtype)


def use_sparse_gradients(network: nn.Module, smallest: int = SPARSE_FROM) -> None:
    """Give the embedding tables of at least `smallest` numbers sparse gradients; `dien.optimizer.Adam` takes them."""
    for module in network.modules():
        if isinstance(module, FeatureEmbedding):
            module.sparse = module.weight.numel() >= smallest


def sparse_tables(network: nn.Module) -> list[str]:
    """Names of the parameters that have sparse gradients."""
    modules = network.named_modules()
    return [f"{name}.weight" for name, module in modules if isinstance(module, FeatureEmbedding) and module.sparse]


def check_ignored(ignore: Sequence[str], *tables: Table) -> None:
    """Raise `ConfigError` if a name to ignore is a column of none of the tables."""
    if isinstance(ignore, str):
        raise ConfigError(f"model.features.ignore={ignore!r} must be a list of names, such as [{ignore}].")
    names = [column.name for table in tables for column in table]
    for name in ignore:
        if name not in names:
            raise ConfigError(f"model.features.ignore names {name!r}, but the features are {', '.join(names)}.")
