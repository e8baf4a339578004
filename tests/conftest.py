"""Shared fixtures: small feature tables, ragged batches and networks, all from a seed."""

import hashlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads cost more than they give

import pytest
import torch
import yaml
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


@pytest.fixture
def own_signals() -> Iterator[None]:
    """For what sets handlers for the whole process: they are those of before when the test ends."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@cache
def a_checkpoint() -> bytes:
    """The content of a checkpoint file as `dien-train` writes it."""
    from dien.checkpoint import write_checkpoint  # it takes Lightning, which few tests need

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint({"state_dict": {"weight": torch.zeros(200)}, "epoch": 2}, path := Path(folder, "best.ckpt"))
        return path.read_bytes()


def write_run(
    folder: Path,
    *,
    model: str = "dien-augru",
    seed: int = 0,
    auc: float | None = 0.7,
    alpha: float = 1.0,
    data: str = "sample",
    speed: float = 4000.0,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder as `dien-train` leaves it, with invented numbers; `auc=None`: unfinished, without a status."""
    (folder / "checkpoints").mkdir(parents=True)
    target = {"base": "baselines.Base", "din": "baselines.DIN"}.get(model, "dien.DIEN")
    tree: dict[str, Any] = {
        "seed": seed,
        "train": True,
        "objective": "val/auc",
        "name": f"{model}_{data}_seed{seed}",
        "run_dir": str(folder),
        "data": {"seed": seed, "name": data, "batch_size": 128, "negatives": {"train": 1, "strategy": "popularity"}},
        "model": {"name": model, "_target_": f"dien.model.{target}", "alpha": alpha, "head": {"hidden": [200, 80]}},
        "optimizer": {"_target_": "dien.optimizer.Adam", "lr": 0.003},
        "schedule": {"gamma": 0.5},
        "trainer": {"max_epochs": 3},
        "callbacks": {"early_stopping": {"patience": 3}, "progress": None},
        "logger": {},
    }
    for key, value in (config or {}).items():
        *above, last = key.split(".")
        branch = tree
        for part in above:
            branch = branch.setdefault(part, {})
        branch[last] = value
    text = yaml.safe_dump(tree, sort_keys=False)
    (folder / "config.yaml").write_text(text)
    known = {"git_commit": "0" * 40, "packages": {"torch": "2.13.0"}, "threads": 1, "dataset_fingerprint": data}
    known |= {"config_sha256": hashlib.sha256(text.encode()).hexdigest()} | dict(environment or {})
    (folder / "environment.json").write_text(json.dumps(known))
    rows = ["epoch,step,test/auc,train/aux_loss,train/ctr_loss,val/auc"]
    for step in range(9, 300, 10):
        aux = 1.4 - 0.002 * step if alpha else ""
        rows.append(f"{step // 100},{step},,{aux},{0.69 - 0.0004 * step + 0.001 * seed},")
    if auc is not None:
        rows += [f"3,300,,,,{auc}", f"3,300,{auc},,,"]
        values = {"auc": auc, "gauc": auc - 0.01, "logloss": 0.69 - (auc - 0.5) / 2, "calibration": 1.0}
        metrics = {f"{split}/{name}": value for split in ("val", "test") for name, value in values.items()}
        metrics |= {"train/samples_per_second": speed, "best_epoch": 2, "epochs": 3, "seconds": 12.5}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if not alpha:
        rows = [",".join(cell for place, cell in enumerate(row.split(",")) if place != 3) for row in rows]
    (folder / "metrics.csv").write_text("\r\n".join(rows) + "\r\n")
    for name in ("best", "last"):
        (folder / "checkpoints" / f"{name}.ckpt").write_bytes(a_checkpoint())
    if status is None and auc is not None:
        status = {"status": "finished", "error": None}
    if status is not None:
        (folder / "status.json").write_text(json.dumps(status))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run("name", model="din", seed=1, auc=0.7, ...)`: a run folder with invented numbers in `tmp_path/runs`."""
    return lambda name, **options: write_run(tmp_path / "runs" / name, **options)
