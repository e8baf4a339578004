"""Latency of the server against load, on loopback.

Starts serve.py on a run and offers it requests in steps of a rate, in an open loop: requests come when they come (a
Poisson process), however late the answers are, and latency counts from the moment at which a request was due. Prints a
table and draws a figure.

    python scripts/load_test.py RUN --rates 10,20,50,100,200 --seconds 20 --output docs/serving
"""

import argparse
import asyncio
import json
import re
import signal
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter
from rich.console import Console
from rich.table import Table
from serving_client import ServerProcess

from dien import Ranker
from dien.looks import COLOURS, INK, LINES, MARKERS

PERCENTILES = (50, 95, 99)
CONNECTIONS = 500


class Step(NamedTuple):
    """What one rate came to."""

    rate: float
    """Offered, requests per second."""
    throughput: float
    """Ranked, requests per second."""
    sent: int
    answered: int
    refused: int
    """429."""
    failed: int
    """Anything else."""
    milliseconds: dict[str, float]
    """Percentiles of those that were answered, NaN if none was."""
    batch: float
    """Requests that were ranked together, on average."""


def summarise(
    rate: float, seconds: float, latencies: dict[int, list[float]], *, failed: int, batch: float = np.nan
) -> Step:
    """A step from latencies in seconds by status, and the number of requests that got no answer."""
    answered, refused = latencies.get(200, []), len(latencies.get(429, []))
    sent = sum(map(len, latencies.values())) + failed
    values = np.percentile(answered, PERCENTILES) * 1000 if len(answered) else np.full(len(PERCENTILES), np.nan)
    return Step(
        rate=rate,
        throughput=len(answered) / seconds,
        sent=sent,
        answered=len(answered),
        refused=refused,
        failed=sent - len(answered) - refused,
        milliseconds={f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)},
        batch=batch,
    )


