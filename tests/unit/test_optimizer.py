"""Adam with dense and sparse gradients against torch's two optimizers."""

import pytest
import torch
import torch.nn.functional as F

from dien.model.features import FeatureEmbedding, use_sparse_gradients
from dien.optimizer import Adam


def train(optimizer_class, *, sparse: bool, **options) -> list[torch.Tensor]:
    torch.manual_seed(0)
    table, matrix = torch.nn.Parameter(torch.randn(9, 3)), torch.nn.Parameter(torch.randn(3, 2))
    optimizers = optimizer_class([table], [matrix], **options)
    for step in range(6):
        rows = torch.tensor([1, 4, 4, step])  # row 8 is never looked up

        def loss(rows=rows) -> torch.Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            value = (F.embedding(rows, table, sparse=sparse) @ matrix).square().sum()
            value.backward()
            return value

        if len(optimizers) == 1:  # as Lightning does: the gradients appear inside the step
            optimizers[0].step(loss)
        else:
            loss()
            for optimizer in optimizers:
                optimizer.step()
    return [table.detach(), matrix.detach()]


@pytest.mark.parametrize("fused", [False, True])
def test_dense_gradients_are_torchs_adam(fused):
    ours = train(lambda table, matrix: [Adam(table + matrix, lr=0.1, fused=fused)], sparse=False)
    theirs = train(lambda table, matrix: [torch.optim.Adam(table + matrix, lr=0.1)], sparse=False)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_sparse_gradients_are_torchs_sparse_adam():
    ours = train(lambda table, matrix: [Adam(table + matrix, lr=0.1, fused=True)], sparse=True)
    theirs = train(
        lambda table, matrix: [torch.optim.SparseAdam(table, lr=0.1), torch.optim.Adam(matrix, lr=0.1)], sparse=True
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_state_survives_saving():
    table = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = Adam([table], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.embedding(torch.tensor([1]), table, sparse=True).sum().backward()
        optimizer.step()
    copy = Adam([table], lr=0.5)
    copy.load_state_dict(optimizer.state_dict())
    assert copy.state[table]["step"] == 2
    assert copy.param_groups[0]["lr"] == 0.1
    torch.testing.assert_close(copy.state[table]["exp_avg"], optimizer.state[table]["exp_avg"])


def test_only_large_tables_get_sparse_gradients(make_network, make_batch, item_table):
    network, batch = make_network("augru"), make_batch([3, 0, 5])
    dense = torch.autograd.grad(network(batch).logit_B.sum(), network.item.weight)[0]
    use_sparse_gradients(network, smallest=network.item.weight.numel())
    assert network.item.sparse
    assert not network.user.sparse  # the smaller table
    network(batch).logit_B.sum().backward()
    assert network.item.weight.grad.is_sparse
    torch.testing.assert_close(network.item.weight.grad.to_dense(), dense, rtol=1e-5, atol=1e-6)
    use_sparse_gradients(network)
    assert not FeatureEmbedding(item_table).sparse
    assert not network.item.sparse  # far below the size from which it pays
