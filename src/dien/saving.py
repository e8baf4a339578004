"""When a training is saved: after every epoch, now and then within one, and when a signal asks it to stop."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from dien import resume
from dien.batch import Batch
from dien.callbacks import RunCSV
from dien.checkpoint import LAST
from dien.errors import StoppedError, check_at_least, check_whole

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""They end a run between two steps, with a checkpoint and the status 128 + number."""

COST = 0.01
"""Checkpoints within an epoch take at most this share of the time, whatever `checkpoint.minutes` says."""

PATIENCE = 5.0
"""Seconds that a validation may go on after a signal; a longer one is left, and repeated after the resume."""


class Last(Callback):
    """`last.ckpt`, the newest state of a training, from which it goes on to the same bits.

    Has to come first of all callbacks: what another one does at the start of a step belongs to that step.

    Args:
        folder: `checkpoints` of the run folder.
        minutes: one is written at the next step after so many (but see `COST`); None for none within an epoch.
        steps: one is written every so many steps too; None for none.
        started: `time.perf_counter()` when the run began.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(self, folder: Path, *, minutes: float | None, steps: int | None, started: float) -> None:
        if minutes is not None:
            check_at_least("checkpoint.minutes", minutes, 0)
        if steps is not None:
            check_whole("checkpoint.steps", steps, 1)
        self.path, self.minutes, self.steps, self._started = folder / LAST, minutes, steps, started
        self.stopped_by: signal.Signals | None = None
        self._stopped_at = 0.0
        self._resumed: dict[str, Any] | None = None
        self._saving, self._seconds_before = False, 0.0
        self._saved_at, self._cost = time.monotonic(), 0.0
        self._validation_began, self._validation_took = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """That the run has taken, those before a resume included."""
        return self._seconds_before + time.perf_counter() - self._started

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":  # evaluating loads best.ckpt
            self._resumed = checkpoint.get("resume")
            self._seconds_before = self._resumed["seconds"] if self._resumed else 0.0

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self._saving:  # best.ckpt, which Lightning saves in the midst of its loops
            return
        ours = [logger for logger in trainer.loggers if isinstance(logger, RunCSV)]
        rows = ours[0].rows if ours and trainer.is_global_zero else None
        checkpoint["resume"] = resume.snapshot(trainer, csv_rows=rows, seconds=self.seconds)
        saved = checkpoint["resume"]
        checkpoint["epoch"] = saved["epoch"] - (saved["batches"] == 0)  # the newest that was trained
        resume.canonical(checkpoint["loops"]["fit_loop"], under_way=resume.in_epoch(trainer))

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:  # Lightning puts back those from before `fit`
                signal.signal(number, self._stop)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if self._resumed is not None:
            resume.restore(trainer, self._resumed)
            self._resumed = None
        elif trainer.global_step and self._due(trainer, batch_idx):
            self.save(trainer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._stop_lightning(trainer)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began = time.monotonic()

    @override
    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # One of several processes cannot leave alone.
        if self.stopped_by and time.monotonic() - self._stopped_at > PATIENCE and trainer.world_size == 1:
            raise SystemExit

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_took = time.monotonic() - self._validation_began
        if trainer.state.fn == "fit":
            self._stop_lightning(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):  # Lightning raises it between two steps and nowhere else
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt`; training has to stand between two steps."""
        if self._resumed is not None:  # not one step was made: what is on disk is the newest state
            return
        start = time.monotonic()
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, RunCSV) and trainer.is_global_zero:
                logger.sync()
        self._saving = True
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._saving = False
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def _stop_lightning(self, trainer: pl.Trainer) -> None:
        if trainer.fit_loop._should_accumulate():  # gradients that are being accumulated are in no checkpoint
            return
        stop = self.stopped_by is not None
        if trainer.world_size > 1:  # a signal reaches the processes at different times, or only one of them
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.stopped_by = self.stopped_by or signal.SIGTERM
            trainer._signal_connector.received_sigterm = True  # SIGTERMException comes after this step

    def _due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        if batch_idx == 0:
            return True
        if batch_idx % trainer.accumulate_grad_batches:
            return False
        waited = time.monotonic() - self._saved_at
        due = self.steps is not None and trainer.global_step % self.steps == 0
        if self.minutes is not None:
            due |= waited >= max(60 * self.minutes, self._cost / COST)
            # A signal during a long validation has something to go back to.
            long = self._validation_took > PATIENCE and self._validates(batch_idx, trainer)
            due |= long and waited + self._validation_took >= self._cost / COST
        if trainer.world_size > 1:  # the clocks of the processes differ
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        return due

    @staticmethod
    def _validates(batch_idx: int, trainer: pl.Trainer) -> bool:
        every = trainer.val_check_batch
        return bool(trainer.enable_validation and every and (batch_idx + 1) % every == 0)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by, self._stopped_at = signal.Signals(number), time.monotonic()
            log.info("%s: stopping after this step", self.stopped_by.name)
        elif number == signal.SIGINT:  # the user insists
            raise KeyboardInterrupt


class _Stop(BaseException):
    """A signal on its way out of a block, past everybody who takes an `Exception` for a failure of his own."""


@contextmanager
def stopped_at_once(how_to_go_on: str | Callable[[], str]) -> Iterator[None]:
    """One of `SIGNALS` ends the block at once, with a `StoppedError`: there is nothing to save.

    Args:
        how_to_go_on: the end of the sentence, or what gives it when the signal has come.
    """

    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise _Stop(number)
        if number == signal.SIGINT:  # the user insists
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except _Stop as signalled:
        number = signal.Signals(signalled.args[0])
        how = how_to_go_on if isinstance(how_to_go_on, str) else how_to_go_on()
        raise StoppedError(f"stopped by {number.name}: {how}.", number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
