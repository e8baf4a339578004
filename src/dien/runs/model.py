"""A finished run as a network that can be used: its weights, its dataset, its configuration."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dien.build import build_module
from dien.checkpoint import read_checkpoint
from dien.data.datamodule import DataModule
from dien.data.protocol import Protocol
from dien.errors import DienError
from dien.runs.folder import checkpoint_of, read_json, run_folder_of
from dien.targets import instantiate


class LoadedRun(NamedTuple):
    """What `load_model` returns."""

    network: nn.Module
    """In evaluation mode, with the weights of the checkpoint, on the CPU."""
    data: DataModule
    """Set up on the prepared dataset of the run."""
    config: DictConfig
    folder: Path


def load_model(run: str | Path, *, checkpoint: str = "best.ckpt", overrides: Sequence[str] = ()) -> LoadedRun:
    """The network of a run folder and its data; the log is read only if its dataset is not in the cache.

    Args:
        run: a run folder.
        checkpoint: a file in its `checkpoints/`.
        overrides: changes to its configuration, such as `data.batch_size=64`.

    Raises:
        DienError: if the folder, its configuration or the checkpoint is missing or damaged, or the data have changed
            since the run.
    """
    folder = run_folder_of(str(run))
    config = _configuration(folder, overrides)
    data = instantiate(config.data, _convert_="all")
    recorded = read_json(folder / "environment.json").get("dataset_fingerprint")
    if not isinstance(recorded, str) or _other_data(overrides) or not data.open_prepared(recorded):
        data.prepare_data()
    data.setup()
    trained_on = recorded or data.data.fingerprint
    if trained_on != data.data.fingerprint:
        raise DienError(
            f"{folder} was trained on the dataset {trained_on}, but its configuration now gives "
            f"{data.data.fingerprint}: the data have changed."
        )
    module = build_module(config, data)
    path = checkpoint_of(str(folder), checkpoint)
    try:
        module.load_state_dict(read_checkpoint(path)["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise DienError(f"{path} holds another network than {folder}/config.yaml describes.") from error
    return LoadedRun(module.network.eval(), data, config, folder)


def _other_data(overrides: Sequence[str]) -> bool:
    """Whether they may give another dataset than the run's."""
    shaping = {"data", "data.source", *(f"data.{field.name}" for field in fields(Protocol))}
    keys = [override.partition("=")[0] for override in overrides]
    return any(key in shaping or key.startswith("data.source.") for key in keys)


def _configuration(folder: Path, overrides: Sequence[str]) -> DictConfig:
    path = folder / "config.yaml"
    try:
        config = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
    except (OSError, yaml.YAMLError) as error:
        raise DienError(f"{path} is missing or damaged: a run cannot be loaded without its configuration.") from error
    if not isinstance(config, DictConfig) or not {"data", "model"} <= set(config):
        raise DienError(f"{path} is not the configuration of a run.")
    return config
