"""Embedding tables whose rows are shared out over the processes of a training: `model.embedding=sharded`.

For tables too large for one device. TorchRec (an optional package) carries ids to the process that holds their rows,
and sums of vectors back. A process holds one block of consecutive rows of a table, with its gradient and its moments;
dense Adam on the blocks is dense Adam on the table, so that the numbers are those of one process. Checkpoints hold
whole tables, and every later command reads them as those of any other run.

Axes: R rows of a table, S rows of this process, E embedding, L places that are looked up, U distinct rows among them.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dien import distributed
from dien.errors import ConfigError
from dien.model.features import FeatureEmbedding

SMALLEST = 1024
"""Rows below which a table stays whole: looking up elsewhere costs more than it saves."""

_IDS, _TABLE = "ids", "table"


class Shares:
    """A table of which every process holds a block of rows: TorchRec's row-wise sharding with its dense kernel.

    Args:
        rows: R.
        share_SE: this process's block, on the device that is to hold it.
    """

    def __init__(self, rows: int, share_SE: Tensor) -> None:
        self.rows = rows
        with _quietly():
            self._bags, self._batch = _sharded_bags(rows, share_SE)
            self(torch.zeros(0, dtype=torch.int64, device=share_SE.device))  # the first call has a lot to say, too
        (self.weight,) = self._bags.parameters()
        """`[S, E]`; a step of the optimizer on it is one on the table."""
        with torch.no_grad():
            self.weight.copy_(share_SE)

    def __call__(self, ids: Tensor) -> Tensor:
        """Rows of the table, `[...] -> [..., E]`. A collective: every process has to look up, be it nothing."""
        distinct_U, place_L = ids.flatten().unique(return_inverse=True)
        # A bag of one row a distinct id. All processes must bring as many: the others get empty ones, which are zeros.
        most = distinct_U.new_tensor(len(distinct_U))
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        length = (torch.arange(max(int(most), 1), device=ids.device) < len(distinct_U)).to(torch.int32)
        found = self._bags(self._batch(keys=[_IDS], values=distinct_U, lengths=length)).wait()[_IDS]
        return found.index_select(0, place_L).unflatten(0, ids.shape)

    def whole(self, share_SE: Tensor) -> Tensor:
        """The table `[R, E]` of every process's block, on the CPU; a collective."""
        block = _block(self.rows)
        padded = F.pad(share_SE.detach(), (0, 0, 0, block - len(share_SE))).contiguous()
        blocks = [torch.empty_like(padded) for _ in range(distributed.processes())]
        dist.all_gather(blocks, padded)
        return torch.cat(blocks)[: self.rows].cpu()


def share_of(whole_RE: Tensor) -> Tensor:
    """This process's block `[S, E]` of a table."""
    block = _block(len(whole_RE))
    return whole_RE[dist.get_rank() * block :][:block]


def _block(rows: int) -> int:
    """Rows of a process; the last one has what is left."""
    return -(-rows // distributed.processes())


def tables_to_share(network: nn.Module, smallest: int = SMALLEST) -> dict[str, FeatureEmbedding]:
    """What `share_out` shares, by the names of the parameters."""
    return {
        f"{name}.weight": module
        for name, module in network.named_modules()
        if isinstance(module, FeatureEmbedding) and (module.shares is not None or len(module.weight) >= smallest)
    }


def share_out(network: nn.Module, device: torch.device, smallest: int = SMALLEST) -> None:
    """Share the large tables of a network out over the processes of the default group, before its optimizer is made.

    Alone, a process keeps them whole. May be called again: Lightning moves parameters between devices, which TorchRec
    does not see.

    Args:
        network: the same in all processes.
        device: where this process computes.
        smallest: rows of the smallest table that is shared.
    """
    if distributed.processes() == 1:
        return
    for module in tables_to_share(network, smallest).values():
        weight, before = module.weight.detach(), module.shares
        if isinstance(before, Shares):
            shares = Shares(before.rows, weight.to(device))
        else:
            shares = Shares(len(weight), share_of(weight).to(device))
        module.weight, module.shares = shares.weight, shares


def shared(network: nn.Module) -> dict[str, Shares]:
    """The tables that are shared out, by the names of their parameters."""
    return {
        f"{name}.weight": module.shares
        for name, module in network.named_modules()
        if isinstance(module, FeatureEmbedding) and isinstance(module.shares, Shares)
    }


def make_whole(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Put whole tables and moments in place of this process's shares in a checkpoint; a collective."""
    _replace(checkpoint, module, Shares.whole)


def take_shares(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Put this process's shares in place of whole tables and moments in a checkpoint."""
    _replace(checkpoint, module, lambda _, whole_RE: share_of(whole_RE).clone())


def _replace(checkpoint: dict[str, Any], module: nn.Module, change: Callable[[Shares, Tensor], Tensor]) -> None:
    number_of = {name: number for number, (name, _) in enumerate(module.named_parameters())}
    weights = checkpoint["state_dict"]
    for name, shares in shared(module).items():
        shape = weights[name].shape
        weights[name] = change(shares, weights[name])
        for optimizer in checkpoint.get("optimizer_states", []):
            moments = optimizer["state"].get(number_of[name], {})
            optimizer["state"][number_of[name]] = {
                key: change(shares, value) if getattr(value, "shape", None) == shape else value
                for key, value in moments.items()
            }


def check_available() -> None:
    """Raise `ConfigError` unless TorchRec can be imported."""
    with _quietly():
        _torchrec()


def _sharded_bags(rows: int, share_SE: Tensor) -> tuple[Any, Any]:
    """TorchRec's module for one table, sharded by rows, and its class of batches."""
    torchrec, embeddingbag, sharding_plan, types = _torchrec()
    config = torchrec.EmbeddingBagConfig(
        name=_TABLE, embedding_dim=share_SE.shape[1], num_embeddings=rows, feature_names=[_IDS]
    )
    whole = torchrec.EmbeddingBagCollection(tables=[config], device=torch.device("meta"))
    processes, device = distributed.processes(), share_SE.device
    plan = sharding_plan.construct_module_sharding_plan(
        whole,
        {_TABLE: sharding_plan.row_wise(compute_kernel="dense")},
        sharder=embeddingbag.EmbeddingBagCollectionSharder(fused_params={}),
        local_size=processes,
        world_size=processes,
        device_type=device.type,
    )
    environment = types.ShardingEnv.from_process_group(dist.group.WORLD)
    bags = embeddingbag.ShardedEmbeddingBagCollection(whole, plan, environment, fused_params={}, device=device)
    return bags, torchrec.KeyedJaggedTensor


def _torchrec() -> tuple[Any, Any, Any, Any]:
    try:
        import torchrec
        from torchrec.distributed import embeddingbag, sharding_plan, types
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"model.embedding=sharded needs TorchRec ({' '.join(str(error).split())}): install it in the version that "
            "belongs to this torch, see docs/cluster.md."
        ) from error
    return torchrec, embeddingbag, sharding_plan, types


@contextmanager
def _quietly() -> Iterator[None]:
    """TorchRec and its kernels tell the root logger of every file and table."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
