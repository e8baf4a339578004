"""Every file of `conf/` composes and instantiates, and a typo anywhere is an error that names it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dien.build import build_module
from dien.config import CONF, register
from dien.data.datamodule import DataModule

CHOICES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/**/*.yaml"))


def resolved(*overrides: str):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["run_dir=run", *overrides])
    OmegaConf.resolve(cfg)
    return cfg


def override_of(choice: str) -> list[str]:
    group, name = choice.rsplit("/", 1)
    if group == "experiment":
        return [f"experiment={name}"]
    if group.endswith(("options", "parts")):  # not chosen by users: part of the files beside them
        return []
    return [f"{group}={name}"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> DataModule:
    cache = str(tmp_path_factory.mktemp("cache"))
    data: DataModule = instantiate(resolved("logger=csv").data, cache=cache, _convert_="all")
    data.setup()
    return data


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_composes_and_instantiates(choice: str, sample: DataModule, tmp_path: Path):
    (tmp_path / "events.inter").write_text("user_id:token\n")
    paths = {
        "data/table": [f"data.source.events={tmp_path}/events.inter"],
        "data/recbole": [f"data.source.path={tmp_path}"],
        "data/authors": [f"data.source.path={tmp_path}"],
        "data/amazon": ["data.source.category=Books"],
        "experiment/beauty": [f"data.source.events={tmp_path}/events.inter"],
    }
    cfg = resolved(*override_of(choice), *paths.get(choice, []))
    data = instantiate(cfg.data, _convert_="all")
    assert isinstance(data, DataModule)
    module = build_module(cfg, sample)
    assert module.parameter_count > 0
    if choice == "trainer/gpu":
        cfg.trainer.accelerator = "cpu"  # this machine may have none
    trainer = instantiate(
        cfg.trainer, logger=False, callbacks=[c for c in instantiate(cfg.callbacks).values() if c is not None]
    )
    assert trainer.max_epochs == cfg.trainer.max_epochs
    assert len(instantiate(cfg.logger)) == (choice in ("logger/wandb", "logger/tensorboard"))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("sede=1", "sede"),
        ("data.batchsize=3", "batchsize"),
        ("data.negatives.stratgy=uniform", "stratgy"),
        ("model.alhpa=1", "alhpa"),
        ("trainer.max_epoch=1", "max_epoch"),
        ("model/evolution=lstm", "lstm"),
        ("model/evolution=AUGRU", "AUGRU"),
        ("data=amazn", "amazn"),
        ("+model.hidden=3", "hidden"),
        ("+data.history_lenght=3", "history_lenght"),
        ("+trainer.max_epoch=1", "max_epoch"),
        ("+callbacks.early_stopping.patiens=1", "patiens"),
    ],
)
def test_a_typo_on_the_command_line_is_named(dien_train, capsys, override, named):
    """Trap of RecBole: a lower-case variant name builds a model that dies in `forward`."""
    assert dien_train(override) == 2
    printed = capsys.readouterr()
    assert named in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("outputs/default").exists() or not any(Path("outputs/default").iterdir())


@pytest.mark.parametrize(
    ("yaml", "named"),
    [
        ("sede: 1", "sede"),
        ("model:\n  alhpa: 1", "alhpa"),
        ("data:\n  negatives:\n    stratgy: uniform", "stratgy"),
        ("trainer:\n  max_epoch: 1", "max_epoch"),
    ],
)
def test_a_typo_in_an_experiment_file_is_named(dien_train, capsys, tmp_path, yaml, named):
    """Trap of Hydra templates: misspelt keys of experiment files are ignored in silence."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{yaml}\n")
    assert dien_train("--config-dir", str(tmp_path / "own"), "experiment=mine") == 2
    printed = capsys.readouterr()
    assert named in printed.err
    assert printed.err.count("\n") == 1
