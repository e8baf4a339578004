"""Table of results over seeds, from run folders: mean ± std of the test metrics and a paired t-test on the same seeds.

python scripts/seed_table.py --baseline base multirun/default/2026-11-23_22-00-00-000000
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from scipy import stats

METRICS = ("test/auc", "test/gauc", "test/logloss")


def read(folders: list[Path]) -> dict[str, dict[int, dict[str, float]]]:
    """Metrics by model and seed."""
    runs: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for folder in folders:
        for path in sorted(folder.rglob("metrics.json")):
            config = OmegaConf.load(path.parent / "config.yaml")
            runs[config.model.name][config.seed] = json.loads(path.read_text())
    return runs


def row(name: str, runs: dict[int, dict[str, float]], base: dict[int, dict[str, float]]) -> str:
    """One line of a Markdown table."""
    cells = [name, str(len(runs))]
    for metric in METRICS:
        values = np.array([run[metric] for run in runs.values()])
        cells.append(f"{values.mean():.4f} ± {values.std(ddof=1):.4f}")
    auc, base_auc = (np.mean([run["test/auc"] for run in group.values()]) for group in (runs, base))
    cells.append(f"{100 * ((auc - 0.5) / (base_auc - 0.5) - 1):+.1f} %")
    seeds = sorted(runs.keys() & base.keys())
    pairs = [[group[seed]["test/auc"] for seed in seeds] for group in (runs, base)]
    cells.append("" if runs is base else f"{stats.ttest_rel(*pairs).pvalue:.2g}")
    cells.append(f"{np.median([run['train/samples_per_second'] for run in runs.values()]):,.0f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="multirun or run folders")
    parser.add_argument("--baseline", default="base", help="model name that RelaImpr and the test compare with")
    arguments = parser.parse_args()
    runs = read(arguments.folders)
    if arguments.baseline not in runs:
        parser.error(f"no run of {arguments.baseline!r} there: the models are {', '.join(runs) or 'none'}")
    print("| model | seeds | test AUC | test GAUC | test log loss | RelaImpr | paired p | training samples/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in sorted(runs, key=lambda name: -np.mean([run["test/auc"] for run in runs[name].values()])):
        print(row(name, runs[name], runs[arguments.baseline]))


if __name__ == "__main__":
    main()
