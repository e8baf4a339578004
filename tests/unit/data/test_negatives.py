"""Negatives: the hash, the alias table, each strategy and each exclusion on hand-made logs."""

import warnings
from functools import partial

import numpy as np
import pytest

from dien.data.alias import AliasTable
from dien.data.dataset import Prepared, RowBatch, SplitRows
from dien.data.hashing import derive, stream, uniform
from dien.data.negatives import Draws, Negatives, NegativeSampler
from dien.errors import ConfigError, DataError

# Rows: items p 2, q 3, r 4, s 5, t 6. User a: {p, q}, r, {s, p}; user b: q, r, q; user c: q, q, t
EVENTS = [
    ("a", "p", 1),
    ("a", "q", 1),
    ("a", "r", 2),
    ("a", "s", 3),
    ("a", "p", 3),
    ("b", "q", 1),
    ("b", "r", 2),
    ("b", "q", 3),
    ("c", "q", 1),
    ("c", "q", 2),
    ("c", "t", 3),
]
DRAWS = 4000  # of every distribution that is tested
LIMIT_999 = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 15: 37.70, 63: 103.44, 255: 330.52}  # chi-square, p = 0.001


@pytest.fixture
def make_prepared(make_prepared):
    """With users of three events, whose first is then a training sample."""
    return partial(make_prepared, min_history=0)


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Statistic over the cells that can occur; any draw in another cell fails at once."""
    assert not observed[expected == 0].any()
    possible = expected > 0
    return float(((observed[possible] - expected[possible]) ** 2 / expected[possible]).sum())


def make_sampler(
    data: Prepared, *, strategy: str = "uniform", exponent: float = 1.0, exclude: str = "positive"
) -> NegativeSampler:
    return NegativeSampler(data, strategy=strategy, exponent=exponent, exclude=exclude)


def target_counts(sampler: NegativeSampler, event: int, key: int = 0) -> np.ndarray:
    k_N = np.arange(1, DRAWS + 1)
    return np.bincount(sampler.targets(key, np.full(DRAWS, event), k_N), minlength=sampler.data.n_items)


def auxiliary_counts(sampler: NegativeSampler, event: int) -> np.ndarray:
    """Counts [steps, R] over `DRAWS` negatives of every step of the event's history."""
    click_N, length_B = sampler.data.history(np.array([event]), 100)
    drawn_NK = np.concatenate(
        [
            sampler.auxiliary(epoch, np.array([event]), np.array([0]), click_N, length_B, 1000)
            for epoch in range(DRAWS // 1000)
        ],
        axis=1,
    )
    return np.stack([np.bincount(row, minlength=sampler.data.n_items) for row in drawn_NK])


def assert_uniform_over(counts: np.ndarray, rows: set[int]) -> None:
    expected = np.zeros(len(counts))
    expected[list(rows)] = DRAWS / len(rows)
    assert chi_square(counts, expected) < LIMIT_999.get(len(rows) - 1, np.inf)


def test_derive_is_splitmix64_and_agrees_with_stream():
    """First outputs of splitmix64 with seed 1234567 (Vigna's reference implementation)."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert derive(1234567, np.arange(4)).tolist() == expected
    assert [stream(3, c) for c in range(5)] == derive(stream(3), np.arange(5)).tolist()
    keys = derive(7, np.arange(3))
    assert derive(keys, np.array([9, 9, 9])).tolist() == [derive(int(key), np.array([9]))[0] for key in keys]


def test_hash_does_not_warn_and_leaves_its_input_alone():
    counter = np.arange(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        derive(2**64 - 1, counter)
    assert counter.tolist() == [0, 1, 2]


@pytest.mark.parametrize("shift", [0, 5, 16, 32])
def test_hash_is_uniform_over_consecutive_and_strided_counters(shift):
    numbers = uniform(derive(stream(0, 1, 2), np.arange(200_000) << shift))
    assert 0 <= numbers.min() < numbers.max() < 1
    cells = np.bincount((numbers * 256).astype(int), minlength=256)
    assert chi_square(cells, np.full(256, 200_000 / 256)) < LIMIT_999[255]
    pairs = np.bincount((numbers[:-1] * 8).astype(int) * 8 + (numbers[1:] * 8).astype(int), minlength=64)
    assert chi_square(pairs, np.full(64, 199_999 / 64)) < LIMIT_999[63]


def test_hash_is_uniform_across_streams():
    numbers = uniform(derive(derive(derive(stream(5), np.arange(100_000)), np.array([1])), np.array([0])))
    cells = np.bincount((numbers * 64).astype(int), minlength=64)
    assert chi_square(cells, np.full(64, 100_000 / 64)) < LIMIT_999[63]


@pytest.mark.parametrize(
    "weights",
    [[1.0], [1, 1, 1, 1], [3, 1], [1, 2, 3, 4, 5], [1e-9, 1, 1e9], [5, 1, 1, 1, 1, 1], [1.1, 1.1, 1.1, 0.1]],
)
def test_alias_table_holds_exactly_the_weights(weights):
    table = AliasTable(np.array(weights, float))
    share = np.zeros(len(weights))
    np.add.at(share, np.arange(len(weights)), table.keep)
    np.add.at(share, table.alias, 1 - table.keep)
    np.testing.assert_allclose(share / len(weights), np.array(weights) / np.sum(weights), rtol=1e-12, atol=1e-15)


def test_alias_table_of_a_long_tail_and_its_draws():
    weights = 1 / np.arange(1, 5001) ** 1.2
    table = AliasTable(weights)
    share = np.bincount(table.alias, 1 - table.keep, minlength=5000) + table.keep
    np.testing.assert_allclose(share / 5000, weights / weights.sum(), rtol=1e-9)
    drawn = np.bincount(table.draw(uniform(derive(0, np.arange(100_000)))), minlength=5000)
    top, rest = drawn[:15], drawn[15:].sum()
    expected = 100_000 * weights / weights.sum()
    assert chi_square(np.append(top, rest), np.append(expected[:15], expected[15:].sum())) < LIMIT_999[15]


@pytest.mark.parametrize(
    ("event", "exclude", "allowed"),
    [
        (3, "positive", {2, 3, 4, 6}),  # a buys s at time 3, with p
        (3, "basket", {3, 4, 6}),
        (3, "history", {6}),
        (2, "history", {5, 6}),  # at time 2 a had {p, q}; s comes later
        (2, "basket", {2, 3, 5, 6}),
        (0, "history", {4, 5, 6}),  # no history, but the basket {p, q}
        (6, "history", {2, 5, 6}),
    ],
)
def test_targets_are_uniform_over_what_is_allowed(make_prepared, event, exclude, allowed):
    sampler = make_sampler(make_prepared(EVENTS), exclude=exclude)
    assert_uniform_over(target_counts(sampler, event), allowed)


@pytest.mark.parametrize(
    ("exclude", "allowed"),
    [
        ("positive", [{3, 4, 5, 6}, {2, 4, 5, 6}, {2, 3, 5, 6}]),
        ("basket", [{4, 5, 6}, {4, 5, 6}, {2, 3, 5, 6}]),
        ("history", [{5, 6}] * 3),
    ],
)
def test_auxiliary_negatives_are_uniform_over_what_each_step_allows(make_prepared, exclude, allowed):
    """The sample is a's purchase of s: history p, q (one basket), r. The target may be drawn."""
    counts = auxiliary_counts(make_sampler(make_prepared(EVENTS), exclude=exclude), 3)
    for step, rows in enumerate(allowed):
        assert_uniform_over(counts[step], rows)


def test_ties_in_order_let_the_history_of_a_sample_end_within_its_basket(make_prepared):
    """With `order`, a's purchase of p at time 3 has the history p, q, r, s; the target's basket is {s, p}."""
    sampler = make_sampler(make_prepared(EVENTS, ties="order"), exclude="history")
    assert_uniform_over(target_counts(sampler, 3), {6})
    assert_uniform_over(auxiliary_counts(sampler, 3)[0], {5, 6})  # s is not yet history at event 3
    assert_uniform_over(auxiliary_counts(sampler, 4)[0], {6})


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_popularity_is_clicks_to_the_power_of_the_exponent(make_prepared, exponent):
    """Clicks of the whole log: p 2, q 5, r 2, s 1, t 1; u is in the item table only and is never drawn."""
    data = make_prepared(EVENTS, items={"item_id": ["u"]})
    weights = np.array([0, 0, 2, 5, 2, 1, 1, 0]) ** exponent * np.array([0, 0, 1, 1, 1, 1, 1, 0])
    weights[4] = 0  # the positive, r
    counts = target_counts(make_sampler(data, strategy="popularity", exponent=exponent), 2)
    assert chi_square(counts, DRAWS * weights / weights.sum()) < LIMIT_999[3]


def test_uniform_draws_items_of_the_item_table_too(make_prepared):
    data = make_prepared(EVENTS, items={"item_id": ["u"]})
    assert_uniform_over(target_counts(make_sampler(data), 2), {2, 3, 5, 6, 7})


def test_the_exact_draw_has_the_weights_of_the_strategy(make_prepared):
    """One item has nearly all clicks and is excluded, so rejection alone would hardly ever end."""
    events = [("a", "hit", t) for t in range(100_000)] + [("b", "x", 1), ("b", "x", 2), ("b", "y", 3), ("b", "hit", 4)]
    sampler = make_sampler(make_prepared(events), strategy="popularity")
    counts = target_counts(sampler, 100_003)
    assert chi_square(counts, np.array([0, 0, 0, 2, 1]) * DRAWS / 3) < LIMIT_999[1]


@pytest.mark.parametrize("exclude", ["history", "basket"])
def test_a_user_who_clicked_everything_is_named(make_prepared, exclude):
    time = 3 if exclude == "basket" else 4
    events = [*EVENTS, ("b", "p", 3), ("b", "s", 3), ("b", "t", 3), ("b", "r", 3), ("b", "q", time)]
    data = make_prepared(events)
    sampler = make_sampler(data, exclude=exclude)
    message = rf"User 'b' leaves no negative with data\.negatives\.exclude={exclude}"
    last = int(data.user_offsets[4] - 1)
    with pytest.raises(DataError, match=message):
        target_counts(sampler, last)
    with pytest.raises(DataError, match=message):
        sampler.check(Draws(targets=1, auxiliary=1), data.samples("test"))
    make_sampler(data, exclude="positive").check(Draws(targets=1, auxiliary=1), data.samples("test"))


def test_check_passes_a_user_who_clicked_everything_only_after_the_samples(make_prepared):
    """b has clicked all items only with the last event, which no training sample sees."""
    events = [*EVENTS, ("b", "p", 4), ("b", "s", 5), ("b", "t", 6)]
    data = make_prepared(events)
    assert data.manifest["most_items_of_a_user"] == 5
    sampler = make_sampler(data, exclude="history")
    sampler.check(Draws(targets=1, auxiliary=1), data.samples("train"))
    sampler.check(Draws(targets=1, auxiliary=1), data.samples("val"))
    with pytest.raises(DataError, match="'b'"):
        sampler.check(Draws(targets=1, auxiliary=1), data.samples("test"))


def test_one_item_that_can_be_drawn_is_refused(make_prepared):
    events = [("a", "x", t) for t in range(4)]
    data = make_prepared(events, items={"item_id": ["y"]})
    assert_uniform_over(target_counts(make_sampler(data), 2), {3})
    with pytest.raises(DataError, match=r"Only 1 item can be drawn with data\.negatives\.strategy=popularity"):
        make_sampler(data, strategy="popularity")


# User a skips s and t before time 3, p at time 3 itself and r after it; b skips nothing.
LABELLED = [
    ("a", "q", 1, 1),
    ("a", "s", 1, 0),
    ("a", "t", 2, 0),
    ("a", "t", 2, 0),
    ("a", "q", 3, 1),
    ("a", "p", 3, 0),
    ("a", "r", 4, 0),
    ("a", "r", 5, 1),
    ("b", "p", 1, 1),
    ("b", "r", 2, 1),
    ("b", "r", 3, 1),
]


def test_observed_negatives_are_the_users_earlier_skips(make_prepared):
    sampler = make_sampler(make_prepared(LABELLED), strategy="observed")
    counts = auxiliary_counts(sampler, 4)[0]
    assert chi_square(counts, np.array([0, 0, 0, 0, 0, 1, 2]) * DRAWS / 3) < LIMIT_999[1]
    assert auxiliary_counts(sampler, 7)[0].nonzero()[0].tolist() == [2, 4, 5, 6]  # p and r are past by then


def test_observed_falls_back_to_popularity_without_skips(make_prepared):
    sampler = make_sampler(make_prepared(LABELLED), strategy="observed")
    counts = auxiliary_counts(sampler, 10)  # b: history p, r; clicks p 1, q 2, r 3
    assert chi_square(counts[0], np.array([0, 0, 0, 2, 3, 0, 0]) * DRAWS / 5) < LIMIT_999[1]
    assert chi_square(counts[1], np.array([0, 0, 1, 2, 0, 0, 0]) * DRAWS / 3) < LIMIT_999[1]


def test_observed_never_draws_what_is_excluded(make_prepared):
    """a skips only what it clicks: every draw falls back."""
    events = [
        ("a", "q", 1, 1),
        ("a", "q", 2, 0),
        ("a", "q", 3, 1),
        ("b", "p", 1, 1),
        ("b", "r", 2, 1),
        ("b", "r", 3, 1),
    ]
    counts = auxiliary_counts(make_sampler(make_prepared(events), strategy="observed"), 2)[0]
    assert chi_square(counts, np.array([0, 0, 1, 0, 2]) * DRAWS / 3) < LIMIT_999[1]


@pytest.mark.parametrize("exclude", ["positive", "history", "basket"])
def test_negatives_of_a_sample_are_independent_however_often_they_are_rejected(make_prepared, exclude):
    """Nine draws of ten hit the excluded item; the others spread over 400, and neighbouring streams must not meet."""
    events = [("a", "hit", t) for t in range(3600)] + [("b", f"i{i}", i) for i in range(400)]
    sampler = make_sampler(make_prepared(events), strategy="popularity", exclude=exclude)
    click_N, length_B = sampler.data.history(np.array([100]), 100)
    drawn_NK = sampler.auxiliary(0, np.array([100]), np.array([0]), click_N, length_B, 8)
    pairs = (drawn_NK.reshape(-1, 1) == drawn_NK.reshape(-1)).sum() - drawn_NK.size
    expected = drawn_NK.size * (drawn_NK.size - 1) / 400
    assert abs(pairs / expected - 1) < 0.1
    same_step = np.mean([np.mean(drawn_NK[:, i] == drawn_NK[:, j]) for i in range(8) for j in range(i)])
    assert same_step < 4 / 400


def test_observed_needs_labels(make_prepared):
    with pytest.raises(ConfigError, match=r"data\.negatives\.strategy=observed needs a log with a label"):
        make_sampler(make_prepared(EVENTS), strategy="observed")


def test_evaluation_negatives_ignore_seed_and_epoch(make_prepared):
    data = make_prepared(EVENTS)
    targets = [
        SplitRows(
            data,
            "test",
            sampler=make_sampler(data),
            draws=Draws(targets=50, auxiliary=0, seed=seed, fixed=True),
            history_length=10,
        )[RowBatch(epoch, np.arange(153))].target_B.tolist()
        for seed, epoch in ((0, 0), (1, 0), (0, 5))
    ]
    assert targets[0] == targets[1] == targets[2]
    training = Draws(targets=50, auxiliary=0)
    assert training.stream(0) != training.stream(1)
    assert training.stream(0) != Draws(targets=50, auxiliary=0, fixed=True).stream(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "random"}, r"data\.negatives\.strategy='random' is not one of uniform, popularity, observed"),
        ({"exclude": "seen"}, r"data\.negatives\.exclude='seen' is not one of positive, history, basket"),
        ({"exponent": -0.5}, r"data\.negatives\.exponent=-0\.5"),
        ({"exponent": float("nan")}, r"data\.negatives\.exponent=nan"),
        ({"exponent": "high"}, r"data\.negatives\.exponent='high'"),
        ({"train": 0}, r"data\.negatives\.train=0"),
        ({"eval": 0}, r"data\.negatives\.eval=0"),
        ({"auxiliary": -1}, r"data\.negatives\.auxiliary=-1"),
        ({"auxiliary": 5000}, r"data\.negatives\.auxiliary=5000"),
        ({"eval_strategy": "random"}, r"data\.negatives\.eval_strategy"),
        ({"eval_exponent": -1}, r"data\.negatives\.eval_exponent"),
        ({"eval_exclude": "seen"}, r"data\.negatives\.eval_exclude"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        Negatives(**options)
