"""Adam for networks whose largest tables have sparse gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` that takes sparse gradients beside dense ones.

    A parameter with a sparse gradient is updated lazily, as by `torch.optim.SparseAdam`: rows that the batch did not
    look up keep their value and their moments. A step then costs what the batch touched, whatever the table's size.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse: list[tuple[dict[str, Any], Parameter, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    sparse.append((group, parameter, parameter.grad.coalesce()))
                    parameter.grad = None  # the dense step must not see it
        super().step()
        for group, parameter, gradient in sparse:
            self._step_rows(group, parameter, gradient)
            parameter.grad = gradient
        return loss

    def _step_rows(self, group: dict[str, Any], parameter: Parameter, gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        steps, (beta1, beta2) = state["step"].item(), group["betas"]
        rows, values = gradient.indices()[0], gradient.values()
        mean = state["exp_avg"][rows].lerp(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].lerp(values.square(), 1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        scale = (square / (1 - beta2**steps)).sqrt().add_(group["eps"])
        parameter.index_add_(0, rows, mean / scale, alpha=-float(group["lr"]) / (1 - beta1**steps))
