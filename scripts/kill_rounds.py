"""Kill one training with SIGKILL at random moments, go on each time, and compare the end with a training left alone.

    python scripts/kill_rounds.py --rounds 50 --seed 0 [--workers 2] [OVERRIDES...]

Every start is the same command, `dien-train ckpt=auto ...`, as a scheduler would requeue it. Exit status 0 only if
there were that many kills and weights, moments of the optimizer, metrics.csv and metrics.json are the same to the bit.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

OPTIONS = [
    "ckpt=auto",
    "data=sample",
    "data.history_length=10",
    "data.bucket=8",
    "model.features.embedding_size=4",
    "model.head.hidden=[8]",
    "model.head.dropout=0.2",
    "trainer.log_every_n_steps=5",
    "callbacks=quiet",
    "checkpoint.steps=10",
]
CLOCK = ("seconds", "train/samples_per_second", "train/data_wait")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=50, help="kills (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--longest", type=float, default=3.0, help="seconds after start or first step (3)")
    parser.add_argument("--epochs", type=int, default=3, help="of the training (3)")
    parser.add_argument("--workers", type=int, default=0, help="reading processes (0)")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds that every step sleeps (0)")
    parser.add_argument("overrides", nargs="*", help="further overrides of dien-train")
    arguments = parser.parse_args()
    global PACE
    PACE = arguments.pace
    options = [*OPTIONS, f"trainer.max_epochs={arguments.epochs}", f"data.num_workers={arguments.workers}"]
    given = {override.split("=")[0] for override in arguments.overrides}
    options = [option for option in options if option.split("=")[0] not in given] + arguments.overrides
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place, "whole"), Path(place, "killed")
        start = time.perf_counter()
        if status := live(whole, options, None):
            print((whole / "output.txt").read_text())
            return status
        print(f"left alone: {time.perf_counter() - start:.1f} s, {steps_of(run_of(whole))} steps", flush=True)
        kills, lost = kill(killed, options, arguments.rounds, arguments.seed, arguments.longest)
        different = differences(run_of(whole), run_of(killed))
        rows = len((run_of(killed) / "metrics.csv").read_text().splitlines()) - 1
    print(f"{kills} kills; {lost} steps were made twice; {rows} rows in metrics.csv")
    print("different: " + ", ".join(different) if different else "weights, moments, metrics: the same to the last bit")
    return int(bool(different) or kills < arguments.rounds)


def kill(place: Path, options: list[str], rounds: int, seed: int, longest: float) -> tuple[int, int]:
    """Start and kill `rounds` times and let the last start finish; print each round; kills and steps made twice."""
    rng = random.Random(seed)
    table = Table("round", "killed, seconds after", "steps made", "steps in last.ckpt", "steps lost")
    kills = lost = 0
    while True:
        delay, from_step = rng.uniform(0, longest), rng.random() < 0.8
        status = live(place, options, delay if kills < rounds else None, from_step=from_step)
        if status is not None and status >= 0:
            if status:
                print((place / "output.txt").read_text())
                sys.exit(f"dien-train failed with status {status}")
            break
        kills += 1
        made, kept = made_of(place), steps_of(run_of(place))
        lost += max(0, made - kept)
        table.add_row(
            str(kills),
            f"{delay:.2f} of its {'1st step' if from_step else 'start'}",
            str(made),
            str(kept),
            str(max(0, made - kept)),
        )
    Console().print(table)
    return kills, lost


def live(place: Path, options: list[str], delay: float | None, *, from_step: bool = False) -> int | None:
    """Run dien-train in `place` and kill it `delay` seconds after its start, or after the first step that it makes.

    Returns:
        Its exit status, negative if it was killed.
    """
    place.mkdir(exist_ok=True)
    (place / "made").unlink(missing_ok=True)
    process = CONTEXT.Process(target=child, args=(place, options, PACE))
    process.start()
    while from_step and delay is not None and process.is_alive() and not (place / "made").exists():
        time.sleep(0.01)
    process.join(delay)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def child(place: Path, options: list[str], pace: float) -> None:
    os.chdir(place)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from dien import train
    from dien.module import ClickModule

    step = ClickModule.training_step

    def counted(self: ClickModule, batch: Any, batch_idx: int) -> Any:
        Path("made").write_text(str(self.global_step + 1))
        time.sleep(pace)
        return step(self, batch, batch_idx)

    ClickModule.training_step = counted  # type: ignore[method-assign]
    sys.argv = ["dien-train", *options]
    train.main()


def run_of(place: Path) -> Path:
    """The run folder in `place`; those that were killed before their first checkpoint do not count."""
    with_checkpoint = sorted(path.parents[1] for path in place.glob("outputs/default/*/checkpoints/last.ckpt"))
    return with_checkpoint[-1] if with_checkpoint else place / "none"


def steps_of(run: Path) -> int:
    path = run / "checkpoints/last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.is_file() else 0


def made_of(place: Path) -> int:
    path = place / "made"
    return int(path.read_text() or 0) if path.is_file() else 0


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in CLOCK} for row in csv.DictReader(file)]


def differences(a: Path, b: Path) -> list[str]:
    """What two runs do not have in common, down to the bit, but for the clock and the places of their files."""
    found = [] if rows_of(a) == rows_of(b) else ["metrics.csv"]
    one, other = (json.loads((run / "metrics.json").read_text()) for run in (a, b))
    found += [f"metrics.json {key}" for key in one.keys() | other.keys() if key not in CLOCK and one[key] != other[key]]
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (a, b))
        found += [
            f"{name} {key}"
            for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops")
            if not same(one[key], other[key])
        ]
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


PACE = 0.0
CONTEXT = multiprocessing.get_context("forkserver")  # imports once, not once a round

if __name__ == "__main__":
    CONTEXT.set_forkserver_preload(["dien.train"])
    sys.exit(main())
