"""Figures of one run and of what happens inside its network; `dien.plots` draws comparisons of runs.

Matrices are shown in cividis, which also survives grey print; how the rest looks is `dien.looks`.

Axes: C candidate items, T history steps (oldest first), H hidden, V variants.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dien import runs
from dien.looks import COLOURS, COLUMN, INK, WIDE, drawn, looks, style

_STEP_NAME, _CANDIDATE_NAME = 22, 34
"""Letters of a name below and beside an attention map."""
_LETTER, _LINE = 0.05, 0.11
"""Inches that a letter and a line of these names take."""
_MARKED = 4
"""Every such step of a line has a marker."""


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as what the suffix of `path` says: .png, .svg or .pdf; it exists whole or not at all."""
    runs.write_bytes(Path(path), drawn(figure, Path(path).suffix[1:]))


def of_run(metrics_csv: Path) -> dict[str, Figure]:
    """The figures of one run, by name: `learning_curves`, and `selection` if the network has states or attention."""
    logged = pl.read_csv(metrics_csv, infer_schema_length=None)
    drawn = {"learning_curves": _learning_curves(logged), "selection": _selection(logged)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _learning_curves(logged: pl.DataFrame) -> Figure:
    """Losses by training step and validation AUC by epoch."""
    with style():
        figure = Figure(figsize=(WIDE, 2.3))
        left, right = figure.subplots(1, 2)
        _curves(left, logged, {"train/ctr_loss": "click loss", "train/aux_loss": "auxiliary loss"}, by="step")
        left.set(xlabel="training step (batches)", ylabel="loss (nats)")
        _curves(right, _while_training(logged), {"val/auc": "AUC", "val/gauc": "GAUC"}, by="epoch")
        right.set(xlabel="epochs of training", ylabel="validation AUC, GAUC")
    return figure


def _selection(logged: pl.DataFrame) -> Figure | None:
    """Whether attention selects anything and how fast the states move by epoch, beside the gradient's norm by step."""
    shares = {
        "val/attention_entropy": "attention entropy",
        "val/update_gate": "update gate, evolution",
        "val/interest_update_gate": "update gate, extractor",
    }
    if not set(shares) & set(logged.columns):
        return None
    with style():
        figure = Figure(figsize=(WIDE, 2.3))
        left, right = figure.subplots(1, 2)
        _curves(left, logged, {"train/gradient_norm": "before clipping"}, by="step")
        left.set(xlabel="training step (batches)", ylabel="norm of the gradient")
        _curves(right, _while_training(logged), shares, by="epoch")
        right.set(xlabel="epochs of training", ylabel="share of the largest possible", ylim=(0, 1.05))
    return figure


def _while_training(logged: pl.DataFrame) -> pl.DataFrame:
    """Without what is evaluated after training, the best epoch once more, under an epoch that was not trained."""
    return logged.filter(pl.col("epoch").is_in(logged.drop_nulls("train/loss")["epoch"].implode()))


def _curves(axes: Axes, logged: pl.DataFrame, names: Mapping[str, str], *, by: Literal["step", "epoch"]) -> None:
    """A line for each of `names` that was logged, with its legend; epochs count from 1 and are marked."""
    for (name, label), (colour, line, marker) in zip(names.items(), looks(), strict=False):
        if name in logged.columns:
            rows = logged.drop_nulls(name)
            at = rows[by] + (by == "epoch")
            points = marker if by == "epoch" else None
            axes.plot(at, rows[name], linestyle=line, marker=points, markersize=3.5, color=colour, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))  # a single epoch has no other whole tick
    if axes.lines:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)  # above, where it covers nothing


def attention_map(attention_CT: NDArray[np.float32], steps: Sequence[str], candidates: Sequence[str]) -> Figure:
    """Attention over one history, a row a candidate; the colour starts at 0 and ends at the largest attention.

    Of a history whose steps are narrower than a line of text, every second, third, ... is named, and the newest.
    """
    count, length = attention_CT.shape
    steps = [shortened(name, _STEP_NAME) for name in steps]
    candidates = [shortened(name, _CANDIDATE_NAME) for name in candidates]
    beside = 0.9 + _LETTER * max(map(len, candidates))  # the names of the candidates and the bar of colours
    with style():
        width = min(max(COLUMN, beside + 0.14 * length), WIDE)
        every = max(1, math.ceil(length * _LINE / (width - beside)))
        shown = range((length - 1) % every, length, every)
        figure = Figure(figsize=(width, 1.0 + 0.2 * count + _LETTER * max(map(len, steps), default=0)))
        axes = figure.subplots()
        image = axes.imshow(attention_CT, aspect="auto", cmap="cividis", vmin=0, interpolation="nearest")
        axes.set_xticks(shown, [steps[step] for step in shown], rotation=90, fontsize=6)
        axes.set_yticks(range(count), candidates)
        which = "" if every == 1 else f" (one in {every} is named)"
        axes.set(xlabel=f"history, oldest first{which}", ylabel="candidate (click probability)")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.05)
        bar.set_label("attention (sums to 1)")
        bar.outline.set_visible(False)
    return figure


