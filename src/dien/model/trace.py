"""What happens inside of a network for a batch: attention, update gates and hidden states of every real step.

Axes: B rows, T padded and N real time steps, H hidden, C candidate items of one user.

Nothing here takes part in training or predicting: the network runs as it always does, its recurrences are watched,
and the gates, which fast engines do not hand out, are computed again from the states.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dien.batch import Batch
from dien.model.dien import DIEN, Output
from dien.model.evolution import Evolved
from dien.model.extractor import GatedRecurrence
from dien.model.steps import Steps
from dien.ops.reference import WRITE, gates


class Trace(NamedTuple):
    """Of a batch; entries that a network does not have are None. `steps.padded` lays a `_N` entry out as [B, T]."""

    steps: Steps
    logit_B: Tensor
    attention_N: Tensor | None = None
    """How relevant each step is for the target; sums to 1 over the steps of a row."""
    interest_NH: Tensor | None = None
    """States of the interest extractor."""
    interest_update_NH: Tensor | None = None
    """Its update gate u: the share of the state that a step writes."""
    evolved_NH: Tensor | None = None
    """States of the interest evolution."""
    evolved_update_NH: Tensor | None = None
    """Its EFFECTIVE update gate `w(a, u)`: u, a, a * u or a + u - a * u, by variant."""
    final_BH: Tensor | None = None
    """What the evolution hands to the head; 0 for an empty history."""


@torch.no_grad()
def trace(network: nn.Module, batch: Batch) -> Trace:
    """Run a network on a batch in evaluation mode and tell what happened inside.

    A `DIEN` fills every entry; other networks the attention and the states that their `Output` has.
    """
    training = network.training
    network.eval()
    try:
        if not isinstance(network, DIEN):
            output: Output = network(batch)
            return Trace(
                output.steps,
                output.logit_B,
                output.attention_N,
                interest_NH=output.interest_NH,
                evolved_NH=output.evolved_NH,
            )
        with (
            _watched(network.extractor.recurrence) as extraction,
            _watched(network.evolution.recurrence) as evolution,
            _watched(network.evolution) as evolved,
        ):
            output = network(batch)
    finally:
        network.train(training)
    result: Evolved = evolved["result"]
    return Trace(
        steps=output.steps,
        logit_B=output.logit_B,
        attention_N=result.attention_N,
        interest_NH=output.interest_NH,
        interest_update_NH=_update(network.extractor.recurrence, output.steps, **extraction),
        evolved_NH=result.states_NH,
        evolved_update_NH=_update(network.evolution.recurrence, output.steps, **evolution),
        final_BH=result.final_BH,
    )


def for_candidates(batch: Batch, row: int, target_C: Tensor) -> Batch:
    """One row of a batch once for every candidate item: the same user and history, C targets; labels are 0."""
    count = len(target_C)
    repeated = Batch(*(field[row].expand(count, *field.shape[1:]) for field in batch))
    return repeated._replace(target_B=target_C, label_B=torch.zeros(count, device=target_C.device))


class Summary(NamedTuple):
    """Does the attention select anything, and how fast do the states move? Means over a batch; None as in `Trace`."""

    attention_entropy: float | None
    """Entropy of the attention over the largest that its row allows, of rows with two or more steps:
    1 is a plain average over the history, 0 the choice of one step."""
    update_gate: float | None
    """Effective update gate of the evolution."""
    interest_update_gate: float | None
    """Update gate of the interest extractor."""


def summarise(traced: Trace) -> Summary:
    """One number each for attention and update gates; None also if no row has the steps it needs."""
    entropy = None
    if traced.attention_N is not None:
        length_B = traced.steps.offsets.diff()
        surprise_N = -torch.special.xlogy(traced.attention_N, traced.attention_N)
        entropy_B = traced.steps.sum(surprise_N[:, None])[:, 0]
        entropy = _mean((entropy_B / length_B.log())[length_B > 1])
    return Summary(entropy, _mean(traced.evolved_update_NH), _mean(traced.interest_update_NH))


def _mean(values: Tensor | None) -> float | None:
    return None if values is None or not values.numel() else float(values.mean())


@contextmanager
def _watched(module: nn.Module) -> Iterator[dict[str, Any]]:
    """What `module` was called with and what it returned, once it was called inside of the block."""
    seen: dict[str, Any] = {}

    def watch(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        seen.update(arguments=arguments, keywords=keywords, result=result)

    handle = module.register_forward_hook(watch, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _update(
    recurrence: GatedRecurrence, steps: Steps, *, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Tensor
) -> Tensor:
    """The effective update gate [N, H] of a recurrence that made the states `result` from its arguments."""
    x_NI, rule, attention_N = arguments[0], keywords.get("rule", "gru"), keywords.get("attention_N")
    earlier_NH = F.pad(result, (0, 0, 1, 0))[:-1]
    first_N = F.pad(steps.row_N[1:] != steps.row_N[:-1], (1, 0), value=True)[: len(x_NI)]
    projected_N3H = F.linear(x_NI, recurrence.weight_ih, recurrence.bias_ih)
    before_NH = earlier_NH.masked_fill(first_N[:, None], 0.0)
    u_NH, _ = gates(projected_N3H, before_NH, recurrence.weight_hh, recurrence.bias_hh)
    a_N1 = torch.ones_like(u_NH[:, :1]) if attention_N is None else attention_N[:, None]
    return WRITE[rule](u_NH, a_N1).expand_as(u_NH)
