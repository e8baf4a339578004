"""How much the authors' way of batching test rows is worth: one trained network, the same rows, other batches.

    python scripts/evaluation_artefact.py --folder outputs/artefact

The authors sort the test rows by history length in windows of 20 batches of 128, and the two rows of a sample, click
and sampled negative, stay side by side. Their networks see the batch: Dice normalises by its statistics, and the
history sum counts its padding. Here every trained network scores the same test rows in four orders:

    sorted       by length within windows of 20 batches, pairs together: as the authors do
    apart        sorted likewise, the rows of equal length in random order, so that pairs are torn
    pairs        pairs together, in random order
    shuffled     all rows in random order

Runs that are already in the folder are not trained again. A second table says how much of the variants' gap to the
first variant remains.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from scipy import stats

from dien import runs
from dien.config import CONF, register
from dien.data.dataset import RowBatch, SplitRows
from dien.errors import check_choice
from dien.metrics import AUC
from dien.model.authors import VARIANTS
from dien.train import train

ORDERS = ("sorted", "apart", "pairs", "shuffled")
BATCH, WINDOW = 128, 20
OPTIONS = (
    "model=authors",
    "data.history_length=100",
    "data.split=by_user",
    "trainer.max_epochs=1",
    "callbacks=quiet",
)
"""The paper's protocol but for its samples: every event is one, since ML-100K has only 943 users."""


def row_order(name: str, length_S: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Rows in the order in which they are cut into batches; row 2s and row 2s + 1 are the pair of sample s."""
    rows = np.arange(len(length_S))
    if name == "shuffled":
        return random.permutation(rows)
    if name == "pairs":
        return (2 * random.permutation(len(rows) // 2)[:, None] + np.arange(2)).reshape(-1)
    tie_S = rows if name == "sorted" else random.permutation(len(rows))
    return np.lexsort((tie_S, length_S, rows // (BATCH * WINDOW)))


@torch.inference_mode()
def auc(network: torch.nn.Module, rows: SplitRows, order: NDArray[np.int64]) -> float:
    """AUC of all rows, scored in batches of consecutive rows of `order`."""
    metric = AUC()
    for first in range(0, len(order), BATCH):
        batch = rows[RowBatch(0, order[first : first + BATCH])]
        metric.update(network(batch).logit_B, batch.label_B, batch.user_B)
    return metric.compute().item()


@dataclass(frozen=True)
class Experiment:
    """Trains one network for a variant and a seed, or takes the one that is there, and scores it in every order."""

    folder: Path
    overrides: tuple[str, ...]
    test_samples: int
    shuffles: int

    def scores(self, variant: str, seed: int) -> NDArray[np.float64]:
        """AUC in each of `ORDERS`; random ones are averaged over `shuffles` orders."""
        folder = self.folder / f"{variant}_seed{seed}"
        if not (folder / "metrics.json").exists():
            with initialize_config_dir(str(CONF), version_base="1.3"):
                names = [f"model.variant={variant}", f"seed={seed}", f"run_dir={folder}"]
                cfg = compose("train", overrides=[*OPTIONS, *names, *self.overrides])
            train(cfg)
        network, data, _, _ = runs.load_model(folder)
        rows = data.rows("test")
        # Whole users as they come: the order of the authors' file.
        order = np.arange(min(len(rows), 2 * self.test_samples))
        length_S, random = rows.lengths(order), np.random.default_rng(seed)
        return np.array(
            [
                np.mean(
                    [
                        auc(network, rows, row_order(name, length_S, random))
                        for _ in range(1 if name == "sorted" else self.shuffles)
                    ]
                )
                for name in ORDERS
            ]
        )


def print_tables(variants: Sequence[str], auc_VSO: NDArray[np.float64]) -> None:
    """Axes of the argument: V variants, S seeds, O orders."""
    orders = " | ".join(ORDERS)
    print(f"| variant | {orders} | sorted - shuffled | paired p |")
    print(f"| --- |{' --- |' * (len(ORDERS) + 2)}")
    for variant, auc_SO in zip(variants, auc_VSO, strict=True):
        cells = [f"{mean:.4f} ± {std:.4f}" for mean, std in zip(auc_SO.mean(0), auc_SO.std(0, ddof=1), strict=True)]
        difference = auc_SO[:, 0] - auc_SO[:, -1]
        cells.append(f"{difference.mean():+.4f} ± {difference.std(ddof=1):.4f}")
        cells.append(f"{stats.ttest_rel(auc_SO[:, 0], auc_SO[:, -1]).pvalue:.2g}")
        print(f"| {variant} | {' | '.join(cells)} |")
    print(f"\n| ahead of {variants[0]} | {orders} | remains (shuffled / sorted) | paired p (shuffled) |")
    print(f"| --- |{' --- |' * (len(ORDERS) + 2)}")
    for variant, auc_SO in zip(variants[1:], auc_VSO[1:], strict=True):
        gap_SO = auc_SO - auc_VSO[0]
        cells = [f"{mean:+.4f} ± {std:.4f}" for mean, std in zip(gap_SO.mean(0), gap_SO.std(0, ddof=1), strict=True)]
        left = gap_SO[:, -1].mean() / gap_SO[:, 0].mean()
        cells += [f"{100 * left:.0f} %", f"{stats.ttest_1samp(gap_SO[:, -1], 0).pvalue:.2g}"]
        print(f"| {variant} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/artefact"), help="of the runs")
    parser.add_argument("--data", default="ml_100k", help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2 (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", default=["dnn", "din", "gru_qa_attgru", "gru_vec_attgru", "dien"])
    parser.add_argument("--train-batches", type=int, default=312, help="of 128 rows (default: %(default)s)")
    parser.add_argument("--test-samples", type=int, default=5_000, help="a click and a negative each (%(default)s)")
    parser.add_argument("--shuffles", type=int, default=3, help="random orders to average over (default: %(default)s)")
    parser.add_argument(
        "--bucket", type=int, default=WINDOW, help="training batches are sorted, too, in such windows (%(default)s)"
    )
    parser.add_argument("overrides", nargs="*", help="further overrides of dien-train, after --")
    given = parser.parse_args()
    for variant in given.variants:
        check_choice("--variants", variant, tuple(VARIANTS))
    if given.seeds < 2:
        parser.error("--seeds: a spread needs at least 2")
    register()
    overrides = (
        f"data={given.data}",
        f"data.bucket={given.bucket}",
        f"trainer.limit_train_batches={given.train_batches}",
    )
    experiment = Experiment(
        folder=given.folder,
        overrides=(*overrides, *given.overrides),
        test_samples=given.test_samples,
        shuffles=given.shuffles,
    )
    scores = [[experiment.scores(variant, seed) for seed in range(given.seeds)] for variant in given.variants]
    print_tables(given.variants, np.array(scores))


if __name__ == "__main__":
    main()
