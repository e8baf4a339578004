"""What happens when the loss of a batch is not a finite number: stop and show the batch, or leave it out."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from dien.batch import Batch
from dien.checkpoint import write_checkpoint
from dien.data.sampler import RowSampler
from dien.errors import DienError, check_choice

log = logging.getLogger(__name__)

KEPT = 10
"""Batches that are written down for inspection; the others are only counted."""


class FiniteLoss(Callback):
    """Looks at the loss of every batch before its gradients are taken.

    Args:
        folder: the run folder, where `bad_batch_step*.pt` is written: step, epoch, number of the batch in the epoch,
            loss, rows (of the training split) and the tensors of the batch; read it with
            `torch.load(path, weights_only=True)`.
        on_nan: `stop` raises `DienError`; `skip` changes nothing by this batch (with accumulated gradients: by this
            step) and counts it in `skipped`, unless the weights are not finite themselves.

    Raises:
        ConfigError: `on_nan` is something else.
    """

    def __init__(self, folder: Path, *, on_nan: str) -> None:
        check_choice("on_nan", on_nan, ("stop", "skip"))
        self.folder, self.skip, self.skipped = folder, on_nan == "skip", 0
        self._now: tuple[Batch, int] | None = None
        self._statistics: dict[str, Tensor] = {}
        self._bad = False

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._now = (batch, batch_idx)
        if self.skip:  # the forward pass of a bad batch spoils them
            self._statistics = {name: buffer.clone() for name, buffer in _running(pl_module)}

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._bad = not loss.isfinite().item()
        if self.skip and trainer.world_size > 1:
            self._bad = trainer.strategy.reduce_boolean_decision(self._bad, all=False)
        if not self._bad:
            return
        assert self._now is not None
        where = f"step {trainer.global_step} (epoch {trainer.current_epoch}, batch {self._now[1]})"
        sentence = f"the loss of {where} is {loss.item()}"
        if self.skipped < KEPT:
            sentence += f"; its rows and the batch itself are in {self._write(trainer, loss)}"
        if not all(parameter.isfinite().all() for parameter in pl_module.parameters()):
            raise DienError(f"training diverged: {sentence}; the weights are not finite either: lower optimizer.lr.")
        if not self.skip:
            raise DienError(
                f"training diverged: {sentence}; lower optimizer.lr, or leave such batches out with on_nan=skip."
            )
        self.skipped += 1
        log.warning("skipped: %s", sentence)

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._bad:
            return
        with torch.no_grad():
            for name, buffer in _running(pl_module):
                buffer.copy_(self._statistics[name])
        if not str(trainer.precision).startswith("16"):  # there the scaler leaves out infinite gradients by itself
            for parameter in pl_module.parameters():
                parameter.grad = None  # the optimizer then passes it over, its moments and decay included

    def _write(self, trainer: pl.Trainer, loss: Tensor) -> Path:
        assert self._now is not None
        batch, number = self._now
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        rows = sampler.batch(trainer.current_epoch, number) if isinstance(sampler, RowSampler) else None
        rank = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = self.folder / f"bad_batch_step{trainer.global_step}{rank}.pt"
        content = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "batch_index": number,
            "loss": loss.item(),
            "rows": None if rows is None else torch.from_numpy(rows),
            "batch": {name: tensor.cpu() for name, tensor in batch._asdict().items()},
        }
        write_checkpoint(content, path)
        return path


def _running(module: pl.LightningModule) -> list[tuple[str, Tensor]]:
    """Statistics that a forward pass updates in training."""
    return [
        (name, buffer)
        for name, buffer in module.named_buffers()
        if name.rpartition(".")[2].startswith(("running_", "moving_"))
    ]
