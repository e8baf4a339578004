"""Where the time of a training step goes: a table, and a figure if `--figure` names a file.

Profiles DIEN at the paper's sizes on random batches (128 rows; full: lengths 26 to 100; heavy: 5 % of 100, the rest
up to 20), sums the kernels' own time by kind, and compares with the time that the floating-point operations of the
matrix products would take at the rate of a large product.

    python scripts/profile_step.py --threads 1 --figure docs/profile.svg
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from bench.arguments import positive
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from dien.allocator import keep_freed_memory
from dien.batch import Batch
from dien.model.attention import MLPAttention
from dien.model.dien import DIEN
from dien.model.evolution import AUGRU
from dien.model.extractor import MLPScorer
from dien.model.features import FeatureEmbedding
from dien.model.layers import Head
from dien.optimizer import Adam
from dien.tables import Column
from dien.tables import Table as Features

ROWS, ITEMS, USERS, CATEGORIES = 128, 1700, 950, 20
KINDS = {
    "linear layers": ("_Linear", "aten::mm", "aten::addmm"),
    "perceptrons": ("_Perceptron",),
    "recurrences": ("_Recurrence", "Scan"),
    "activations and losses": ("_Dice", "_Softmax", "sigmoid", "prelu", "binary_cross"),
    "embeddings": ("_Lookup", "_Last", "embedding", "index", "scatter", "gather"),
    "optimizer": ("adam", "Optimizer"),
    "sums, copies": ("aten::add", "aten::mul", "aten::sum", "aten::sub", "aten::cat", "aten::neg", "copy_", "fill_"),
}
MOST_OTHER = 0.15
"""Share of a step that may be of no kind: what is new in the network has its name here."""
# Okabe and Ito's palette, safe for colour-blind eyes.
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#F0E442", "#999999")
FLOP_PER_STEP = 91_000  # of a real step forward at these sizes; a backward takes two times as many


def random_tables() -> tuple[Features, Features]:
    items = (
        Column("item_id", "categorical", ITEMS, torch.arange(ITEMS)),
        Column("category", "categorical", CATEGORIES, torch.randint(2, CATEGORIES, (ITEMS,))),
    )
    users = (Column("user_id", "categorical", USERS, torch.arange(USERS)),)
    return items, users


def network(items: Features, users: Features) -> DIEN:
    """DIEN at the paper's sizes."""
    parts = {"scorer": MLPScorer, "attention": MLPAttention, "evolution": AUGRU, "head": Head}
    return DIEN(items, users, features=partial(FeatureEmbedding, embedding_size=18), **parts)


def random_batch(lengths: str) -> Batch:
    if lengths == "full":
        length_B = torch.randint(26, 101, (ROWS,))
    else:
        length_B = torch.where(torch.rand(ROWS) < 0.05, 100, torch.randint(1, 21, (ROWS,)))
    width = int(length_B.max())
    real_BT = torch.arange(width) < length_B[:, None]
    history_BT, negative_BT = (torch.randint(2, ITEMS, (ROWS, width)) * real_BT for _ in range(2))
    user_B, target_B = torch.randint(2, USERS, (ROWS,)), torch.randint(2, ITEMS, (ROWS,))
    return Batch(user_B, history_BT, negative_BT, length_B, target_B, torch.randint(0, 2, (ROWS,)).float())


def train_step(net: DIEN, optimizer: Adam, batch: Batch) -> None:
    optimizer.zero_grad()
    output = net(batch)
    loss = F.binary_cross_entropy_with_logits(output.logit_B, batch.label_B) + net.auxiliary_loss(output, batch)
    loss.backward()
    optimizer.step()


def kind_of(name: str) -> str:
    """Of an operation, as the profiler calls it."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")


def complaint(lengths: str, spent: dict[str, float], unknown: Counter[str]) -> str | None:
    """Which operations need a kind, if those without one take too much of a step."""
    share = spent["other"] / sum(spent.values())
    if share <= MOST_OTHER:
        return None
    names = ", ".join(name for name, _ in unknown.most_common(5))
    return f"{lengths}: {share:.0%} of a step is of no kind (KINDS), above {MOST_OTHER:.0%}; most of it: {names}."


def measure(lengths: str, steps: int) -> tuple[dict[str, float], Counter[str], float, float]:
    """Milliseconds a step by kind, those of no kind by operation, the median step, and real time steps a batch."""
    net = network(*random_tables())
    optimizer = Adam(net.parameters(), fused=True)
    batches = [random_batch(lengths) for _ in range(steps)]
    times = []
    for batch in batches[:5] + batches:
        start = time.perf_counter()
        train_step(net, optimizer, batch)
        times.append(1e3 * (time.perf_counter() - start))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for batch in batches:
            train_step(net, optimizer, batch)
    spent: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for event in profiled.key_averages():
        kind, milliseconds = kind_of(event.key), event.self_cpu_time_total / 1e3 / steps
        spent[kind] += milliseconds
        if kind == "other":
            unknown[event.key] += milliseconds
    median = statistics.median(times[-steps:])
    scale = median / sum(spent.values())  # the profiler's own cost is spread over all kinds
    real_steps = sum(batch.length_B.sum().item() for batch in batches) / steps
    return {kind: scale * spent[kind] for kind in (*KINDS, "other")}, unknown, median, real_steps


def peak_rate() -> float:
    """Floating-point operations a millisecond of a large matrix product."""
    x = torch.randn(1024, 1024)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        x @ x
        times.append(1e3 * (time.perf_counter() - start))
    return 2 * 1024**3 / sorted(times)[5]


def draw(results: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "dien", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 2.4), layout="constrained")
    left = dict.fromkeys(results, 0.0)
    for kind, colour in zip((*KINDS, "other"), COLOURS, strict=True):
        widths = [spent[kind] for spent in results.values()]
        axes.barh(list(results), widths, left=list(left.values()), color=colour, label=kind, edgecolor="white")
        for name, width in zip(results, widths, strict=True):
            left[name] += width
    axes.set_xlabel("milliseconds a training step (128 rows, fp32)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Measure and print; 1 if too much of a step is of no kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=positive, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=30, help="profiled steps (default: %(default)s)")
    parser.add_argument("--figure", type=Path, help="file to draw, .svg or .png")
    arguments = parser.parse_args()
    keep_freed_memory()  # as dien-train does
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    table = Table(title=f"ms a training step, {arguments.threads} thread(s)", title_justify="left")
    for column in ("lengths", *KINDS, "other", "whole step", "samples/s", "limit of the products"):
        table.add_column(column, justify="right")
    results, complaints, rate = {}, [], peak_rate()
    for lengths in ("full", "heavy"):
        spent, unknown, median, real_steps = measure(lengths, arguments.steps)
        complaints.append(complaint(lengths, spent, unknown))
        results[f"{lengths}, {real_steps / ROWS:.0f} steps a row"] = spent
        limit = 3 * FLOP_PER_STEP * real_steps / rate
        values = (*spent.values(), median)
        table.add_row(lengths, *(f"{v:.1f}" for v in values), f"{1e3 * ROWS / median:,.0f}", f"{limit:.1f}")
    Console(width=190).print(table)
    print(f"a product of 1024 x 1024 matrices runs at {rate / 1e6:.0f} GFLOP/s")
    if arguments.figure:
        draw(results, arguments.figure)
    for text in filter(None, complaints):
        print(text, file=sys.stderr)
    return 1 if any(complaints) else 0


if __name__ == "__main__":
    sys.exit(main())
