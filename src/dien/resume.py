"""Where a training is, as plain values, and how it goes on from there to the same bits.

A checkpoint is taken between two steps only: every counter, row of metrics.csv and moment of the optimizer then
belongs to the same step. Lightning restores weights, optimizers, schedules and callbacks; this module adds what it does
not keep (sums of the metrics of an epoch that is under way, the rows of metrics.csv, the count of steps that loggers
use), and writes the counters of Lightning's loops down in the one form that its restart handles exactly (Lightning 2.6:
"restarted on last"). The order of the rows and their negatives are functions of (seed, epoch), dropout of (seed, epoch,
step): they have no state but the position in the epoch, which the DataModule keeps.
"""

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from typing_extensions import override

from dien.batch import Batch
from dien.data.datamodule import position
from dien.data.hashing import stream
from dien.errors import DienError

FORMAT = 1
"""Version of the `resume` section of a checkpoint."""

_DESCRIPTION = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph"),
    *("add_dataloader_idx", "dataloader_idx", "metric_attribute"),
)
"""Fields of a logged metric that are plain values."""


class StepSeed(Callback):
    """Makes every random number of a training step (dropout) a function of (seed, epoch, step, rank).

    The same for any number of workers, whatever was drawn before, and after a resume.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        # The CPU's generator takes 32 bits.
        key = stream(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank) >> 32
        torch.default_generator.manual_seed(key)  # torch.manual_seed would note a stack trace for CUDA each time
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(key)


def in_epoch(trainer: pl.Trainer) -> bool:
    """Whether an epoch is under way; otherwise training stands between two, or at its end."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.processed < progress.ready)


def check_can_go_on(state: dict[str, Any], checkpoint: Path, *, max_steps: int) -> None:
    """Raise `DienError` for a checkpoint from within an epoch that cannot be finished as if it had not been stopped."""
    saved = state.get("resume")
    if saved is None:  # best.ckpt
        loop = state["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
        if epochs["processed"] < epochs["ready"] or not batches["is_last_batch"]:
            raise DienError(f"{checkpoint} was saved in the midst of an epoch: go on from last.ckpt.")
        return
    if saved["format"] != FORMAT:
        raise DienError(f"{checkpoint} has format {saved['format']}, not {FORMAT}: go on with the version it is from.")
    callbacks = state.get("callbacks", {}).values()
    stopped_early = any(kept.get("wait_count", 0) >= kept.get("patience", math.inf) for kept in callbacks)
    if saved["partial_epoch"] and not stopped_early and not 0 <= max_steps <= state["global_step"]:
        raise DienError(
            f"{checkpoint} was ended by trainer.max_steps in the midst of an epoch, which is closed: it cannot go on."
        )


def snapshot(trainer: pl.Trainer, *, csv_rows: int | None, seconds: float) -> dict[str, Any]:
    """The `resume` section of a checkpoint, taken between two steps.

    Args:
        trainer: in the midst of `fit`.
        csv_rows: of metrics.csv so far.
        seconds: that the run has taken so far.
    """
    epoch, done = position(trainer)
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    partial = not in_epoch(trainer) and 0 < loop.batch_progress.current.completed < trainer.num_training_batches
    return {
        "format": FORMAT,
        "epoch": epoch,
        "batches": done,
        # Ended by max_steps or early stopping within an epoch, whose end has been logged already.
        "partial_epoch": partial,
        "logged_steps": loop._batches_that_stepped,
        "csv_rows": csv_rows,
        "seconds": seconds,
        "callback_metrics": {key: value.detach().cpu() for key, value in connector._callback_metrics.items()},
        "epoch_metrics": {key: _describe(value) for key, value in loop._results.items() if value.is_tensor},
    }


def canonical(fit_loop: dict[str, Any], *, under_way: bool) -> None:
    """Rewrite the counters of a saved fit loop so that Lightning goes on after the last completed batch.

    A batch that was fetched but not trained counts as not begun. Between epochs the counters of the epoch are zero.
    """
    batches = fit_loop["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        counts = batches[part]
        done = counts["completed"] if under_way or part == "total" else 0
        counts.update(ready=done, started=done, processed=done, completed=done)
    batches["is_last_batch"] = False
    if not under_way:
        counters = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"].values()
        for progress in (*counters, fit_loop["epoch_loop.scheduler_progress"]):
            progress["current"].update(dict.fromkeys(progress["current"], 0))
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    for part in ("total", "current"):  # nothing is carried from one validation to the next
        validation[part].update(dict.fromkeys(validation[part], 0))
    validation["is_last_batch"] = False


def restore(trainer: pl.Trainer, saved: dict[str, Any]) -> None:
    """Put everything in place that Lightning does not restore, before the first step after a resume.

    Raises:
        DienError: Lightning stands elsewhere than the checkpoint says; another version of it may restart otherwise.
    """
    here = (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.completed)
    if here != (saved["epoch"], saved["batches"]):
        raise DienError(
            f"Lightning {version('lightning')} goes on at (epoch, batch) {here} instead of "
            f"{(saved['epoch'], saved['batches'])} of the checkpoint: use the version that constraints.txt names."
        )
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    loop._batches_that_stepped = saved["logged_steps"]
    connector._callback_metrics.update(saved["callback_metrics"])
    if saved["batches"]:  # else the first batch of an epoch begins the sums anew
        connector._first_loop_iter = False
    for key, metric in saved["epoch_metrics"].items():
        loop._results.setdefault(key, _logged(metric, trainer))


def _describe(metric: _ResultMetric) -> dict[str, Any]:
    """A metric that the module logged, as plain values and tensors."""
    meta, cache = metric.meta, metric._forward_cache
    return {
        "meta": {name: getattr(meta, name) for name in _DESCRIPTION},
        "reduce": meta.reduce_fx.__name__,
        "sync": {"_should": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only},
        "value": metric.value.detach().cpu(),
        "weight": metric.cumulated_batch_size.detach().cpu() if meta.is_mean_reduction else None,
        "cache": None if cache is None else cache.detach().cpu(),
        "reset": metric.has_reset,
        "updates": metric._update_count,
    }


def _logged(saved: dict[str, Any], trainer: pl.Trainer) -> _ResultMetric:
    """What `_describe` described."""
    meta = _Metadata(**saved["meta"], reduce_fx=saved["reduce"])
    meta.sync = _Sync(fn=trainer.strategy.reduce, **saved["sync"])
    metric = _ResultMetric(meta, is_tensor=True)
    metric.value, metric._forward_cache, metric.has_reset = saved["value"], saved["cache"], saved["reset"]
    metric._update_count = saved["updates"]
    if saved["weight"] is not None:
        metric.cumulated_batch_size = saved["weight"]
    return metric.to(trainer.strategy.root_device)
