"""What a training and a report show while they work: bars on a terminal, plain lines in a pipe."""

import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from dien import callbacks

TIMES = r"\d+:\d\d:\d\d"
Commands = dict[str, list[str]]


@pytest.fixture
def commands(small: list[str], tmp_path: Path, make_run, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A training of two epochs, and a report of three runs."""
    monkeypatch.setenv("DIEN_SCAN", "reference")  # no kernels to compile
    monkeypatch.setenv("WANDB_MODE", "offline")
    for seed in range(3):
        make_run(str(seed), seed=seed)
    run = [sys.executable, "-m"]
    return {
        "train": [*run, "dien.train", *small, "logger=wandb", f"hydra.run.dir={tmp_path}/run"],
        "report": [*run, "dien.report", f"{tmp_path}/runs", "--html", f"{tmp_path}/page.html"],
    }


def on_a_terminal(command: Sequence[str]) -> str:
    """All that a command writes where its output is a terminal of 160 columns."""
    ours, its = pty.openpty()
    ioctl(its, TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    shown = b""
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        try:
            while block := os.read(ours, 1 << 16):
                shown += block
        except OSError:  # the end of a terminal
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


@pytest.mark.parametrize("name", ["train", "report"])
def test_a_pipe_gets_plain_lines(commands: Commands, name: str) -> None:
    done = subprocess.run(commands[name], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    if name == "train":
        told = re.findall(r"epoch (\d): val/auc 0\.\d+, .*, ([\d,]+) samples/s(, at most .* left)?$", done.stdout, re.M)
        assert [(epoch, bool(left)) for epoch, _, left in told] == [("0", True), ("1", False)]


@pytest.mark.parametrize("name", ["train", "report"])
def test_a_terminal_gets_bars_with_rate_and_remaining_time(commands: Commands, name: str) -> None:
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(commands[name]))
    if name == "train":
        assert re.search(rf"Epoch 1/1 .*{TIMES} • {TIMES} [\d.]+it/s", shown)
        assert "v_num" not in shown
    else:
        assert re.search(rf"reading the runs .*3/3 [\d.,]+(/s| s each) {TIMES} 0:00:00", shown)
        assert re.search(rf"drawing .*4/4 .* {TIMES} 0:00:00", shown)


def test_lines_within_an_epoch(dien_train, small, monkeypatch, capfd) -> None:
    monkeypatch.setattr(callbacks, "SAY_EVERY", 0.0)
    assert dien_train(*small, "trainer.max_epochs=1", "hydra.run.dir=run") == 0
    told = re.findall(
        r"epoch 0: batch (\d+) of (\d+), [\d,]+ samples/s(, at most \d+ s left)?$", capfd.readouterr().out, re.M
    )
    assert [int(batch) for batch, _, _ in told] == list(range(1, int(told[0][1]) + 1))
    assert [bool(left) for _, _, left in told] == [True] * (len(told) - 1) + [False]
