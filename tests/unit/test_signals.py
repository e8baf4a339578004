"""A command that a signal stops unwinds, says nothing, and ends with the shell's status."""

import signal

import pytest

from dien.errors import DienError
from dien.signals import ended_by_signals


def _work(number: int, cleaned: list[str]) -> None:
    try:
        signal.raise_signal(number)
    finally:
        cleaned.append("cleaned")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_stack_unwinds_and_the_handlers_come_back(number, status):
    before, cleaned = signal.getsignal(number), []
    with pytest.raises(SystemExit) as stop, ended_by_signals():
        _work(number, cleaned)
    assert (stop.value.code, cleaned, signal.getsignal(number)) == (status, ["cleaned"], before)


def _library() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except SystemExit:
        raise DienError("a call was interrupted.") from None


def test_what_a_library_makes_of_it_does_not_count():
    with pytest.raises(SystemExit) as stop, ended_by_signals():
        _library()
    assert stop.value.code == 143


@pytest.mark.usefixtures("own_signals")
def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ended_by_signals():
        signal.raise_signal(signal.SIGINT)


def test_other_errors_pass():
    with pytest.raises(DienError, match="a mistake"), ended_by_signals():
        raise DienError("a mistake.")
