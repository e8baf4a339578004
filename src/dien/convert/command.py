"""`dien-convert`: a trained DIEN of RecBole or hopwise as a folder of weights of this project."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from dien.config import mistakes_in_one_sentence
from dien.console import say
from dien.convert.checkpoint import read_peer
from dien.convert.peer import convert, table_of
from dien.errors import DataError
from dien.export.archive import atomic_folder, write_ids, write_manifest
from dien.export.card import CARD_JSON, CARD_MARKDOWN, USE
from dien.export.weights import write_weights


def move_in(checkpoint: str | Path, output: str | Path, *, config: str | Path | None = None) -> Path:
    """Write a peer's network as `dien-export --format weights` would write one of ours.

    Args:
        checkpoint: a file of their trainer, or a state dict alone (of a network whose only features are ids).
        output: the new folder.
        config: a YAML or JSON file of their configuration; needed beside a state dict alone.

    Returns:
        The folder; `dien.export.weights.load_weights` builds the network.

    Raises:
        DienError: the file cannot be read or converted (the message says why), or the folder exists.
    """
    found = read_peer(Path(checkpoint), _config(config))
    network, model = convert(found.weights, found.options, found.items, found.users)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    card = {"name": model.name, "format": "weights", "origin": found.origin, "options": found.options._asdict()}
    lines = [
        f"# {model.name}, moved in from a {found.origin}",
        f"{parameters:,} parameters; scores are those of the origin. Batch normalisation is folded into the layers.",
        f"Histories of up to {found.history_length} clicks.\n\n## Use",
        USE["weights"],
    ]
    folder = Path(output)
    with atomic_folder(folder) as place:
        write_weights(network, model, (table_of(found.items), table_of(found.users)), place)
        write_ids(place, list(found.item_ids), list(found.user_ids))
        (place / CARD_JSON).write_text(json.dumps({**card, "parameters": parameters}, indent=1) + "\n")
        (place / CARD_MARKDOWN).write_text("\n\n".join(lines) + "\n")
        write_manifest(place, kind="weights", history_length=found.history_length)
    say(f"{folder}: {model.name}, {parameters:,} parameters, {len(found.item_ids):,} items, from a {found.origin}")
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
        epilog="Exit status: 0 if the folder is there, 2 for a mistake, 1 for a defect.",
    )
    parser.add_argument("checkpoint", help="a checkpoint (.pth), or a state dict saved with torch.save")
    parser.add_argument("--output", required=True, help="the new folder")
    parser.add_argument("--config", help="their configuration in YAML or JSON; overrides the checkpoint's own")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    with mistakes_in_one_sentence("dien-convert"):
        move_in(options.checkpoint, options.output, config=options.config)


if __name__ == "__main__":
    main()
