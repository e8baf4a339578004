"""A run folder gives back the network that was tested, with its data."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from dien import runs
from dien.errors import ConfigError, DienError
from dien.metrics import AUC


@pytest.fixture
def run(finished_run):
    return finished_run


def test_it_scores_as_the_run_did(run):
    loaded = runs.load_model(run)
    auc = AUC()
    with torch.no_grad():
        for batch in loaded.data.test_dataloader():
            auc.update(loaded.network(batch).logit_B, batch.label_B, batch.user_B)
    assert auc.compute().item() == pytest.approx(json.loads((run / "metrics.json").read_text())["test/auc"], abs=1e-6)
    assert not loaded.network.training
    assert loaded.folder == run.resolve()


def test_overrides_and_other_checkpoints(run):
    loaded = runs.load_model(run, checkpoint="last.ckpt", overrides=["data.eval_batch_size=7"])
    assert len(next(iter(loaded.data.test_dataloader())).label_B) == 7


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing or damaged"),
        (lambda run: (run / "config.yaml").write_text("seed: 1"), "not the configuration of a run"),
        (lambda run: (run / "config.yaml").write_text("{"), "config.yaml is missing or damaged"),
        (lambda run: (run / "checkpoints/best.ckpt").unlink(), "best.ckpt is missing"),
        (lambda run: (run / "checkpoints/best.ckpt").write_bytes(b"no"), "not a whole checkpoint"),
        (lambda run: runs.write_json(run / "environment.json", {"dataset_fingerprint": "other"}), "data have changed"),
    ],
)
def test_damage_is_one_sentence(run, damage, message):
    damage(run)
    with pytest.raises(DienError, match=message):
        runs.load_model(run)


def test_another_network_is_refused(run):
    config = OmegaConf.load(run / "config.yaml")
    config.model.features.embedding_size = 6
    OmegaConf.save(config, run / "config.yaml")
    with pytest.raises(DienError, match="holds another network"):
        runs.load_model(run)


def test_the_log_is_not_needed_where_the_dataset_is_in_the_cache(run, events, tmp_path, monkeypatch):
    """A relative path to the log is nowhere from another directory."""
    config = OmegaConf.load(run / "config.yaml")
    config.data.source.events = events.name
    OmegaConf.save(config, run / "config.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    trained_on = json.loads((run / "environment.json").read_text())["dataset_fingerprint"]
    assert runs.load_model(run).data.data.fingerprint == trained_on
    with pytest.raises(DienError, match=r"events\.csv"):  # another dataset needs its log
        runs.load_model(run, overrides=["data.source.time_unit=ms"])


def test_what_was_trained_cannot_be_overridden(run):
    for override, message in (
        ("junk", "the override 'junk' is not of the form KEY=VALUE"),
        ("foo.bar=5", "the override foo.bar=5 would change what was trained"),
        ("model.evolution._target_=dien.model.evolution.AUGRU", "would change what was trained"),
        ("data.history_length=5", "would change what was trained"),
        ("data.min_count=2", "would change what was trained"),
        ("data.source=x", "would change what was trained"),
        ("data.source._target_=dien.data.sources.amazon.Amazon", "would change what was trained"),
        ("data.source.evnts=x.csv", r"names no key of this run's log: data.source has events, .*time_unit"),
        ("data.source.columns.junk=x", "names no key of this run's log"),
        ("data.source.columns.user_id.x=y", "names no key of this run's log"),
        ("data.prepared=[", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message) as refusal:
            runs.load_model(run, overrides=[override])
        assert str(refusal.value).endswith(".")