class Client:
    """Up to `CONNECTIONS` connections. It shares the machine: a request may only cost it a tenth of a millisecond."""

    def __init__(self, url: str) -> None:
        self.host, self.port = url.removeprefix("http://").rsplit(":", 1)
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer; raises `OSError` or `EOFError` if there is none."""
        async with self._free:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self.host, self.port)
            head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"^content-length: (\d+)", answer, re.MULTILINE)
            content = await reader.readexactly(int(length[1]) if length else 0)
            if "connection: close" in answer:
                writer.close()
            else:
                self._idle.append((reader, writer))
            return int(answer.split(maxsplit=2)[1]), content

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def measure(
    url: str,
    items: list[object],
    *,
    rates: Sequence[float],
    seconds: float,
    history: int,
    candidates: int,
    seed: int = 0,
) -> list[Step]:
    """One step after the other, on one server; each begins when the one before is answered.

    Args:
        items: raw ids that the model knows.
    """
    rng, client = np.random.default_rng(seed), Client(url)
    bodies = [_body(rng, items, history, candidates) for _ in range(200)]
    await _offer(client, bodies, np.linspace(0, 1, 20))  # warm up
    steps = []
    for rate in rates:
        due = np.sort(rng.uniform(0, seconds, round(rate * seconds)))
        before = await _batches(client)
        latencies, failed = await _offer(client, bodies, due)
        ranked, batches = np.subtract(await _batches(client), before)
        batch = float(ranked / batches) if batches else np.nan
        steps.append(summarise(rate, seconds, latencies, failed=failed, batch=batch))
    client.close()
    return steps


def _body(rng: np.random.Generator, items: list[object], history: int, candidates: int) -> bytes:
    """A history of other items each time, and nothing kept: what a request costs without a state."""
    chosen = [items[place] for place in rng.integers(len(items), size=history + candidates)]
    return json.dumps({"history": chosen[:history], "candidates": chosen[history:], "top": 10}).encode()


async def _offer(client: Client, bodies: list[bytes], due: "np.ndarray") -> tuple[dict[int, list[float]], int]:
    """Send a request at each moment; latencies by status, and how many got no answer."""
    loop = asyncio.get_running_loop()
    latencies: dict[int, list[float]] = defaultdict(list)
    failed = 0

    async def send(body: bytes, moment: float) -> None:
        nonlocal failed
        try:
            status, _ = await client.ask("POST", "/rank", body)
            latencies[status].append(loop.time() - moment)
        except (OSError, EOFError):
            failed += 1

    start = loop.time()
    async with asyncio.TaskGroup() as group:
        for number, moment in enumerate(start + due):
            if (early := moment - loop.time()) > 0:
                await asyncio.sleep(early)
            group.create_task(send(bodies[number % len(bodies)], float(moment)))
    return latencies, failed


async def _batches(client: Client) -> tuple[float, float]:
    """Requests and batches since the start of the server."""
    page = (await client.ask("GET", "/metrics"))[1].decode()
    found = dict(re.findall(r"^dien_batch_requests_(sum|count) (\S+)$", page, re.MULTILINE))
    return float(found["sum"]), float(found["count"])


def table_of(steps: list[Step], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("offered/s", "ranked/s", *(f"p{p} ms" for p in PERCENTILES), "429", "failed", "mean batch"):
        table.add_column(name, justify="right")
    for step in steps:
        percentiles = (f"{value:.1f}" for value in step.milliseconds.values())
        share = f"{step.refused / max(step.sent, 1):.1%}"
        table.add_row(
            f"{step.rate:g}", f"{step.throughput:.1f}", *percentiles, share, str(step.failed), f"{step.batch:.1f}"
        )
    return table


def draw(steps: list[Step], output: Path, *, title: str) -> None:
    """`output` with .svg and .png: latency percentiles, and below them the share that was refused, against load."""
    style = {
        "svg.hashsalt": "dien",
        "svg.fonttype": "path",
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.2, 3.9), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        rates = [step.rate for step in steps]
        for percentile, colour, marker, line in zip(PERCENTILES, COLOURS, MARKERS, LINES, strict=False):
            values = [step.milliseconds[f"p{percentile}"] for step in steps]
            above.plot(rates, values, line, color=colour, marker=marker, markersize=4, label=f"{percentile} %")
        above.set_yscale("log")
        above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        above.yaxis.set_minor_formatter(NullFormatter())
        above.set_ylabel("latency of ranked requests (ms)")
        above.set_title(title, fontsize=8, loc="left")
        above.legend(title="percentile", frameon=False)
        above.grid(axis="y", alpha=0.3, linewidth=0.5)
        shares = [100 * step.refused / max(step.sent, 1) for step in steps]
        below.plot(rates, shares, "-", color=COLOURS[4], marker="X", markersize=5)
        below.set_ylim(-5, 105)
        below.yaxis.set_major_formatter(PercentFormatter())
        below.set_ylabel("answered 429")
        below.set_xscale("log")
        below.set_xticks(rates, [f"{rate:g}" for rate in rates])
        below.minorticks_off()
        below.set_xlabel("offered load (requests per second)")
        for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 160})):
            figure.savefig(output.with_suffix(suffix), **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--rates", default="10,20,50,100,150,200,300", help="requests per second, one step each")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each step")
    parser.add_argument("--history", type=int, default=50, help="clicks of a request")
    parser.add_argument("--candidates", type=int, default=100, help="of a request")
    parser.add_argument("--output", type=Path, help="write the figure there: FILE.svg, FILE.png")
    parser.add_argument("--serve", default="", metavar="OPTIONS", help="more for serve.py, such as '--queue 64'")
    options = parser.parse_args()
    items = list(Ranker.load(options.run).items.row_of)
    server = ServerProcess(options.run, *options.serve.split())
    try:
        server.listen()
        asyncio.run(server.ready())
        steps = asyncio.run(
            measure(
                server.url,
                items,
                rates=[float(rate) for rate in options.rates.split(",")],
                seconds=options.seconds,
                history=options.history,
                candidates=options.candidates,
            )
        )
    finally:
        server.end(signal.SIGTERM)
    title = f"{options.history} clicks and {options.candidates} candidates a request"
    Console(width=100).print(table_of(steps, title))
    if options.output:
        draw(steps, options.output, title=title)


if __name__ == "__main__":
    main()
