"""Where the truth is known: who reads the order gains by it exactly when there is one, and nobody beats the ceiling."""

import json

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from dien.config import CONF, register
from dien.train import train

WORLD = [
    "data=synthetic",
    "data.source.users=900",
    "data.source.categories=8",
    "data.source.items_per_category=8",
    "data.source.tastes=2",
    "data.source.concentration=0.3",
    "data.source.min_sessions=10",
    "data.source.max_sessions=18",
    "data.test_fraction=0.25",
]


def metrics_of(folder, *overrides: str) -> dict[str, float]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        places = [f"run_dir={folder}", f"data.cache={folder.parent}/cache", "callbacks=quiet"]
        cfg = compose("train", overrides=[*places, *WORLD, "trainer.max_epochs=2", "optimizer.lr=0.005", *overrides])
    train(cfg)
    return json.loads((folder / "metrics.json").read_text())


MODELS = {"base": ["model=base"], "dien": ["model=dien"], "code": ["model=dien", "model/evolution=augru_code"]}


@pytest.fixture(scope="module", params=[0.9, 0.0], ids=["strong drift", "drift off"])
def results(request, tmp_path_factory) -> tuple[float, dict[tuple[str, int], dict[str, float]]]:
    """Metrics of every model and seed."""
    folder = tmp_path_factory.mktemp("synthetic")
    runs = [("base", 0), ("base", 1), ("dien", 0), ("dien", 1), ("code", 0)]
    order = f"data.source.order={request.param}"
    return request.param, {
        (name, seed): metrics_of(folder / f"{name}{seed}", f"seed={seed}", order, *MODELS[name]) for name, seed in runs
    }


@pytest.mark.slow
@pytest.mark.parametrize(("model", "seed"), [("dien", 0), ("dien", 1), ("code", 0)])
def test_order_is_worth_something_exactly_when_there_is_order(results, model: str, seed: int) -> None:
    order, metrics = results
    gain = metrics[model, seed]["test/auc"] - metrics["base", seed]["test/auc"]
    if order:
        assert gain > 0.04
    else:
        assert abs(gain) < 0.02


@pytest.mark.slow
def test_no_model_exceeds_what_can_be_known(results) -> None:
    for metrics in results[1].values():
        counting = [value for name, value in metrics.items() if name.endswith("count/test/auc")]
        assert len(counting) == 2
        ceiling = metrics["reference/ceiling/test/auc"]
        assert ceiling < metrics["reference/oracle/test/auc"] - 0.02
        # On the same rows a model can only be ahead of the ceiling by chance; that is a few thousandths here.
        assert max(0.55, *counting) < metrics["test/auc"] < ceiling + 0.01
        assert metrics["test/logloss"] > metrics["reference/ceiling/test/logloss"] - 0.01
        assert np.isfinite(metrics["reference/popularity/test/gauc"])
