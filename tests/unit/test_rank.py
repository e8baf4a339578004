"""A ranker gives every candidate the score of the network's own forward, whatever is shared or kept."""

import numpy as np
import pytest
import torch

import dien
from dien.batch import Batch
from dien.errors import ConfigError, DataError
from dien.model import candidates
from dien.raw_ids import IdRows

EVOLUTIONS = ["gru", "aigru", "agru", "augru", "augru_code"]
NETWORKS = [*EVOLUTIONS, "base", "wide_deep", "pnn", "din"]
LONGEST = 7
ITEMS = [f"i{n}" for n in range(30)]
USERS = list(range(100, 112))


@pytest.fixture
def make_ranker(make_network):
    def make(name="augru", *, train=True, **options):
        network = make_network(name, **options)
        for parameter in network.parameters():  # far from the symmetric start, so that every term counts
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
        return dien.Ranker(network, items=IdRows(ITEMS), users=IdRows(USERS), history_length=LONGEST)

    return make


def pair_scores(ranker, history, candidates, user=None):
    """Each (history, candidate) as a row of its own, through the network's forward."""
    scores = []
    for candidate in candidates:
        item_N = torch.tensor([ranker.items.rows(history)], dtype=torch.int64)
        batch = Batch(
            user_B=torch.tensor(ranker.users.rows([user])),
            history_BT=item_N,
            negative_BT=torch.zeros_like(item_N),
            length_B=torch.tensor([len(history)]),
            target_B=torch.tensor(ranker.items.rows([candidate])),
            label_B=torch.zeros(1),
        )
        with torch.no_grad():
            scores.append(ranker.network(batch).logit_B.sigmoid().item())
    return np.array(scores)


def test_scores_are_those_of_independent_pairs(make_ranker, monkeypatch):
    monkeypatch.setattr(candidates, "PAIR_STEPS", 9)  # one or a few candidates at a time, the last part smaller
    rng = np.random.default_rng(0)
    for name in NETWORKS:
        for options in ({"attention": "bilinear"}, {"attention": "mlp"}, {"hidden_size": 4, "scorer": "mlp"}):
            if name == "din" and "hidden_size" in options:
                continue
            ranker = make_ranker(name, **options)
            for length in (0, 1, 4, LONGEST):
                history = [*rng.choice(ITEMS, length)]
                wanted = [*rng.choice(ITEMS, 10), "never seen"]
                scores = ranker.score(history, wanted, user=103)
                np.testing.assert_allclose(
                    scores, pair_scores(ranker, history, wanted, 103), rtol=0, atol=1e-6, err_msg=f"{name} {length}"
                )
                assert scores.std() > 1e-4  # candidates are told apart at all


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_advanced_event_by_event_is_the_state_of_the_whole_history(make_ranker, name):
    ranker = make_ranker(name)
    history = [*np.random.default_rng(1).choice([*ITEMS, "unknown"], 3 * LONGEST)]
    state = ranker.state([], user=105)
    for n, event in enumerate(history, start=1):
        before = state
        state = ranker.update(state, event)
        assert len(before.item_N) == min(n - 1, LONGEST)  # the old one is untouched
        # What is kept is the window; beyond its length the extractor starts anew at its oldest click, as in training.
        window = history[max(n - LONGEST, 0) : n]
        expected = pair_scores(ranker, window, ITEMS[:5], 105)
        np.testing.assert_allclose(ranker.score(state, ITEMS[:5]), expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(ranker.score(history[:n], ITEMS[:5], user=105), expected, rtol=0, atol=1e-6)
    again = ranker.from_bytes(state.to_bytes())
    assert all(
        a is b is None or a == b if isinstance(a, str | None) else torch.equal(a, b)
        for a, b in zip(again, state, strict=True)
    )
    np.testing.assert_array_equal(ranker.score(again, ITEMS), ranker.score(state, ITEMS))


def test_states_of_many_users_are_those_of_each(make_ranker):
    ranker = make_ranker()
    histories = [ITEMS[:3], [], ITEMS[5:20], ITEMS[:1]]
    states = ranker.states(histories, users=[101, None, 999, 102])
    for history, user, state in zip(histories, [101, None, 999, 102], states, strict=True):
        alone = ranker.state(history, user=user)
        assert torch.equal(state.item_N, alone.item_N)
        torch.testing.assert_close(state.interest_NH, alone.interest_NH, rtol=0, atol=1e-6)
        assert int(state.user) == int(alone.user) == {101: 3, 102: 4}.get(user, 1)
    assert ranker.states([]) == []


def test_rank_orders_by_score_and_keeps_the_order_of_equals(make_ranker):
    ranker = make_ranker()
    wanted = ["i3", "none", "i9", "i3", "i1", "nothing"]
    scores = ranker.score(ITEMS[:4], wanted)
    ranked = ranker.rank(ITEMS[:4], wanted)
    assert [one.score for one in ranked] == sorted(scores.tolist(), reverse=True)
    assert sorted(one.item for one in ranked) == sorted(wanted)
    unknown = [one.item for one in ranked if not ranker.known([one.item])[0]]
    assert unknown == ["none", "nothing"]
    assert ranker.rank(ranker.state(ITEMS[:4]), wanted, top=2) == ranked[:2]
    assert ranker.rank(ITEMS[:4], []) == []
    with pytest.raises(ConfigError, match="top=0 is out of range"):
        ranker.rank([], wanted, top=0)


def test_what_is_no_list_of_ids_is_refused(make_ranker):
    """A text alone would count as a list of its letters."""
    ranker = make_ranker()
    for history, wanted, message in (
        (None, ITEMS, "a history must be a list of ids, not None"),
        ("i1", ITEMS, "a history must be a list of ids, not 'i1'"),
        (7, ITEMS, "a history must be a list of ids, not 7"),
        ({"i1": 1}, ITEMS, "a history must be a list of ids"),
        (["i1"], "i1", "the candidates must be a list of ids, not 'i1'"),
        (["i1"], None, "the candidates must be a list of ids, not None"),
    ):
        with pytest.raises(TypeError, match=message):
            ranker.score(history, wanted)
    for ids in (np.array(ITEMS), tuple(ITEMS)):
        np.testing.assert_array_equal(ranker.score(ids, ids), ranker.score(ITEMS, ITEMS))


def test_states_of_another_model_and_damaged_ones_are_refused(make_ranker):
    ranker, other = make_ranker(), make_ranker()
    state = ranker.state(ITEMS[:3])
    for use in (
        lambda: other.rank(state, ITEMS),
        lambda: other.update(state, "i1"),
        lambda: other.from_bytes(state.to_bytes()),
    ):
        with pytest.raises(DataError, match="is of the model"):
            use()
    saved = state.to_bytes()
    rng = np.random.default_rng(0)
    for damaged in (b"", b"\x80\x04.", saved[:-3], saved[4:], b"\xff" * 64, bytes(rng.integers(0, 256, 500, np.uint8))):
        with pytest.raises(DataError, match="not a saved user state"):
            ranker.from_bytes(damaged)
