"""Figures of a comparison, for a column of 3.3 inches: AUC per variant, learning curves, AUC against alpha and cost."""

import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dien import runs
from dien.looks import COLOURS, COLUMN, INK, Look, drawn, looks, style
from dien.reporting.comparison import Comparison, Row
from dien.reporting.tables import metric_name
from dien.runs.frames import curves_of

_BINS = 40
_MARKED = 8
"""Every such point of a learning curve has a marker."""
_NAME_WIDTH = 26
"""Letters of a variant's name in a line beside an axis."""


def figures_of(comparison: Comparison) -> dict[str, Figure]:
    """All figures that the runs have something to show for, by their names in `DRAWINGS`."""
    drawn = {name: draw(comparison) for name, draw in DRAWINGS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def auc_per_variant(comparison: Comparison) -> Figure | None:
    """The first metric of every variant: a point a seed, the mean and its 95 % interval (Student's t)."""
    metric = comparison.metrics[0]
    rows = [row for row in comparison.rows if metric in row.spreads]
    if not rows:
        return None
    with style():
        names = [row.variant.name + " (baseline)" * (row.variant.name == comparison.baseline) for row in rows]
        names = [textwrap.fill(name, _NAME_WIDTH) for name in names]
        height = 0.2 * len(rows) + 0.1 * sum(name.count("\n") for name in names)
        figure = Figure(figsize=(COLUMN, 0.75 + height))
        axes = figure.subplots()
        for place, row in enumerate(rows):
            colour = COLOURS[0] if row.variant.name != comparison.baseline else COLOURS[6]
            values = list(row.variant.by_seed(metric).values())
            axes.plot(values, [place + 0.22] * len(values), "|", color=colour, markersize=4, alpha=0.8)
            _with_interval(axes, row, metric, place, colour)
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"{_label(metric)}: mean, 95 % interval, seeds")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axes.grid(axis="x", linewidth=0.3, alpha=0.5)
        axes.tick_params(axis="y", length=0)
        return figure


def _with_interval(axes: Axes, row: Row, metric: str, place: float, colour: str) -> None:
    spread = row.spreads[metric]
    ends = (
        [[0.0], [0.0]]
        if spread.low is None or spread.high is None
        else [[spread.mean - spread.low], [spread.high - spread.mean]]
    )
    axes.errorbar(
        [spread.mean], [place], xerr=ends, fmt="o", color=colour, markersize=3.5, elinewidth=1, capsize=2, zorder=3
    )


def learning_curves(comparison: Comparison) -> Figure | None:
    """Both losses while training, a line a variant: the mean over its seeds, and a band from the least to the most."""
    names = {"train/ctr_loss": "click loss (nats)", "train/aux_loss": "auxiliary loss (nats)"}
    logged = curves_of(comparison.runs).filter(pl.col("name").is_in(list(names)))
    present = [name for name in names if (logged["name"] == name).any()]
    if not present:
        return None
    with style():
        figure = Figure(figsize=(COLUMN, 1.45 * len(present) + 0.13 * _legend_rows(comparison.rows) + 0.25))
        panels = np.atleast_1d(figure.subplots(len(present), sharex=True))
        for axes, name in zip(panels, present, strict=True):
            for number, (row, look) in enumerate(zip(comparison.rows, looks(), strict=False)):
                _draw_curve(axes, _binned(logged, row, name), row, look, number)
            axes.set_ylabel(names[name])
            axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        panels[-1].set_xlabel("training step (batches)")
        panels[-1].xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        figure.align_ylabels()
        _legend(figure, panels[0])
        return figure


def _binned(logged: pl.DataFrame, row: Row, name: str) -> pl.DataFrame:
    """Mean, least and most over the runs of a variant, of means over at most `_BINS` stretches of steps."""
    mine = logged.filter(pl.col("run").is_in([run.folder for run in row.variant.runs]), pl.col("name") == name)
    width = max(1, math.ceil(max(mine["step"].to_list(), default=0) / _BINS))
    return (
        mine.group_by("run", bin=pl.col("step") // width)
        .agg(pl.col("value").mean(), pl.col("step").mean())
        .group_by("bin")
        .agg(pl.col("step").mean(), mean=pl.col("value").mean(), low=pl.col("value").min(), high=pl.col("value").max())
        .sort("bin")
    )


def _draw_curve(axes: Axes, curve: pl.DataFrame, row: Row, look: Look, number: int) -> None:
    """The markers of different series stand at different steps, so that they hide each other less."""
    colour, line, marker = look
    few = (number % _MARKED, _MARKED) if len(curve) > _MARKED else 1
    axes.plot(
        curve["step"], curve["mean"], linestyle=line, marker=marker, markevery=few, markersize=2.5, color=colour,
        label=row.variant.name,
    )  # fmt: skip
    axes.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)


