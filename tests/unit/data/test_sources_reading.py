"""Compressed tables are decompressed in bounded memory before polars takes them whole."""

import gzip
import io
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from dien.data.sources.authors import AuthorsFiles
from dien.data.sources.reading import check_compressed
from dien.data.sources.recbole import RecBoleAtomic
from dien.data.sources.table import Table
from dien.errors import ConfigError, DataError

MB = 1 << 20
ROW = b"u,i,1\n"
HEAD = b"user_id,item_id,timestamp\n"


def bomb(path: Path, size_mb: int, *, head: bytes = b"", piece: bytes = b"a") -> Path:
    """A gzip file of many members, made in no time, that becomes `size_mb` times the piece, without line ends."""
    member = gzip.compress(piece * (MB // len(piece)))
    path.write_bytes(gzip.compress(head) + member * size_mb)
    return path


def limits(monkeypatch: pytest.MonkeyPatch, *, free: int = 0, ratio: int | None = None) -> None:
    monkeypatch.setattr("dien.data.sources.reading.FREE", free)
    if ratio is not None:
        monkeypatch.setenv("DIEN_MAX_RATIO", str(ratio))


def test_a_field_that_becomes_gigabytes_takes_no_memory(tmp_path):
    """1 MB that would be 1 GB; the process must not grow by the 256 MB that a file may have without question."""
    path = bomb(tmp_path / "bomb.csv.gz", 1024, head=HEAD + b"u,i,")
    assert path.stat().st_size < 2 * MB
    code = (
        "import resource, sys; from dien.data.sources.table import Table\n"
        "from dien.errors import DataError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: Table(events=sys.argv[1]).load()\n"
        "except DataError as error: print(error)\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    sentence, grown_kb = done.stdout.splitlines()
    assert sentence == f"{path}: a line has more than 64 MB: if that is right, set DIEN_MAX_LINE_MB higher."
    assert int(grown_kb) < 64 * 1024


@pytest.mark.parametrize("kind", ["csv", "jsonl", "recbole", "authors"])
def test_every_reader_asks(tmp_path, monkeypatch, kind):
    limits(monkeypatch, ratio=10)
    (tmp_path / "local_test_splitByUser").write_text("")
    name, load = {
        "csv": ("x.csv.gz", lambda: Table(events=str(tmp_path / "x.csv.gz")).load()),
        "jsonl": ("x.jsonl.gz", lambda: Table(events=str(tmp_path / "x.jsonl.gz")).load()),
        "recbole": ("x.inter", lambda: RecBoleAtomic(path=str(tmp_path / "x.inter")).load()),
        "authors": ("local_train_splitByUser.gz", lambda: AuthorsFiles(path=str(tmp_path)).load()),
    }[kind]
    path = bomb(tmp_path / name, 2, piece=b"a\n")
    with pytest.raises(DataError, match=f"{path}: .* becomes more than 10 times its {path.stat().st_size} b"):
        load()


def test_limits_are_exact_and_can_be_set(tmp_path, monkeypatch):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(ROW * 50_000))
    ratio = len(ROW) * 50_000 / path.stat().st_size
    limits(monkeypatch, ratio=int(ratio))  # a little less
    with pytest.raises(DataError, match="set DIEN_MAX_RATIO higher"):
        check_compressed(path)
    monkeypatch.setenv("DIEN_MAX_RATIO", str(int(ratio) + 1))
    check_compressed(path)
    limits(monkeypatch, free=len(ROW) * 50_000, ratio=1)
    check_compressed(path)
    for value in ("0", "-1", "many", ""):
        monkeypatch.setenv("DIEN_MAX_RATIO", value)
        with pytest.raises(ConfigError, match=f"DIEN_MAX_RATIO='?{value}'? is out of range: it must be a whole number"):
            check_compressed(path)


@pytest.mark.parametrize(("before", "length", "refused"), [(0, MB, 0), (0, MB + 1, 1), (MB - 3, MB, 0), (7, MB + 1, 1)])
def test_the_longest_line(tmp_path, monkeypatch, before, length, refused):
    """Wherever it begins in what is read at once, and without an end of its own."""
    monkeypatch.setenv("DIEN_MAX_LINE_MB", "1")
    for end in (b"", b"\n", b"\nmore\n"):
        path = tmp_path / f"{len(end)}.csv.gz"
        path.write_bytes(gzip.compress(b"x\n" * (before // 2) + b"y" * length + end))
        if refused:
            with pytest.raises(DataError, match="a line has more than 1 MB: if that is right, set DIEN_MAX_LINE_MB"):
                check_compressed(path)
        else:
            check_compressed(path)


def test_what_is_compressed_otherwise_is_not_read(tmp_path):
    zstd = bytes.fromhex("28b52ffd2004210000757365725f")
    for number, content in enumerate([zlib.compress(HEAD + ROW), zlib.compress(HEAD + ROW, 1), zstd]):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(content)
        with pytest.raises(DataError, match="the file is compressed, but not with gzip: decompress it first"):
            Table(events=str(path)).load()


def test_a_changed_file_is_looked_at_again(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(HEAD + ROW))
    assert Table(events=str(path)).load().events.height == 1
    path.write_bytes(gzip.compress(HEAD + 3 * ROW)[:-8])
    with pytest.raises(DataError, match="cannot be read, it is damaged"):
        Table(events=str(path)).load()


def test_a_file_is_decompressed_for_this_once(tmp_path, monkeypatch):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(HEAD + ROW))
    opened: list[io.BufferedReader] = []
    original = gzip.GzipFile

    def count(fileobj: io.BufferedReader) -> gzip.GzipFile:
        opened.append(fileobj)
        return original(fileobj=fileobj)

    monkeypatch.setattr("dien.data.sources.reading.gzip.GzipFile", count)
    Table(events=str(path)).load()
    assert len(opened) == 1
