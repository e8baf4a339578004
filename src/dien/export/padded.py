"""A network on padded histories with many candidates each, as one graph that `torch.export` can follow.

The layers are the trained network's own; what changes is the layout of the steps, because a graph has no room for the
flat list of real steps and its kernels. The time loop is the higher-order operator `scan` of torch, which becomes
ONNX's `Scan`: any history length runs, and neither program knows of this package.

Axes: B users, C candidates a user, P = B * C pairs, T padded steps, N = B * T or P * T cells, D item vector, U user
vector, H hidden.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from dien.errors import DienError
from dien.model.baselines import DIN, PNN, Base, WideDeep
from dien.model.dien import DIEN
from dien.ops.reference import step


class PaddedSteps(NamedTuple):
    """All cells of a padded layout as its steps, the interface of `dien.model.steps.Steps`; padding is masked."""

    real_RT: Tensor
    """bool [R rows, T], True on real steps"""

    def flat(self, padded: Tensor) -> Tensor:
        """[R, T, ...] -> [N, ...]"""
        return as_list(padded)

    def padded(self, flat: Tensor) -> Tensor:
        """[N, ...] -> [R, T, ...]"""
        return flat.unflatten(0, self.real_RT.shape)

    @property
    def row_N(self) -> Tensor:
        """int64 [N], the row of every cell."""
        rows, width = self.real_RT.shape
        return repeat(torch.arange(rows, device=self.real_RT.device), width)

    def spread(self, row_RD: Tensor) -> Tensor:
        """Every cell gets the vector of its row, [R, D] -> [N, D]."""
        return repeat(row_RD, self.real_RT.shape[1])

    def sum(self, flat_ND: Tensor) -> Tensor:
        """Sum over the real steps of each row, [N, D] -> [R, D]."""
        return (self.padded(flat_ND) * self.real_RT[..., None]).sum(1)

    def softmax(self, score_N: Tensor) -> Tensor:
        """Softmax over the real steps of each row, 0 on padding, [N] -> [N]."""
        share_RT = self.padded(score_N).masked_fill(~self.real_RT, -torch.inf).softmax(1)
        return torch.where(self.real_RT, share_RT, 0.0).flatten()  # a row without steps is all NaN before

    def recurrence(
        self,
        x_NI: Tensor,
        attention_N: Tensor | None,
        *weights: Tensor,
        rule: str,
    ) -> Tensor:
        """States [N, H] of a recurrent layer along each row; padding keeps the state."""
        weight_ih, bias_ih, weight_hh, bias_hh = weights
        projected_N3H = F.linear(x_NI, weight_ih, bias_ih)

        def advance(h_RH: Tensor, now: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            projected_R3H, attention_R1, real_R1 = now
            new_RH = torch.where(real_R1, step(projected_R3H, attention_R1, h_RH, weight_hh, bias_hh, rule), h_RH)
            return new_RH, new_RH.clone()  # scan's results may not share memory

        projected_TR3H = self.padded(projected_N3H).transpose(0, 1)
        real_TR1 = self.real_RT.t()[..., None]
        attention_TR1 = (
            torch.ones_like(projected_TR3H[..., :1]) if attention_N is None else self.padded(attention_N).t()[..., None]
        )
        start_RH = projected_N3H.new_zeros(self.real_RT.shape[0], weight_hh.shape[1])
        _, states_TRH = scan(advance, start_RH, (projected_TR3H, attention_TR1, real_TR1))
        return as_list(states_TRH.transpose(0, 1))

    def last(self, states_NH: Tensor) -> Tensor:
        """The state after the last real step of each row, [N, H] -> [R, H]: padding kept it to the end."""
        return self.padded(states_NH)[:, -1]

    def repeat(self, times: int) -> "PaddedSteps":
        """The layout of `times` copies of each row, one after the other."""
        return PaddedSteps(repeat(self.real_RT, times))


def as_list(padded: Tensor) -> Tensor:
    """[R, T, ...] -> [R * T, ...]"""
    # Without the copy the tracer keeps the minimum of two strides as the list's, and cannot prove what it is.
    return padded.flatten(0, 1).clone(memory_format=torch.contiguous_format)


def repeat(rows: Tensor, times: int) -> Tensor:
    """Every row `times` times, [R, ...] -> [R * times, ...]."""
    return as_list(rows[:, None].expand(-1, times, *rows.shape[1:]))


class Pairs(NamedTuple):
    """Users with each of their candidates, as vectors."""

    user_PU: Tensor
    target_PD: Tensor
    sum_PD: Tensor
    steps_B: PaddedSteps
    history_ND: Tensor
    """Of the users, not of the pairs: what needs no candidate is computed once a user."""
    candidates: int

    def over_pairs(self, step_NX: Tensor) -> Tensor:
        """Steps of the users for each of their pairs, [B * T, ...] -> [P * T, ...]."""
        return as_list(repeat(self.steps_B.padded(step_NX), self.candidates))

    @property
    def steps_P(self) -> PaddedSteps:
        return self.steps_B.repeat(self.candidates)


def _base(network: Any, x: Pairs) -> Tensor:
    return network.head(torch.cat([x.user_PU, x.target_PD, x.sum_PD], 1))


def _wide_deep(network: Any, x: Pairs) -> Tensor:
    wide_P = network.wide(torch.cat([x.target_PD, x.sum_PD, x.target_PD * x.sum_PD], 1)).squeeze(1)
    return _base(network, x) + wide_P


def _with_products(network: Any, x: Pairs, *more: Tensor) -> Tensor:
    return network.head(torch.cat([x.user_PU, x.target_PD, x.sum_PD, x.target_PD * x.sum_PD, *more], 1))


def _din(network: Any, x: Pairs) -> Tensor:
    history_ND, steps = x.over_pairs(x.history_ND), x.steps_P
    attention_N = network.attention(history_ND, x.target_PD, steps)
    return _with_products(network, x, steps.sum(attention_N[:, None] * history_ND))


def _dien(network: Any, x: Pairs) -> Tensor:
    interest_NH = x.over_pairs(network.extractor(x.history_ND, x.steps_B))
    steps = x.steps_P
    evolved = network.evolution(interest_NH, lambda state_NH: network.attention(state_NH, x.target_PD, steps), steps)
    return _with_products(network, x, evolved.final_BH)


LOGITS: dict[type[nn.Module], Callable[[Any, Pairs], Tensor]] = {
    DIEN: _dien,
    DIN: _din,
    PNN: _with_products,
    WideDeep: _wide_deep,
    Base: _base,
}


class PaddedNetwork(nn.Module):
    """A trained network for padded histories and several candidates each; it shares the network's weights.

    Raises:
        DienError: for a network whose scores depend on the rows beside them, or of a class that is not known here.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if type(network) not in LOGITS:
            raise DienError(why_not(network))
        self.network = network.eval()

    def forward(
        self, user_B: Tensor, history_BT: Tensor, length_B: Tensor, candidate_BC: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Row numbers of the feature tables -> (probabilities of a click, their logits), both [B, C].

        Args:
            user_B: int64 [B].
            history_BT: int64 [B, T], oldest first, padded on the right; T may be 0.
            length_B: int64 [B], 0 <= length <= T.
            candidate_BC: int64 [B, C].
        """
        network: Any = self.network
        for other in (user_B, length_B, candidate_BC):  # else the tracer takes every B for a size of its own
            torch._check(other.shape[0] == history_BT.shape[0])
        history_BT = F.pad(history_BT, (0, 1))  # a loop needs at least one step
        candidates = candidate_BC.shape[1]
        steps = PaddedSteps(torch.arange(history_BT.shape[1], device=length_B.device) < length_B[:, None])
        history_ND = network.item(steps.flat(history_BT))
        pairs = Pairs(
            user_PU=repeat(network.user(user_B), candidates),
            target_PD=network.item(candidate_BC.flatten()),
            sum_PD=repeat(steps.sum(history_ND), candidates),
            steps_B=steps,
            history_ND=history_ND,
            candidates=candidates,
        )
        logit_BC = LOGITS[type(network)](network, pairs).unflatten(0, candidate_BC.shape)
        return logit_BC.sigmoid(), logit_BC


def why_not(network: nn.Module) -> str:
    """Why a network cannot be exported, in one sentence."""
    name = type(network).__name__
    if type(network).__module__ == "dien.model.authors":
        return (
            f"{name} cannot be exported: the authors' networks normalise with the statistics of the batch and sum its "
            "padding, so that a score depends on the rows beside it; train model=dien instead."
        )
    return f"{name} cannot be exported: known are {', '.join(known.__name__ for known in LOGITS)}."
