"""`dien-train train=false`: what a checkpoint may be evaluated on, and what is a number of its own run."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dien import runs
from dien.data.datamodule import DataModule
from dien.data.translate import trained_on
from dien.errors import DienError
from dien.runs.model import configuration_of, find_dataset, same_dataset
from dien.targets import instantiate

log = logging.getLogger(__name__)

NOT_THE_NETWORK = ("name", "label", "alpha", "embedding")
"""Keys of `model` that do not change what a trained network says."""
ONLY_SPEED = (
    *("batch_size", "eval_batch_size", "num_workers", "bucket", "cache", "prepared", "pin_memory"),
    *("prefetch_factor", "persistent_workers", "seed"),
)
"""Keys of `data` that do not change a metric of evaluation."""


def prepare(cfg: DictConfig, data: DataModule) -> None:
    """Find the data to evaluate on, and make them readable for the network of the run that `cfg.ckpt` names.

    The run's own dataset is opened where it lies, without its log. Another one, such as the same log under another
    split, numbers its vocabulary differently: its tables are translated, see `dien.data.translate`.

    Raises:
        DienError: the data cannot be had, or the network is given otherwise than it was trained or cannot read them.
    """
    folder = Path(cfg.run_dir) if cfg.ckpt == "auto" else runs.run_folder_of(cfg.ckpt)
    before = _configuration(folder)
    fingerprint = runs.read_json(folder / "environment.json").get("dataset_fingerprint")
    if before is not None and isinstance(fingerprint, str) and same_dataset(before.data, cfg.data):
        find_dataset(data, fingerprint, folder)
    data.prepare_data()
    data.setup()
    if before is None:
        return
    changed = [key for key, value in _plain(cfg.model).items() if value != _plain(before.model).get(key, value)]
    if changed := [key for key in changed if key not in NOT_THE_NETWORK]:
        raise DienError(
            f"train=false evaluates the network as it was trained, but model.{changed[0]} is given otherwise: "
            "leave it out, or train."
        )
    if fingerprint == data.data.fingerprint:
        return
    own: DataModule = instantiate(before.data, _convert_="all")
    if isinstance(fingerprint, str):
        find_dataset(own, fingerprint, folder)
    trained = own.data
    if trained.fingerprint != (fingerprint or trained.fingerprint):
        raise DienError(
            f"{folder} was trained on the dataset {fingerprint}, but its configuration now gives "
            f"{trained.fingerprint}: the data have changed, so its vocabulary is lost."
        )
    if trained.fingerprint == data.data.fingerprint:
        return
    data.trained = trained
    data.tables()  # says at once what cannot be read
    seen = trained_on(data.data, trained)
    if seen is None:
        log.warning("evaluated on another log than the run was trained on; events of both are not told apart")
    elif seen:
        log.warning("%.0f %% of these test events were training events of the run: its metrics flatter it", 100 * seen)


def is_of_the_run(cfg: DictConfig, data: DataModule, run_dir: Path) -> bool:
    """Whether metrics of `data` are those that the run itself would report."""
    if runs.read_json(run_dir / "environment.json").get("dataset_fingerprint") != data.data.fingerprint:
        return False
    before = _configuration(run_dir)
    if before is None:
        return True
    mine, theirs = _plain(cfg.data), _plain(before.data)
    return all(mine.get(key) == theirs.get(key) for key in mine.keys() | theirs.keys() if key not in ONLY_SPEED)


def _configuration(folder: Path) -> DictConfig | None:
    """What the run was trained with; None if that is lost."""
    if not (folder / "config.yaml").is_file():
        return None
    return configuration_of(folder)


def _plain(node: Any) -> dict[str, Any]:
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}
