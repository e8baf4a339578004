"""Logs in which there is one user, one item, or one event a user: one sentence, or a result that can be told before."""

from typing import Any

import numpy as np
import pytest

from dien.data.datamodule import DataModule
from dien.data.dataset import RowBatch, SplitRows
from dien.data.negatives import Draws, Negatives, NegativeSampler
from dien.errors import ConfigError, DataError

ONE_USER = [("u", f"i{time % 5}", time) for time in range(10)]
ONE_EVENT_EACH = [(f"u{user}", f"i{user % 3}", user) for user in range(10)]
ONE_ITEM = [(f"u{user}", "i", time) for user in range(5) for time in range(4)]
ONE_TIME = [(f"u{user}", f"i{item}", 7) for user in range(5) for item in range(4)]


def counts(data: Any) -> list[int]:
    return [len(data.samples(split)) for split in ("train", "val", "test")]


def test_one_user_alone_can_be_trained_on(make_prepared: Any) -> None:
    """Training is all but the last two of the user's ten clicks, of which the first has no history."""
    data = make_prepared(ONE_USER)
    assert counts(data) == [7, 1, 1]
    assert data.tables()[1][0].values.tolist() == [0, 1, 2]
    sampler = NegativeSampler(data, strategy="popularity", exponent=1.0, exclude="positive")
    rows = SplitRows(data, "test", sampler=sampler, draws=Draws(targets=1, auxiliary=1), history_length=100)
    batch = rows[RowBatch(0, np.arange(2))]
    assert batch.length_B.tolist() == [9, 9]
    assert batch.target_B[0] != batch.target_B[1]
    assert counts(make_prepared(ONE_USER, split="temporal")) == [7, 1, 1]


@pytest.mark.parametrize(
    ("events", "protocol", "message"),
    [
        (ONE_USER, {"split": "by_user"}, "data.split=by_user needs at least 3 users, but the log has 1"),
        (ONE_USER, {"samples": "last", "split": "by_user"}, "needs at least 3 users"),
        (ONE_EVENT_EACH, {}, r"No event has data.min_history=1 earlier clicks of its user \(the most is 0\)"),
        (ONE_EVENT_EACH, {"split": "by_user"}, "No event has data.min_history=1"),
        (ONE_EVENT_EACH, {"split": "temporal"}, "No event has data.min_history=1"),
        (ONE_EVENT_EACH, {"min_history": 0}, "data.split=last_out leaves no validation sample"),
        (ONE_ITEM, {}, "The log has a single item, so nothing can be told from it: it needs at least two"),
        (ONE_TIME, {}, "use data.ties=order if all events of a user share one timestamp"),
        (ONE_TIME, {"split": "temporal", "ties": "order"}, "data.split=temporal leaves no training sample"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(make_prepared: Any, events: Any, protocol: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make_prepared(events, **protocol)
    assert "\n" not in str(caught.value)


def test_users_of_one_event_have_empty_histories_if_that_is_allowed(make_prepared: Any) -> None:
    assert counts(make_prepared(ONE_EVENT_EACH, split="by_user", min_history=0)) == [8, 1, 1]
    assert counts(make_prepared(ONE_EVENT_EACH, split="temporal", min_history=0)) == [8, 1, 1]


def test_one_timestamp_keeps_the_order_of_the_input(make_prepared: Any) -> None:
    data = make_prepared(ONE_TIME, ties="order")
    assert counts(data) == [5, 5, 5]
    assert data.event_item.tolist() == [2, 3, 4, 5] * 5


def test_a_user_who_clicked_everything_leaves_no_negative_but_the_positive_alone_does(make_prepared: Any) -> None:
    data = make_prepared([("u", f"i{item}", item) for item in range(4)] + [("v", "i0", 1), ("v", "i1", 2)])
    sampler = NegativeSampler(data, strategy="popularity", exponent=1.0, exclude="history")
    with pytest.raises(DataError, match=r"User 'u' leaves no negative with data.negatives.exclude=history"):
        sampler.check(Draws(targets=1, auxiliary=0), data.samples("test"))
    NegativeSampler(data, strategy="popularity", exponent=1.0, exclude="positive").check(
        Draws(targets=1, auxiliary=0), data.samples("test")
    )


# Sorted by time: x x y | x z | z z y (a cut at 4 and one at 6), every event by another user but those of u.
CUT = [
    ("u", "x", 1),
    ("a", "x", 2),
    ("u", "y", 3),
    ("u", "x", 4),
    ("b", "z", 5),
    ("u", "z", 6),
    ("c", "z", 7),
    ("d", "y", 8),
]


def test_popularity_of_the_training_part_counts_nothing_after_the_cut(make_prepared: Any) -> None:
    data = make_prepared(CUT, split="temporal", val_from=4, test_from=6)
    assert data.item_ids().to_list() == ["x", "y", "z"]
    assert data.item_clicks.tolist() == [0, 0, 3, 2, 3]
    assert data.item_train_clicks.tolist() == [0, 0, 2, 1, 0]

    def weights(counts: str, exponent: float = 1.0) -> dict[int, float]:
        sampler = NegativeSampler(data, strategy="popularity", exponent=exponent, exclude="positive", counts=counts)
        share = sampler.weight_I / sampler.weight_I.sum()
        return dict(zip(sampler.items_I.tolist(), share.tolist(), strict=True))

    assert weights("log") == pytest.approx({2: 3 / 8, 3: 2 / 8, 4: 3 / 8})
    assert weights("train") == pytest.approx({2: 2 / 3, 3: 1 / 3})
    assert weights("train", 2.0) == pytest.approx({2: 4 / 5, 3: 1 / 5})


def test_training_and_evaluation_may_count_differently(make_source: Any, tmp_path: Any) -> None:
    data = DataModule(
        name="cut",
        source=make_source(CUT),
        split="temporal",
        val_from=4,
        test_from=6,
        prepared=str(tmp_path / "prepared"),
        negatives=Negatives(counts="train", eval_counts="log"),
    )
    assert len(data.rows("train").sampler.items_I) == 2
    assert len(data.rows("val").sampler.items_I) == len(data.rows("test").sampler.items_I) == 3
    with pytest.raises(ConfigError, match=r"data.negatives.counts='test' is not one of log, train"):
        Negatives(counts="test")
    with pytest.raises(ConfigError, match=r"data.negatives.eval_counts='test' is not one of log, train"):
        Negatives(eval_counts="test")


def test_training_counts_of_labelled_logs_are_clicks(make_prepared: Any) -> None:
    data = make_prepared([(*event, int(event[1] != "y")) for event in CUT], split="temporal", val_from=4, test_from=6)
    assert data.item_train_clicks.tolist() == [0, 0, 2, 0, 0]
    with pytest.raises(DataError, match=r"Only 1 item can be drawn with .*strategy=popularity and .*counts=train"):
        NegativeSampler(data, strategy="popularity", exponent=1.0, exclude="positive", counts="train")
