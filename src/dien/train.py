"""`dien-train` and `dien-prepare`: from a configuration to a run folder, or to a prepared dataset.

`dien-train` composes, seeds, prepares the data, fits, chooses the best epoch on validation, tests it, writes the run
folder and returns the objective, so that any Hydra sweeper can drive it.
"""

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hydra
import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from dien import cluster, continuing, evaluation, runs, tracking
from dien.allocator import keep_freed_memory
from dien.build import build_module
from dien.callbacks import Best, RunCSV, Throughput, direction
from dien.checkpoint import BEST, PREVIOUS, AtomicIO, read_checkpoint
from dien.config import CONF, mistakes_in_one_sentence, register
from dien.console import Metrics, describe, print_references, print_results, print_training, say, say_what_runs
from dien.data import authors_format
from dien.data.datamodule import DataModule
from dien.data.protocol import SPLITS
from dien.errors import ConfigError, DienError, StoppedError, check_at_least, check_choice, check_whole
from dien.faults import faults_in_one_sentence
from dien.finite import FiniteLoss
from dien.launch import run_job, sweep_name
from dien.module import ClickModule
from dien.ops import engine_for
from dien.resume import StepSeed
from dien.saving import Last, stopped_at_once
from dien.targets import check_interpolation, instantiate
from dien.telemetry import Telemetry

log = logging.getLogger(__name__)

PRECISIONS = ("32", "32-true", "bf16", "bf16-mixed", "16", "16-mixed")
"""Weights and metrics stay in float32: sums of thousands of terms cannot be trusted in half precision."""


def train(cfg: DictConfig) -> float:
    """Run one configuration; everything that is left of it lies in `cfg.run_dir`.

    Returns:
        The objective on validation, at the best epoch.

    Raises:
        DienError: for any mistake in the configuration or the data.
    """
    start = time.perf_counter()
    _check(cfg)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    if getattr(rank_zero_only, "rank", 0):
        logging.getLogger().setLevel(logging.WARNING)  # the first process speaks for all
    run_dir = Path(cfg.run_dir)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data, _convert_="all")
    if not cfg.model.alpha:  # nothing would look at them
        data.negatives = replace(data.negatives, auxiliary=0)
    if cfg.train:
        data.prepare_data()
        data.setup()
    else:
        evaluation.prepare(cfg, data)
    keep_freed_memory()  # not before: what it took to prepare a large log goes back to the system
    module = build_module(cfg, data)
    with warnings.catch_warnings():
        _hush_lightning()
        checkpoint = continuing.checkpoint_to_load(cfg, run_dir)
        if checkpoint is not None:
            continuing.check(cfg, checkpoint, data, module)
        run = _train_and_test if cfg.train else _evaluate_only
        metrics = run(cfg, data, module, checkpoint, start)
    if math.isnan(metrics[cfg.objective]):
        raise DienError(f"{cfg.objective} is undefined: the validation split needs clicks and non-clicks.")
    return metrics[cfg.objective]


def _check(cfg: DictConfig) -> None:
    check_at_least("seed", cfg.seed, 0)
    check_at_least("model.alpha", cfg.model.alpha, 0)
    if cfg.model.alpha and not cfg.data.negatives.auxiliary:
        raise ConfigError(
            f"data.negatives.auxiliary=0 leaves nothing to compare clicks with in the auxiliary loss: "
            f"set model.alpha=0 too, instead of {cfg.model.alpha}."
        )
    direction(cfg.objective)
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    several = str(cfg.trainer.strategy).startswith("ddp") and cfg.trainer.devices not in (1, "1")
    if in_sweep and several and not {"SLURM_PROCID", "TORCHELASTIC_RUN_ID"} & set(os.environ):
        raise ConfigError(
            "a sweep in this process cannot start several processes a job: give each job one device "
            "(trainer.devices=1), or start each with a launcher of its own (torchrun, srun, cluster=slurm)."
        )
    if not cfg.train and cfg.ckpt is None:
        raise ConfigError("train=false evaluates a checkpoint: name a run folder or a checkpoint with ckpt=...")
    if cfg.threads is not None:
        check_whole("threads", cfg.threads, 1)
    check_choice("trainer.precision", str(cfg.trainer.precision), PRECISIONS)
    for split in ("val", "test"):
        if cfg.trainer[f"limit_{split}_batches"] == 0:
            raise ConfigError(f"trainer.limit_{split}_batches=0 leaves nothing to evaluate; null takes all batches.")


