"""How fast raw Amazon reviews become a prepared dataset, and how much memory that takes.

    python scripts/benchmark_amazon.py                                  # the size of Books, 2014
    python scripts/benchmark_amazon.py --reviews 200000 --folder raw    # smaller, and the raw files are kept

Makes reviews and metadata of the given size in the format of 2014 (users and items drawn with a heavy tail, texts of
about `--text` bytes in every review, metadata as Python literals with descriptions and related items), reads them
through `data=amazon` and prepares them under the paper's protocol, in a process of its own. The files are not
compressed unless `--gzip` asks for it.
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, cast

import numpy as np

WORDS = [
    "the",
    "a",
    "of",
    "story",
    "book",
    "good",
    "great",
    "characters",
    "plot",
    "author's",
    "ending",
    "reader",
    "life",
    '"classic"',
    "world",
    "time",
    "chapter",
]
PER_ITEM = 2_370_585 / 367_982
"""Lines of metadata for each item that is reviewed, as in Books: the metadata are not filtered."""


def make(folder: Path, reviews: int, users: int, items: int, text: int, compress: bool) -> None:
    """Write the two raw files."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, max(text // 6, 1))) for _ in range(512)]
    tails = [
        json.dumps(
            {"reviewerName": "J. Doe", "helpful": [0, 1], "reviewText": words, "overall": 5.0, "summary": "Good"}
        )
        for words in texts
    ]
    with _create(folder / "reviews_Books_5.json", compress) as file:
        for start in range(0, reviews, 100_000):
            number = min(100_000, reviews - start)
            user = (users * rng.random(number) ** 1.5).astype(int)
            item = (items * rng.random(number) ** 2.5).astype(int)
            when = rng.integers(900_000_000, 1_400_000_000, number) // 86_400 * 86_400
            pick = rng.integers(0, len(tails), number)
            lines = [
                f'{{"reviewerID": "A{u:013d}", "asin": "{i:010d}", {tails[p][1:-1]}, "unixReviewTime": {t}, '
                '"reviewTime": "01 2, 2013"}\n'
                for u, i, t, p in zip(user.tolist(), item.tolist(), when.tolist(), pick.tolist(), strict=True)
            ]
            file.write("".join(lines).encode())
    with _create(folder / "meta_Books.json", compress) as file:
        lines = []
        for item in range(int(items * PER_ITEM)):
            pick = item % len(texts)
            line = {
                "asin": f"{item:010d}",
                "description": texts[pick][:600],
                "title": f"Volume {item}" if item % 3 else f'Volume "{item}" of the author\'s life',
                "imUrl": f"http://example.org/{item}.jpg",
                "related": {"also_bought": [f"{(item * 7 + k) % items:010d}" for k in range(item % 20)]},
                "salesRank": {"Books": item},
                "categories": [["Books", f"Shelf {item % 1600}", f"Subject {item % 1600}'s"], ["Books"]],
            }
            lines.append(repr(line) + "\n")
            if len(lines) == 20_000:
                file.write("".join(lines).encode())
                lines = []
        file.write("".join(lines).encode())


def _create(path: Path, compress: bool) -> IO[bytes]:
    if compress:
        return cast(IO[bytes], gzip.open(path.with_name(f"{path.name}.gz"), "wb", compresslevel=6))
    return path.open("wb")


MEASURED = """
import resource, sys, time
from dien.data.prepare import prepare
from dien.data.protocol import Protocol
from dien.data.sources import Amazon

start, cpu = time.perf_counter(), time.process_time()
source = Amazon(category="Books", path=sys.argv[1])
log = source.load()
read = time.perf_counter()
print(f"read: {read - start:.1f} s, {time.process_time() - cpu:.1f} s of CPU, {dict(log.report)}")


class Read:  # what was read already
    load = staticmethod(lambda: log)
    fingerprint = staticmethod(source.fingerprint)


prepare(Read, Protocol(split="by_user", ties="order", samples="last"), name="books", folder=sys.argv[2])
end = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
reviews, cpu = log.events.height, time.process_time() - cpu
print(f"prepare: {end - read:.1f} s (the fingerprint of the raw files included)")
print(f"in all: {end - start:.1f} s, {reviews / (end - start):,.0f} reviews/s, "
      f"{reviews / cpu:,.0f} reviews/s of CPU on {cpu / (end - start):.1f} cores, peak {peak:.2f} GiB")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=8_898_041)
    parser.add_argument("--users", type=int, help="default: one for 14.7 reviews, as in Books")
    parser.add_argument("--items", type=int, help="default: one for 24.2 reviews, as in Books")
    parser.add_argument("--text", type=int, default=800, help="bytes of the text of a review")
    parser.add_argument("--gzip", action="store_true", help="compress the raw files")
    parser.add_argument("--folder", type=Path, help="keep the raw files here, and take them if they are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not list(folder.glob("reviews_Books_5.json*")):
            start = time.perf_counter()
            users, items = options.users or options.reviews // 15, options.items or options.reviews // 24
            make(folder, options.reviews, users, items, options.text, options.gzip)
            print(f"made in {time.perf_counter() - start:.0f} s")
        size = {path.name: f"{path.stat().st_size / 2**30:.2f} GiB" for path in sorted(folder.iterdir())}
        print(size, flush=True)
        with tempfile.TemporaryDirectory() as place:
            subprocess.run([sys.executable, "-c", MEASURED, str(folder), f"{place}/prepared"], check=True)
        print(f"largest process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
