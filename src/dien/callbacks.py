"""What happens around training: choosing the best epoch, stopping early, measuring speed, showing progress."""

import csv
import io
import itertools
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from typing_extensions import override

from dien.batch import Batch
from dien.errors import check_at_least, check_choice, named
from dien.progress import duration
from dien.runs import write_text

log = logging.getLogger(__name__)

SAY_EVERY = 60.0
"""Seconds between two lines of a training where there is no terminal."""
OBJECTIVES = {"val/auc": "max", "val/gauc": "max", "val/logloss": "min"}


def direction(objective: str) -> str:
    """`max` or `min`: which way a validation metric is better.

    Raises:
        ConfigError: for anything but a validation metric; choosing on test data is not offered.
    """
    check_choice("objective", objective, tuple(OBJECTIVES))
    return OBJECTIVES[objective]


class _Checkpoint(callbacks.ModelCheckpoint):
    """A checkpoint in a run folder that may have been moved: its paths are taken afresh when it is resumed."""

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(self.dirpath or "", Path(path).name)) if path else path

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"best_k_models": best, "dirpath": self.dirpath})


class Best(_Checkpoint):
    """`best.ckpt`, the epoch with the best objective."""

    def __init__(self, folder: Path, objective: str) -> None:
        mode = direction(objective)
        super().__init__(dirpath=folder, filename="best", monitor=objective, mode=mode, enable_version_counter=False)


class EarlyStopping(callbacks.EarlyStopping):
    """Stop when the objective has not improved for `patience` validations."""

    def __init__(self, *, objective: str, patience: int, min_delta: float = 0.0) -> None:
        check_at_least("callbacks.early_stopping.patience", patience, 1)
        super().__init__(
            monitor=objective,
            mode=direction(objective),
            patience=patience,
            min_delta=min_delta,
            check_finite=False,
            strict=False,
        )

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})  # a resumed run may be given more

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.wait_count >= self.patience:  # training had ended when the run was stopped
            trainer.should_stop = True


class Throughput(callbacks.Callback):
    """Rows trained per second of training, over the whole run; validation and checkpoints do not count."""

    def __init__(self) -> None:
        self.rows, self.seconds, self._start = 0, 0.0, 0.0

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]

    @property
    def samples_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.perf_counter()  # a resumed run begins within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.rows += len(batch.label_B) * trainer.world_size
        self.seconds += time.perf_counter() - self._start
        self._start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.perf_counter()


class Progress(callbacks.RichProgressBar):
    """A bar with rate and remaining time on a terminal; in a log file plain lines, one an epoch and one a minute."""

    def __init__(self) -> None:
        super().__init__(
            leave=False, theme=RichProgressBarTheme(metrics_format=".4f"), console_kwargs={"file": sys.stderr}
        )
        self.on_terminal = sys.stderr.isatty()
        self._start, self._said, self._first_step = 0.0, 0.0, 0
        self._epoch = Throughput()
        if not self.on_terminal:
            self.disable()

    @override
    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the id of the W&B run
        return metrics

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start = self._said = time.monotonic()
        self._first_step = trainer.global_step
        self._epoch.on_train_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._epoch = Throughput()
        self._epoch.on_train_epoch_start(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._epoch.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.on_terminal or time.monotonic() - self._said < SAY_EVERY:
            return
        batches = trainer.num_training_batches
        self._say(trainer, f"batch {batch_idx + 1:,}" + (f" of {batches:,}" if batches < math.inf else ""))

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != "fit":
            return
        self._epoch.on_validation_end(trainer, pl_module)
        self._say(trainer, ", ".join(f"{name} {trainer.callback_metrics[name]:.4f}" for name in OBJECTIVES))

    def _say(self, trainer: pl.Trainer, what: str) -> None:
        self._said = time.monotonic()
        if trainer.is_global_zero:
            rate = f"{self._epoch.samples_per_second:,.0f} samples/s"
            log.info("epoch %d: %s, %s%s", trainer.current_epoch, what, rate, self._time_left(trainer))

    def _time_left(self, trainer: pl.Trainer) -> str:
        """At the pace so far, validation included; nothing if it ends now, or nobody knows when."""
        done, steps = trainer.global_step - self._first_step, trainer.estimated_stepping_batches
        left = (steps - trainer.global_step) * (time.monotonic() - self._start) / max(done, 1)
        return f", at most {duration(left)} left" if 0 < left < math.inf else ""


class RunCSV(CSVLogger):
    """`metrics.csv` of a run folder.

    Args:
        folder: of the run.
        keep: a resumed run goes on after so many rows; what was written after its checkpoint comes once more.
    """

    def __init__(self, folder: Path, *, keep: int = 0) -> None:
        super().__init__(str(folder), name="", version="")
        self.keep = keep

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _RowWriter(self.log_dir, self.keep)
        return cast(ExperimentWriter, self._experiment)

    @property
    def rows(self) -> int:
        """How many the file has."""
        return cast(_RowWriter, self.experiment).rows

    def sync(self) -> None:
        """Have the rows on disk, so that not even a loss of power takes them from a checkpoint that counts them."""
        path = Path(self.experiment.metrics_file_path)
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def rows_before(path: Path, step: int) -> int:
    """How many rows of a metrics.csv belong to the steps before `step`."""
    if not path.is_file():
        return 0
    with path.open(newline="") as file:
        return sum(int(row["step"]) < step for row in csv.DictReader(file))


class _RowWriter(ExperimentWriter):
    """Lightning's writer deletes a metrics file that it finds, and empties one whose header changes.

    This one keeps the first rows, and replaces a file by a whole one.
    """

    def __init__(self, log_dir: str, keep: int) -> None:
        self.rows, self._keep = 0, keep
        super().__init__(log_dir)

    @override
    def save(self) -> None:
        new = len(self.metrics)
        with named(Path(self.metrics_file_path)):
            super().save()
        self.rows += new

    @override
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            kept = list(itertools.islice(csv.DictReader(file), self._keep))
        if len(kept) < self._keep:
            log.warning("%s has only %d of the %d rows that the checkpoint counts", path, len(kept), self._keep)
        if not kept:
            path.unlink()
            return
        self.rows = len(kept)
        self.metrics_keys = sorted({key for row in kept for key, value in row.items() if value})
        self._replace([{key: value for key, value in row.items() if value} for row in kept])

    @override
    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            self._replace(list(csv.DictReader(file)))

    def _replace(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_text(Path(self.metrics_file_path), text.getvalue())
