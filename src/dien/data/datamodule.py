"""The data of a run: prepared once per node, opened by every process, read by any number of workers."""

from pathlib import Path
from typing import Any

from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from dien.batch import Batch
from dien.data.bursts import BurstLoader
from dien.data.dataset import Prepared, SplitRows
from dien.data.negatives import Draws, Negatives, NegativeSampler
from dien.data.prepare import place_of, prepare
from dien.data.protocol import Protocol, Split
from dien.data.sampler import RowSampler
from dien.data.sources.base import Source
from dien.data.storage import check_fingerprint
from dien.data.translate import translated
from dien.data.workers import outlive_signals, send
from dien.errors import ConfigError, check_whole
from dien.tables import Table


class DataModule(LightningDataModule):
    """Batches of a source under a protocol; every batch is the same for any number of workers.

    Validation and test batches have no auxiliary negatives (zeros [B, T]). With several processes the trainer
    needs `use_distributed_sampler=False`: the batches are already shared out, each row to exactly one
    process.

    Args:
        name: of the dataset.
        source: where the log comes from.
        split: see `Protocol`, as all options up to `test_from`.
        ties: see `Protocol`.
        samples: see `Protocol`.
        min_history: see `Protocol`.
        min_count: see `Protocol`.
        split_seed: see `Protocol`.
        test_fraction: see `Protocol`.
        val_fraction: see `Protocol`.
        val_from: see `Protocol`.
        test_from: see `Protocol`.
        negatives: how negatives are sampled.
        batch_size: training rows per batch and process.
        eval_batch_size: validation and test rows per batch and process.
        history_length: histories keep their latest clicks up to this many.
        num_workers: reading processes per loader; 0 reads in the training process.
        bucket: length-bucketed shuffling within windows of this many batches; 0 for a plain shuffle.
        seed: of the order of the training rows and of their negatives.
        cache: see `prepare`.
        prepared: see `prepare` (its `folder`).
        pin_memory: see `torch.utils.data.DataLoader`.
        prefetch_factor: batches every worker reads ahead.
        persistent_workers: whether training workers outlive an epoch.

    Raises:
        ConfigError: an option is out of its range.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Source,
        split: str = "last_out",
        ties: str = "strict",
        samples: str = "all",
        min_history: int = 1,
        min_count: int = 1,
        split_seed: int = 0,
        test_fraction: float = 0.1,
        val_fraction: float = 0.1,
        val_from: float = 0.8,
        test_from: float = 0.9,
        negatives: Negatives | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 1024,
        history_length: int = 100,
        num_workers: int = 0,
        bucket: int = 0,
        seed: int = 0,
        cache: str | None = None,
        prepared: str | None = None,
        pin_memory: bool = False,
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
    ) -> None:
        super().__init__()
        self.source = source
        self.protocol = Protocol(
            split=split,
            ties=ties,
            samples=samples,
            min_history=min_history,
            min_count=min_count,
            split_seed=split_seed,
            test_fraction=test_fraction,
            val_fraction=val_fraction,
            val_from=val_from,
            test_from=test_from,
        )
        for key, value, minimum in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("history_length", history_length, 1),
            ("num_workers", num_workers, 0),
            ("bucket", bucket, 0),
            ("prefetch_factor", prefetch_factor, 1),
        ):
            check_whole(f"data.{key}", value, minimum)
        check_whole("seed", seed, 0)
        self.negatives = negatives or Negatives()
        self.batch_size, self.eval_batch_size, self.history_length = (
            batch_size,
            eval_batch_size,
            history_length,
        )
        self.num_workers, self.bucket, self.seed = num_workers, bucket, seed
        self.pin_memory, self.prefetch_factor = pin_memory, prefetch_factor
        self.persistent_workers = persistent_workers
        self._dataset, self._cache, self._folder = name, cache, prepared
        self.trained: Prepared | None = None
        """What the network was trained on, if that is another dataset: its vocabulary is then the network's."""
        self._place: Path | None = None
        self._data: Prepared | None = None
        self._rows: dict[Split, SplitRows] = {}
        self._position: dict[str, Any] | None = None

    @property
    def data(self) -> Prepared:
        """The prepared dataset, opened; prepared first if need be."""
        if self._data is None:
            self._data = Prepared(self._prepare())
        return self._data

    def tables(self) -> tuple[Table, Table]:
        """The feature tables of the items and of the users."""
        return self.data.tables() if self.trained is None else translated(self.data, self.trained)

    def prepare_data(self) -> None:
        self._prepare()

    def setup(self, stage: str | None = None) -> None:
        if self._rows:
            return
        data, options = self.data, self.negatives
        training = NegativeSampler(
            data,
            strategy=options.strategy,
            exponent=options.exponent,
            counts=options.counts,
            exclude=options.exclude,
        )
        evaluation = NegativeSampler(
            data,
            strategy=options.eval_strategy or options.strategy,
            exponent=options.exponent if options.eval_exponent is None else options.eval_exponent,
            counts=options.eval_counts or options.counts,
            exclude=options.eval_exclude or options.exclude,
        )
        train = Draws(targets=options.train, auxiliary=options.auxiliary, seed=self.seed)
        fixed = Draws(targets=options.eval, auxiliary=0, fixed=True)
        length = self.history_length
        training.check(train, data.samples("train"))
        evaluation.check(fixed, data.samples("val"))
        evaluation.check(fixed, data.samples("test"))
        self._rows = {
            "train": SplitRows(data, "train", sampler=training, draws=train, history_length=length),
            "val": SplitRows(data, "val", sampler=evaluation, draws=fixed, history_length=length),
            "test": SplitRows(data, "test", sampler=evaluation, draws=fixed, history_length=length),
        }

    def rows(self, split: Split) -> SplitRows:
        """The rows of a split, whose length is what an epoch trains or evaluates on."""
        self.setup()
        return self._rows[split]

    def state_dict(self) -> dict[str, Any]:
        """Where training is among the batches of all processes, and of which dataset they are."""
        assert self.trainer is not None
        epoch, batches = position(self.trainer)
        rows, batch = len(self.rows("train")), self.batch_size * self.trainer.world_size
        return {
            "epoch": epoch,
            "batches": batches,
            "rows": rows,
            "batch": batch,
            "fingerprint": self.data.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position = state_dict

    @classmethod
    def fingerprint_of(cls, checkpoint: dict[str, Any]) -> str | None:
        """Of the dataset that a checkpoint was trained on, if it says so."""
        return checkpoint.get(cls.__qualname__, {}).get("fingerprint")

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train", self.batch_size, shuffle=True, bucket=self.bucket)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test", self.eval_batch_size)

    def place_of(self, fingerprint: str) -> Path:
        """Where the prepared dataset of this fingerprint is kept."""
        return place_of(fingerprint, name=self._dataset, cache=self._cache, folder=self._folder)

    def open_prepared(self, fingerprint: str) -> bool:
        """Take the prepared dataset of this fingerprint if it is there, without a look at the files of the source.

        Raises:
            DataError: it is damaged, or another one is there.
        """
        place = self.place_of(fingerprint)
        found = check_fingerprint(place, fingerprint)
        if found:
            self._place = place
        return found

    def _prepare(self) -> Path:
        """Only once in a process: a fingerprint may have to read the whole input."""
        if self._place is None:
            self._place = prepare(
                self.source, self.protocol, name=self._dataset, cache=self._cache, folder=self._folder
            )
        return self._place

    def _loader(self, split: Split, batch_size: int, *, shuffle: bool = False, bucket: int = 0) -> DataLoader[Batch]:
        rows = self.rows(split)
        rank, world_size = 0, 1
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            if world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
                raise ConfigError("trainer.use_distributed_sampler=true is not allowed: the data shares its rows out.")
        sampler = RowSampler(
            rows,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self.seed,
            bucket=bucket,
            rank=rank,
            world_size=world_size,
        )
        if shuffle and self.trainer is not None:  # workers read ahead before Lightning announces a resumed epoch
            sampler.set_epoch(position(self.trainer)[0])
            if self._position is not None and self._position["batches"]:
                sampler.resume(self._position)
        # Batches of evaluation are large: several of them would only take memory.
        loader = BurstLoader if shuffle and not self.num_workers else DataLoader
        return loader(
            rows,
            batch_size=None,
            sampler=sampler,
            collate_fn=send,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            persistent_workers=self.persistent_workers and self.num_workers > 0 and shuffle,
            worker_init_fn=outlive_signals,
        )


def position(trainer: Trainer) -> tuple[int, int]:
    """The epoch that a trainer is in or would begin next, and how many of its batches are done."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    under_way = progress.processed < progress.ready
    return progress.processed, trainer.fit_loop.epoch_loop.batch_progress.current.completed if under_way else 0
