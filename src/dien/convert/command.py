"""`dien-convert`: a trained DIEN of RecBole or hopwise as a folder of weights of this project."""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from dien.config import mistakes_in_one_sentence
from dien.console import say
from dien.convert.checkpoint import read_peer
from dien.convert.peer import convert, table_of
from dien.errors import DataError
from dien.export.card import card_of_peer
from dien.export.write import write_export
from dien.raw_ids import IdRows
from dien.signals import ended_by_signals
from dien.trained import Trained


def move_in(checkpoint: str | Path, output: str | Path, *, config: str | Path | None = None) -> Path:
    """Write a peer's network as `dien-export --format weights` would write one of ours.

    Args:
        checkpoint: a file of their trainer, or a state dict alone (of a network whose only features are ids).
        output: the new folder.
        config: a YAML or JSON file of their configuration; needed beside a state dict alone, see `read_peer`.

    Returns:
        The folder: `dien-export` makes programs of it, `Ranker.load` ranks with it.

    Raises:
        DienError: the file cannot be read or converted (the message says why), or the folder exists.
    """
    found = read_peer(Path(checkpoint), _config(config))
    network, model = convert(found.weights, found.options, found.items, found.users)
    trained = Trained(
        network=network,
        model=model,
        tables=(table_of(found.items), table_of(found.users)),
        items=IdRows(found.item_ids),
        users=IdRows(found.user_ids),
        history_length=found.history_length,
    )
    card = card_of_peer(
        network,
        name=model.name,
        origin=found.origin,
        options=found.options._asdict(),
        length=found.history_length,
    )
    folder, size = Path(output), f"{card['parameters']:,} parameters, {len(found.item_ids):,} items"
    write_export(trained, "weights", folder, card)
    say(f"{folder}: {model.name}, {size}, from a {found.origin}")
    return folder


def _config(path: str | Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is neither YAML nor JSON.") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is not a configuration: it has no keys.")
    return config


def main(arguments: list[str] | None = None) -> None:
    """`dien-convert`"""
    parser = argparse.ArgumentParser(
        prog="dien-convert",
        description="Convert a trained DIEN of RecBole 1.2.1 or hopwise 0.9.1: GRU, AIGRU, AGRU or AUGRU, with "
        "features of ids, single and of several values. Nothing in the file is executed, and neither is needed here.",
        epilog="What it leaves can be ranked with and served like a run, and `dien-export FOLDER --format onnx` makes "
        "a program of it. Exit status: 0 if the folder is there, 2 for a mistake, 1 for a defect.",
    )
    parser.add_argument("checkpoint", help="a checkpoint (.pth), or a state dict saved with torch.save")
    parser.add_argument("--output", required=True, help="the new folder")
    parser.add_argument(
        "--config",
        help="their configuration in YAML or JSON, for a state dict alone; it may not contradict that of a checkpoint",
    )
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    with mistakes_in_one_sentence("dien-convert"), ended_by_signals():
        move_in(options.checkpoint, options.output, config=options.config)


if __name__ == "__main__":
    main()
