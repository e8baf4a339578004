"""Preparing in blocks of users: the bytes of a log in one piece, and memory that grows with the input alone."""

import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import polars as pl
import pytest

from dien.data import blocks, vocabulary
from dien.data.blocks import Events, count
from dien.data.event_arrays import lengths
from dien.data.log import Log
from dien.data.prepare import prepare
from dien.data.protocol import Protocol
from dien.data.sources import CompleteJourneySample
from dien.data.storage import Arrays, write_array
from dien.data.vocabulary import rows_of

EVENTS = 500


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_AT_ONCE", 7)
    monkeypatch.setattr(vocabulary, "_AT_ONCE", 5)


def ragged_log(*, known: bool, splits: bool) -> Log:
    """Some users have more events than a block of 7, some have no click."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "user_id": (rng.random(EVENTS) ** 3 * 120).astype(int),
        "item_id": rng.integers(20, size=EVENTS),
        "timestamp": rng.integers(-3, 15, size=EVENTS),
    }
    if known:
        columns["label"] = (rng.random(EVENTS) < 0.3).astype(np.int8)
    if splits:
        columns["part"] = rng.integers(0, 3 if known else 2, size=EVENTS).astype(np.int8) * (1 if known else 2)
        columns["sample"] = rng.random(EVENTS) < 0.6
    scores = pl.DataFrame({"known": rng.random(EVENTS)}) if known else None
    return Log(pl.DataFrame(columns), scores=scores)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(ties="order", min_history=0),
        Protocol(samples="last"),
        Protocol(split="by_user", split_seed=2),
        Protocol(split="temporal"),
        Protocol(split="given"),
    ],
    ids=lambda protocol: protocol.split,
)
def test_blocks_change_no_byte(make_source, tmp_path, request, protocol, known):
    source = make_source([])
    source.log = ragged_log(known=known, splits=protocol.split == "given")
    whole = prepare(source, protocol, name="n", folder=tmp_path / "whole")
    request.getfixturevalue("small_blocks")
    cut = prepare(source, protocol, name="n", folder=tmp_path / "cut")
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == {
        file.name: file.read_bytes() for file in cut.iterdir()
    }


def test_the_arrays_of_the_bundled_sample_are_those_of_earlier_versions(tmp_path):
    """Digests from before there were blocks: a checkpoint's rows must stay those of its dataset."""
    folder = prepare(CompleteJourneySample(), Protocol(), name="n", folder=tmp_path / "n")
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.npy")):
        array = np.load(file)
        digest.update(f"{file.name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    assert digest.hexdigest() == "69d4097afe3c54632d11f76fa078fb59b7d602f0b449d06ccf0dfd19a1b3df46"


def test_blocks_are_whole_users_in_order(small_blocks):
    rng = np.random.default_rng(1)
    user_E, time_E = rng.integers(2, 40, size=200).astype(np.int32), rng.integers(9, size=200)
    user_E[:30] = 11  # more than four blocks
    log = Events(user_E, np.arange(200, dtype=np.int32), time_E)
    offsets = np.append(0, np.cumsum(np.bincount(user_E, minlength=50)))
    found = list(log.in_order(offsets))
    assert len(found) > 10
    item_E = np.concatenate([block.item_E for block in found])
    assert item_E.tolist() == sorted(range(200), key=lambda e: (user_E[e], time_E[e], e))
    assert sum(len(set(block.user_E.tolist())) for block in found) == len(set(user_E.tolist()))


def test_counts_in_pieces(small_blocks):
    row_N = np.array([3, 1, 3, 0, 3, 1, 1, 3, 0, 0, 0, 0], np.int32)
    assert count(row_N, 5).tolist() == [5, 3, 0, 4, 0]
    assert count(row_N, 5, row_N > 0).tolist() == [0, 3, 0, 4, 0]


def test_rows_in_pieces(small_blocks):
    ids = pl.Series(["a", "b", "d"])
    assert rows_of(pl.Series(list("abcdabdcb") * 2), ids).tolist() == [2, 3, 1, 4, 2, 3, 4, 1, 3] * 2


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.float32])
def test_an_array_in_pieces_has_the_bytes_of_the_whole(tmp_path, dtype):
    values = np.arange(1234).astype(dtype)
    for folder in ("whole", "pieces"):
        (tmp_path / folder).mkdir()
    write_array(tmp_path / "whole", "a", values)
    with Arrays(tmp_path / "pieces") as arrays:
        for piece in np.split(values, [0, 1, 1000]):
            arrays.append("a", piece)
    assert (tmp_path / "pieces" / "a.npy").read_bytes() == (tmp_path / "whole" / "a.npy").read_bytes()


@pytest.mark.parametrize("samples", [1, 2, 7, 100])
def test_lengths_from_their_counts(samples):
    length_S = np.random.default_rng(samples).integers(9, size=samples)
    assert lengths(np.bincount(length_S, minlength=20)) == {
        "mean": round(length_S.mean(), 3),
        "median": np.median(length_S),
        "longest": length_S.max(),
    }


PEAKS = """
import os, resource, sys
from pathlib import Path
from dien.data.prepare import prepare
from dien.data.protocol import Protocol
from dien.data.sources import Synthetic, Table

place = Path(sys.argv[1])
for events in map(int, sys.argv[2:]):
    for source in (Table(events=str(place / f"{events}.parquet")), Synthetic(users=events // 50, cache=str(place))):
        if (child := os.fork()) == 0:  # a process that does nothing else
            try:
                prepare(source, Protocol(), name="n", folder=place / f"{type(source).__name__}{events}")
                print(type(source).__name__, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_memory_grows_with_little_more_than_the_log(tmp_path):
    """70 bytes an event here, a third of them tables of ids and blocks that a larger log shares; it was above 180."""
    few, many = 300_000, 1_200_000
    rng = np.random.default_rng(0)
    for events in (few, many):
        columns = {
            "user_id": rng.integers(events // 20, size=events),
            "item_id": (rng.random(events) ** 3 * events / 50).astype(int),
            "timestamp": rng.integers(10**9, size=events),
        }
        pl.DataFrame(columns).write_parquet(tmp_path / f"{events}.parquet")
    command = [sys.executable, "-W", "ignore", "-c", PEAKS, str(tmp_path), str(few), str(many)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    peaks: dict[str, list[int]] = {}
    for line in done.stdout.splitlines():
        peaks.setdefault(line.split()[0], []).append(int(line.split()[1]))
    growth = {source: (second - first) / (many - few) for source, (first, second) in peaks.items()}
    assert growth.keys() == {"Table", "Synthetic"}
    assert max(growth.values()) < 120, growth
