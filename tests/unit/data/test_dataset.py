"""Rows to batches: histories by pointer, the latest clicks first to stay, targets, labels, padding."""

import pickle

import numpy as np
import pytest
import torch

from dien.batch import Batch
from dien.data.dataset import Prepared, RowBatch, SplitRows
from dien.data.negatives import Draws, NegativeSampler
from dien.data.protocol import Split

# Rows: items i0.. are 2.., users a 2, b 3. User a clicks one item per time, twice i0.
EVENTS = [("a", f"i{i}", t) for t, i in enumerate([0, 1, 2, 0, 3, 4])] + [
    ("b", f"i{i}", t) for t, i in enumerate([5, 1, 4, 2])
]
LABELLED = [
    ("a", "i0", 1, 1),
    ("a", "i1", 2, 0),
    ("a", "i2", 3, 1),
    ("a", "i3", 4, 0),
    ("a", "i4", 5, 1),
    ("b", "i0", 1, 0),
    ("b", "i1", 2, 1),
    ("b", "i2", 3, 0),
]


def rows_of(
    data: Prepared,
    split: Split = "train",
    *,
    targets: int = 1,
    auxiliary: int = 1,
    history_length: int = 100,
    exclude: str = "positive",
    seed: int = 0,
) -> SplitRows:
    sampler = NegativeSampler(data, strategy="uniform", exponent=1.0, exclude=exclude)
    draws = Draws(targets=targets, auxiliary=auxiliary, seed=seed)
    return SplitRows(data, split, sampler=sampler, draws=draws, history_length=history_length)


def batch_of(rows: SplitRows, *row: int, epoch: int = 0) -> Batch:
    return rows[RowBatch(epoch, np.array(row or range(len(rows))))]


def test_batch_of_hand_made_rows(make_prepared):
    """Training samples: a at times 1-3, b at time 1; each a click and two negatives."""
    rows = rows_of(make_prepared(EVENTS), targets=2)
    assert len(rows) == 4 * 3
    batch = batch_of(rows, 0, 6, 7, 9)
    assert batch.user_B.tolist() == [2, 2, 2, 3]
    assert batch.length_B.tolist() == [1, 3, 3, 1]
    assert batch.history_BT.tolist() == [[2, 0, 0], [2, 3, 4], [2, 3, 4], [7, 0, 0]]
    assert batch.label_B.tolist() == [1, 1, 0, 1]
    target_B = batch.target_B.tolist()
    assert target_B[0] == 3
    assert target_B[1] == 2  # a repeat of an item of the history
    assert target_B[2] not in (0, 1, 2)
    assert target_B[3] == 3
    negative_BT = batch.negative_BT
    assert torch.equal(negative_BT > 1, batch.history_BT > 0)
    assert not bool((negative_BT == batch.history_BT)[batch.history_BT > 0].any())
    assert [tensor.dtype for tensor in batch] == [torch.int64] * 5 + [torch.float32]


def test_long_histories_keep_the_most_recent_clicks(make_prepared):
    batch = batch_of(rows_of(make_prepared(EVENTS), "test", history_length=2), 0, 2)
    assert batch.history_BT.tolist() == [[2, 5], [3, 6]]  # a clicked i0, i3 last before; b i1, i4
    assert batch.target_B.tolist() == [6, 4]


def test_history_length_does_not_change_negatives(make_prepared):
    data = make_prepared(EVENTS)
    long, short = (batch_of(rows_of(data, "test", history_length=n), 0).negative_BT for n in (100, 2))
    assert long.shape == (1, 5)
    assert torch.equal(long[:, -2:], short)


def test_labelled_events_are_one_row_each(make_prepared):
    data = make_prepared(LABELLED, min_history=0)
    batch = batch_of(rows_of(data, targets=3))
    assert batch.target_B.tolist() == [2, 3, 4, 2]
    assert batch.label_B.tolist() == [1, 0, 1, 0]
    assert batch.history_BT.tolist() == [[0], [2], [2], [0]]
    assert batch.length_B.tolist() == [0, 1, 1, 0]
    assert batch_of(rows_of(data, "test")).history_BT.tolist() == [[2, 4], [3, 0]]


def test_batch_of_empty_histories_has_no_steps(make_prepared):
    batch = batch_of(rows_of(make_prepared(EVENTS, min_history=0)), 0, 1)
    assert batch.history_BT.shape == batch.negative_BT.shape == (2, 0)
    assert batch.length_B.tolist() == [0, 0]


@pytest.mark.parametrize(("auxiliary", "shape"), [(0, (4, 3)), (1, (4, 3)), (3, (4, 3, 3))])
def test_shape_of_auxiliary_negatives(make_prepared, auxiliary, shape):
    batch = batch_of(rows_of(make_prepared(EVENTS), auxiliary=auxiliary), 0, 4, 5, 6)
    assert batch.negative_BT.shape == shape
    if auxiliary == 0:
        assert not bool(batch.negative_BT.any())
    else:
        real = batch.history_BT > 0
        assert bool((batch.negative_BT[real] >= 2).all())
        assert not bool(batch.negative_BT[~real].any())


def test_a_row_is_the_same_in_any_batch(make_prepared):
    rows = rows_of(make_prepared(EVENTS), targets=2, auxiliary=2)
    whole = batch_of(rows, epoch=3)
    for row in range(len(rows)):
        alone = batch_of(rows, row, epoch=3)
        length = int(alone.length_B[0])
        assert alone.target_B[0] == whole.target_B[row]
        assert torch.equal(alone.negative_BT[0], whole.negative_BT[row, :length])


def test_negatives_change_with_epoch_seed_row_and_k(make_prepared):
    events = [("a", f"i{i:03}", i) for i in range(200)]
    data = make_prepared(events)
    rows = rows_of(data, targets=2, auxiliary=2)
    batch = batch_of(rows, 300, 301, 302)  # one sample: its click and two negatives
    others = [
        batch_of(rows, 300, 301, 302, epoch=1),
        batch_of(rows_of(data, targets=2, auxiliary=2, seed=1), 300, 301, 302),
    ]
    for other in others:
        assert torch.equal(batch.history_BT, other.history_BT)
        assert not torch.equal(batch.target_B, other.target_B)
        assert float((batch.negative_BT == other.negative_BT).float().mean()) < 0.1
    assert batch.target_B[1] != batch.target_B[2]
    for one, two in ((batch.negative_BT[0], batch.negative_BT[1]), batch.negative_BT.unbind(-1)):
        assert float((one == two).float().mean()) < 0.1


def test_targets_do_not_depend_on_how_many_are_drawn(make_prepared):
    data = make_prepared(EVENTS)
    one, three = batch_of(rows_of(data, targets=1)), batch_of(rows_of(data, targets=3))
    assert torch.equal(one.target_B[1::2], three.target_B[1::4])


def test_lengths_are_those_of_the_batch(make_prepared):
    rows = rows_of(make_prepared(EVENTS, min_history=0), history_length=2)
    assert rows.lengths(np.arange(len(rows))).tolist() == batch_of(rows).length_B.tolist()


def test_pickle_holds_a_path_not_the_data(make_prepared):
    data = make_prepared(EVENTS * 50)
    rows = rows_of(data)
    assert len(pickle.dumps(data)) < 500
    assert len(pickle.dumps(rows)) < 5000
    again = pickle.loads(pickle.dumps(rows))
    assert all(torch.equal(a, b) for a, b in zip(batch_of(rows), batch_of(again), strict=True))
