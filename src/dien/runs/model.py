"""A finished run as a network that can be used: its weights, its dataset, its configuration."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from dien.build import build_module
from dien.checkpoint import read_checkpoint
from dien.data.datamodule import DataModule
from dien.data.protocol import Protocol
from dien.errors import ConfigError, DataError, DienError
from dien.runs.folder import checkpoint_of, read_json, run_folder_of
from dien.targets import check_interpolations, instantiate

PLACES = ("data.prepared", "data.cache")
READING = ("batch_size", "eval_batch_size", "num_workers", "prefetch_factor", "persistent_workers", "pin_memory")
"""Keys of `data` that change how fast it is read, and nothing of what a network makes of it."""


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
        overrides: changes to its configuration, such as `data.prepared=FOLDER` where its dataset has moved. They say
            where the data are or how fast they are read (see `overridden`); all else is as it was trained.

    Raises:
        DienError: the folder, its configuration or the checkpoint is missing or damaged, its dataset cannot be found,
            or the data have changed since the run.
        ConfigError: an override is none of these.
    """
    folder = run_folder_of(str(run))
    saved = configuration_of(folder)
    config = overridden(saved, overrides)
    data = instantiate(config.data, _convert_="all")
    recorded = read_json(folder / "environment.json").get("dataset_fingerprint")
    if isinstance(recorded, str) and same_dataset(saved.data, config.data):
        find_dataset(data, recorded, folder)
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


def overridden(saved: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a run with changes to where its data are and how fast they are read.

    Raises:
        ConfigError: an override changes anything else, a key that the run does not have, or is not KEY=VALUE.
    """
    for one in overrides:
        key, equals, _ = one.partition("=")
        if not equals:
            raise ConfigError(f"the override {one!r} is not of the form KEY=VALUE.")
        above, _, name = key.rpartition(".")
        if key in PLACES or (above == "data" and name in READING):
            continue
        if not key.startswith("data.source.") or name == "_target_":
            raise ConfigError(
                f"the override {one} would change what was trained: it may say where the data are "
                f"({', '.join(PLACES)}, data.source.KEY) or how they are read (data.{', '.join(READING)})."
            )
        node = OmegaConf.select(saved, above)
        if not isinstance(node, DictConfig) or name not in node:
            source = ", ".join(str(known) for known in saved.data.get("source") or () if known != "_target_")
            raise ConfigError(f"the override {one} names no key of this run's log: data.source has {source}.")
    try:
        return cast(DictConfig, OmegaConf.merge(saved, OmegaConf.from_dotlist(list(overrides))))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"the overrides {' '.join(overrides)} have a value that cannot be read.") from error


def configuration_of(folder: Path) -> DictConfig:
    """What a run was trained with.

    Raises:
        DienError: it is missing, damaged, or that of something else.
    """
    path = folder / "config.yaml"
    try:
        config = OmegaConf.load(path)
    except (OSError, yaml.YAMLError) as error:
        raise DienError(f"{path} is missing or damaged: a run cannot be used without its configuration.") from error
    if not isinstance(config, DictConfig) or not {"data", "model"} <= set(config):
        raise DienError(f"{path} is not the configuration of a run.")
    check_interpolations(config)  # before anything in it is looked at: somebody else may have made the folder
    return config


def same_dataset(one: DictConfig, other: DictConfig) -> bool:
    """Whether two nodes `data` of a configuration describe the same prepared dataset, wherever it lies."""
    return _shape(one) == _shape(other)


def _shape(node: DictConfig) -> list[Any]:
    plain = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    source = plain.get("source") or {}
    source = {key: value for key, value in source.items() if key != "cache"}  # of its downloads
    return [source, *(plain.get(field.name) for field in fields(Protocol))]


def find_dataset(data: DataModule, fingerprint: str, folder: Path) -> None:
    """Open the prepared dataset of a run, or make it again if it is gone but the log is where it was.

    Raises:
        DienError: neither can be had; the message says where they were looked for and what to give.
    """
    place = data.place_of(fingerprint)
    try:
        if data.open_prepared(fingerprint):
            return
        problem = f"not at {place}"
    except DataError:
        problem = f"damaged or another one at {place}"
    try:
        data.prepare_data()
    except (DataError, OSError) as error:
        raise DienError(
            f"the dataset that {folder} was trained on is {problem}, and cannot be made again "
            f"({str(error).removesuffix('.')}): give its place as the override data.prepared=FOLDER, "
            "or set DIEN_CACHE to the folder that holds it."
        ) from error
