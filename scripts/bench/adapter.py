"""What the benchmark asks of a system: its network, its own form of a batch, a step of training, a prediction."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from bench.rows import Rows

EMBEDDING = 18
ATTENTION = (80, 40)
AUXILIARY = (100, 50)
HEAD = (200, 80)
LEARNING_RATE = 1e-3

B = TypeVar("B")
"""A batch in the form that the system's own data loader would hand to its network."""


class Adapter(ABC, Generic[B]):
    """A system ready to train: the hidden size is 36 = item and category embedding, the auxiliary weight 1.

    Args:
        network: the system's own model class, configured.
        fused: use the fused Adam; the trainers of the peers use `torch.optim.Adam` with its defaults.
    """

    def __init__(self, network: nn.Module, *, fused: bool = False) -> None:
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=fused or None)

    @abstractmethod
    def batch(self, rows: Rows) -> B:
        """Convert rows before anything is timed."""

    @abstractmethod
    def loss(self, batch: B) -> Tensor:
        """What the system's own trainer minimises: click loss and auxiliary loss."""

    @abstractmethod
    def scores(self, batch: B) -> Tensor:
        """[B], higher for a likelier click; called without gradients and in evaluation mode."""

    def train(self, batches: Iterable[B]) -> list[Tensor]:
        """One optimizer step for each batch; the losses, [] each."""
        self.network.train()
        return [self.step(batch) for batch in batches]

    def step(self, batch: B) -> Tensor:
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def predict(self, batches: Iterable[B]) -> list[Tensor]:
        """The scores [B] of each batch."""
        self.network.eval()
        with torch.no_grad():
            return [self.scores(batch) for batch in batches]
