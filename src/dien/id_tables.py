"""`dien-id-tables`: the authors' pickled tables of ids as JSON, without running anything that is in them."""

import argparse
import json
from pathlib import Path

from dien import runs
from dien.config import mistakes_in_one_sentence
from dien.data.sources.plain_pickle import read_plain_pickle
from dien.errors import DienError, make_folder


def main() -> None:
    """`dien-id-tables`"""
    parser = argparse.ArgumentParser(
        prog="dien-id-tables",
        description="Write the authors' pickled tables of ids (uid_voc.pkl, mid_voc.pkl, cat_voc.pkl) as JSON beside "
        "them. Only plain dictionaries from strings to whole numbers are read; a pickle with anything else is refused.",
    )
    parser.add_argument("tables", nargs="+", type=Path, help="the pickles")
    parser.add_argument("--to", type=Path, help="a folder for the JSON files (default: that of each pickle)")
    options = parser.parse_args()
    with mistakes_in_one_sentence("dien-id-tables"):
        for path in options.tables:
            target = (options.to or path.parent) / f"{path.stem}.json"
            if target == path:
                raise DienError(f"{path}: this is not a pickle, by its name.")
            table = read_plain_pickle(path)
            make_folder(target.parent)
            runs.write_text(target, json.dumps(table, ensure_ascii=False))
            print(f"{target}: {len(table):,} ids")


if __name__ == "__main__":
    main()
