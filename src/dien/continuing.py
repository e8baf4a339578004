"""Which checkpoint a run goes on from, and whether it is the same run."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from dien import runs
from dien.callbacks import rows_before
from dien.checkpoint import BEST, LAST, newest, read_checkpoint
from dien.data.datamodule import DataModule
from dien.errors import DienError
from dien.module import ClickModule
from dien.resume import check_can_go_on

log = logging.getLogger(__name__)


def checkpoint_to_load(cfg: DictConfig, run_dir: Path) -> Path | None:
    """The checkpoint that `ckpt` names: the newest state of a training, or the best one if it is only evaluated.

    None if there is nothing to go on from, which only `ckpt=auto` may find.

    Raises:
        DienError: the run folder holds no checkpoint.
    """
    if cfg.ckpt is None:
        return None
    if not cfg.train:
        return runs.checkpoint_of(cfg.ckpt, BEST)
    if cfg.ckpt != "auto" and Path(cfg.ckpt).is_file():
        return Path(cfg.ckpt)
    found = newest(run_dir / "checkpoints")
    if found is None and cfg.ckpt != "auto":
        raise DienError(f"ckpt={cfg.ckpt} holds no checkpoint: {run_dir / 'checkpoints' / LAST} is missing.")
    return found


def check(cfg: DictConfig, checkpoint: Path, data: DataModule, module: ClickModule) -> None:
    """Put the checkpoint's weights into `module`, to see that they fit; a resumed run must also be the same run.

    Raises:
        DienError: another network, dataset or seed than the checkpoint's, or a training that cannot go on from it.
    """
    state = read_checkpoint(checkpoint)
    try:
        module.load_state_dict(state["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise DienError(f"{checkpoint} holds another network than {cfg.model.name} on {cfg.data.name}.") from error
    if not cfg.train:
        return
    before = runs.read_json(checkpoint.parents[1] / "environment.json")
    if (fingerprint := data.fingerprint_of(state)) is not None:
        before["dataset_fingerprint"] = fingerprint
    now = {"dataset_fingerprint": data.data.fingerprint, "seed": cfg.seed}
    for key, value in now.items():
        if before.get(key, value) != value:
            raise DienError(
                f"{checkpoint} was trained with {key} {before[key]}, this run has {value}: it cannot go on."
            )
    check_can_go_on(state, checkpoint, max_steps=cfg.trainer.max_steps)
    if before.get("threads", threads := torch.get_num_threads()) != threads:
        log.warning("trained with threads=%d so far, now %d: the last bits may differ", before["threads"], threads)
    best = checkpoint.with_name(BEST)
    if best.is_file():
        read_checkpoint(best)  # better to know now that it is damaged than after the last epoch


def rows_to_keep(resumed: Path | None, run_dir: Path) -> int:
    """Rows of metrics.csv that a checkpoint goes on after; those behind them come again."""
    if resumed is None:
        return 0
    state = read_checkpoint(resumed)
    if (saved := state.get("resume")) and saved["csv_rows"] is not None:
        return saved["csv_rows"]
    return rows_before(run_dir / "metrics.csv", state["global_step"])
