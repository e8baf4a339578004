"""`dien-report --html`: one page that holds all it shows and asks no network for anything."""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from dien import plots
from dien.progress import counted
from dien.reporting.comparison import Comparison, Row
from dien.reporting.difference import shared_and_differing
from dien.reporting.tables import Table, metric_name, table_of
from dien.reporting.variants import SEEDS, as_text
from dien.runs.frames import differing_keys
from dien.runs.read import FINISHED, Run

_OF_EACH_RUN = ("seed", "overrides", "wandb_id")
"""Parts of the environment that tell nothing where they differ."""


def page(
    comparisons: Sequence[Comparison],
    runs: Sequence[Run],
    notes: Sequence[str],
    *,
    figures: Sequence[Mapping[str, Figure]],
    place: Path,
    extra: Sequence[Table] = (),
) -> str:
    """The page as HTML.

    Args:
        comparisons: none if no run has finished.
        runs: all of them, those that are in no table too.
        notes: of the tables.
        figures: of each comparison, by their names in `dien.plots.DRAWINGS`.
        place: the folder that the page will lie in; the links to run folders are relative to it.
        extra: further tables, such as differences between two runs.
    """
    names = {run.folder: row.variant.name for c in comparisons for row in c.rows for run in row.variant.runs}
    metric = comparisons[0].metrics[0] if comparisons else ""
    config, _ = shared_and_differing(runs, "configuration")
    environment, several = shared_and_differing([run for run in runs if run.environment], "environment")
    templates = Environment(
        loader=PackageLoader("dien.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["letter"] = lambda place: chr(ord("A") + place) if place < 26 else str(place)
    return templates.get_template("page.html").render(
        version=version("dien"),
        sections=[
            _section(comparison, drawn, number)
            for number, (comparison, drawn) in enumerate(zip(comparisons, figures, strict=True))
        ],
        notes=notes,
        extra=extra,
        runs=[_run(run, names.get(run.folder, ""), place, metric) for run in runs],
        finished=sum(run.status == FINISHED for run in runs),
        metric=metric_name(metric),
        choices=_choices(comparisons),
        config=config,
        environment=environment,
        several={key: counts for key, counts in several.items() if key not in _OF_EACH_RUN},
    )


def _section(comparison: Comparison, drawn: Mapping[str, Figure], number: int) -> dict[str, Any]:
    captions = {
        "auc": f"{metric_name(comparison.metrics[0])} of each variant: mean over seeds with its 95 % interval "
        "(Student's t), and a tick for each seed.",
        "losses": "Losses while training, averaged over seeds and over stretches of steps; the band goes from the "
        "lowest to the highest seed.",
        "alpha": f"{metric_name(comparison.metrics[0])} against the weight of the auxiliary loss, with 95 % intervals.",
        "cost": f"{metric_name(comparison.metrics[0])} against training speed, mean ± standard deviation of both.",
    }
    return {
        "table": table_of(comparison),
        "figures": [
            # Markup: made by matplotlib, which escapes the text in it
            {"svg": Markup(plots.as_inline_svg(figure, f"s{number}-{name}")), "caption": captions[name]}
            for name, figure in counted("writing the page", list(drawn.items()))
        ],
    }


def _run(run: Run, variant: str, place: Path, metric: str) -> dict[str, Any]:
    seed, value = run.config.get("seed"), run.metrics.get(metric)
    return {
        "name": Path(run.folder).name,
        "link": quote(os.path.relpath(run.folder, place).replace(os.sep, "/")) + "/",
        "status": run.status,
        "variant": variant,
        "seed": "" if seed is None else str(seed),
        "value": "" if value is None else f"{value:.4f}",
        "problem": run.problem or "",
        "origin": run.origin,
    }


class Choice(NamedTuple):
    """Keys by which the variants fall into the same classes."""

    variants: list[str]
    """Of each class, those that are in it; of one that has most of them, only how many."""
    values: dict[str, list[str]]
    """Of each key its value in each class."""


def _choices(comparisons: Sequence[Comparison]) -> list[Choice]:
    """Every key that differs and has an effect, the seed aside, and which variants have which value."""
    rows: dict[str, Row] = {}
    for comparison in comparisons:
        where = f"{comparison.data}: " if len(comparisons) > 1 else ""
        rows |= {where + row.variant.name: row for row in comparison.rows}
    choices: dict[tuple[tuple[str, ...], ...], dict[str, list[str]]] = {}
    for key in differing_keys([run for row in rows.values() for run in row.variant.runs]):
        if key in SEEDS:
            continue
        classes: dict[str, list[str]] = {}
        for name, row in rows.items():
            for value in dict.fromkeys(_choice(run, key) for run in row.variant.runs):
                classes.setdefault(value, []).append(name)
        choices.setdefault(tuple(map(tuple, classes.values())), {})[key] = list(classes)
    return [Choice(_told(classes), values) for classes, values in choices.items()]


def _told(classes: Sequence[Sequence[str]]) -> list[str]:
    told = ["; ".join(names) for names in classes]
    largest = max(range(len(classes)), key=lambda place: len(classes[place]))
    names = [name for names in classes for name in names]
    most = len(classes[largest]) > max(2, len(names) / 2)
    if len(classes) > 1 and most and len(set(names)) == len(names):  # none is in two classes
        told[largest] = f"the other {len(classes[largest])}"
    return told


def _choice(run: Run, key: str) -> str:
    return as_text(run.config[key]) if key in run.config else "(absent)"
