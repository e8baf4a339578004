"""What a run logs of itself beside losses and metrics: gradients, speed, embeddings, and what the attention does.

Everything goes to `metrics.csv` and to every other logger, and takes well under 1 % of the training time: the
gradient's norm only on the steps that are logged, the rest once an epoch.
"""

import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch import callbacks
from torch import Tensor, nn
from torch.optim import Optimizer

from dien import distributed, sharding
from dien.batch import Batch
from dien.data.datamodule import DataModule
from dien.data.dataset import RowBatch
from dien.model.features import FeatureEmbedding
from dien.model.trace import summarise, trace
from dien.module import ClickModule

TRACED_ROWS = 128
"""Rows of validation that are traced after every epoch, always the same ones, spread over the whole split."""


class Telemetry(callbacks.Callback):
    """Logs, beside what `ClickModule` does:

    - `train/gradient_norm`, before clipping, every `trainer.log_every_n_steps` steps;
    - each epoch `train/samples_per_second` (of all processes) and `train/data_wait`, the share of the training time
      between the end of one step and the beginning of the next, by the clock of this process: waiting for data, and
      the trainer's own few microseconds (a GPU may still be busy with the step before);
    - each epoch `train/item_embedding_norm` and `train/user_embedding_norm`, the mean length of an embedding;
    - each validation `val/attention_entropy`, `val/update_gate` and `val/interest_update_gate`, see
      `dien.model.trace.Summary`, of `TRACED_ROWS` rows; those that the network has.
    """

    def __init__(self) -> None:
        self._clock = _Clock()
        self._traced: Batch | None = None
        self._step, self._every = 0, 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = _Clock()  # a resumed run begins within an epoch
        # Counted here from now on: to ask the trainer in every step costs as much as the norm itself.
        self._step, self._every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock = _Clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._clock.begin_step()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self._step += 1
        if self._step % self._every == 0:
            pl_module.log("train/gradient_norm", gradient_norm(pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._clock.end_step(len(batch.label_B) * trainer.world_size)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":  # what is evaluated after training has been traced already
            return
        assert isinstance(pl_module, ClickModule)
        summary = summarise(trace(pl_module.network, self._rows(trainer, pl_module)))
        told = {f"val/{name}": value for name, value in summary._asdict().items() if value is not None}
        pl_module.log_dict(told, rank_zero_only=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.resume()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        norms = {f"train/{name}_norm": float(norm) for name, norm in embedding_norms(pl_module).items()}
        pl_module.log_dict(norms | self._clock.told(), rank_zero_only=True)

    def _rows(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Batch:
        if self._traced is None:
            data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
            rows = data.rows("val")
            chosen = np.unique(np.linspace(0, len(rows) - 1, TRACED_ROWS).astype(np.int64))
            self._traced = Batch(*(field.to(pl_module.device) for field in rows[RowBatch(0, chosen)]))
        return self._traced


class _Clock:
    """Where the time of an epoch goes; validation counts as nothing."""

    def __init__(self) -> None:
        self.rows, self.waited, self.worked = 0, 0.0, 0.0
        self._last = time.perf_counter()

    def begin_step(self) -> None:
        self.waited += self._lap()

    def end_step(self, rows: int) -> None:
        self.rows += rows
        self.worked += self._lap()

    def resume(self) -> None:
        self._last = time.perf_counter()

    def told(self) -> dict[str, float]:
        seconds = self.waited + self.worked
        return {"train/samples_per_second": self.rows / seconds, "train/data_wait": self.waited / seconds}

    def _lap(self) -> float:
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def gradient_norm(module: nn.Module) -> Tensor:
    """The 2-norm of all gradients of a module as one vector, sparse ones included; 0 if there is none.

    A collective if tables are shared out over processes.
    """
    shared = sharding.shared(module)
    own: list[Tensor] = []
    shares: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if (gradient := parameter.grad) is not None:
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            (shares if name in shared else own).append(values)
    norm = torch.nn.utils.get_total_norm(own)
    if not shared:
        return norm
    return (norm.square() + distributed.total(torch.nn.utils.get_total_norm(shares).square())).sqrt()


@torch.no_grad()
def embedding_norms(module: nn.Module) -> dict[str, Tensor]:
    """Mean 2-norm of the rows of every embedding table, by name: `item_embedding`, `user_embedding`.

    A collective if tables are shared out over processes.
    """
    shared, norms = sharding.shared(module), {}
    for name, embedding in module.named_modules():
        if isinstance(embedding, FeatureEmbedding) and len(embedding.weight):
            length_R = embedding.weight.norm(dim=1)
            shares = shared.get(f"{name}.weight")
            mean = distributed.total(length_R.sum()) / shares.rows if shares else length_R.mean()
            norms[f"{name.rpartition('.')[2]}_embedding"] = mean
    return norms
