"""What a command says on the terminal: the resolved essentials before a run, its results after it."""

import logging
import sys

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from dien.data.datamodule import DataModule
from dien.data.protocol import SPLITS
from dien.data.references import PREFIX
from dien.module import ClickModule

log = logging.getLogger(__name__)

Metrics = dict[str, float]


def say_what_runs(cfg: DictConfig, data: DataModule, module: ClickModule, processes: int) -> None:
    log.info("data: %s", describe(data))
    log.info(
        "model: %s, %s parameters, alpha %g, seed %d, batch %d, history <= %d",
        cfg.model.name,
        f"{module.parameter_count:,}",
        module.alpha,
        cfg.seed,
        cfg.data.batch_size,
        cfg.data.history_length,
    )
    if processes > 1:
        log.info(
            "%d processes: %d rows a step in all, learning rate %g (not scaled)",
            processes,
            processes * cfg.data.batch_size,
            cfg.optimizer.lr,
        )
    log.info("run folder: %s", cfg.run_dir)


def describe(data: DataModule) -> str:
    """One line of what a prepared dataset holds."""
    counts = data.data.manifest
    rows = ", ".join(f"{len(data.rows(split)):,} {split}" for split in SPLITS)
    return (
        f"{counts['name']}: {counts['users']:,} users, {counts['items']:,} items, {counts['events']:,} events; "
        f"rows: {rows}"
    )


def print_results(metrics: Metrics, title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("split")
    for column in ("AUC", "GAUC", "log loss", "calibration"):
        table.add_column(column, justify="right")
    for split in ("val", "test"):
        if f"{split}/auc" in metrics:
            values = (metrics[f"{split}/{metric}"] for metric in ("auc", "gauc", "logloss", "calibration"))
            table.add_row(split, *(f"{value:.4f}" for value in values))
    Console(file=sys.stdout).print(table)


def print_references(data: DataModule) -> None:
    """A table of what can be reached, if the dataset knows; see `dien.data.references`."""
    names = dict.fromkeys(name.split("/")[1] for name in data.data.references)
    if not names:
        return
    table = Table(title=f"{data.data.name}: what can be reached, and what counting reaches", title_justify="left")
    for column in ("reference", "val AUC", "val GAUC", "test AUC", "test GAUC", "test log loss"):
        table.add_column(column, justify="left" if column == "reference" else "right")
    for name in names:
        metrics = ("val/auc", "val/gauc", "test/auc", "test/gauc", "test/logloss")
        values = (data.data.references.get(f"{PREFIX}/{name}/{metric}") for metric in metrics)
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
    Console(file=sys.stderr).print(table)


def print_training(metrics: Metrics) -> None:
    say(
        f"best epoch {metrics['best_epoch']} (counted from 0) of {metrics['epochs']}, {metrics['seconds']:.0f} s, "
        f"{metrics['train/samples_per_second']:,.0f} training samples/s"
    )


def say(line: str) -> None:
    Console(file=sys.stdout).print(line, highlight=False, soft_wrap=True)