def metric_against_alpha(comparison: Comparison) -> Figure | None:
    """The first metric against the weight of the auxiliary loss, a line for what else sets variants apart."""
    metric = comparison.metrics[0]
    lines: dict[str, list[tuple[float, Row]]] = {}
    for row in comparison.rows:
        alpha = row.variant.keys.get("model.alpha")
        if isinstance(alpha, int | float) and metric in row.spreads:
            lines.setdefault(_without_alpha(row.variant.name), []).append((float(alpha), row))
    lines = {name: sorted(points, key=lambda point: point[0]) for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    with style():
        rows = math.ceil(len(lines) / 2) if len(lines) > 1 else 0
        figure = Figure(figsize=(COLUMN, 2.1 + 0.13 * rows))
        axes = figure.subplots()
        for (name, points), (colour, line, marker) in zip(lines.items(), looks(), strict=False):
            alphas = [alpha for alpha, _ in points]
            spreads = [row.spreads[metric] for _, row in points]
            ends = [0.0 if spread.high is None else spread.high - spread.mean for spread in spreads]
            axes.errorbar(
                alphas, [spread.mean for spread in spreads], ends, fmt=marker, linestyle=line, color=colour,
                markersize=3.5, elinewidth=0.8, capsize=2, label=name or metric_name(metric),
            )  # fmt: skip
        alphas = sorted({alpha for points in lines.values() for alpha, _ in points})
        _scale_of_alpha(axes, alphas)
        axes.set_xlabel("alpha, weight of the auxiliary loss")
        axes.set_ylabel(_label(metric))
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axes.grid(axis="y", linewidth=0.3, alpha=0.5)
        if len(lines) > 1:
            _legend(figure, axes)
        return figure


def _without_alpha(name: str) -> str:
    return ", ".join(part for part in name.split(", ") if not part.startswith("alpha="))


def _scale_of_alpha(axes: Axes, alphas: Sequence[float]) -> None:
    """Weights are tried in powers; 0 has a place left of them. The axis shows those that were tried."""
    positive = [alpha for alpha in alphas if alpha > 0]
    if len(positive) > 1 and positive[-1] / positive[0] > 5:
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
    shown = alphas if len(alphas) <= 7 else [alphas[0], *alphas[1:-1:2], alphas[-1]]
    axes.set_xticks(shown, [f"{alpha:g}" for alpha in shown])
    axes.minorticks_off()


def cost_against_metric(comparison: Comparison) -> Figure | None:
    """The first metric against training samples per second, mean and standard deviation of both."""
    metric, speed = comparison.metrics[0], "train/samples_per_second"
    points = []
    for row in comparison.rows:
        values = list(row.variant.by_seed(speed).values())
        if metric in row.spreads and values and metric != speed:
            points.append((row, np.array(values)))
    if not points:
        return None
    with style():
        figure = Figure(figsize=(COLUMN, 2.0 + 0.13 * _legend_rows([row for row, _ in points])))
        axes = figure.subplots()
        for (row, speeds), (colour, _, marker) in zip(points, looks(), strict=False):
            spread = row.spreads[metric]
            axes.errorbar(
                [speeds.mean() / 1000], [spread.mean], [spread.std or 0.0],
                [(speeds.std(ddof=1) if len(speeds) > 1 else 0.0) / 1000],
                fmt=marker, color=colour, markersize=4, elinewidth=0.8, label=row.variant.name,
            )  # fmt: skip
        axes.set_xlabel("training speed (thousand samples/s)")
        axes.set_ylabel(_label(metric))
        axes.margins(0.12)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axes.grid(linewidth=0.3, alpha=0.5)
        _legend(figure, axes)
        return figure


def _label(metric: str) -> str:
    name = metric_name(metric)
    return f"{name} (nats)" if metric.endswith("loss") else name


def _legend_rows(rows: Sequence[Row]) -> int:
    return math.ceil(len(rows) / _legend_columns([row.variant.name for row in rows]))


def _legend_columns(names: Sequence[str]) -> int:
    """As many as fit: about 60 letters stand side by side in a column, marks and gaps included."""
    return max(1, min(3, 60 // (max(map(len, names)) + 8)))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = _legend_columns(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name.png` (300 dots an inch) and `name.svg`, each whole or not at all."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        runs.write_bytes(path, drawn(figure, path.suffix[1:], salt=name))
    return paths


def as_inline_svg(figure: Figure, name: str) -> str:
    """An `<svg>` element for a page: its text has the colour of the page's, its ids begin with `name`."""
    file = io.StringIO()
    with style(name):
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)


_NO_METADATA: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))

DRAWINGS: dict[str, Callable[[Comparison], Figure | None]] = {
    "auc": auc_per_variant,
    "losses": learning_curves,
    "alpha": metric_against_alpha,
    "cost": cost_against_metric,
}
"""The figures by name; a drawing without anything to show is None."""