def shortened(text: str, letters: int) -> str:
    """At most so many letters, the last of them an ellipsis if some are missing."""
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def principal_paths(
    states_CTH: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Paths [C, T + 1, 2] of hidden states from their common start 0, in the first two principal components of all.

    Returns:
        The paths, and the shares of the variance that the two components hold.
    """
    count, _, hidden = states_CTH.shape
    from_zero = np.concatenate([np.zeros((count, 1, hidden), states_CTH.dtype), states_CTH], 1)
    centred = (from_zero - from_zero.mean((0, 1))).reshape(-1, hidden)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    power = singular**2 / max(float((singular**2).sum()), np.finfo(np.float32).tiny)
    return (centred @ directions[:2].T).reshape(count, -1, 2), power[:2]


def state_paths(states_CTH: NDArray[np.float32], candidates: Sequence[str]) -> Figure:
    """Where the hidden state goes along one history, a path a candidate (figure 3 of the paper)."""
    paths, power = principal_paths(states_CTH)
    with style():
        figure = Figure(figsize=(COLUMN, 2.6 + 0.13 * len(candidates)))
        axes = figure.subplots()
        for name, path, (colour, line, marker) in zip(candidates, paths, looks(), strict=False):
            axes.plot(*path.T, linestyle=line, color=colour, linewidth=0.9, alpha=0.9)
            axes.plot(*path[1:].T, ".", color=colour, markersize=2)
            axes.plot(*path[-1], marker, color=colour, markersize=5, label=name, linestyle=line)
        axes.plot(*paths[0, 0], "*", color=INK, markersize=7, label="start (state 0)")
        axes.set(xlabel=f"component 1 ({power[0]:.0%} of variance)", ylabel=f"component 2 ({power[1]:.0%} of variance)")
        axes.margins(0.06)
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def lines_over_time(series: Mapping[str, NDArray[np.float32]], ylabel: str, *, logarithmic: bool = False) -> Figure:
    """One value a step of history and line, from 0 up or on a logarithmic axis; steps count back from the newest, 0."""
    with style():
        figure = Figure(figsize=(COLUMN, 2.0 + 0.13 * ((len(series) + 1) // 2)))
        axes = figure.subplots()
        for k, ((name, values), (colour, line, marker)) in enumerate(zip(series.items(), looks(), strict=False)):
            steps = np.arange(1 - len(values), 1)
            (curve,) = axes.plot(steps, values, linestyle=line, marker=marker, markersize=2.5, color=colour, label=name)
            curve.set_markevery((k % _MARKED, _MARKED))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="step of the history (0 = newest)", ylabel=ylabel)
        if logarithmic:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def popularity(clicks_R: NDArray[np.int64]) -> Figure:
    """Clicks of every item against its rank, both logarithmic: a straight line is a power law."""
    with style():
        figure = Figure(figsize=(COLUMN, 2.2))
        axes = figure.subplots()
        sorted_R = np.sort(clicks_R[clicks_R > 0])[::-1]
        axes.loglog(np.arange(1, len(sorted_R) + 1), sorted_R, ".", color=COLOURS[0], markersize=2)
        axes.set(xlabel="rank of the item", ylabel="clicks")
        axes.grid(linewidth=0.3, alpha=0.5)
    return figure


def distributions(
    values: Mapping[str, NDArray[np.int64]], xlabel: str, *, logarithmic: bool = False, bins: int = 30
) -> Figure:
    """Histograms as shares of each series, a line a series; on a logarithmic axis the values must be positive.

    There has to be some value, and they may all be equal.
    """
    with style():
        figure = Figure(figsize=(COLUMN, 2.2))
        axes = figure.subplots()
        everything = np.concatenate([series.astype(float) for series in values.values()])
        low, high = float(everything.min()), float(everything.max())
        if logarithmic:
            edges = np.geomspace(*((low, high) if low < high else (low / 2, high * 2)), bins + 1)
            axes.set_xscale("log")
        else:  # bins of whole width: counts would beat against any other
            width = max(1, round((high - low + 1) / bins))
            edges = np.arange(low, high + width + 1, width) - 0.5
        for (name, series), (colour, line, _) in zip(values.items(), looks(), strict=False):
            share, _ = np.histogram(series, edges)
            axes.stairs(share / max(1, len(series)), edges, color=colour, linestyle=line, label=name, linewidth=1.1)
        axes.set(xlabel=xlabel, ylabel="share")
        if len(values) > 1:
            axes.legend()
    return figure


def paired_differences(names: Sequence[str], differences: Sequence[tuple[float, float, float]], metric: str) -> Figure:
    """Mean difference from a baseline and its interval (mean, low, high), a row a variant; 0 is the baseline."""
    with style():
        figure = Figure(figsize=(COLUMN, 0.7 + 0.22 * len(names)))
        axes = figure.subplots()
        for k, (mean, low, high) in enumerate(differences):
            axes.errorbar(
                [mean], [k], xerr=[[mean - low], [high - mean]], fmt="o", color=COLOURS[0], markersize=4, capsize=2
            )
        axes.axvline(0, color="0.5", linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(f"difference in {metric}, 95 % interval")
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure
