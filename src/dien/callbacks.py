"""What happens around training: choosing the best epoch, stopping early, measuring speed, showing progress."""

import csv
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from typing_extensions import override

from dien.batch import Batch
from dien.errors import check_at_least, check_choice
from dien.progress import duration

log = logging.getLogger(__name__)

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


class Last(_Checkpoint):
    """`last.ckpt`, the state after the newest whole epoch, whatever its objective."""

    def __init__(self, folder: Path) -> None:
        super().__init__(dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)


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


class Throughput(callbacks.Callback):
    """Rows trained per second of training, over the whole run; validation and checkpoints do not count."""

    def __init__(self) -> None:
        self.rows, self.seconds, self._start = 0, 0.0, 0.0

    @property
    def samples_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

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
    """A progress bar on a terminal; in a log file one plain line an epoch."""

    def __init__(self) -> None:
        super().__init__(
            leave=False, theme=RichProgressBarTheme(metrics_format=".4f"), console_kwargs={"file": sys.stderr}
        )
        self.on_terminal = sys.stderr.isatty()
        self._start, self._first_step = 0.0, 0
        if not self.on_terminal:
            self.disable()

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        metrics = {name: f"{trainer.callback_metrics[name]:.4f}" for name in OBJECTIVES}
        log.info(
            "epoch %d: %s%s",
            trainer.current_epoch,
            ", ".join(f"{k} {v}" for k, v in metrics.items()),
            self._time_left(trainer),
        )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start, self._first_step = time.monotonic(), trainer.global_step

    def _time_left(self, trainer: pl.Trainer) -> str:
        """At the pace so far, validation included; nothing if it ends now, or nobody knows when."""
        done, steps = trainer.global_step - self._first_step, trainer.estimated_stepping_batches
        left = (steps - trainer.global_step) * (time.monotonic() - self._start) / max(done, 1)
        return f", at most {duration(left)} left" if 0 < left < math.inf else ""


class RunCSV(CSVLogger):
    """`metrics.csv` of a run folder; a resumed run keeps the rows up to the step it continues from."""

    def __init__(self, folder: Path, *, resume_step: int = 0) -> None:
        super().__init__(str(folder), name="", version="")
        self.resume_step = resume_step

    @property
    @override
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir, self.resume_step)
        return cast(ExperimentWriter, self._experiment)


class _AppendingWriter(ExperimentWriter):
    """Lightning's writer deletes a metrics file that it finds; this one keeps its first steps."""

    def __init__(self, log_dir: str, resume_step: int) -> None:
        self._resume_step = resume_step
        super().__init__(log_dir)

    @override
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < self._resume_step]
        path.unlink()
        self.metrics = [
            {key: int(value) if value.isdigit() else float(value) for key, value in row.items() if value}
            for row in rows
        ]
        self.save()
