"""Locks between processes: one owner, and a killed one is no owner."""

import fcntl
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dien import locks

HOLD = "import sys, time; from pathlib import Path; from dien import locks; assert locks.take(Path(sys.argv[1])); \
print('held', flush=True); time.sleep(100)"


@contextmanager
def another_owner(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_one_owner_at_a_time_and_a_killed_one_is_none(tmp_path):
    path = tmp_path / "lock"
    with another_owner(path) as other:
        assert not locks.take(path)
        assert locks.is_held(path)
        assert locks.owner(path).startswith(f"process {other.pid} on ")
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert path.exists()  # but it is only a file now
        assert not locks.is_held(path)
        assert locks.take(path)
    assert locks.take(path)  # again, in the same process
    assert not locks.is_held(path)  # by another
    locks.release(path)
    assert not path.exists()
    locks.release(path)


def test_waiting_says_so_and_goes_on_when_the_owner_dies(tmp_path, caplog):
    path = tmp_path / "new" / "lock"
    path.parent.mkdir()
    with another_owner(path) as other, caplog.at_level(logging.INFO):
        killer = threading.Timer(0.5, other.kill)
        killer.start()
        start = time.monotonic()
        with locks.waiting(path, "the dataset is being prepared", poll_seconds=0.02):
            assert time.monotonic() - start > 0.4
            other.wait()
            assert not locks.is_held(path)
        killer.join()
    assert f"the dataset is being prepared by process {other.pid} on " in caplog.text
    assert not path.exists()


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="oops"), locks.waiting(tmp_path / "lock", "x"):
        raise ValueError("oops")
    assert list(tmp_path.iterdir()) == []


def test_looking_writes_nothing_and_works_where_nothing_can_be_written(tmp_path):
    path = tmp_path / "lock"
    assert locks.in_use(path) is False
    with another_owner(path):
        tmp_path.chmod(0o500)
        assert locks.in_use(path) is True
    assert locks.in_use(path) is False
    tmp_path.chmod(0o700)
    assert locks.take(path)
    assert locks.in_use(path) is True  # by this process
    locks.release(path)
    assert list(tmp_path.iterdir()) == []


def test_who_looks_does_not_make_a_writer_fail(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as `in_use` does, for longer
        threading.Timer(locks.GLANCE / 4, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        assert locks.take(path)
    locks.release(path)
