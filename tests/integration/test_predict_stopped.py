"""`dien-predict` that is stopped, killed or out of disk leaves nothing under the output's name; a large table fits."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dien import impressions, predict

SUFFIXES = ["csv", "csv.gz", "jsonl", "parquet"]


def rows(count: int, *, width: int = 40) -> pl.DataFrame:
    """Rows to score, with a column of random text that does not compress away."""
    rng = np.random.default_rng(0)
    notes = rng.integers(97, 123, (count, width), np.uint8).view(f"S{width}").ravel().astype(str)
    return pl.DataFrame(
        {
            "user": [f"u{n}" for n in rng.integers(60, size=count)],
            "item": [f"i{n}" for n in rng.integers(20, size=count)],
            "note": notes,
        }
    )


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"DIEN_SCAN": "reference"}  # no compiler under a limit of the size of files
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)


def test_a_signal_half_way_leaves_nothing_and_says_nothing(finished_run, tmp_path, monkeypatch, capsys):
    rows(500).write_csv(tmp_path / "in.csv")
    (tmp_path / "out").mkdir()
    write, seen, coming = impressions.Writer.write, [], []

    def stopped(self, frame):
        write(self, frame)
        seen.append([path.name for path in (tmp_path / "out").iterdir()])
        if len(seen) == 2:
            signal.raise_signal(coming.pop())

    monkeypatch.setattr(impressions.Writer, "write", stopped)
    monkeypatch.setattr(predict, "PIECE", 100)
    for (number, status), suffix in itertools.product(((signal.SIGTERM, 143), (signal.SIGINT, 130)), SUFFIXES):
        seen.clear()
        coming.append(number)
        out = tmp_path / "out" / f"scores.{suffix}"
        line = ["dien-predict", finished_run, "--input", tmp_path / "in.csv", "--output", out, "--batch-size", 100]
        monkeypatch.setattr(sys, "argv", [*map(str, line)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            predict.main()
        assert (stop.value.code, *capsys.readouterr()) == (status, "", ""), suffix
        assert [len(names) for names in seen] == [1, 1]  # the temporary file was there
        assert list((tmp_path / "out").iterdir()) == []


FAULTS = """
import os, resource, signal, sys
from dien import impressions, predict
run, source, folder, *suffixes = sys.argv[1:]
predict.PIECE = 100

def score(suffix):
    sys.argv = ["dien-predict", run, "--input", source, "--output", f"{folder}/scores.{suffix}", "--batch-size", "100"]
    try:
        predict.main()
    except SystemExit as stop:
        return stop.code

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
assert [score(suffix) for suffix in suffixes] == [2] * len(suffixes)
assert os.listdir(folder) == [], os.listdir(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

write, writes = impressions.Writer.write, []
def killed(self, frame):
    write(self, frame)
    self._file.flush()
    writes.append(len(frame))
    if len(writes) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
impressions.Writer.write = killed
score("csv")
"""


def test_a_full_disk_or_a_kill_half_way_leaves_nothing_under_its_name(finished_run, tmp_path):
    rows(2000).write_csv(tmp_path / "in.csv")
    (tmp_path / "out").mkdir()
    done = run_script(FAULTS, finished_run, tmp_path / "in.csv", tmp_path / "out", *SUFFIXES)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stderr.splitlines() == [
        f"dien-predict: {tmp_path}/out/scores.{suffix} cannot be written: File too large." for suffix in SUFFIXES
    ]
    (left,) = (tmp_path / "out").iterdir()  # nothing can be cleaned up after SIGKILL
    assert left.name.startswith(".scores.csv.")
    assert left.stat().st_size > 0


MEMORY = """
import re, sys
from pathlib import Path
from dien import impressions, predict
predict.PIECE, impressions.LINES, impressions.BLOCK = 2048, 2048, 1 << 16
run, *sources = sys.argv[1:]
for source in sources:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    predict.predict(run, input=source, output=source + ".scores.csv")
    print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux measures a peak from now on")
def test_memory_does_not_grow_with_the_rows(finished_run, tmp_path):
    few, times, width = 5000, 9, 1000
    piece, formats = rows(few, width=width), ("csv", "jsonl", "parquet")
    paths = [tmp_path / f"{count}.{suffix}" for suffix in formats for count in (1, times)]
    for path in paths:
        with impressions.Writer(path) as writer:
            for _ in range(int(path.stem)):  # in row groups, as large Parquet files are
                writer.write(piece)
    done = run_script(MEMORY, finished_run, *paths)
    assert done.returncode == 0, done.stderr
    peaks = [float(mebibytes) for mebibytes in done.stdout.split()]
    more = (times - 1) * few * width / 2**20
    growth = {suffix: peaks[2 * n + 1] - peaks[2 * n] for n, suffix in enumerate(formats)}
    assert max(growth.values()) < more / 2, f"{growth} MiB for {more:.0f} MiB more of rows"


def test_the_share_is_that_of_the_rows_scored(tmp_path, monkeypatch):
    """Not of what was read ahead for them."""
    monkeypatch.setattr(impressions, "BLOCK", 1 << 14)
    frame = rows(5000)
    for suffix in SUFFIXES:
        with impressions.Writer(tmp_path / f"t.{suffix}") as writer:
            writer.write(frame)
        done = 0
        for piece, share in impressions.pieces(tmp_path / f"t.{suffix}", 300):
            done += len(piece)
            assert share == pytest.approx(done / len(frame), abs=0.2 if suffix == "csv.gz" else 0.02), suffix
        assert (done, share) == (len(frame), pytest.approx(1.0))
