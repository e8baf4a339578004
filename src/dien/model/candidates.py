"""One history against many candidates: what does not depend on the candidate is computed once and shared by all.

Axes: C candidates, T steps of the one history (all real), S steps of several histories (flat), D item vector, U user
vector, H hidden, A first attention layer.

The extractor never sees the candidate, so its states are the history's. Attention compares every state with every
candidate: of its first layer the half that reads the state alone is shared. The evolution reads the states through
one projection `W h_t + b`, which is shared too; only its gates, and `a_t W h_t` of AIGRU, are the candidate's own.

For inference on the CPU `attend` and `_evolve` call compiled kernels (`dien.ops.ranking`), elsewhere they are plain
torch.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dien.batch import Batch
from dien.model.attention import BilinearAttention, MLPAttention
from dien.model.baselines import DIN
from dien.model.dien import DIEN
from dien.model.evolution import AIGRU, GRU
from dien.model.steps import Steps
from dien.ops import gated_scan, last_state, linear, ranking

PAIR_STEPS = 1 << 14
"""Steps of (candidate, history) pairs that plain torch computes at a time: their intermediate values fit the caches of
a core, and memory does not grow with the number of candidates."""
CANDIDATES = 1 << 12
"""Candidates at a time where kernels compute: one number a step is all that is kept of a pair."""


class Shared(NamedTuple):
    """What one history gives to all candidates."""

    user_1U: Tensor
    sum_1D: Tensor
    facts_TH: Tensor
    """What attention looks at: interests, evolved states (two-layer GRU), or item vectors (DIN)."""
    keys_TA: Tensor | None
    """The shared half of the first layer of `MLPAttention`."""
    projected_T3H: Tensor | None
    """`W h_t` of the evolution, with the bias unless it is AIGRU, which scales the input before the bias."""


def interests(network: nn.Module, history_SD: Tensor, steps: Steps, initial_BH: Tensor | None = None) -> Tensor | None:
    """Interest states [S, H] of histories, going on from `initial_BH`; None for a network without an extractor."""
    if not isinstance(network, DIEN):
        return None
    layer = network.extractor.recurrence
    projected_S3H = linear(history_SD, layer.weight_ih, layer.bias_ih)
    return gated_scan(
        projected_S3H, None, steps.offsets, layer.weight_hh, layer.bias_hh, rule="gru", initial_BH=initial_BH
    )


def share(network: DIEN | DIN, user: Tensor, history_TD: Tensor, interest_TH: Tensor | None) -> Shared:
    """Compute once what every candidate of one history needs.

    Args:
        network: DIEN or DIN; the others have nothing to share, see `score_pairs`.
        user: int64 [1], row of the user.
        history_TD: item vectors of the history.
        interest_TH: what `interests` made of them.
    """
    facts_TH, projected_T3H = history_TD, None
    if isinstance(network, DIEN):
        assert interest_TH is not None
        facts_TH, layer = interest_TH, network.evolution.recurrence
        steps = _alone(len(history_TD), history_TD.device)
        if isinstance(network.evolution, GRU):
            facts_TH = layer(interest_TH, steps)
        else:
            bias = None if isinstance(network.evolution, AIGRU) else layer.bias_ih
            projected_T3H = linear(interest_TH, layer.weight_ih, bias)
    keys_TA = None
    if isinstance(network.attention, MLPAttention):
        _, h_AH, difference_AH, _ = network.attention.first.weight.chunk(4, 1)
        keys_TA = linear(facts_TH, h_AH - difference_AH)
    return Shared(network.user(user), history_TD.sum(0, keepdim=True), facts_TH, keys_TA, projected_T3H)


def score(network: DIEN | DIN, shared: Shared, target_CD: Tensor) -> Tensor:
    """Logits [C] of candidates, each as if it were the target of the one history."""
    at_once = CANDIDATES if _fused(network, shared) else max(PAIR_STEPS // max(len(shared.facts_TH), 1), 1)
    parts = target_CD.split(at_once)
    return torch.cat([_score(network, shared, part_CD) for part_CD in parts])


def _score(network: DIEN | DIN, shared: Shared, target_CD: Tensor) -> Tensor:
    attention_CT = attend(network.attention, shared.facts_TH, shared.keys_TA, target_CD)
    if shared.projected_T3H is None or not isinstance(network, DIEN):
        final_CH = attention_CT @ shared.facts_TH
    else:
        final_CH = _evolve(network, shared.projected_T3H, attention_CT)
    sum_CD, user_CU = shared.sum_1D.expand_as(target_CD), shared.user_1U.expand(len(target_CD), -1)
    logit_C: Tensor = network.head(torch.cat([user_CU, target_CD, sum_CD, target_CD * sum_CD, final_CH], 1))
    return logit_C


def _fused(network: DIEN | DIN, shared: Shared) -> bool:
    """Whether every part of the network that sees pairs of candidates and steps has a kernel here."""
    attention = network.attention
    has_kernel = not isinstance(attention, MLPAttention) or attention.rest.two_sigmoids
    return has_kernel and ranking.suits(shared.facts_TH)


def attend(attention: nn.Module, facts_TH: Tensor, keys_TA: Tensor | None, target_CD: Tensor) -> Tensor:
    """Attention [C, T] of every candidate to the steps of the one history."""
    count, steps = len(target_CD), len(facts_TH)
    if isinstance(attention, BilinearAttention):
        return (attention.project(target_CD) @ facts_TH.T).softmax(1)
    assert isinstance(attention, MLPAttention)
    assert keys_TA is not None
    query_CH = attention.query(target_CD)
    q_AH, _, difference_AH, product_AH = attention.first.weight.chunk(4, 1)
    row_CA = linear(query_CH, q_AH + difference_AH, attention.first.bias)
    if (layers := attention.rest.second_and_output()) and ranking.suits(
        query_CH, row_CA, facts_TH, keys_TA, product_AH
    ):
        second, output = ((layer.weight, layer.bias) for layer in layers)
        return ranking.attention_scores(query_CH, row_CA, facts_TH, keys_TA, product_AH, second, output).softmax(1)
    first_CTA = linear(query_CH[:, None] * facts_TH, product_AH) + keys_TA + row_CA[:, None]
    return attention.rest(first_CTA.flatten(0, 1)).view(count, steps).softmax(1)


def _evolve(network: DIEN, projected_T3H: Tensor, attention_CT: Tensor) -> Tensor:
    """The evolved interest [C, H] of every candidate."""
    layer, rule = network.evolution.recurrence, network.evolution.rule
    input_bias = layer.bias_ih if isinstance(network.evolution, AIGRU) else None
    if ranking.suits(projected_T3H, attention_CT, layer.weight_hh):
        return ranking.evolve(
            projected_T3H, attention_CT, layer.weight_hh, layer.bias_hh, rule=rule, input_bias=input_bias
        )
    count, steps = attention_CT.shape
    offsets = (
        torch.arange(0, (count + 1) * steps, steps, device=attention_CT.device)
        if steps
        else attention_CT.new_zeros(count + 1, dtype=torch.int64)
    )
    if input_bias is None:
        projected_CT3H = projected_T3H.expand(count, -1, -1)
    else:
        projected_CT3H = attention_CT[..., None] * projected_T3H + input_bias
    states_NH = gated_scan(
        projected_CT3H.flatten(0, 1),
        None if rule == "gru" else attention_CT.flatten(),
        offsets,
        layer.weight_hh,
        layer.bias_hh,
        rule=rule,
    )
    return last_state(states_NH, offsets)


def score_pairs(network: nn.Module, user: Tensor, history_T: Tensor, target_C: Tensor) -> Tensor:
    """Logits [C] of candidates as independent rows: the network's own forward.

    Args:
        network: any.
        user: int64 [1], row of the user.
        history_T: item rows of the history.
        target_C: item rows of the candidates.
    """
    logits = []
    for part_C in target_C.split(max(PAIR_STEPS // max(len(history_T), 1), 1)):
        count = len(part_C)
        history_CT = history_T.expand(count, -1)
        batch = Batch(
            user_B=user.expand(count),
            history_BT=history_CT,
            negative_BT=torch.zeros_like(history_CT),
            length_B=torch.full((count,), len(history_T), device=part_C.device),
            target_B=part_C,
            label_B=torch.zeros(count, device=part_C.device),
        )
        logits.append(network(batch).logit_B)
    return torch.cat(logits)


def _alone(length: int, device: torch.device) -> Steps:
    """The steps of one history."""
    return Steps.of(torch.tensor([length], device=device), length)
