"""Every export is compared with the network that it was made of before anybody sees it.

Axes: B users, T history steps, C candidates a user.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dien.batch import Batch
from dien.errors import DienError
from dien.export.archive import FORMATS, INPUTS
from dien.export.weights import load_weights

TOLERANCE = 1e-5
CANDIDATES = 5

Program = Callable[[tuple[Tensor, ...]], Tensor]
"""From the four inputs to logits [B, C]."""


def trained_logits(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Logits [B, C] of the network itself, which takes one candidate a row."""
    user_B, history_BT, length_B, candidate_BC = inputs
    candidates = candidate_BC.shape[1]
    history_PT = history_BT.repeat_interleave(candidates, 0)
    batch = Batch(
        user_B=user_B.repeat_interleave(candidates),
        history_BT=history_PT,
        negative_BT=torch.zeros_like(history_PT),
        length_B=length_B.repeat_interleave(candidates),
        target_B=candidate_BC.flatten(),
        label_B=torch.zeros(candidate_BC.numel()),
    )
    with torch.no_grad():
        return network.eval()(batch).logit_B.view(candidate_BC.shape)


def program_in(folder: Path, kind: str) -> Program:
    """What lies in a folder, loaded as its users will."""
    path = folder / FORMATS[kind]
    if kind == "pt2":
        module = torch.export.load(path).module()
        return lambda inputs: module(*inputs)[1]
    if kind == "weights":
        network = load_weights(folder)
        return lambda inputs: trained_logits(network, inputs)
    import onnxruntime  # of the extra `export`, which the other formats do without

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        feeds = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        return torch.from_numpy(session.run(["logits"], feeds)[0])

    return run


def check_export(
    network: nn.Module, program: Program, *, items: int, users: int, history_length: int
) -> dict[str, Any]:
    """Compare a program with its network on random inputs of lengths 0, 1, in between, and `history_length`.

    Args:
        network: the trained one.
        program: what was made of it.
        items, users: rows of the feature tables.
        history_length: the longest history.

    Returns:
        For the card: the largest difference of logits, and the lengths tried.

    Raises:
        DienError: if they differ by more than 1e-5 (relative to logits above 1).
    """
    generator = torch.Generator().manual_seed(0)

    def rows(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    largest = 0.0
    batches = [[0, 1, max(1, history_length // 2), history_length], [0], [1], [history_length]]
    for lengths in batches:
        inputs = (
            rows(users, len(lengths)),
            rows(items, len(lengths), max(lengths)),
            torch.tensor(lengths),
            rows(items, len(lengths), CANDIDATES),
        )
        expected = trained_logits(network, inputs)
        difference_BC = (program(inputs) - expected).abs()
        if not (difference_BC <= TOLERANCE * expected.abs().clamp(min=1)).all():  # also for NaN
            raise DienError(f"the exported program differs from its network by {difference_BC.max():.2g}: not written.")
        largest = max(largest, float(difference_BC.max()))
    return {"largest_difference": largest, "lengths": sorted({length for batch in batches for length in batch})}
