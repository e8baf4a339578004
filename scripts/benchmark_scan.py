"""Time the engines of the gated scan against nn.GRU and against the matrix products alone, which are the limit.

Every system includes the input projection, as nn.GRU does, and computes the gradients of inputs and weights. The
systems of a table take turns, in an order that rotates; times are medians, ratios are those of the medians. Give the
machine's cores to it: a second busy process costs two threads far more than half their speed.

    python scripts/benchmark_scan.py                       # B 128, T 100, H 36, full and heavy-tailed lengths
    python scripts/benchmark_scan.py --growth              # and how the cost grows with B and with T
    python scripts/benchmark_scan.py --batch 1024 --hidden 64 --threads 2 --engines cpu
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from bench.arguments import positive
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence

from dien.errors import ConfigError
from dien.ops import ENGINES, RULES, engine_for, gated_scan, linear

Project = Callable[[Tensor, Tensor, Tensor], Tensor]

console = Console()


@dataclass(frozen=True)
class System:
    """What is timed: `forward` returns something to differentiate, `backward` does so; both without arguments."""

    name: str
    forward: Callable[[], object]
    both: Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Rows of the given lengths, with the parameters of a GRU from H to H."""

    lengths: list[int]
    hidden: int
    device: str
    rule: str

    def systems(self, engines: list[str]) -> list[System]:
        torch.manual_seed(0)
        gru = nn.GRU(self.hidden, self.hidden, batch_first=True).to(self.device)
        rows = [torch.randn(length, self.hidden, device=self.device) for length in self.lengths]
        x_NH = torch.cat(rows)
        kernels = [engine for engine in engines if engine != "reference"]
        return [
            self._packed_gru(gru, rows),
            self._padded_gru(gru, rows),
            *(self._scan(f"projection + scan, {engine}", engine, gru, x_NH, linear) for engine in engines),
            *(self._scan(f"torch's projection + scan, {engine}", engine, gru, x_NH, F.linear) for engine in kernels),
            self._products("matrix products of projection and scan", 2, gru, x_NH),
            *(self._scan(f"scan alone, {engine}", engine, gru, x_NH, None) for engine in kernels),
            self._products("matrix products of the scan alone", 1, gru, x_NH),
        ]

    def _packed_gru(self, gru: nn.GRU, rows: list[Tensor]) -> System:
        packed = pack_sequence(rows, enforce_sorted=False)
        data = packed.data.requires_grad_()
        packed = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return _differentiable("nn.GRU, packed", lambda: gru(packed)[0].data, [data, *gru.parameters()])

    def _padded_gru(self, gru: nn.GRU, rows: list[Tensor]) -> System:
        padded = pad_sequence(rows, batch_first=True).requires_grad_()
        return _differentiable("nn.GRU, padded", lambda: gru(padded)[0], [padded, *gru.parameters()])

    def _scan(self, name: str, engine: str, gru: nn.GRU, x_NH: Tensor, project: Project | None) -> System:
        """The scan after a projection, or (None) of inputs that were projected before."""
        weight_ih, weight_hh, bias_ih, bias_hh = gru.parameters()
        offsets = torch.tensor([0, *self.lengths], device=self.device).cumsum(0)
        attention = None if self.rule == "gru" else torch.rand(len(x_NH), device=self.device).requires_grad_()
        if project is None:
            x = F.linear(x_NH, weight_ih, bias_ih).detach().requires_grad_()
            inputs = [x, weight_hh, bias_hh]
        else:
            x = x_NH.clone().requires_grad_()
            inputs = [x, weight_ih, bias_ih, weight_hh, bias_hh]

        def forward() -> Tensor:
            with forced(engine):
                projected = x if project is None else project(x, weight_ih, bias_ih)
                return gated_scan(projected, attention, offsets, weight_hh, bias_hh, rule=self.rule)

        return _differentiable(name, forward, inputs if attention is None else [*inputs, attention])

    def _products(self, name: str, layers: int, gru: nn.GRU, x_NH: Tensor) -> System:
        """torch's products of projection and recurrence (or of one of them), as if no step depended on another."""
        weight, _, bias, _ = (parameter.detach() for parameter in gru.parameters())
        gates = torch.randn(len(x_NH), 3 * self.hidden, device=self.device)

        def forward() -> object:
            return [F.linear(x_NH, weight, bias) for _ in range(layers)]

        def both() -> object:
            return forward(), [(gates @ weight, gates.T @ x_NH) for _ in range(layers)]

        return System(name, forward, both)


def _differentiable(name: str, forward: Callable[[], Tensor], inputs: list[Tensor]) -> System:
    weights = torch.randn_like(forward())

    def without_gradients() -> object:
        with torch.no_grad():
            return forward()

    return System(name, without_gradients, lambda: torch.autograd.grad(forward(), inputs, weights))


@contextmanager
def forced(engine: str) -> Iterator[None]:
    """Set DIEN_SCAN for a while, as a user would."""
    before = os.environ.get("DIEN_SCAN", "")
    os.environ["DIEN_SCAN"] = engine
    try:
        yield
    finally:
        os.environ["DIEN_SCAN"] = before


def reason_against(engine: str, device: str) -> str | None:
    """Why an engine cannot run on a device, None if it can."""
    try:
        with forced(engine):
            engine_for(device)
    except ConfigError as error:
        return str(error)
    return None


