"""How relevant each step of a history is for a target item (section 4.3.2 of the paper).

Axes: B rows, N real steps, D item vector, H hidden, A first attention layer. One shared signature:
`attention(interest_NH, target_BD, steps) -> attention_N`, a softmax over the steps of each row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dien.errors import ConfigError
from dien.model.layers import AfterFirst, check_hidden
from dien.model.steps import Steps


class BilinearAttention(nn.Module):
    """Eq. 8 of the paper: `a_t = softmax_t(h_t W e_a)`."""

    def __init__(self, hidden_size: int, target_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(target_size, hidden_size, bias=False)

    def forward(self, interest_NH: Tensor, target_BD: Tensor, steps: Steps) -> Tensor:
        query_BH = self.project(target_BD)
        return steps.softmax((interest_NH * steps.spread(query_BH)).sum(-1))


class MLPAttention(nn.Module):
    """The authors' network: a perceptron on `[q, h, q - h, q * h]`, `q` the target.

    Args:
        hidden_size: H, the width of the steps attended to.
        target_size: D.
        hidden: widths of the hidden layers, 80-40 in the authors' code.
        activation: `sigmoid` in the authors' code; see `MLP` for the others.
        project_target: `q = PReLU(linear(e_a))` of width H, as DIEN does; DIN attends with `e_a` itself.

    Raises:
        ConfigError: without a hidden layer, or if an unprojected target is not as wide as the steps.
    """

    def __init__(
        self,
        hidden_size: int,
        target_size: int,
        *,
        hidden: Sequence[int] = (80, 40),
        activation: str = "sigmoid",
        project_target: bool = True,
    ) -> None:
        super().__init__()
        check_hidden(hidden, fewest=1)
        if not project_target and target_size != hidden_size:
            raise ConfigError(
                "model.attention.project_target=false needs a target as wide as the steps: "
                f"{target_size} is not {hidden_size}."
            )
        self.query: nn.Module = (
            nn.Sequential(nn.Linear(target_size, hidden_size), nn.PReLU()) if project_target else nn.Identity()
        )
        self.first = nn.Linear(4 * hidden_size, hidden[0])
        self.rest = AfterFirst(hidden, activation=activation)

    def forward(self, interest_NH: Tensor, target_BD: Tensor, steps: Steps) -> Tensor:
        query_BH = self.query(target_BD)
        # [q, h, q - h, q * h] W = q (W_q + W_d) + h (W_h - W_d) + (q * h) W_m: three products instead of four, and
        # that of q is needed once a row.
        q_AH, h_AH, difference_AH, product_AH = self.first.weight.chunk(4, 1)
        first_A3H = torch.cat([q_AH + difference_AH, h_AH - difference_AH, product_AH], 1)
        step_N2H = torch.cat([interest_NH, steps.spread(query_BH) * interest_NH], 1)
        return steps.softmax(self.rest.scores(step_N2H, query_BH, steps.row_N, first_A3H, self.first.bias))
