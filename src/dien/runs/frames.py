"""Run folders, and runs that W&B kept offline, as polars frames: `load` one row a run, `curves` one row a value."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dien.runs import offline_wandb
from dien.runs.read import Run, read

IDENTITY = ("name", "seed", "data.name", "model.name", "model.alpha")
"""Keys of the configuration that `load` gives even if they are the same in all runs."""
WITHOUT_EFFECT = (
    *("run_dir", "name", "ckpt", "logger", "callbacks.progress"),
    *("data.cache", "data.prepared", "data.num_workers", "data.prefetch_factor", "data.persistent_workers"),
    "data.pin_memory",
)
"""Keys, and what is below them, that say where or how comfortably a run happens; no metric depends on them."""
_CURVES = {"run": pl.String, "step": pl.Int64, "epoch": pl.Int64, "name": pl.String, "value": pl.Float64}


def load(*paths: str | Path) -> pl.DataFrame:
    """One row a run, of run folders and of folders that contain them at any depth.

    Unfinished, failed and damaged runs are rows too: `status` and `problem` say so, and what is unknown is null.

    Returns:
        Columns `run` (the folder), `origin` (`folder`, or `wandb` for an offline log of W&B), `status` (`running`,
        `finished`, `failed`, `stopped` or `unfinished`), `problem` (one sentence or null); then `IDENTITY` and the
        keys of the configuration that differ and have an effect, with dotted names; the metrics by their names in
        `metrics.json`; the environment with names that begin with `env/`.

    Raises:
        DataError: if a path is missing or not a folder. Nothing inside of a folder is an error.
    """
    return frame_of(read(*paths))


def frame_of(runs: Sequence[Run]) -> pl.DataFrame:
    """The frame of `load` for runs that have been read already."""
    columns: dict[str, list[Any]] = {
        "run": [run.folder for run in runs],
        "origin": [run.origin for run in runs],
        "status": [run.status for run in runs],
        "problem": [run.problem for run in runs],
    }
    for key in [*IDENTITY, *(key for key in differing_keys(runs) if key not in IDENTITY)]:
        columns[key] = [run.config.get(key) for run in runs]
    for name in _names([run.metrics for run in runs]):
        columns[name] = [run.metrics.get(name) for run in runs]
    for name in _names([run.environment for run in runs]):
        columns[f"env/{name}"] = [run.environment.get(name) for run in runs]
    text = ("run", "origin", "status", "problem")
    return pl.DataFrame([_column(name, values, text=name in text) for name, values in columns.items()])


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Keys of the configuration that two runs have different values of, or that only some have, in order of appearance.

    Without those that have no effect.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if not has_no_effect(key))
    absent = object()
    return [key for key in keys if len({run.config.get(key, absent) for run in runs if run.config}) > 1]


def has_no_effect(key: str) -> bool:
    """Whether a key is one of `WITHOUT_EFFECT`, or says how a node is built (`_partial_`)."""
    return key.endswith("_partial_") or any(key == name or key.startswith(f"{name}.") for name in WITHOUT_EFFECT)


def curves(*paths: str | Path) -> pl.DataFrame:
    """Everything that was logged while the runs trained, one row a value.

    Returns:
        Columns `run` (as in `load`), `step` (updates of the weights before it), `epoch`, `name`, `value`; without the
        rows that a damaged file has lost.

    Raises:
        DataError: if a path is missing or not a folder.
    """
    return curves_of(read(*paths))


def curves_of(runs: Sequence[Run]) -> pl.DataFrame:
    """The frame of `curves` for runs that have been read already."""
    frames = [_wandb_curves(run) if run.origin == "wandb" else _folder_curves(run) for run in runs]
    return pl.concat([pl.DataFrame(schema=_CURVES), *frames])


def _folder_curves(run: Run) -> pl.DataFrame:
    path = Path(run.folder) / "metrics.csv"
    try:
        table = pl.read_csv(path.read_bytes(), infer_schema=False, truncate_ragged_lines=True, ignore_errors=True)
    except (OSError, pl.exceptions.PolarsError):
        return pl.DataFrame(schema=_CURVES)
    if not {"epoch", "step"} <= set(table.columns):
        return pl.DataFrame(schema=_CURVES)
    values = table.unpivot(index=["epoch", "step"], variable_name="name").with_columns(run=pl.lit(run.folder))
    return values.select(pl.col(name).cast(kind, strict=False) for name, kind in _CURVES.items()).drop_nulls(
        ["step", "value"]
    )


def _wandb_curves(run: Run) -> pl.DataFrame:
    folder = Path(run.folder)
    name = next(folder.glob("*.wandb")).name
    legs = {path.resolve() for path in folder.parent.glob(f"*/{name}")}  # `latest-run` links to one of them
    rows = []
    for row in offline_wandb.read(sorted(legs)).history:
        step, epoch = row.get("trainer/global_step", row.get("_step")), row.get("epoch")
        for name, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and not name.startswith("_") and name not in ("trainer/global_step", "epoch"):
                rows.append((run.folder, step, epoch, name, float(value)))
    return pl.DataFrame(rows, schema=_CURVES, orient="row", strict=False)


def _names(mappings: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({name for mapping in mappings for name in mapping})


def _column(name: str, values: list[Any], *, text: bool) -> pl.Series:
    """Numbers stay numbers; what is of several kinds becomes text."""
    kinds = {type(value) for value in values if value is not None}
    for allowed, kind in (({bool}, pl.Boolean), ({int}, pl.Int64), ({int, float}, pl.Float64)):
        if kinds and kinds <= allowed and not text:
            try:
                return pl.Series(name, values, dtype=kind)
            except (OverflowError, TypeError, pl.exceptions.PolarsError):  # a seed beyond 64 bits
                break
    return pl.Series(name, [None if value is None else _text(value) for value in values], dtype=pl.String)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
