"""`dien-export`: a trained run as a folder that is scored without it."""

import argparse
import sys
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from dien import runs
from dien.config import mistakes_in_one_sentence, register
from dien.console import say
from dien.errors import DienError
from dien.export.archive import FORMATS, RawId, atomic_folder, write_ids, write_manifest
from dien.export.card import card_of, write_card
from dien.export.check import check_export, program_in
from dien.export.padded import LOGITS, why_not
from dien.export.weights import write_weights


def export(run: str | Path, kind: str, output: str | Path | None = None, *, checkpoint: str = "best.ckpt") -> Path:
    """Write a run's network in a format; the folder appears when it is whole and was compared with the network.

    Args:
        run: a run folder.
        kind: `pt2 | onnx | weights`.
        output: the new folder; None: `export/KIND` in the run folder.
        checkpoint: which weights.

    Returns:
        The folder.

    Raises:
        DienError: the run cannot be read or exported, or the folder exists.
    """
    loaded = runs.load_model(run, checkpoint=checkpoint)
    network, data, config = loaded.network.cpu().eval(), loaded.data, loaded.config
    if type(network) not in LOGITS:
        raise DienError(why_not(network))
    folder = Path(output) if output else loaded.folder / "export" / kind
    tables, history_length = data.tables(), config.data.history_length
    with atomic_folder(folder) as place:
        if kind == "weights":
            write_weights(network, config.model, tables, place)
        else:
            from dien.export.programs import program_of, write_onnx, write_pt2  # the exporter takes seconds to import

            (write_pt2 if kind == "pt2" else write_onnx)(program_of(network), place / FORMATS[kind])
        write_ids(
            place,
            cast(list[RawId], data.data.item_ids().to_list()),
            cast(list[RawId], data.data.user_ids().to_list()),
        )
        write_manifest(place, kind=kind, history_length=history_length)  # the check reads it as users do
        check = check_export(
            network,
            program_in(place, kind),
            items=len(tables[0][0].values),
            users=len(tables[1][0].values),
            history_length=history_length,
        )
        write_card(
            place,
            card_of(
                kind=kind,
                run=loaded.folder.name,
                config=cast(dict[str, object], OmegaConf.to_container(config, resolve=True)),
                metrics=runs.read_json(loaded.folder / "metrics.json"),
                environment=runs.read_json(loaded.folder / "environment.json"),
                dataset=data.data.manifest,
                network=type(network).__name__,
                parameters=sum(parameter.numel() for parameter in network.parameters()),
                check=check,
            ),
        )
        write_manifest(place, kind=kind, history_length=history_length)
    say(f"{folder}: {FORMATS[kind]}, logits within {check['largest_difference']:.1e} of the trained network")
    return folder


def main(arguments: list[str] | None = None) -> None:
    """`dien-export`"""
    parser = argparse.ArgumentParser(
        prog="dien-export",
        description="Write a trained run as a folder of its own: the program or the weights, the ids, a model card.",
        epilog="onnx runs in any ONNX runtime (dien.export.runtime maps raw ids); pt2 with torch alone "
        "(torch.export.load); weights are safetensors and JSON (dien.export.weights.load_weights). "
        "Exit status: 0 if the folder is there, 2 for a mistake, 1 for a defect.",
    )
    parser.add_argument("run", help="a run folder of dien-train")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", help="the new folder (default: RUN/export/FORMAT)")
    parser.add_argument("--checkpoint", default="best.ckpt", help="in RUN/checkpoints (default: best.ckpt)")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    register()
    with mistakes_in_one_sentence("dien-export"):
        export(options.run, options.format, options.output, checkpoint=options.checkpoint)


if __name__ == "__main__":
    main()
