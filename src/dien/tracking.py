"""Where a run is logged beside its own folder: Weights & Biases and TensorBoard, any of them or both.

`metrics.csv` is always written. `logger=wandb`, `logger=tensorboard` and `logger=[wandb,tensorboard]` add to it.
"""

import importlib
import io
import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from typing_extensions import override

from dien import runs
from dien.errors import ConfigError, DienError, check_choice

DPI = 200
"""Dots an inch of the figures that are logged."""
MODES = ("online", "offline", "disabled")


@runtime_checkable
class Tracker(Protocol):
    """A logger that also takes what a run comes to in the end."""

    def conclude(self, metrics: Mapping[str, float], figures: Mapping[str, Figure]) -> None: ...


class WandbRun(WandbLogger):
    """The W&B run of a run folder. A resumed job continues it; the jobs of a sweep are runs of one group.

    No environment variable, source code, address of a git repository (it may hold a token; `environment.json` has the
    commit) or output of the terminal is written.

    Args:
        folder: the run folder; W&B writes into `wandb/` there.
        name: of the run.
        project: that it belongs to.
        entity: user or team; None takes the account's own.
        group: None takes the folder of the sweep, for a job of one.
        job_type: such as `train`.
        tags: of the run.
        mode: `online | offline | disabled`; None takes `$WANDB_MODE`, or online.

    Raises:
        ConfigError: for another mode.
    """

    def __init__(
        self,
        *,
        folder: str,
        name: str,
        project: str = "dien",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = "train",
        tags: Sequence[str] = (),
        mode: str | None = None,
    ) -> None:
        import wandb

        if mode is not None:
            check_choice("logger.wandb.mode", mode, MODES)
        if isinstance(tags, str):
            raise ConfigError(f"logger.wandb.tags={tags!r} must be a list of tags, such as [{tags}].")
        super().__init__(
            name=name,
            save_dir=folder,
            project=project,
            entity=entity,
            group=group or _sweep(),
            job_type=job_type,
            tags=list(tags),
            mode=mode or os.environ.get("WANDB_MODE"),  # W&B reads its variable once in a process
            settings=wandb.Settings(console="off", disable_code=True, disable_git=True, quiet=True),
        )
        del self._wandb_init["anonymous"]  # W&B warns of it, whatever its value
        self.folder = Path(folder)

    @property
    @override
    def experiment(self) -> Any:
        import wandb

        if self._experiment is None and _leads():
            self._wandb_init["id"] = _id_of(self.folder)
            try:
                super().experiment  # noqa: B018 - begins the run
            except wandb.Error as error:
                reason = " ".join(str(error).split()).rstrip(".")
                raise DienError(f"logger=wandb: {reason}; logger.wandb.mode=offline needs no account.") from error
        return super().experiment

    @rank_zero_only
    def conclude(self, metrics: Mapping[str, float], figures: Mapping[str, Figure]) -> None:
        """The final metrics become the summary of the run, the figures its images."""
        import wandb
        from PIL import Image

        from dien.looks import drawn

        # W&B would draw a figure at 100 dots an inch, whatever its own are.
        pngs = {name: io.BytesIO(drawn(figure, "png", dpi=DPI)) for name, figure in figures.items()}
        self.experiment.log({f"figures/{name}": wandb.Image(Image.open(png)) for name, png in pngs.items()})
        self.experiment.summary.update(dict(metrics))


class TensorBoard(TensorBoardLogger):
    """An event file in the run folder.

    Args:
        folder: the run folder; the events go into `tensorboard/` there.

    Raises:
        ConfigError: without the package tensorboard.
    """

    def __init__(self, *, folder: str) -> None:
        try:
            importlib.import_module("tensorboard")
        except ModuleNotFoundError as error:
            raise ConfigError("logger=tensorboard needs its package: pip install tensorboard.") from error
        super().__init__(save_dir=folder, name="tensorboard", version="", default_hp_metric=False)

    @rank_zero_only
    def conclude(self, metrics: Mapping[str, float], figures: Mapping[str, Figure]) -> None:
        """The final metrics go under `final/`, the figures under `figures/`."""
        for name, value in metrics.items():
            self.experiment.add_scalar(f"final/{name}", value)
        for name, figure in figures.items():
            self.experiment.add_figure(f"figures/{name}", figure)


def begin(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Open the runs and log the resolved configuration.

    Raises:
        DienError: if W&B cannot be reached, or knows no account.
    """
    for logger in loggers:
        if isinstance(logger, Tracker):
            logger.log_hyperparams(dict(config))


def conclude(loggers: Iterable[Logger], folder: Path, metrics: Mapping[str, float]) -> None:
    """Log what a run came to and its figures, which are drawn only if somebody takes them."""
    trackers = [logger for logger in loggers if isinstance(logger, Tracker)]
    if not trackers:
        return
    from dien.figures import of_run  # matplotlib takes a second to load

    figures = of_run(folder / "metrics.csv")
    for figure in figures.values():
        figure.set_dpi(DPI)
    for tracker in trackers:
        tracker.conclude(metrics, figures)


def finish(*, failed: bool) -> None:
    """Close the W&B run of this process, if there is one: the next job of a sweep has its own."""
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish(exit_code=int(failed))
        sys.modules["wandb"].teardown(int(failed))  # on a busy machine `finish` can return before all is on disk


def _leads() -> bool:
    """Whether this is the process that logs, the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _id_of(folder: Path) -> str:
    """The id of a folder's W&B run, made on first use; it moves with the folder."""
    path = folder / "wandb" / "run_id"
    if not path.is_file():
        runs.write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def _sweep() -> str | None:
    """The folder of the sweep that this job belongs to, without where it lies."""
    if not HydraConfig.initialized() or HydraConfig.get().mode is not RunMode.MULTIRUN:
        return None
    return "/".join(Path(HydraConfig.get().sweep.dir).parts[-2:])
