"""The order of rows: a function of seed and epoch, shared out over ranks, bucketed by length, resumable."""

from itertools import chain

import numpy as np
import pytest

from dien.data.sampler import RowSampler
from dien.errors import ConfigError, DataError


class Rows:
    """As much of `SplitRows` as a sampler needs: row `r` has a history of `r % 10` clicks."""

    split = "train"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def lengths(self, row_B: np.ndarray) -> np.ndarray:
        return row_B % 10


def batches(sampler: RowSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return [batch.row_B.tolist() for batch in found]


@pytest.mark.parametrize("bucket", [0, 1, 3, 100])
@pytest.mark.parametrize("count", [1, 7, 8, 95])
def test_every_row_once_and_only_the_last_batch_is_smaller(count, bucket):
    sampler = RowSampler(Rows(count), batch_size=8, shuffle=True, bucket=bucket)
    epoch = batches(sampler)
    assert sorted(chain(*epoch)) == list(range(count))
    assert sorted(map(len, epoch)) == sorted([8] * (count // 8) + [count % 8] * (count % 8 > 0))
    assert batches(sampler) == epoch


def test_order_is_a_function_of_seed_and_epoch():
    def make(seed: int) -> RowSampler:
        return RowSampler(Rows(100), batch_size=10, shuffle=True, seed=seed)

    assert batches(make(0), 3) == batches(make(0), 3)
    assert len({str(batches(make(seed), epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_evaluation_keeps_the_order_whatever_the_epoch():
    sampler = RowSampler(Rows(10), batch_size=4, shuffle=False)
    assert batches(sampler) == batches(sampler, 5) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch.epoch for batch in sampler] == [0, 0, 0]


def test_batches_carry_the_epoch():
    sampler = RowSampler(Rows(10), batch_size=4, shuffle=True)
    sampler.set_epoch(7)
    assert [batch.epoch for batch in sampler] == [7, 7, 7]


def test_bucketing_sorts_within_windows_of_the_same_permutation():
    plain = batches(RowSampler(Rows(80), batch_size=8, shuffle=True))
    bucketed = batches(RowSampler(Rows(80), batch_size=8, shuffle=True, bucket=5))
    for first in (0, 5):
        window, same = chain(*plain[first : first + 5]), chain(*bucketed[first : first + 5])
        assert sorted(window) == sorted(same)
        spreads = [np.ptp([row % 10 for row in batch]) for batch in bucketed[first : first + 5]]
        assert np.mean(spreads) < 4 < np.mean([np.ptp([r % 10 for r in b]) for b in plain[first : first + 5]])
        starts = [min(row % 10 for row in batch) for batch in bucketed[first : first + 5]]
        assert starts != sorted(starts)  # the batches themselves come in random order


@pytest.mark.parametrize("bucket", [0, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("count", [3, 24, 25, 26, 49, 100])
def test_ranks_share_every_row_once_in_equally_many_steps(count, shuffle, bucket):
    world = [
        batches(RowSampler(Rows(count), batch_size=8, shuffle=shuffle, bucket=bucket, rank=rank, world_size=3), 2)
        for rank in range(3)
    ]
    assert len({len(rank) for rank in world}) == 1
    assert all(batch for rank in world for batch in rank)
    assert sorted(row for rank in world for batch in rank for row in batch) == list(range(count))


def test_ranks_together_make_the_batches_of_one_process():
    one = batches(RowSampler(Rows(100), batch_size=16, shuffle=True, bucket=2))
    two = [
        batches(RowSampler(Rows(100), batch_size=8, shuffle=True, bucket=2, rank=rank, world_size=2))
        for rank in range(2)
    ]
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]


def test_fewer_rows_than_processes():
    with pytest.raises(DataError, match="train split has 2 rows, fewer than the 3 processes"):
        RowSampler(Rows(2), batch_size=8, shuffle=True, world_size=3)


@pytest.mark.parametrize("bucket", [0, 3])
def test_resume_skips_what_was_done_in_that_epoch_only(bucket):
    def make() -> RowSampler:
        return RowSampler(Rows(95), batch_size=8, shuffle=True, seed=4, bucket=bucket)

    whole = make()
    whole.set_epoch(2)
    resumed = make()
    resumed.resume(whole.position(5))
    resumed.set_epoch(2)  # as Lightning does
    assert [b.row_B.tolist() for b in resumed] == batches(whole, 2)[5:]
    assert batches(resumed, 3) == batches(whole, 3)


def test_resume_is_void_when_another_epoch_comes():
    sampler = RowSampler(Rows(20), batch_size=8, shuffle=True)
    sampler.resume(sampler.position(2))
    assert len(batches(sampler, 1)) == 3


@pytest.mark.parametrize("other", [{"batch_size": 4}, {"world_size": 2}, {"rows": 96}])
def test_resume_with_other_batches_is_refused(other):
    position = RowSampler(Rows(95), batch_size=8, shuffle=True).position(5)
    options = {"rows": 95, "batch_size": 8, **other}
    sampler = RowSampler(Rows(options.pop("rows")), shuffle=True, **options)
    with pytest.raises(ConfigError, match="global batches of 8"):
        sampler.resume(position)
