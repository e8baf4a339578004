"""The DataModule: the same batches for any number of workers, epochs that reach them, options out of range."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from dien.batch import Batch
from dien.data.datamodule import DataModule
from dien.data.negatives import Negatives
from dien.data.sampler import RowSampler
from dien.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)
EVENTS = [
    (f"u{user:02}", f"i{RANDOM.integers(25):02}", int(time))
    for user in range(30)
    for time in sorted(RANDOM.integers(0, 40, RANDOM.integers(3, 25)))
]
LABELLED = [(*event, int(label)) for event, label in zip(EVENTS, RANDOM.integers(0, 2, len(EVENTS)), strict=True)]


@pytest.fixture
def make_module(make_source, tmp_path: Path):
    def make(events: Any = EVENTS, **options: Any) -> DataModule:
        defaults = {"name": "test", "batch_size": 32, "eval_batch_size": 50, "cache": str(tmp_path / "cache")}
        return DataModule(source=make_source(events, name=str(len(events[0]))), **{**defaults, **options})

    return make


def epoch_of(loader: Any, epoch: int) -> list[Batch]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_equal(one: list[Batch], two: list[Batch]) -> None:
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("events", "negatives", "bucket"),
    [
        (EVENTS, Negatives(exclude="history", train=2, auxiliary=2), 0),
        (LABELLED, Negatives(strategy="observed", exclude="basket"), 3),
    ],
)
def test_batches_are_equal_for_any_number_of_workers(make_module, events, negatives, bucket, workers):
    none, some = (make_module(events, negatives=negatives, bucket=bucket, num_workers=n) for n in (0, workers))
    alone, shared = none.train_dataloader(), some.train_dataloader()
    epochs = [epoch_of(alone, epoch) for epoch in (0, 1)]
    for epoch in (0, 1):  # the workers persist, and still draw the negatives of the epoch
        assert_equal(epochs[epoch], epoch_of(shared, epoch))
    assert any(not torch.equal(a.target_B, b.target_B) for a, b in zip(*epochs, strict=True))
    assert_equal(list(none.val_dataloader()), list(some.val_dataloader()))
    assert_equal(list(none.test_dataloader()), list(some.test_dataloader()))


class Recorder(LightningModule):
    """Keeps the training batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[Batch] = []

    def training_step(self, batch: Batch) -> Tensor:
        self.seen.append(batch)
        return self.layer(batch.label_B[:, None]).sum()

    def validation_step(self, batch: Batch) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_lightning_trains_on_the_epochs_of_the_sampler(make_module, tmp_path):
    module, recorder = make_module(), Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(recorder, module)
    loader = make_module().train_dataloader()
    assert_equal(recorder.seen, epoch_of(loader, 0) + epoch_of(loader, 1))


def test_rows_of_an_epoch_are_the_samples_and_their_negatives(make_module):
    module = make_module(negatives=Negatives(train=2, eval=3))
    counts = module.data.manifest["samples"]
    assert len(module.rows("train")) == 3 * counts["train"]
    assert len(module.rows("val")) == 4 * counts["val"]
    batches = list(module.train_dataloader())
    assert sum(len(batch.label_B) for batch in batches) == 3 * counts["train"]
    assert sum(float(batch.label_B.sum()) for batch in batches) == counts["train"]
    assert len(batches) == len(module.train_dataloader())


def test_batch_sizes_and_history_length(make_module):
    module = make_module(history_length=4)
    assert [len(batch.user_B) for batch in module.val_dataloader()][:-1] == [50]
    assert {len(batch.user_B) for batch in list(module.train_dataloader())[:-1]} == {32}
    assert max(batch.history_BT.shape[1] for batch in module.train_dataloader()) == 4


def test_evaluation_rows_do_not_depend_on_the_run(make_module):
    runs = [
        list(make_module(seed=seed, negatives=Negatives(train=train, auxiliary=train)).test_dataloader())
        for seed, train in ((0, 1), (5, 3))
    ]
    assert_equal(*runs)
    assert not any(bool(batch.negative_BT.any()) for batch in runs[0])
    assert all(batch.negative_BT.shape == batch.history_BT.shape for batch in runs[0])


def test_evaluation_protocol_can_differ_from_training(make_module):
    fixed = {"eval_strategy": "uniform", "eval_exclude": "history"}
    one = make_module(negatives=Negatives(strategy="popularity", **fixed))
    two = make_module(negatives=Negatives(strategy="uniform", exclude="history"))
    other = make_module(negatives=Negatives(strategy="popularity", exclude="history", exponent=1.0))
    assert_equal(list(one.val_dataloader()), list(two.val_dataloader()))
    same = zip(one.val_dataloader(), other.val_dataloader(), strict=True)
    assert any(not torch.equal(a.target_B, b.target_B) for a, b in same)
    exponent = make_module(negatives=Negatives(strategy="popularity", exponent=1.0, eval_exponent=0.0))
    assert exponent.rows("val").sampler.weight_I.std() == 0 < exponent.rows("train").sampler.weight_I.std()


def test_seed_changes_order_and_negatives(make_module):
    orders = [next(iter(make_module(seed=seed).train_dataloader())).user_B.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_bucketed_batches_have_less_padding(make_module):
    def padding(bucket: int) -> float:
        batches = list(make_module(bucket=bucket).train_dataloader())
        return sum(b.history_BT.numel() - int(b.length_B.sum()) for b in batches) / len(batches)

    assert padding(8) < padding(0) / 2


def test_explicit_folder_and_one_preparation_per_process(make_module, tmp_path):
    module = make_module(prepared=str(tmp_path / "here"))
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    assert module.data.folder == tmp_path / "here"
    assert module.source.loads == 1
    assert isinstance(module.train_dataloader().sampler, RowSampler)


def test_tables_match_the_batches(make_module):
    module = make_module()
    items, users = module.tables()
    batch = next(iter(module.train_dataloader()))
    assert int(batch.target_B.max()) < len(items[0].values)
    assert int(batch.user_B.max()) < len(users[0].values)
    assert (items[0].name, users[0].name) == ("item_id", "user_id")


def test_a_user_without_negatives_stops_the_setup(make_module):
    events = [("a", f"i{i}", i) for i in range(5)] + [("b", "i0", t) for t in range(5)]
    with pytest.raises(DataError, match="User 'a' leaves no negative"):
        make_module(events, negatives=Negatives(exclude="history")).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size=0"),
        ({"batch_size": True}, r"data\.batch_size=True"),
        ({"eval_batch_size": 0}, r"data\.eval_batch_size=0"),
        ({"history_length": 0}, r"data\.history_length=0"),
        ({"history_length": 2.5}, r"data\.history_length=2\.5"),
        ({"num_workers": -1}, r"data\.num_workers=-1"),
        ({"bucket": -1}, r"data\.bucket=-1"),
        ({"prefetch_factor": 0}, r"data\.prefetch_factor=0"),
        ({"seed": -1}, r"seed=-1"),
        ({"seed": None}, r"seed=None"),
        ({"split": "random"}, r"data\.split='random'"),
        ({"min_history": -1}, r"data\.min_history=-1"),
    ],
)
def test_options_out_of_range(make_module, options, message):
    with pytest.raises(ConfigError, match=message):
        make_module(**options)


def test_observed_without_labels_stops_the_setup(make_module):
    with pytest.raises(ConfigError, match="observed needs a log with a label column"):
        make_module(negatives=Negatives(strategy="observed")).setup()
