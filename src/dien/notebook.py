"""What the notebooks need beside the package: runs to look at, made in a minute if there are none, and their data."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from torch import Tensor

from dien import runs
from dien.batch import Batch
from dien.config import CONF, register
from dien.data import survey
from dien.data.datamodule import DataModule
from dien.data.dataset import RowBatch
from dien.data.names import item_features
from dien.data.protocol import Split
from dien.errors import DienError
from dien.explain import PLAUSIBLE_SECONDS
from dien.model.steps import Steps
from dien.reporting.variants import variants_of
from dien.runs.read import FINISHED, read
from dien.targets import instantiate

DEMO = [
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=40",
    "trainer.limit_val_batches=2",
    "schedule=constant",
    "optimizer.lr=0.01",
    "trainer.log_every_n_steps=5",
    "callbacks=quiet",
]
"""A training of a few seconds on the bundled sample: enough to see something, too short to conclude anything."""


def given_or_made(name: str, *sweeps: Sequence[str]) -> list[Path]:
    """Run folders (or folders that contain them): those in `$DIEN_RUNS`, separated as in `$PATH`, or made now.

    Args:
        name: of the notebook; its runs go to `outputs/notebooks/NAME`.
        sweeps: overrides of each sweep to make, beside `DEMO`.

    Raises:
        DienError: if a training fails.
    """
    if given := os.environ.get("DIEN_RUNS"):
        return [Path(path) for path in given.split(os.pathsep)]
    folder = Path("outputs/notebooks", name, f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}").absolute()
    for number, overrides in enumerate(sweeps):
        command = [sys.executable, "-m", "dien.train", "-m", *DEMO, *overrides, f"hydra.sweep.dir={folder}/{number}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DienError(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return [folder]


def networks(paths: Iterable[Path], *, having: str) -> dict[str, runs.LoadedRun]:
    """Networks of the finished runs in some folders, one for each variant, named as `dien-report` names them.

    A run that cannot be used is said to be left out, and another seed of its variant taken.

    Args:
        paths: run folders, or folders that contain them.
        having: a part without which a network is not asked for, such as `evolution`.

    Raises:
        DienError: there is none, or they are of several datasets.
    """
    found = read(*paths)
    usable = [run for run in found if run.status == FINISHED and run.origin == "folder" and run.config]
    for run in found:
        if run not in usable:
            print(f"left out: {run.folder}: {run.problem}")
    loaded: dict[str, runs.LoadedRun] = {}
    for variant in variants_of(usable):
        for run in variant.runs:
            try:
                one = runs.load_model(run.folder)
            except DienError as error:
                print(f"left out: {run.folder}: {error}")
                continue
            if hasattr(one.network, having):
                loaded[variant.name] = one
            break
    if not loaded:
        raise DienError(f"no finished run has a network with {having}: name folders of such runs in DIEN_RUNS.")
    data = {run.data.data.fingerprint: run.data.data.name for run in loaded.values()}
    if len(data) > 1:
        raise DienError(
            f"these runs are of {len(data)} different datasets ({', '.join(data.values())}), whose histories cannot be "
            "compared: name the folders of one in DIEN_RUNS."
        )
    return loaded


def gaps(data: DataModule) -> tuple[NDArray[np.float64], str]:
    """Times between the baskets of a user, and their unit: days, or that of a log whose times are not in seconds."""
    gap = survey.gaps(data.data).astype(float)
    low, high = PLAUSIBLE_SECONDS
    seconds = len(data.data.click_time) and low < data.data.click_time.min() and data.data.click_time.max() < high
    return (gap / 86400, "days") if seconds else (gap, "units of the log's time")


def data_module(overrides: str) -> DataModule:
    """The data that `dien-train` would train on with some overrides, such as `data=ml_100k data.split=temporal`."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["run_dir=.", *overrides.split()])
    data: DataModule = instantiate(cfg.data, _convert_="all")
    data.prepare_data()
    data.setup()
    return data


def rows(data: DataModule, split: Split, count: int) -> Batch:
    """At most `count` rows of a split as one batch, spread over all of it."""
    total = len(data.rows(split))
    return data.rows(split)[RowBatch(0, np.unique(np.linspace(0, total - 1, count).astype(np.int64)))]


def back_in_time(steps: Steps, value_N: Tensor, longest: int) -> NDArray[np.float32]:
    """Means over rows of a value a step, aligned at the NEWEST step of each row: `longest` steps, oldest first.

    Steps that fewer than a tenth of the rows have are left out.
    """
    last_N = steps.offsets[1:][steps.row_N] - 1
    age_N = (last_N - value_N.new_tensor(range(len(value_N))).long()).numpy()
    recent_N = age_N < longest
    count_A = np.bincount(age_N[recent_N], minlength=longest)
    sum_A = np.bincount(age_N[recent_N], value_N.numpy()[recent_N], minlength=longest)
    enough = count_A >= max(1, steps.rows / 10)
    return (sum_A[enough] / count_A[enough])[::-1].astype(np.float32)


def contrasting_items(data: DataModule, history_T: NDArray[np.int64], feature: str) -> list[int]:
    """Three popular items that a history lacks: of the value of `feature` that it has most often, of one that it has
    once, and of one that it never has."""
    prepared = data.data
    value_of = np.array(["", "", *item_features(prepared, np.arange(2, prepared.n_items))[feature].to_list()])
    values, counts = np.unique(value_of[history_T], return_counts=True)
    order = np.argsort(-np.array(prepared.item_clicks), kind="stable")
    fresh = [int(item) for item in order if item >= 2 and item not in history_T]
    kinds = ([values[counts.argmax()]], values[counts == 1], None)
    chosen: list[int] = []
    for kind in kinds:
        fits = (i for i in fresh if (value_of[i] not in values if kind is None else value_of[i] in kind))
        item = next((i for i in fits if i not in chosen), None)
        chosen += [] if item is None else [item]
    return chosen
