"""Every experiment composes, instantiates and says what the paper says; one runs from raw Amazon files to a report."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dien.build import build_module
from dien.config import CONF, register, sentence_of
from dien.data.datamodule import DataModule
from dien.runs import read_json

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
MINE = [name for name in EXPERIMENTS if name.startswith(("paper_", "bars_", "beauty"))]
PATHS = {"beauty": ["data.source.events=interactions.csv.gz"]}


def resolved(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["run_dir=run", *overrides])
    OmegaConf.resolve(cfg)
    return cfg


@pytest.mark.parametrize("name", MINE)
def test_every_experiment_composes_and_instantiates(name: str) -> None:
    cfg = resolved(f"experiment={name}", *PATHS.get(name, []))
    assert isinstance(instantiate(cfg.data, _convert_="all"), DataModule)
    module = build_module(cfg, instantiate(resolved().data, _convert_="all"))
    assert module.parameter_count > 0
    assert instantiate(cfg.trainer, logger=False).max_epochs == 3


@pytest.mark.parametrize(("name", "category"), [("paper_books", "Books"), ("paper_electronics", "Electronics")])
def test_the_paper_is_what_the_reference_says(name: str, category: str) -> None:
    cfg = resolved(f"experiment={name}")
    data, model = cfg.data, cfg.model
    assert (data.source.category, data.source.release, data.source.category_path) == (category, 2014, "first")
    assert (data.split, data.samples, data.ties, data.min_history, data.min_count) == ("by_user", "last", "order", 1, 1)
    assert (data.test_fraction, data.history_length, data.batch_size) == (0.1, 100, 128)
    negatives = data.negatives
    assert (negatives.strategy, negatives.exponent, negatives.counts, negatives.exclude) == (
        *("popularity", 1.0, "log", "positive"),
    )
    assert (negatives.train, negatives.eval, negatives.auxiliary) == (1, 1, 1)
    assert (negatives.eval_strategy, negatives.eval_exponent, negatives.eval_exclude) == (None, None, None)
    assert (model.features.embedding_size, model.hidden_size, model.alpha) == (18, None, 1.0)
    assert (model.attention.hidden, model.attention.activation) == ([80, 40], "sigmoid")
    assert (model.scorer.hidden, model.scorer.activation) == ([100, 50], "sigmoid")
    assert (model.head.hidden, model.head.activation) == ([200, 80], "dice")
    assert (cfg.optimizer._target_, cfg.optimizer.lr, cfg.optimizer.weight_decay) == ("dien.optimizer.Adam", 0.001, 0)
    assert (cfg.schedule.gamma, cfg.trainer.max_epochs) == (0.5, 3)
    assert model.evolution._target_ == "dien.model.evolution.AUGRU"


def test_groups_can_still_be_chosen_on_the_command_line() -> None:
    cfg = resolved("experiment=paper_books", "model=din", "data=sample", "seed=4")
    assert (cfg.model.name, cfg.data.name, cfg.seed, cfg.data.samples) == ("din", "sample", 4, "last")


@pytest.mark.parametrize(
    ("yaml", "seed", "batch"),
    [("seed: 7\n", 7, 128), ("defaults:\n  - override /model: din\n  - _self_\ndata:\n  batch_size: 5\n", 0, 5)],
)
def test_an_experiment_changes_keys_of_the_root_and_groups(tmp_path: Path, yaml: str, seed: int, batch: int) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{yaml}")
    cfg = resolved("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert (cfg.seed, cfg.data.batch_size) == (seed, batch)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """60 people who mostly stay on one shelf of books; a bad line, a tie and a person with one review among them."""
    rng = np.random.default_rng(0)
    reviews = [json.dumps({"reviewerID": "once", "asin": "b0", "unixReviewTime": 5}), "{bad"]
    for person in range(60):
        shelf, start = rng.integers(4), int(rng.integers(60))
        for step in range(rng.integers(3, 9)):
            book = rng.integers(8) * 4 + (shelf if rng.random() < 0.8 else rng.integers(4))
            day = 86_400 * (start + step // 2)
            reviews.append(json.dumps({"reviewerID": f"p{person}", "asin": f"b{book}", "unixReviewTime": day}))
    books = [{"asin": f"b{book}", "categories": [["Books", f"Shelf {book % 4}"]]} for book in range(31)]
    folder = tmp_path / "raw"
    folder.mkdir()
    for category in ("Books", "Electronics"):
        (folder / f"reviews_{category}_5.json").write_text("\n".join(reviews) + "\n")
        (folder / f"meta_{category}.json").write_text("".join(f"{book!r}\n" for book in books))
    return folder


SMALL: list[Any] = ["data.batch_size=16", "trainer.max_epochs=1", "callbacks=quiet"]


def test_the_paper_from_raw_files_to_metrics(dien_train: Any, raw: Path, tmp_path: Path) -> None:
    assert dien_train("experiment=paper_books", f"data.source.path={raw}", "hydra.run.dir=run", *SMALL) == 0
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert 0 <= metrics["test/auc"] <= 1
    (manifest,) = (tmp_path / "cache").glob("amazon_books-*/dataset.json")
    prepared = json.loads(manifest.read_text())
    assert prepared["samples"] == {"train": 48, "val": 6, "test": 6}  # of the 61 users, one has no sample
    assert prepared["input"]["review_malformed_lines"] == 1
    assert prepared["users"] == 61


@pytest.mark.parametrize("name", ["bars_electronics", "paper_electronics_temporal"])
def test_the_other_protocols_from_raw_files(dien_train: Any, raw: Path, tmp_path: Path, name: str) -> None:
    assert dien_train(f"experiment={name}", f"data.source.path={raw}", "hydra.run.dir=run", "model=din", *SMALL) == 0
    assert 0 <= read_json(tmp_path / "run" / "metrics.json")["test/auc"] <= 1


def test_raw_files_as_the_authors_text_and_back(dien_prepare: Any, dien_train: Any, raw: Path, tmp_path: Path) -> None:
    options = [f"data.source.path={raw}", "data.source.category=Books", "data.split=by_user", "data.samples=last"]
    assert dien_prepare("data=amazon", *options, "authors_files=files") == 0
    lines = (tmp_path / "files" / "local_test_splitByUser").read_text().splitlines()
    assert len(lines) == 12
    assert all(len(line.split("\t")) == 6 for line in lines)
    assert dien_prepare("data=amazon", *options, "authors_files=files") == 2  # it is there already
    source = ["data=authors", "data.source.path=files", "model=din", "hydra.run.dir=run"]
    assert dien_train(*source, *SMALL) == 0
    assert 0 <= read_json(tmp_path / "run" / "metrics.json")["test/auc"] <= 1


def test_a_sweep_lies_in_a_folder_of_the_name_of_its_data(dien_train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []

    def look(given: Any, config: DictConfig, launcher: Any) -> None:
        load = launcher.hydra_context.config_loader.load_sweep_config
        for job in given:  # where Hydra will run it is where the sweep looks for it
            cfg = load(config, job.overrides)
            assert Path(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir) == job.folder
        jobs.extend(given)

    monkeypatch.setattr("dien.sweep.run", look)
    mine = ["data=table", "data.source.events=log.csv"]
    for arguments, folder in (
        (["experiment=beauty", "data.source.events=log.csv"], "multirun/beauty/table2_beauty"),
        (["data=ml_1m"], "multirun/default/table2_ml_1m"),
        (mine, "multirun/default/table2_table"),
        ([*mine, "data.name=april"], "multirun/default/table2_april"),
        (["data=ml_100k,synthetic"], "multirun/default/table2_sample"),
        (["data=amazon", "data.source.category=Books,Toys"], "multirun/default/table2_amazon"),
        (["data=amazon", "data.source.category=Books"], "multirun/default/table2_amazon_Books_2014"),
    ):
        jobs.clear()
        assert dien_train("sweep=table2", "seed=0", "model=din", *arguments) == 0
        assert {str(job.folder.parent) for job in jobs} == {folder}
        assert len({job.folder for job in jobs}) == len(jobs) >= 1


@pytest.mark.parametrize("file", sorted((CONF / "data").glob("*.yaml")), ids=lambda file: file.stem)
def test_what_has_to_be_given_is_asked_for_by_name(file: Path, dien_train: Any, dien_prepare: Any, capsys: Any) -> None:
    missing = re.findall(r"^  (\w+): \?\?\?", file.read_text(), re.MULTILINE)
    assert file.read_text().count("???") == len(missing) == (file.stem in ("amazon", "authors", "recbole", "table"))
    for name in missing:
        for command, title in ((dien_train, "dien-train"), (dien_prepare, "dien-prepare")):
            assert command(f"data={file.stem}") == 2
            key = f"data.source.{name}"
            said = capsys.readouterr().err
            assert re.fullmatch(rf"{title}: {key} has no value, and needs one: {key}=\w[\w.]+\n", said)


ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    file for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "dien-" in file.read_text()
]
PLACEHOLDERS = re.compile(r"\bRUN\b|\bckpt=outputs|experiment=mine\b|--help")


def quoted_commands(text: str) -> list[str]:
    """The dien-train and dien-prepare commands of the code blocks of a document, shell variables filled in."""
    commands = []
    variables: dict[str, str] = {}
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        variables |= re.findall(r'^(\w+)="([^"]*)"', block, re.MULTILINE)
        for line in re.sub(r'^\w+="[^"]*"', "", block.replace("\\\n", " "), flags=re.MULTILINE).splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", " ".join(value.split()))
            if found := re.match(r"(?:srun |torchrun .*--no-python )?(dien-(?:train|prepare)\b.*)", line.strip()):
                commands.append(found[1])
    return commands


def composed(command: str) -> None:
    """Raise if Hydra cannot compose the command, of a sweep the first and the last combination."""
    program, *words = shlex.split(command, comments=True)
    overrides = OverridesParser.create().parse_overrides([word for word in words if word not in ("-m", "...")])
    combinations = BasicSweeper.split_arguments(overrides, None)[0]
    for combination in [combinations[0], *combinations[1:][-1:]]:
        place = ["run_dir=run"] if program == "dien-train" else []
        OmegaConf.resolve(compose(program.removeprefix("dien-"), overrides=[*place, *combination]))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_quoted_commands_compose(document: Path) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for command in dict.fromkeys(quoted_commands(document.read_text())):
            if not PLACEHOLDERS.search(command):
                try:
                    composed(command)
                except Exception as error:
                    pytest.fail(f"{command}: {sentence_of(error)}")


def test_commands_are_found_in_documents_and_wrong_ones_noticed() -> None:
    text = '```\nB="data=sample\n  seed=1,2"\nsrun dien-train $B model=dn  # c\ndien-report x\n```\n`dien-train y`'
    (command,) = quoted_commands(text)
    assert command == "dien-train data=sample seed=1,2 model=dn  # c"
    assert sum(len(quoted_commands(file.read_text())) for file in DOCUMENTS) > 40
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed(command.replace("dn", "din"))
        with pytest.raises(HydraException, match="dn"):
            composed(command)
