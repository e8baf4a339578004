"""What logging costs: the share of the training time that telemetry and loggers take.

    python scripts/benchmark_logging.py [OVERRIDES...]      such as logger=[wandb,tensorboard] logger.wandb.mode=offline

Every hook of `dien.telemetry.Telemetry` and every `log_metrics` of a logger is timed inside an ordinary `dien-train` of
one epoch. Times are CPU seconds of this process, so that a busy machine does not spoil them. What the first call of
each takes (imports, opening files) is listed apart: it comes once a run, however long that is.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loops.fit_loop import _FitLoop

from dien import train
from dien.telemetry import Telemetry

HOOKS = (
    *("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"),
    *("on_validation_epoch_end", "on_train_epoch_end"),
)

seconds: dict[str, float] = defaultdict(float)
first: dict[str, float] = {}


def timed(kind: type, method: str, name: str) -> None:
    original: Callable[..., Any] = getattr(kind, method)

    def run(*arguments: Any, **keywords: Any) -> Any:
        start = time.process_time()
        try:
            return original(*arguments, **keywords)
        finally:
            spent = time.process_time() - start
            if name in first:
                seconds[name] += spent
            else:
                first[name] = spent

    setattr(kind, method, run)


def main() -> None:
    for hook in HOOKS:
        timed(Telemetry, hook, f"telemetry, {hook}")
    for logger in (CSVLogger, TensorBoardLogger, WandbLogger):
        timed(logger, "log_metrics", f"{logger.__name__}.log_metrics")
        timed(logger, "save", f"{logger.__name__}.save")
    first["training"] = 0.0  # called once
    timed(_FitLoop, "run", "training")
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = ["trainer.max_epochs=1", "callbacks=quiet", f"hydra.run.dir={folder}/run", *sys.argv[1:]]
        train.main()
    whole = seconds.pop("training")
    for name, share in seconds.items():
        print(f"{name:45s} {share:8.3f} s {share / whole:8.3%}   first call {first[name]:.3f} s")
    total = sum(seconds.values())
    print(f"{'all of it':45s} {total:8.3f} s {total / whole:8.3%}   of {whole:.1f} s")


if __name__ == "__main__":
    main()
