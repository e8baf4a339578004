"""Weights and configuration without a checkpoint's baggage: safetensors and JSON that give the network back."""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dien.build import build_network
from dien.errors import DataError
from dien.export.archive import FORMATS, read_json, read_manifest
from dien.tables import Column, Kind, Table

TABLES, CONFIG = "tables.safetensors", "config.json"


def write_weights(network: nn.Module, model: DictConfig, tables: tuple[Table, Table], folder: Path) -> None:
    """Write model.safetensors, tables.safetensors (the features of items and users) and config.json."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / FORMATS["weights"])
    kinds = dict(zip(("item", "user"), tables, strict=True))
    values = {f"{kind}.{i}": column.values.contiguous() for kind, t in kinds.items() for i, column in enumerate(t)}
    save_file(values, folder / TABLES)
    description = {
        "model": OmegaConf.to_container(model, resolve=True),
        **{kind: [{"name": c.name, "kind": c.kind, "size": c.size} for c in table] for kind, table in kinds.items()},
    }
    (folder / CONFIG).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


class Weights(NamedTuple):
    """What a folder of weights holds."""

    network: nn.Module
    """In evaluation mode."""
    model: DictConfig
    """The node `model` of its configuration."""
    tables: tuple[Table, Table]
    """Features of items and of users."""
    history_length: int


def load_weights(folder: str | Path) -> nn.Module:
    """The network of a folder that `dien-export --format weights` or `dien-convert` wrote, in evaluation mode.

    Raises:
        DienError: see `read_weights`.
    """
    return read_weights(folder).network


def read_weights(folder: str | Path) -> Weights:
    """All of such a folder but its ids.

    Raises:
        DataError: the folder is no such export, or its files do not fit together.
        ConfigError: its configuration names something that may not be built.
    """
    folder = Path(folder)
    history_length: int = read_manifest(folder, kind="weights")["history_length"]
    config = read_json(folder / CONFIG, f"{folder} lacks its configuration")
    values = _tensors(folder / TABLES)
    try:
        tables = _table(config["item"], "item", values), _table(config["user"], "user", values)
        model = OmegaConf.create(config["model"])
        network = build_network(model, *tables)
        network.load_state_dict(_tensors(folder / FORMATS["weights"]))
    except (KeyError, TypeError, IndexError, RuntimeError) as error:
        raise DataError(f"{folder} does not fit together: its {CONFIG} describes another network.") from error
    return Weights(network.eval(), model, tables, history_length)


def _table(columns: list[dict[str, Any]], kind: str, values: dict[str, Tensor]) -> Table:
    table = []
    for i, column in enumerate(columns):
        if column["kind"] not in get_args(Kind):
            raise DataError(f"{CONFIG}: {column['kind']!r} is not one of {', '.join(get_args(Kind))}.")
        tensor = values[f"{kind}.{i}"]
        if column["kind"] != "float" and tensor.numel() and not 0 <= tensor.min() <= tensor.max() < column["size"]:
            raise DataError(f"{TABLES}: {kind} feature {column['name']} has ids outside of 0 to {column['size'] - 1}.")
        table.append(Column(column["name"], cast(Kind, column["kind"]), column["size"], tensor))
    if len({len(column.values) for column in table}) != 1:
        raise DataError(f"{TABLES}: the {kind} features have different numbers of rows.")
    return tuple(table)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors: export the run again.") from error
