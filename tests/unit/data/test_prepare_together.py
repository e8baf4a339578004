"""Several processes want one dataset, as the jobs of a SLURM array do: one prepares, dead ones do not count."""

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dien.data.dataset import Prepared
from dien.data.prepare import prepare
from dien.data.protocol import Protocol

EVENTS = [(user, item, time) for user in "abc" for time, item in enumerate("wxyz")]

# Takes the lock that preparing takes, begins to write, and never ends.
HANG = """
import sys, time
from pathlib import Path
from dien.data.storage import alone, atomic_folder
with alone(Path(sys.argv[1])), atomic_folder(Path(sys.argv[1]), "f") as temporary:
    (temporary / "event_item.npy").write_text("half")
    print("writing", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def hanging(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", HANG, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_the_second_waits_and_takes_over_from_a_dead_one(hanging, make_source, tmp_path, caplog):
    assert len(list(tmp_path.glob(".data.*"))) == 2  # a lock and half a folder
    killer = threading.Timer(0.7, hanging.kill)
    with caplog.at_level(logging.INFO):
        killer.start()
        source = make_source(EVENTS)
        prepare(source, Protocol(), name="n", folder=tmp_path / "data")
        killer.join()
    assert source.loads == 1
    assert f"data is being prepared by process {hanging.pid} on " in caplog.text
    assert "which a process that died left behind" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert Prepared(tmp_path / "data", verify=True).name == "n"


def test_the_second_does_not_prepare_what_the_first_has_made(hanging, make_source, tmp_path):
    """The other process is one that finishes: its dataset appears, then its lock goes."""
    folder = tmp_path / "data"

    def finish() -> None:
        prepare(make_source(EVENTS), Protocol(), name="first", folder=tmp_path / "made")
        (tmp_path / "made").rename(folder)
        hanging.kill()

    timer = threading.Timer(0.5, finish)
    timer.start()
    source = make_source(EVENTS)
    prepare(source, Protocol(), name="second", folder=folder)
    timer.join()
    assert source.loads == 0
    assert Prepared(folder).name == "first"
