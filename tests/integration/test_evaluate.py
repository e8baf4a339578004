"""`dien-train train=false`: another split or dataset is read in the vocabulary of the run, or refused."""

import json

import polars as pl
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dien import runs
from dien.build import build_module
from dien.data.translate import trained_on
from dien.metrics import AUC


def table(capsys) -> str:
    return capsys.readouterr().out


def test_another_split_is_scored_with_the_vocabulary_of_the_run(dien_train, finished_run, capsys):
    """The network must give the same score to the same user, history and item whatever the split is called."""
    before = (finished_run / "metrics.json").read_bytes()
    assert dien_train(f"ckpt={finished_run}", "train=false", "data.split=by_user") == 0
    assert (finished_run / "metrics.json").read_bytes() == before
    loaded = runs.load_model(finished_run)
    config = OmegaConf.merge(loaded.config, OmegaConf.from_dotlist(["data.split=by_user"]))
    other = instantiate(config.data, _convert_="all")
    other.prepare_data()
    other.setup()
    plain = other.tables()[0][0].values
    other.trained = loaded.data.data
    assert not torch.equal(plain, other.tables()[0][0].values)  # without translation the ids would be others
    module = build_module(config, other)
    module.network.load_state_dict(loaded.network.state_dict())
    auc = AUC()
    with torch.no_grad():
        for batch in other.test_dataloader():  # both datasets have the same log, hence the same rows
            expected = loaded.network(batch).logit_B
            torch.testing.assert_close(module.network.eval()(batch).logit_B, expected, rtol=0, atol=1e-6)
            auc.update(expected, batch.label_B, batch.user_B)
    assert f"{auc.compute().item():.4f}" in table(capsys)
    assert 0 < trained_on(other.data, loaded.data.data) < 1


def test_another_log_keeps_what_the_run_knew_and_translates_the_rest(dien_train, finished_run, events, tmp_path):
    log = pl.read_csv(events)
    # i0 says that it is of c3 now; "new" is of c1, which the run knows, and "odd" of a category that it does not.
    more = pl.DataFrame({"user": ["u1", "u2"], "item": ["new", "odd"], "time": [90, 91], "category": ["c1", "c9"]})
    changed = pl.when(pl.col("item") == "i0").then(pl.lit("c3")).otherwise("category").alias("category")
    other_log = tmp_path / "other.csv"
    pl.concat([log.with_columns(changed), more]).filter(pl.col("user") != "u3").write_csv(other_log)
    overrides = [f"ckpt={finished_run}", "train=false"]
    assert dien_train(*overrides, f"data.source.events={other_log}") == 0
    loaded = runs.load_model(finished_run)
    config = OmegaConf.merge(loaded.config, OmegaConf.from_dotlist([f"data.source.events={other_log}"]))
    other = instantiate(config.data, _convert_="all")
    other.trained = loaded.data.data
    (item, category), known = other.tables()[0], loaded.data.tables()[0]
    rows = other.data.item_rows(["i0", "i5", "new", "odd"])
    theirs = loaded.data.data.item_rows(["i0", "i5", "i1"])
    assert item.size == known[0].size
    assert item.values[rows].tolist() == [*known[0].values[theirs[:2]].tolist(), 1, 1]
    assert category.values[rows].tolist() == [*known[1].values[theirs].tolist(), 1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model/evolution=agru"], "model.evolution is given otherwise"),
        (["data.source.item_features=[]"], "but the run was trained with item_id (categorical), category"),
        (["data=sample"], "was trained with"),
    ],
)
def test_what_is_unsound_is_refused(dien_train, finished_run, capsys, overrides, message):
    assert dien_train(f"ckpt={finished_run}", "train=false", *overrides) == 2
    assert message in capsys.readouterr().err


def test_a_log_without_a_known_item_is_refused(dien_train, finished_run, events, tmp_path, capsys):
    log = pl.read_csv(events).with_columns(pl.col("item") + "x")
    log.write_csv(tmp_path / "other.csv")
    assert dien_train(f"ckpt={finished_run}", "train=false", f"data.source.events={tmp_path}/other.csv") == 2
    assert "no item of table occurs in the data" in capsys.readouterr().err


def test_metrics_under_other_options_are_not_those_of_the_run(dien_train, finished_run):
    before = json.loads((finished_run / "metrics.json").read_text())
    assert dien_train(f"ckpt={finished_run}", "train=false", "data.history_length=1") == 0
    assert json.loads((finished_run / "metrics.json").read_text()) == before
    runs.write_json(finished_run / "metrics.json", {"test/auc": 0.0, "seconds": 1.0})
    assert dien_train(f"ckpt={finished_run}", "train=false", "data.eval_batch_size=5") == 0
    renewed = json.loads((finished_run / "metrics.json").read_text())
    assert renewed["test/auc"] == pytest.approx(before["test/auc"], abs=1e-6)