def _train_and_test(
    cfg: DictConfig, data: DataModule, module: ClickModule, resumed: Path | None, start: float
) -> Metrics:
    run_dir = Path(cfg.run_dir)
    folder = run_dir / "checkpoints"
    last = Last(folder, minutes=cfg.checkpoint.minutes, steps=cfg.checkpoint.steps, started=start)
    best, throughput, finite = Best(folder, cfg.objective), Throughput(), FiniteLoss(run_dir, on_nan=cfg.on_nan)
    loggers = [RunCSV(run_dir, keep=continuing.rows_to_keep(resumed, run_dir)), *instantiate(cfg.logger).values()]
    trainer = _trainer(cfg, [throughput, Telemetry(), best], loggers, first=[last, StepSeed(cfg.seed), finite])
    _try_optimizer(module)
    if trainer.is_global_zero:
        _write_inputs(cfg, run_dir, data, module, trainer)
        say_what_runs(cfg, data, module, trainer.world_size)
        tracking.begin(loggers, cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))
        runs.update(run_dir)  # with the id that W&B has given
    how_to_go_on = f"continue with ckpt={run_dir}"
    with stopped_at_once(how_to_go_on), faults_in_one_sentence(how_to_go_on):
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
        except SystemExit as stop:
            if last.stopped_by is None:
                raise
            raise StoppedError(f"stopped by {last.stopped_by.name}: {how_to_go_on}.", last.stopped_by) from stop
        if last.stopped_by is not None:  # after its last step
            raise StoppedError(f"stopped by {last.stopped_by.name}: {how_to_go_on}.", last.stopped_by)
        if not best.best_model_path:
            log.info("training ended before its first validation: the last weights are the best there are")
            best.best_model_path = str(folder / BEST)
            trainer.save_checkpoint(best.best_model_path, weights_only=False)
        trained = {"train/samples_per_second": throughput.samples_per_second, "epochs": trainer.current_epoch}
        if finite.skip:
            trained["train/skipped_batches"] = finite.skipped
        metrics = _evaluate(cfg, trainer, module, data, Path(best.best_model_path))
    metrics |= trained | data.data.references
    metrics |= {"best_epoch": read_checkpoint(Path(best.best_model_path))["epoch"], "seconds": last.seconds}
    if trainer.is_global_zero:
        runs.write_json(run_dir / "metrics.json", metrics)
        tracking.conclude(loggers, run_dir, metrics)
        (folder / PREVIOUS).unlink(missing_ok=True)
        print_results(metrics, cfg.name)
        print_training(metrics)
        say(f"run folder: {run_dir}")
    return metrics


def _evaluate_only(
    cfg: DictConfig, data: DataModule, module: ClickModule, checkpoint: Path | None, start: float
) -> Metrics:
    """Metrics of a checkpoint; those of its run are renewed if they are of the same data, and nothing else changes."""
    assert checkpoint is not None
    trainer = _trainer(cfg, [], [])
    log.info("data: %s", describe(data))
    metrics = _evaluate(cfg, trainer, module, data, checkpoint)
    run_dir = checkpoint.parents[1]
    if trainer.is_global_zero:
        if evaluation.is_of_the_run(cfg, data, run_dir):
            runs.write_json(run_dir / "metrics.json", runs.read_json(run_dir / "metrics.json") | metrics)
        print_results(metrics, f"{checkpoint} on {cfg.data.name}, {time.perf_counter() - start:.0f} s")
    return metrics


