"""Options that several commands have in common; importing this costs nothing."""

import argparse


def add_override(parser: argparse.ArgumentParser) -> None:
    """`--override KEY=VALUE`, as `options.override`: what `runs.load_model` takes as `overrides`."""
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the run's configuration, such as data.prepared=FOLDER if its prepared dataset has moved; "
        "may be given several times",
    )
