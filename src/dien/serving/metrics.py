"""Counts and histograms of the server in Prometheus' text format, version 0.0.4."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Histogram:
    """How many observations were at most as large as each bound.

    Args:
        bounds: rising; one without an upper end is added.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum}"
        yield f"{name}_count {total}"


class Metrics:
    """What the server counts. Only the thread of the event loop writes."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By path and status."""
        self.seconds = Histogram(SECONDS)
        """Of `/rank`, whatever the answer, from the first byte of the head to the last byte of the answer."""
        self.batches = Histogram(SIZES)

    def text(self, gauges: dict[str, tuple[str, float]]) -> str:
        """The page.

        Args:
            gauges: what is now: a description and a number, by name.
        """
        lines = [*_head("dien_requests_total", "counter", "Answers by path and status.")]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'dien_requests_total{{path="{path}",status="{status}"}} {count}')
        lines += _head("dien_rank_seconds", "histogram", "Seconds from a request of /rank to its answer.")
        lines += self.seconds.lines("dien_rank_seconds")
        lines += _head("dien_batch_requests", "histogram", "Requests that were ranked together.")
        lines += self.batches.lines("dien_batch_requests")
        for name, (description, value) in gauges.items():
            lines += [*_head(name, "gauge", description), f"{name} {value}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, description: str) -> list[str]:
    return [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
