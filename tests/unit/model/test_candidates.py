"""The kernels that rank candidates give the values of the plain torch beside them, and stand back where they must."""

import pytest
import torch

from dien.model import candidates
from dien.model.attention import MLPAttention
from dien.ops import ranking

EVOLUTIONS = ["gru", "aigru", "agru", "augru", "augru_code"]


@pytest.fixture
def called(monkeypatch):
    """Names of the kernels that were called."""
    names, call = [], ranking.call
    monkeypatch.setattr(ranking, "call", lambda name, *rest, **rule: (names.append(name), call(name, *rest, **rule)))
    return names


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def problem(
    make_network, name, *, length, count, layers=(80, 40), dtype=torch.float32, activation="sigmoid", **options
):
    """A network with weights far from its start, what one history shares, and vectors of candidates."""
    network = make_network(name, **options)
    width = network.item.width
    facts = width if name == "din" else network.evolution.recurrence.weight_hh.shape[1]
    network.attention = MLPAttention(facts, width, hidden=layers, activation=activation)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    network.eval().to(dtype)
    history_TD = torch.randn(length, width, dtype=dtype)
    interest_TH = torch.randn(length, facts, dtype=dtype)
    with torch.no_grad():
        shared = candidates.share(network, torch.tensor([3]), history_TD, None if name == "din" else interest_TH)
    return network, shared, torch.randn(count, width, dtype=dtype)


@pytest.mark.parametrize("name", [*EVOLUTIONS, "din"])
def test_kernels_give_the_values_of_plain_torch(name, make_network, monkeypatch, called, with_threads):
    sizes = [(4, (6, 5)), (17, (33, 16)), (36, (80, 40))]
    cases = [(0, 3, 1), (1, 1, 1), (5, 13, 1), (12, 6, 1), (100, 31, 1), (100, 31, 3)]
    for hidden, layers in sizes:
        for length, count, threads in cases:
            for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
                options = {} if name == "din" else {"hidden_size": hidden}
                network, shared, target_CD = problem(
                    make_network, name, length=length, count=count, layers=layers, dtype=dtype, **options
                )
                with_threads(threads)
                called.clear()
                with torch.inference_mode():
                    attention_CT = candidates.attend(network.attention, shared.facts_TH, shared.keys_TA, target_CD)
                    logit_C = candidates.score(network, shared, target_CD)
                    assert set(called) == ({"attention"} if name in ("din", "gru") else {"attention", "evolve"})
                    monkeypatch.setenv("DIEN_SCAN", "reference")
                    called.clear()
                    expected_CT = candidates.attend(network.attention, shared.facts_TH, shared.keys_TA, target_CD)
                    expected_C = candidates.score(network, shared, target_CD)
                    assert not called
                    monkeypatch.delenv("DIEN_SCAN")
                torch.testing.assert_close(attention_CT, expected_CT, rtol=tolerance, atol=tolerance)
                torch.testing.assert_close(logit_C, expected_C, rtol=tolerance, atol=tolerance)
                if count > 1 and length > 1:
                    assert expected_C.std() > 1e-3  # candidates are told apart at all


def test_many_candidates_are_scored_in_parts(make_network, monkeypatch, called):
    network, shared, target_CD = problem(make_network, "augru", length=5, count=20)
    with torch.inference_mode():
        whole_C = candidates.score(network, shared, target_CD)
        monkeypatch.setattr(candidates, "CANDIDATES", 7)
        called.clear()
        torch.testing.assert_close(candidates.score(network, shared, target_CD), whole_C, rtol=0, atol=1e-6)
    assert called == ["attention", "evolve"] * 3


def test_plain_torch_where_there_is_no_kernel(make_network, called):
    network, shared, target_CD = problem(make_network, "augru", length=5, count=4)
    candidates.score(network, shared, target_CD).sum().backward()  # gradients are wanted
    assert network.attention.first.weight.grad.abs().sum() > 0
    assert not called
    with torch.inference_mode():
        three = problem(make_network, "augru", length=5, count=4, layers=(6, 5, 4))
        other = problem(make_network, "augru", length=5, count=4, activation="dice")
        for network, shared, target_CD in (three, other):
            candidates.attend(network.attention, shared.facts_TH, shared.keys_TA, target_CD)
            assert not called
        half = network.attention.first.weight.new_zeros(2, dtype=torch.bfloat16)
        assert not ranking.suits(half)
        assert ranking.suits(half.float())
        assert not ranking.suits(half.float(), half.double())


def test_a_candidate_that_is_not_a_number_spoils_no_other(make_network):
    network, shared, target_CD = problem(make_network, "augru", length=7, count=9)
    with torch.inference_mode():
        whole_C = candidates.score(network, shared, target_CD)
        target_CD[3] = torch.nan
        spoiled_C = candidates.score(network, shared, target_CD)
    assert spoiled_C.isnan().nonzero().flatten().tolist() == [3]
    kept = torch.arange(9) != 3
    assert torch.equal(spoiled_C[kept], whole_C[kept])
