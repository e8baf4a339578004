"""The feed-forward parts: activations, the multi-layer perceptron and the click head."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dien import distributed
from dien.errors import ConfigError, check_at_least, check_choice, check_whole
from dien.ops import Linear, dice, first_layer, perceptron, rectified


class Dice(nn.Module):
    """PReLU whose rectifier sits at the mean of its input (Zhou et al., Deep Interest Network, KDD 2018, eq. 3).

    `p * x + (1 - p) * slope * x` with `p = sigmoid` of the normalised input. Training uses the statistics of the
    batch, evaluation the running ones, so that a score never depends on the rows that share its batch; a batch of
    one row has no statistics of its own and uses the running ones too.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, *, momentum: float = 0.1, eps: float = 1e-8) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.slope = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x_BD: Tensor) -> Tensor:
        if self.training and distributed.processes() > 1:
            return rectified(x_BD, self._normal_over_processes(x_BD), self.slope)
        return dice(
            x_BD,
            self.slope,
            self.running_mean,
            self.running_var,
            training=self.training and len(x_BD) > 1,
            momentum=self.momentum,
            eps=self.eps,
        )

    def _normal_over_processes(self, x_BD: Tensor) -> Tensor:
        """The same with the rows of all processes as the batch."""
        wide_BD = x_BD.double()
        rows_1 = wide_BD.new_full((1,), len(x_BD))
        sums = distributed.total(torch.cat([wide_BD.sum(0), wide_BD.square().sum(0), rows_1]))
        rows = sums[-1].detach()
        mean_D, square_D = (sums[:-1] / rows).chunk(2)
        var_D = (square_D - mean_D.square()).clamp(min=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean_D.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var_D * rows / (rows - 1)).to(self.running_var.dtype), self.momentum)
        return ((wide_BD - mean_D) * (var_D + self.eps).rsqrt()).to(x_BD.dtype)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "dice": Dice,
    "prelu": nn.PReLU,
    "relu": lambda width: nn.ReLU(),
    "sigmoid": lambda width: nn.Sigmoid(),
    "silu": lambda width: nn.SiLU(),  # what RecBole and hopwise call Dice
    "none": lambda width: nn.Identity(),  # their auxiliary network
}


def activation_of(name: str, width: int) -> nn.Module:
    """An activation for `width` units.

    Raises:
        ConfigError: for a name that is not one of `ACTIVATIONS`.
    """
    check_choice("activation", name, tuple(ACTIVATIONS))
    return ACTIVATIONS[name](width)


class MLP(nn.Sequential):
    """Hidden linear layers, each with an activation and dropout, and a closing linear layer with neither.

    Args:
        input_size: width of the input.
        hidden: widths of the hidden layers, in order; may be empty.
        activation: `dice | prelu | relu | sigmoid | silu | none`.
        dropout: probability of dropping a hidden unit in training.
        output_size: width of the closing linear layer.

    Raises:
        ConfigError: for an unknown activation, a width below 1 or a dropout outside [0, 1).
    """

    def __init__(
        self,
        input_size: int,
        hidden: Sequence[int],
        *,
        activation: str,
        dropout: float = 0.0,
        output_size: int = 1,
    ) -> None:
        check_at_least("dropout", dropout, 0)
        if dropout >= 1:
            raise ConfigError(f"dropout={dropout} is out of range: it must be below 1.")
        check_hidden(hidden)
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [Linear(input_size, width), activation_of(activation, width)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            input_size = width
        super().__init__(*layers, Linear(input_size, output_size))


class AfterFirst(nn.Sequential):
    """A perceptron without its first linear layer, of which the caller shares parts between steps.

    Args:
        hidden: widths of all hidden layers, at least one; the first is that of the input.
        activation: see `MLP`.
    """

    def __init__(self, hidden: Sequence[int], *, activation: str) -> None:
        check_hidden(hidden, fewest=1)
        super().__init__(activation_of(activation, hidden[0]), MLP(hidden[0], hidden[1:], activation=activation))
        self.two_sigmoids = len(hidden) == 2 and activation == "sigmoid"
        """Whether the hidden layers are two, both with sigmoids, as in the authors' code."""

    def second_and_output(self) -> tuple[nn.Linear, nn.Linear] | None:
        """The linear layers of `two_sigmoids`, for which there are kernels; None for other perceptrons."""
        if not self.two_sigmoids:
            return None
        second, _, output = cast(MLP, self[1])
        return cast(nn.Linear, second), cast(nn.Linear, output)

    def scores(self, x_NK: Tensor, shared_SL: Tensor, row_N: Tensor, first_AI: Tensor, bias_A: Tensor) -> Tensor:
        """Scores [N] of steps whose first layer reads `[shared[row], x]`, see `dien.ops.perceptron`."""
        if layers := self.second_and_output():
            second, output = layers
            rest = (second.weight, second.bias, output.weight, output.bias)
            return perceptron(x_NK, shared_SL, row_N, first_AI, bias_A, *rest).squeeze(1)
        return self(first_layer(x_NK, shared_SL, row_N, first_AI, bias_A)).squeeze(1)


def check_hidden(hidden: Sequence[int], *, fewest: int = 0) -> None:
    """Raise `ConfigError` unless `hidden` is a list of at least `fewest` widths."""
    if not isinstance(hidden, list | tuple) or len(hidden) < fewest:
        raise ConfigError(f"hidden={hidden!r} must be a list of at least {fewest} widths, such as [80, 40].")
    for width in hidden:
        check_whole("a width of hidden", width, 1)


class Head(MLP):
    """From the joined features of a row to the logit of a click; the paper's is 200-80-1 with Dice."""

    def __init__(
        self,
        input_size: int,
        *,
        hidden: Sequence[int] = (200, 80),
        activation: str = "dice",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(input_size, hidden, activation=activation, dropout=dropout)

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> logits [B]"""
        return super().forward(x_BD).squeeze(-1)
