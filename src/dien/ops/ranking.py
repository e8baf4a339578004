"""One history against many candidates on the CPU, for inference: nothing that candidates share is copied for each.

The compiled twins of what `dien.model.candidates` does in plain torch, which runs wherever `suits` says no.

Axes: C candidates, T steps of the history, H hidden, A and M units of the attention's two hidden layers.
"""

import torch
from torch import Tensor

from dien.ops.cpu import call, takes
from dien.ops.layout import COEFFICIENTS


def suits(*tensors: Tensor) -> bool:
    """Whether the kernels can take these: as `cpu.takes`, and no gradients."""
    return not torch.is_grad_enabled() and takes(*tensors)


def attention_scores(
    query_CH: Tensor,
    row_CA: Tensor,
    facts_TH: Tensor,
    keys_TA: Tensor,
    product_AH: Tensor,
    second: tuple[Tensor, Tensor],
    output: tuple[Tensor, Tensor],
) -> Tensor:
    """Scores [C, T] of a perceptron with two layers of sigmoids, before the softmax over steps.

    Args:
        query_CH: of the candidates.
        row_CA: the part of the first layer that reads the candidate alone, with its bias.
        facts_TH: the steps attended to.
        keys_TA: the part that reads the step alone.
        product_AH: weight of the part that reads `query * fact`.
        second: weight [M, A] and bias [M].
        output: weight [1, M] and bias [1].
    """
    score_CT = query_CH.new_empty(len(query_CH), len(facts_TH))
    inputs = (query_CH, row_CA, facts_TH, keys_TA, product_AH, *second, *output)
    call("attention", inputs, (*score_CT.shape, query_CH.shape[1], *reversed(second[0].shape)), (score_CT,))
    return score_CT


def evolve(
    projected_T3H: Tensor,
    attention_CT: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    *,
    rule: str,
    input_bias: Tensor | None = None,
) -> Tensor:
    """State [C, H] after the last step of `dien.ops.gated_scan` of every candidate, from zeros.

    Args:
        projected_T3H: the input projection of the steps, one for all candidates.
        attention_CT: what the rule reads.
        weight_hh: `[3H, H]`.
        bias_hh: `[3H]`.
        rule: one of `dien.ops.RULES`.
        input_bias: `[3H]`; if given, the input of a step is `a * projected + input_bias` (AIGRU).
    """
    final_CH = projected_T3H.new_empty(len(attention_CT), weight_hh.shape[1])
    inputs = (projected_T3H, attention_CT, input_bias, weight_hh, bias_hh)
    call("evolve", inputs, (*attention_CT.shape, weight_hh.shape[1]), (final_CH,), numbers=COEFFICIENTS[rule])
    return final_CH
