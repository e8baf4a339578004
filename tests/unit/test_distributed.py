"""Two processes together compute what one with all rows does. Axes: B rows, D width, R rows of a table, E embedding."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dien import distributed
from dien.model.features import FeatureEmbedding, sparse_tables, use_sparse_gradients
from dien.model.layers import Dice
from dien.tables import Column

X_BD = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
ROWS = [[5, 2, 5], [2]]
"""Rows of a table that each process looks up: repeated, shared, and a different number of them."""


def share(rank: int) -> Tensor:
    """Rows of the first and of the second process: 4 and 3."""
    return X_BD[rank::2]


def dice_of(x_BD: Tensor) -> tuple[Dice, Tensor, Tensor]:
    """Dice after one training batch, its output, and the gradient of a weighted sum of it."""
    dice = Dice(3)
    dice.slope.data.fill_(0.3)
    x_BD = x_BD.clone().requires_grad_()
    y_BD = dice(x_BD)
    (gradient_BD,) = torch.autograd.grad((y_BD * y_BD).sum(), x_BD)
    return dice, y_BD.detach(), gradient_BD


def lookup(rows: list[int]) -> Tensor:
    """The sparse gradient of a table [8, 2] of which `rows` were looked up."""
    table = torch.nn.Parameter(torch.arange(16.0).view(8, 2))
    torch.nn.functional.embedding(torch.tensor(rows, dtype=torch.int64), table, sparse=True).square().sum().backward()
    return table.grad


class Network(torch.nn.Module):
    """A sparse table that DistributedDataParallel leaves alone, and a dense layer that it averages."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        column = Column("item_id", "categorical", 9, torch.arange(9))
        self.item = FeatureEmbedding((column,), embedding_size=2, std=1.0)
        self.layer = torch.nn.Linear(2, 1)
        use_sparse_gradients(self, smallest=0)

    def forward(self, ids_B: Tensor) -> Tensor:
        return self.layer(self.item(ids_B)).square()


def gradients(rank: int | None) -> list[Tensor]:
    """Of the mean over seven rows: of all of them alone, or of this process's share with the other's."""
    network, ids_B = Network(), torch.tensor([2, 3, 4, 5, 2, 8, 3])
    if rank is None:
        network(ids_B).mean().backward()
    else:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, sparse_tables(network))
        parallel = DistributedDataParallel(network)
        loss_B = parallel(ids_B[rank::2])
        (loss_B.sum() / distributed.mean(torch.tensor(float(len(loss_B))))).backward()
        network.item.weight.grad = distributed.average_rows(network.item.weight.grad)
    return [network.item.weight.grad.to_dense(), network.layer.weight.grad]


def work(rank: int, port: int, found) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    dice, y_BD, gradient_BD = dice_of(share(rank))
    total = torch.tensor([1.0 + rank], requires_grad=True)
    distributed.total(total).square().sum().backward()  # (1 + 2)^2, once in each process
    found[rank] = {
        "processes": distributed.processes(),
        "mean": distributed.mean(torch.tensor(float(rank))).item(),
        "total": total.grad.item(),
        "dice": [tensor.tolist() for tensor in (y_BD, gradient_BD, dice.running_mean, dice.running_var)],
        "rows": distributed.average_rows(lookup(ROWS[rank])).to_dense().tolist(),
        "gradients": [gradient.tolist() for gradient in gradients(rank)],
        "no rows": distributed.average_rows(lookup([3] if rank else [])).to_dense().tolist(),
    }
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(free_port: Callable[[], int]) -> dict[int, dict]:
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(work, args=(free_port(), results), nprocs=2)
        return dict(results)


def test_alone_everything_is_itself():
    x = torch.ones(2, requires_grad=True)
    assert distributed.processes() == 1
    assert distributed.total(x) is x
    assert distributed.mean(x).tolist() == [1, 1]
    assert distributed.agreed("run_dir", "here") == "here"


def test_means_and_sums(found):
    for rank in (0, 1):
        assert found[rank]["processes"] == 2
        assert found[rank]["mean"] == 0.5
        assert found[rank]["total"] == 12.0  # two processes, each 2 * (1 + 2)


def test_dice_has_the_statistics_of_all_rows(found):
    dice, y_BD, gradient_BD = dice_of(X_BD)
    for rank in (0, 1):
        y, gradient, mean, var = (torch.tensor(value) for value in found[rank]["dice"])
        torch.testing.assert_close(y, y_BD[rank::2])
        torch.testing.assert_close(gradient, gradient_BD[rank::2])
        torch.testing.assert_close(mean, dice.running_mean)
        torch.testing.assert_close(var, dice.running_var)


def test_sparse_gradients_are_averaged_row_by_row(found):
    for name, lists in (("rows", ROWS), ("no rows", [[], [3]])):
        expected = sum(lookup(rows).to_dense() for rows in lists) / 2
        assert found[0][name] == found[1][name] == expected.tolist()


def test_a_sparse_table_and_a_dense_layer_train_as_in_one_process(found):
    for rank in (0, 1):
        for shared, alone in zip(found[rank]["gradients"], gradients(None), strict=True):
            torch.testing.assert_close(torch.tensor(shared), alone)
