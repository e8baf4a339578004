"""The numbers of the telemetry, against numbers made by hand."""

import pytest
import torch
from torch import nn

from dien import telemetry
from dien.model.features import use_sparse_gradients
from dien.telemetry import embedding_norms, gradient_norm


@pytest.mark.parametrize("sparse", [False, True])
def test_gradient_norm_is_that_of_one_long_vector(make_network, make_batch, sparse):
    network, batch = make_network("augru"), make_batch([3, 5])
    use_sparse_gradients(network, 0 if sparse else 10**9)
    network(batch).logit_B.sum().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert any(gradient.is_sparse for gradient in gradients) == sparse
    flat = torch.cat([gradient.to_dense().flatten() for gradient in gradients])
    torch.testing.assert_close(gradient_norm(network), flat.norm())


def test_gradient_norm_without_gradients():
    assert gradient_norm(nn.Linear(2, 1)) == 0


def test_embedding_norms_are_means_over_rows(make_network):
    network = make_network("augru")
    with torch.no_grad():
        network.item.weight.copy_(torch.zeros_like(network.item.weight))
        network.item.weight[0] = torch.tensor([3.0, 0.0, 4.0])
    norms = embedding_norms(network)
    assert norms["item_embedding"].item() == pytest.approx(5 / len(network.item.weight))
    assert norms["user_embedding"].item() == pytest.approx(network.user.weight.norm(dim=1).mean().item())


def test_the_clock_tells_waiting_from_working_and_leaves_validation_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: now[0])

    def after(seconds: float) -> None:
        now[0] += seconds

    clock = telemetry._Clock()
    for _ in range(2):
        after(1)  # data
        clock.begin_step()
        after(3)  # the step
        clock.end_step(rows=20)
    after(100)  # validation
    clock.resume()
    assert clock.told() == {"train/samples_per_second": 40 / 8, "train/data_wait": 2 / 8}
