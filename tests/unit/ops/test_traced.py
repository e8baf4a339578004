"""Programs that torch writes down compute what the eager program does.

torch's layers and the scan's operator are in the place of kernels whose calls would not be in the program.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dien.model import candidates
from dien.ops import dense, gated_scan, last_state, linear, lookup, perceptron, ranking


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the linear kernel for short lists too, so that eager programs run every kernel."""
    monkeypatch.setattr(dense, "FEWEST", 0)


def scanned(x_N: Tensor, weight: Tensor) -> Tensor:
    offsets = F.pad(torch.ones_like(x_N[:, 0], dtype=torch.int64).cumsum(0), (1, 0))
    return last_state(gated_scan(x_N, x_N[:, 0].sigmoid(), offsets, weight, weight[:, 0], rule="augru"), offsets)


def two_layers(x_N: Tensor, weight: Tensor) -> Tensor:
    row = torch.ones_like(x_N[:, 0], dtype=torch.int64).cumsum(0) - 1
    return perceptron(
        x_N[:, 2:], x_N[:, :2], row, weight, weight[:, 0], weight[:, :3], weight[:, 1], weight[:1, :3], weight[0, :1]
    )


class Layer(nn.Module):
    """A function of an input and a weight, with the weight as its parameter."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize(
    "layer",
    [Layer(linear, 3, 6), Layer(two_layers, 3, 6), Layer(scanned, 9, 3)],
    ids=["linear", "perceptron", "scan"],
)
def test_a_traced_layer_is_the_layer(layer: Layer) -> None:
    columns = 9 if layer.function is scanned else 6
    # torch's check traces a copy without gradients, for which the scan saves nothing.
    traced = torch.jit.trace(layer, torch.randn(5, columns), check_trace=False)
    for rows in (4, 11):
        x = torch.randn(rows, columns)
        ours, theirs = traced(x), layer(x)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        gradients = [torch.autograd.grad(y.square().sum(), layer.weight)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_a_traced_lookup_has_the_gradient_of_the_lookup() -> None:
    table = torch.randn(7, 3, requires_grad=True)
    traced = torch.jit.trace(lookup, (table, torch.tensor([1, 2])))
    index = torch.tensor([6, 0, 6, 3])
    (gradient,) = torch.autograd.grad(traced(table, index).square().sum(), table)
    assert torch.equal(gradient, torch.autograd.grad(lookup(table, index).square().sum(), table)[0])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while it traces
def test_a_compiled_network_has_the_values_and_gradients_of_the_eager_one(make_network, make_batch) -> None:
    network, batch = make_network("augru"), make_batch([3, 0, 7, 1, 9, 2])

    def losses(network: nn.Module, batch: object) -> tuple[Tensor, Tensor]:
        output = network(batch)
        return F.binary_cross_entropy_with_logits(output.logit_B, batch.label_B), network.auxiliary_loss(output, batch)

    expected = losses(network, batch)
    gradients = torch.autograd.grad(sum(expected), list(network.parameters()))
    torch.compiler.reset()
    found = torch.compile(losses, backend="aot_eager")(network, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    found = torch.autograd.grad(sum(found), list(network.parameters()))
    torch.testing.assert_close(found, gradients, rtol=1e-5, atol=1e-6)


def test_a_compiled_lookup_has_the_gradient_of_the_lookup() -> None:
    table, index = torch.randn(7, 3, requires_grad=True), torch.tensor([6, 0, 6, 3])
    torch.compiler.reset()
    compiled = torch.compile(lookup, fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(table, index).square().sum(), table)
    assert torch.equal(gradient, torch.autograd.grad(lookup(table, index).square().sum(), table)[0])


@pytest.mark.parametrize("name", ["augru", "aigru"])
def test_compiled_candidates_have_the_scores_of_the_kernels(name: str, make_network, monkeypatch) -> None:
    network = make_network(name).eval()
    history_TD, target_CD = torch.randn(5, network.item.width), torch.randn(4, network.item.width)
    steps = candidates._alone(5, history_TD.device)
    calls, call = [], ranking.call
    monkeypatch.setattr(ranking, "call", lambda name, *rest, **rule: (calls.append(name), call(name, *rest, **rule)))
    with torch.no_grad():
        interest_TH = candidates.interests(network, history_TD, steps)
        shared = candidates.share(network, torch.tensor([3]), history_TD, interest_TH)
        expected_C = candidates.score(network, shared, target_CD)
        assert calls
        calls.clear()
        torch.compiler.reset()
        found_C = torch.compile(candidates.score, backend="aot_eager")(network, shared, target_CD)
    assert not calls
    torch.testing.assert_close(found_C, expected_C, rtol=0, atol=1e-6)
