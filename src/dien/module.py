"""The LightningModule: losses, metrics and the optimizer around a network that knows of none of them."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection

from dien import distributed, sharding
from dien.batch import Batch
from dien.errors import ConfigError, DienError, check_at_least
from dien.metrics import AUC, GAUC, Calibration, LogLoss
from dien.model.dien import DIEN, Output


class AuxiliaryNetwork(Protocol):
    """A network whose interest states can be supervised."""

    def auxiliary_loss(self, output: Output, batch: Batch) -> Tensor: ...


def log_loss(output: Output, batch: Batch) -> Tensor:
    """`L_ctr`: the mean binary cross-entropy of a batch.

    Of several processes each divides by their mean number of rows: the mean of their losses is that over all rows.
    """
    loss_B = F.binary_cross_entropy_with_logits(output.logit_B.float(), batch.label_B, reduction="none")
    return loss_B.sum() / distributed.mean(loss_B.new_tensor(len(loss_B)))


class ClickModule(pl.LightningModule):
    """Trains a network with `L = L_ctr + alpha * L_aux`, both means over their terms, and evaluates it.

    Args:
        network: `forward(batch) -> Output`, and `auxiliary_loss(output, batch)` if `alpha` > 0.
        optimizer: called with the parameters.
        schedule: called with the optimizer, stepped after every epoch.
        alpha: weight of the auxiliary loss, at least 0; at 0 it is not computed.
        sharded: whether several processes share large embedding tables out, see `dien.sharding`.

    Raises:
        ConfigError: if alpha is negative, or positive for a network without an auxiliary loss.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
        alpha: float,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("model.alpha", alpha, 0)
        if alpha > 0 and not hasattr(network, "auxiliary_loss"):
            raise ConfigError(f"model.alpha={alpha} must be 0: {type(network).__name__} has no auxiliary loss.")
        self.network = network
        self.alpha, self.sharded = alpha, sharded
        if alpha == 0 and isinstance(network, DIEN):  # several processes would wait for these gradients
            network.extractor.scorer.requires_grad_(False)
        self.optimizer, self.schedule = optimizer, schedule
        metrics = MetricCollection(
            {"auc": AUC(), "gauc": GAUC(), "logloss": LogLoss(), "calibration": Calibration()},
            compute_groups=False,
        )
        self.val_metrics, self.test_metrics = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    def configure_model(self) -> None:
        if self.sharded:
            sharding.share_out(self.network, self.trainer.strategy.root_device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        sharding.make_whole(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        sharding.take_shares(checkpoint, self)

    def forward(self, batch: Batch) -> Output:
        return cast(Output, self.network(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self(batch)
        # The authors' networks bring their own click loss, which is half of the log loss.
        loss = ctr_loss = getattr(self.network, "ctr_loss", log_loss)(output, batch)
        losses = {"train/ctr_loss": ctr_loss.detach()}
        if self.alpha > 0:
            aux_loss = cast(AuxiliaryNetwork, self.network).auxiliary_loss(output, batch)
            loss = ctr_loss + self.alpha * aux_loss
            losses["train/aux_loss"] = aux_loss.detach()
        losses["train/loss"] = loss.detach()
        shared = distributed.mean(torch.stack(list(losses.values()))).unbind()
        self.log_dict(dict(zip(losses, shared, strict=True)), batch_size=len(batch.label_B))
        return loss

    def on_after_backward(self) -> None:
        for parameter in self.network.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:  # left alone by DistributedDataParallel
                parameter.grad = distributed.average_rows(parameter.grad)

    def on_train_epoch_start(self) -> None:
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> None:
        metrics.update(self(batch).logit_B, batch.label_B, batch.user_B)

    def on_validation_epoch_end(self) -> None:
        self._log_and_reset(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_and_reset(self.test_metrics)

    def _log_and_reset(self, metrics: MetricCollection) -> None:
        values = {name: value.float() for name, value in metrics.compute().items()}
        metrics.reset()
        loss = next(value for name, value in values.items() if name.endswith("logloss"))
        if not loss.isfinite():
            raise DienError(
                f"training diverged: the log loss of epoch {self.current_epoch + 1} is {loss}; lower optimizer.lr."
            )
        self.log_dict(values)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(self.network.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "epoch"},
        }
