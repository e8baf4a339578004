"""How a command ends that a signal stops: what it has half-written goes, and the status is the shell's."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and Ctrl-C end the process by way of every `finally`, with status 143 and 130."""
    came: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        came.append(number)
        sys.exit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and scripts set it for what they start
                before[number] = signal.signal(number, end)
    try:
        yield
    except Exception:
        if came:  # polars makes an error of its own of what is raised while it calls back
            sys.exit(128 + came[0])
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
