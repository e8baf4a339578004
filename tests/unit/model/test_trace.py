"""What `trace` tells of a network, against the equations written down once more, step by step and row by row."""

import math

import pytest
import torch

from dien.model.steps import Steps
from dien.model.trace import Trace, for_candidates, summarise, trace

EVOLUTIONS = ["gru", "aigru", "agru", "augru", "augru_code"]
LENGTHS = [4, 0, 1, 7, 2]
WRITE = {"agru": lambda a, u: a.expand_as(u), "augru": lambda a, u: a * u, "augru_code": lambda a, u: a + u - a * u}


def gru_gates(recurrence, x, h):
    """Update gate and candidate of one step of one row, as torch documents `nn.GRU` (its z is 1 - u)."""
    hidden = len(h)
    from_x = recurrence.weight_ih @ x + recurrence.bias_ih
    from_h = recurrence.weight_hh @ h + recurrence.bias_hh
    r = torch.sigmoid(from_x[:hidden] + from_h[:hidden])
    z = torch.sigmoid(from_x[hidden : 2 * hidden] + from_h[hidden : 2 * hidden])
    n = torch.tanh(from_x[2 * hidden :] + r * from_h[2 * hidden :])
    return 1 - z, n


def by_hand(network, name, items, target, user):
    """Everything that a trace tells of one row, and its logit."""
    vectors = network.item(items)
    h = torch.zeros(network.evolution.recurrence.weight_hh.shape[1])
    interests, interest_gates = [], []
    for x in vectors:
        u, n = gru_gates(network.extractor.recurrence, x, h)
        h = (1 - u) * h + u * n
        interests.append(h)
        interest_gates.append(u)

    def attend(states):
        alone = Steps.of(torch.tensor([len(states)]), len(states))
        return network.attention(torch.stack(states), network.item(target)[None], alone) if states else []

    evolved, evolved_gates = [], []
    h = torch.zeros_like(h)
    attention = attend(interests) if name != "gru" else [None] * len(interests)
    for x, a in zip(interests, attention, strict=True):
        u, n = gru_gates(network.evolution.recurrence, a * x if name == "aigru" else x, h)
        write = WRITE.get(name, lambda a, u: u)(a, u)
        h = (1 - write) * h + write * n
        evolved.append(h)
        evolved_gates.append(write)
    if name == "gru":
        attention = attend(evolved)
        h = sum((a * state for a, state in zip(attention, evolved, strict=True)), torch.zeros_like(h))
    total = vectors.sum(0)
    item = network.item(target)
    logit = network.head(torch.cat([network.user(user), item, total, item * total, h])[None])
    return interests, interest_gates, evolved, evolved_gates, list(attention), h, logit[0]


@pytest.mark.parametrize("name", EVOLUTIONS)
def test_a_trace_is_what_the_equations_say_and_what_the_network_computes(make_network, make_batch, name):
    network, batch = make_network(name).eval(), make_batch(LENGTHS)
    with torch.no_grad():
        expected_B = network(batch).logit_B
        traced = trace(network, batch)
        rows = [
            by_hand(network, name, batch.history_BT[b, :length], batch.target_B[b], batch.user_B[b])
            for b, length in enumerate(LENGTHS)
        ]
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(traced.logit_B, expected_B, **close)
    torch.testing.assert_close(traced.logit_B, torch.stack([row[6] for row in rows]), **close)
    torch.testing.assert_close(traced.final_BH, torch.stack([row[5] for row in rows]), **close)
    stepwise = (
        *(traced.interest_NH, traced.interest_update_NH, traced.evolved_NH, traced.evolved_update_NH),
        traced.attention_N,
    )
    for i, got in enumerate(stepwise):
        torch.testing.assert_close(got, torch.stack([step for row in rows for step in row[i]]), **close)


@pytest.mark.parametrize("lengths", [[0], [0, 0], [1], [1, 0, 1]])
@pytest.mark.parametrize("name", EVOLUTIONS)
def test_short_histories_have_traces(make_network, make_batch, name, lengths):
    network, batch = make_network(name).eval(), make_batch(lengths)
    traced = trace(network, batch)
    torch.testing.assert_close(traced.logit_B, network(batch).logit_B.detach())
    assert len(traced.evolved_update_NH) == sum(lengths)
    torch.testing.assert_close(traced.attention_N, torch.ones(sum(lengths)))  # one step has all of it
    assert torch.equal(traced.final_BH[torch.tensor(lengths) == 0], torch.zeros(lengths.count(0), 10 + 2))
    assert summarise(traced).attention_entropy is None  # nothing to choose from


def test_tracing_leaves_a_network_as_it_was(make_network, make_batch):
    network, batch = make_network("augru").train(), make_batch(LENGTHS)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    traced = trace(network, batch)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert not traced.logit_B.requires_grad
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key  # Dice has counted nothing


@pytest.mark.parametrize("name", ["din", "base"])
def test_other_networks_tell_what_they_have(make_network, make_batch, name):
    network, batch = make_network(name).eval(), make_batch(LENGTHS)
    traced, output = trace(network, batch), network(batch)
    torch.testing.assert_close(traced.logit_B, output.logit_B.detach())
    assert traced.evolved_update_NH is None
    assert summarise(traced).update_gate is None
    assert (traced.attention_N is None) == (name == "base")
    assert (summarise(traced).attention_entropy is None) == (name == "base")


def test_candidates_share_user_and_history(make_network, make_batch):
    network, batch = make_network("augru").eval(), make_batch(LENGTHS)
    target_C = torch.tensor([3, 9, 3])
    traced = trace(network, for_candidates(batch, 0, target_C))
    for c, target in enumerate(target_C):
        alone = batch._replace(target_B=batch.target_B.index_fill(0, torch.tensor([0]), int(target)))
        torch.testing.assert_close(traced.logit_B[c], network(alone).logit_B[0].detach(), rtol=0, atol=1e-6)
    interest_CTH = traced.steps.padded(traced.interest_NH)
    assert torch.equal(interest_CTH[0], interest_CTH[1])  # the extractor has not seen the candidate
    evolved_CTH = traced.steps.padded(traced.evolved_NH)
    assert not torch.allclose(evolved_CTH[0], evolved_CTH[1])
    assert torch.equal(evolved_CTH[0], evolved_CTH[2])


def test_summary_values():
    steps = Steps.of(torch.tensor([2, 1, 0, 3]), 3)
    attention_N = torch.tensor([0.5, 0.5, 1.0, 1.0, 0.0, 0.0])
    gate_NH = torch.tensor([0.0, 1, 2, 3, 4, 5])[:, None].expand(6, 2)
    summary = summarise(Trace(steps, torch.zeros(4), attention_N, evolved_update_NH=gate_NH))
    assert summary == (pytest.approx(0.5), pytest.approx(2.5), None)  # rows of 2 and 3 steps: entropy 1 and 0
    skewed = Trace(Steps.of(torch.tensor([2]), 2), torch.zeros(1), torch.tensor([0.25, 0.75]))
    expected = (0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / math.log(2)
    assert summarise(skewed).attention_entropy == pytest.approx(expected)
