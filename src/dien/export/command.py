"""`dien-export`: a trained network as a folder that is scored without its run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dien import runs
from dien.config import mistakes_in_one_sentence, register
from dien.console import say
from dien.export.archive import FORMATS, read_json
from dien.export.card import CARD_JSON, card_of_run
from dien.export.write import write_export
from dien.options import add_override
from dien.signals import ended_by_signals
from dien.trained import BEST, Trained, load_trained


def export(
    run: str | Path,
    kind: str,
    output: str | Path | None = None,
    *,
    checkpoint: str = BEST,
    overrides: Sequence[str] = (),
) -> Path:
    """Write a network in a format; the folder appears when it is whole and was compared with the network.

    Args:
        run: a run folder, or a folder of weights as this or `dien-convert` writes it.
        kind: `pt2 | onnx | weights`.
        output: the new folder; None: `export/KIND` in the folder `run`.
        checkpoint: see `load_trained`.
        overrides: see `load_trained`.

    Returns:
        The folder.

    Raises:
        DienError: the run cannot be read or exported, or the folder exists.
    """
    trained = load_trained(run, checkpoint=checkpoint, overrides=overrides)
    source = Path(run) if trained.run is None else trained.run.folder
    folder = Path(output) if output else source / "export" / kind
    check = write_export(trained, kind, folder, _card(trained, source))
    say(f"{folder}: {FORMATS[kind]}, logits within {check['largest_difference']:.1e} of the trained network")
    return folder


def _card(trained: Trained, source: Path) -> dict[str, Any]:
    if trained.run is None:  # what is known of it came with the weights
        return read_json(source / CARD_JSON, f"{source} lacks its model card")
    metrics, environment = (runs.read_json(source / name) for name in ("metrics.json", "environment.json"))
    return card_of_run(trained.run, metrics=metrics, environment=environment)


def main(arguments: list[str] | None = None) -> None:
    """`dien-export`"""
    parser = argparse.ArgumentParser(
        prog="dien-export",
        description="Write a trained network as a folder of its own: program or weights, the ids, a model card.",
        epilog="onnx runs in any ONNX runtime (dien.export.runtime maps raw ids); pt2 with torch alone "
        "(torch.export.load); weights are safetensors and JSON (dien.export.weights.load_weights). "
        "Exit status: 0 if the folder is there, 2 for a mistake, 1 for a defect.",
    )
    parser.add_argument("run", help="a run folder of dien-train, or a folder of weights, such as dien-convert writes")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", help="the new folder (default: RUN/export/FORMAT)")
    parser.add_argument("--checkpoint", default=BEST, help="in RUN/checkpoints (default: best.ckpt)")
    add_override(parser)
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    register()
    with mistakes_in_one_sentence("dien-export"), ended_by_signals():
        export(options.run, options.format, options.output, checkpoint=options.checkpoint, overrides=options.override)


if __name__ == "__main__":
    main()
