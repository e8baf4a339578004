"""Batches made several in a row: the same, in the same order, and no more ahead than a burst."""

import pytest
from torch.utils.data import DataLoader, Dataset

from dien.data.bursts import BURST, BurstLoader


class Numbers(Dataset[int]):
    """0, 1, 2, ...; notes what was asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.made.append(index)
        return index


@pytest.mark.parametrize("count", [0, 1, BURST, 2 * BURST + 3])
def test_the_batches_are_those_of_a_data_loader(count: int) -> None:
    loader = BurstLoader(Numbers(count), batch_size=None)
    assert isinstance(loader, DataLoader)
    assert len(loader) == count
    assert list(loader) == list(loader) == list(range(count))


def test_reads_one_burst_ahead() -> None:
    numbers = Numbers(3 * BURST)
    batches = iter(BurstLoader(numbers, batch_size=None))
    for number in range(2 * BURST):
        assert next(batches) == number
        assert len(numbers.made) == (number // BURST + 1) * BURST
