"""Interest evolution: a second recurrence, driven by how relevant each interest is for the target item.

Axes: B rows, N real steps, H hidden. The five variants of the ablation have the same parameters and the same
initialisation; each is the few lines that make it different. `attend(states_NH) -> attention_N` compares states
with the target item.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from dien.model.extractor import GatedRecurrence
from dien.model.steps import Steps

Attend = Callable[[Tensor], Tensor]


class Evolved(NamedTuple):
    """What an evolution layer made of a batch."""

    final_BH: Tensor
    """The interest that goes to the head; 0 for an empty history."""
    states_NH: Tensor
    attention_N: Tensor


class Evolution(nn.Module):
    """What the variants share: one recurrence. `rule` is its effective update gate, see `dien.ops.gated_scan`."""

    rule: ClassVar[str] = "gru"

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.recurrence = GatedRecurrence(hidden_size, hidden_size)

    def forward(self, interest_NH: Tensor, attend: Attend, steps: Steps) -> Evolved:
        """Interests [N, H] -> the evolved interest of each row. Here: attention drives the gate (eq. 11-12)."""
        attention_N = attend(interest_NH)
        states_NH = self.recurrence(interest_NH, steps, rule=self.rule, attention_N=attention_N)
        return Evolved(steps.last(states_NH), states_NH, attention_N)


class GRU(Evolution):
    """Two-layer GRU with attention: a plain GRU whose outputs are summed by their own attention."""

    def forward(self, interest_NH: Tensor, attend: Attend, steps: Steps) -> Evolved:
        states_NH = self.recurrence(interest_NH, steps)
        attention_N = attend(states_NH)
        return Evolved(steps.sum(attention_N[:, None] * states_NH), states_NH, attention_N)


class AIGRU(Evolution):
    """GRU with attentional input (eq. 9): `a_t * h_t` goes in, the update gate is untouched."""

    def forward(self, interest_NH: Tensor, attend: Attend, steps: Steps) -> Evolved:
        attention_N = attend(interest_NH)
        states_NH = self.recurrence(attention_N[:, None] * interest_NH, steps)
        return Evolved(steps.last(states_NH), states_NH, attention_N)


class AGRU(Evolution):
    """Attention-based GRU (eq. 10): the attention IS the update gate."""

    rule = "agru"


class AUGRU(Evolution):
    """GRU with attentional update gate (eq. 11-12 of the paper): the attention scales the update gate, `a * u`."""

    rule = "augru"


class AUGRUCode(Evolution):
    """AUGRU as the authors coded it: the attention scales the KEEP gate, so the update gate is `a + u - a * u`."""

    rule = "augru_code"
