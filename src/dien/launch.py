"""One job of `dien-train`, alone or of a sweep: whose the folder is, what its status says, how its errors end.

Sweeps run it in this process, in workers of joblib, or on the nodes of a cluster; only files tell them apart.
"""

import contextlib
import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.rank_zero import _get_rank
from omegaconf import DictConfig, OmegaConf

from dien import cluster, runs, tracking
from dien.checkpoint import LAST
from dien.config import mistakes_in_one_sentence, register, sentence_of
from dien.errors import DienError, StoppedError
from dien.saving import stopped_at_once
from dien.targets import check_interpolations

log = logging.getLogger(__name__)

Train = Callable[[DictConfig], float]

register()  # a worker of a launcher imports this module before it composes its configuration


def run_job(cfg: DictConfig, train: Train) -> float | None:
    """Train, and leave `status.json` in the run folder.

    Alone, a mistake ends the process with one sentence. In a sweep a finished job is not run again, an unfinished one
    continues from its last checkpoint, an error ends this job only, and a signal ends the process.

    Returns:
        The objective; None if another process is running this job of a sweep just now.
    """
    job = _alone if HydraConfig.get().mode is RunMode.RUN else _of_sweep
    try:
        return job(cfg, train)
    finally:
        tracking.finish(failed=sys.exc_info()[0] is not None)
        with contextlib.suppress(OSError):  # a run that never began leaves no empty folder behind
            Path(cfg.run_dir).rmdir()
        gc.collect()  # trainer and module hold each other: the next job would start on top of them


def sweep_name() -> str | None:
    """The `sweep=` of this job."""
    return HydraConfig.get().runtime.choices.get("sweep") if HydraConfig.initialized() else None


def _alone(cfg: DictConfig, train: Train) -> float:
    with mistakes_in_one_sentence("dien-train"):
        try:
            with _folder(cfg):
                return _recorded(cfg, train)
        except StoppedError as stop:
            cluster.requeue_after(stop)
            raise


def _of_sweep(cfg: DictConfig, train: Train) -> float | None:
    run_dir = Path(cfg.run_dir)
    try:
        check_interpolations(cfg)  # before they are resolved into config.yaml
        with _folder(cfg):
            if runs.is_finished(run_dir):  # another process was faster
                return float(runs.read_json(run_dir / "metrics.json")[cfg.objective])
            if cfg.ckpt is None:
                cfg.ckpt = "auto"
            if cfg.train and _leads():  # also a job that fails before it begins is one to report
                runs.begin(run_dir, sweep=sweep_name())
                if not (run_dir / "environment.json").exists():
                    runs.write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
            return _recorded(cfg, train)
    except runs.ClaimedError as error:
        log.info("%s", error)
        return None
    except StoppedError as stop:
        with mistakes_in_one_sentence("dien-train"):
            cluster.requeue_after(stop)
            if sweep_name() is None:
                raise
            number = stop.status - 128
            raise StoppedError(f"{str(stop).split(':')[0]}: the same command continues the sweep.", number) from stop
    except Exception as error:
        log.error("%s", _reason(error), exc_info=sentence_of(error) is None)
        # Hydra hands the error to the sweeper, from a worker as a pickle: a plain one can always travel.
        raise DienError(_reason(error)) from None


def _folder(cfg: DictConfig) -> contextlib.AbstractContextManager[None]:
    """The run folder is this process's own; the first of several ranks holds it for all, evaluating needs none."""
    return runs.claimed(Path(cfg.run_dir)) if cfg.train and _leads() else contextlib.nullcontext()


def _recorded(cfg: DictConfig, train: Train) -> float:
    """Train, and write how it ended if it ever began."""
    run_dir = Path(cfg.run_dir)

    def end(status: str, error: str | None = None) -> None:
        if cfg.train and _leads() and runs.began_here(run_dir):
            runs.end(run_dir, status, error)

    def how_to_go_on() -> str:
        begun = cfg.train and (run_dir / "checkpoints" / LAST).exists()
        return f"continue with ckpt={run_dir}" if begun else "give the same command again"

    try:
        with stopped_at_once(how_to_go_on):  # until the training itself takes signals, and when it does so no longer
            objective = train(cfg)
    except StoppedError as stop:
        if cfg.train and _leads() and not runs.began_here(run_dir):  # while the data were prepared
            runs.begin(run_dir, sweep=sweep_name())
        end("stopped", str(stop))
        raise
    except (KeyboardInterrupt, SystemExit) as stop:
        end("stopped", f"stopped by {type(stop).__name__}.")
        raise
    except Exception as error:
        end("failed", _reason(error))
        raise
    end("finished")
    return objective


def _reason(error: BaseException) -> str:
    """One sentence, also for a defect."""
    return sentence_of(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"


def _leads() -> bool:
    """Whether this is the only process of the run, or the first of several."""
    return not _get_rank()
