"""Progress: lines where there is no terminal, a bar where there is one."""

import io
import logging
import re
import sys

import pytest

from dien import progress
from dien.progress import counted, downloading, duration, rate, stage, stages


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set: `clock[0] = seconds`."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_download_in_a_log_file_has_rate_and_remaining_time(clock, caplog):
    caplog.set_level(logging.INFO)
    with downloading("data.zip", 50_000_000) as advance:
        for second in range(1, 26):
            clock[0] = second
            advance(2_000_000)
    assert caplog.messages == [
        "data.zip: 40% of 50.0 MB, 2.0 MB/s, 15 s left",
        "data.zip: 80% of 50.0 MB, 2.0 MB/s, 5 s left",
        "data.zip: 50.0 MB in 25 s",
    ]


def test_a_download_of_unknown_size(clock, caplog):
    caplog.set_level(logging.INFO)
    with downloading("data.zip", None) as advance:
        clock[0] = 20
        advance(30_000)
    assert caplog.messages[0] == "data.zip: 30.0 kB, 1.5 kB/s"


def test_stages_say_nothing_of_short_work_and_where_long_work_is(clock, caplog):
    caplog.set_level(logging.INFO)
    with stages("preparing x", 2):
        stage("reading")
        clock[0] = 5
        stage("writing")
    assert caplog.messages == []
    with stages("preparing x", 2):
        stage("reading")
        clock[0] = 400
        stage("writing")
        clock[0] = 405
    assert caplog.messages == [
        "preparing x: writing (2 of 2), after 7 min, 7 min each, about 7 min left",
        "preparing x: done in 7 min",
    ]
    stage("outside of any work")
    assert len(caplog.messages) == 2


def test_a_terminal_shows_bars_one_at_a_time(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with stages("preparing x", 2):
        stage("reading")
        with downloading("data.zip", 100) as advance:
            advance(60)
        stage("writing")
    shown = terminal.getvalue()
    assert "\x1b[" in shown
    for part in ("preparing x: reading", "data.zip", "60/100 bytes", "preparing x: writing", "1/2", "/s"):
        assert part in shown
    assert caplog.messages == []


def test_things_are_counted_with_rate_and_remaining_time(clock, caplog):
    caplog.set_level(logging.INFO)
    for second in counted("reading", range(1, 41)):
        clock[0] = second * 0.5
    assert caplog.messages == ["reading: 20 of 40, after 10 s, 2.0/s, about 10 s left"]


def test_a_terminal_shows_what_is_counted(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    assert list(counted("reading", [1, 2, 3])) == [1, 2, 3]
    assert re.search(r"reading.*3/3.*/s.*0:00:00", terminal.getvalue())
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("done", "seconds", "text"), [(0, 5, ""), (1, 7, "7 s each"), (9, 2, "4.5/s"), (4000, 2, "2,000/s")]
)
def test_rates(done, seconds, text):
    assert rate(done, seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