def lengths_of(kind: str, batch: int, longest: int) -> list[int]:
    """`full`: all rows as long as the longest. `heavy`: 5 % are, the others have up to a fifth of that."""
    if kind == "full":
        return [longest] * batch
    generator = torch.Generator().manual_seed(0)
    short = torch.randint(1, max(1, longest // 5) + 1, (batch,), generator=generator).tolist()
    long = torch.randperm(batch, generator=generator)[: max(1, round(batch * 0.05))].tolist()
    return [longest if row in long else length for row, length in enumerate(short)]


def measure(functions: list[Callable[[], object]], rounds: int, device: str) -> list[float]:
    """Median milliseconds of each function; they take turns, and each round starts with the next one.

    A turn is two calls of which the second is timed: caches and allocator are then as in a loop of its own.
    """
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds):
        for place in range(len(functions)):
            index = (turn + place) % len(functions)
            functions[index]()
            _wait(device)
            start = time.perf_counter()
            functions[index]()
            _wait(device)
            times[index].append((time.perf_counter() - start) * 1e3)
    return [statistics.median(t) for t in times]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def compare(case: Case, engines: list[str], rounds: int, title: str) -> None:
    """One table: each system's time, and how many times faster than nn.GRU on packed input it is."""
    systems = case.systems(engines)
    forward = measure([s.forward for s in systems], rounds, case.device)
    both = measure([s.both for s in systems], rounds, case.device)
    table = Table("system", title=title, title_justify="left")
    for column in ("forward, ms", "x packed nn.GRU", "forward + backward, ms", "x packed nn.GRU"):
        table.add_column(column, justify="right")
    for system, f, b in zip(systems, forward, both, strict=True):
        table.add_row(system.name, f"{f:.2f}", f"{forward[0] / f:.1f}", f"{b:.2f}", f"{both[0] / b:.1f}")
    console.print(table)


def grow(sizes: list[tuple[int, int]], arguments: argparse.Namespace, device: str, title: str) -> None:
    """One table: time and nanoseconds a step for a list of (B, T), forward + backward."""
    engine = engine_for(device)
    table = Table(title=title, title_justify="left")
    for column in (
        "B",
        "T",
        f"projection + scan, {engine}, ms",
        "ns a step",
        "nn.GRU packed, ms",
        "ns a step",
        "ratio",
    ):
        table.add_column(column, justify="right")
    for batch, longest in sizes:
        case = Case(lengths_of("full", batch, longest), arguments.hidden, device, arguments.rule)
        packed, _, ours, *_ = case.systems([engine])
        theirs, mine = measure([packed.both, ours.both], max(3, arguments.rounds // 5), device)
        step = batch * longest / 1e6
        cells = (f"{mine:.2f}", f"{mine / step:.0f}", f"{theirs:.2f}", f"{theirs / step:.0f}", f"{theirs / mine:.1f}")
        table.add_row(str(batch), str(longest), *cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=positive, nargs="+", default=[128], help="rows of a batch, B")
    parser.add_argument("--length", type=positive, nargs="+", default=[100], help="steps of the longest row, T")
    parser.add_argument("--hidden", type=positive, default=36, help="hidden and input size, H")
    parser.add_argument("--lengths", nargs="+", choices=("full", "heavy"), default=["full", "heavy"])
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="default: all that run on the device")
    parser.add_argument("--rule", choices=RULES, default="gru", help="of the scan; nn.GRU only knows its own")
    parser.add_argument("--rounds", type=positive, default=30)
    parser.add_argument("--growth", action="store_true", help="also tables over B and over T")
    arguments = parser.parse_args()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    refused = {engine: [reason_against(engine, device) for device in devices] for engine in arguments.engines or ()}
    for engine, reasons in refused.items():
        if all(reasons):
            parser.error(f"--engines {engine}: {' '.join(map(str, reasons))}")

    for place, device in enumerate(devices):
        given = [engine for engine, reasons in refused.items() if not reasons[place]]
        engines = given or sorted({"reference", engine_for(device)})
        for threads in arguments.threads if device == "cpu" else arguments.threads[-1:]:
            torch.set_num_threads(threads)
            where = torch.cuda.get_device_name() if device == "cuda" else f"{threads} thread{'s' * (threads > 1)}"
            for batch in arguments.batch:
                for longest in arguments.length:
                    for kind in arguments.lengths:
                        case = Case(lengths_of(kind, batch, longest), arguments.hidden, device, arguments.rule)
                        title = (
                            f"B {batch}, T {longest}, H {arguments.hidden}, {kind} lengths "
                            f"({sum(case.lengths)} steps), float32, {arguments.rule}, {device}, {where}"
                        )
                        compare(case, engines, arguments.rounds, title)
            if arguments.growth:
                longest, batch = arguments.length[0], arguments.batch[0]
                over_t = [(batch, t) for t in (25, 50, 100, 200, 400)]
                over_b = [(b, longest) for b in (1, 8, 32, 128, 512, 1024)]
                grow(over_t, arguments, device, f"growth with T, {device}, {where}")
                grow(over_b, arguments, device, f"growth with B, {device}, {where}")


if __name__ == "__main__":
    main()