def _trainer(
    cfg: DictConfig, callbacks: list[pl.Callback], loggers: list[Logger], *, first: Sequence[pl.Callback] = ()
) -> pl.Trainer:
    chosen = [callback for callback in instantiate(cfg.callbacks).values() if callback is not None]
    return instantiate(
        cfg.trainer,
        callbacks=[*first, *chosen, *callbacks],
        plugins=[AtomicIO()],
        logger=loggers,
        default_root_dir=cfg.run_dir,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in chosen),
        enable_checkpointing=bool(callbacks),
    )


def _try_optimizer(module: ClickModule) -> None:
    """Raise `ConfigError` for options that the optimizer or the schedule does not take, before anything is written."""
    try:
        module.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer or schedule: {error}.") from error


def _evaluate(cfg: DictConfig, trainer: pl.Trainer, module: ClickModule, data: DataModule, checkpoint: Path) -> Metrics:
    """Validation and test metrics of one checkpoint."""
    options: dict[str, Any] = {"datamodule": data, "ckpt_path": checkpoint, "weights_only": True, "verbose": False}
    metrics = dict(trainer.validate(module, **options)[0])
    if cfg.test:
        metrics |= trainer.test(module, **options)[0]
    return {name: float(value) for name, value in metrics.items()}


def _hush_lightning() -> None:
    """Advice that does not apply here, and a deprecation that is Lightning's own to mend."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for advice in (
        ".*does not have many workers.*",  # batches are made whole in a few milliseconds
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run continues in its own folder
        ".*smaller than the logging interval.*",  # a small log has short epochs
        ".*could not find the monitored key.*",  # `train` says what it means
        ".*callbacks used to create the checkpoint need to be provided.*",  # evaluating alone needs none
        ".*checkpoint that ended before the epoch ended.*",  # the DataModule takes the sampler to its place
        ".*LeafSpec.* is deprecated.*",
        ".*It is recommended to use .*sync_dist=True.*",  # what is logged is already the same in every process
        ".*dense_embedding_codegen_lookup_function.*",  # of TorchRec; its gradients are tested
        ".*torch.distributed.* is deprecated.*",  # TorchRec's to mend
    ):
        warnings.filterwarnings("ignore", advice)


def _write_inputs(cfg: DictConfig, run_dir: Path, data: DataModule, module: ClickModule, trainer: pl.Trainer) -> None:
    device = trainer.strategy.root_device
    runs.begin(run_dir, sweep=sweep_name())
    config = OmegaConf.to_yaml(cfg, resolve=True)
    runs.write_text(run_dir / "config.yaml", config)
    runs.write_json(
        run_dir / "environment.json",
        {"config_sha256": runs.config_digest(config)}
        | runs.environment(
            seed=cfg.seed,
            fingerprint=data.data.fingerprint,
            parameters=module.parameter_count,
            device=str(device),
            engine=engine_for(device),
            overrides=list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else [],
        ),
    )
    (run_dir / "metrics.json").unlink(missing_ok=True)  # of an earlier leg: this run is unfinished again


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _train(cfg: DictConfig) -> float | None:
    return run_job(cfg, train)


@hydra.main(config_path=str(CONF), config_name="prepare", version_base="1.3")
def _prepare(cfg: DictConfig) -> None:
    with mistakes_in_one_sentence("dien-prepare"):
        data = instantiate(cfg.data, _convert_="all")
        data.prepare_data()
        data.setup()
        if cfg.authors_files is not None:
            authors_format.write(
                {split: data.rows(split) for split in SPLITS}, data.source.load(), Path(cfg.authors_files)
            )
    log.info("%s", describe(data))
    print_references(data)
    print(data.data.folder)


def main() -> None:
    """`dien-train`"""
    register()
    with mistakes_in_one_sentence("dien-train"):
        cluster.get_ready(sys.argv[1:])
        logging.raiseExceptions = False  # a full disk also ends the log: one sentence says so, not one a line
        sys.argv[1:] = runs.with_overrides_of_resumed_run(sys.argv[1:])
        for argument in sys.argv[1:]:  # Hydra names folders after what they resolve to
            check_interpolation(argument)
        _train()


def prepare_main() -> None:
    """`dien-prepare`"""
    register()
    with mistakes_in_one_sentence("dien-prepare"):
        _prepare()


if __name__ == "__main__":
    main()
