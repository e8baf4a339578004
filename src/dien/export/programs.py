"""A padded network as a program that runs without this package: `torch.export`'s archive, or ONNX.

Axes: B users, T history steps, C candidates a user; all three are free in the program.
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dien.errors import DienError
from dien.export.archive import INPUTS, OUTPUTS
from dien.export.padded import PaddedNetwork

OPSET = 20
LARGEST_FILE = 1 << 30
"""Bytes of weights and tables from which they lie in a file beside `model.onnx`: protobuf ends at 2 GiB."""


def program_of(network: nn.Module) -> ExportedProgram:
    """The graph of a network; only operators of torch itself are in it.

    Raises:
        DienError: for a network that cannot be exported; the message says why.
    """
    padded = PaddedNetwork(copy.deepcopy(network)).cpu().eval().requires_grad_(False)
    batch, time, candidates = Dim("batch", min=1), Dim("time", min=0), Dim("candidates", min=1)
    with torch.no_grad():
        # Sizes of the example are all different, so that none is taken for another.
        return torch.export.export(
            padded,
            example(users=3, length=5, candidates=4),
            dynamic_shapes=({0: batch}, {0: batch, 1: time}, {0: batch}, {0: batch, 1: candidates}),
        )


def write_pt2(program: ExportedProgram, path: Path) -> None:
    """Write a program that `torch.export.load(path).module()` runs."""
    torch.export.save(program, path)


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a program that any ONNX runtime runs; very large tables go to `model.onnx.data` beside it.

    Raises:
        DienError: if the packages of the extra `export` are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DienError(f"--format onnx needs {error.name}: pip install 'dien[export]'.") from error
    with _quiet(), torch.no_grad():
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            verbose=False,
        )
    assert onnx_program is not None
    numbers = [*program.state_dict.values(), *(c for c in program.constants.values() if isinstance(c, Tensor))]
    size = sum(tensor.numel() * tensor.element_size() for tensor in numbers)
    onnx_program.save(path, external_data=size > LARGEST_FILE)


def example(*, users: int, length: int, candidates: int, lengths: list[int] | None = None) -> tuple[Tensor, ...]:
    """Inputs of the given sizes, all unknown items and users, for tracing."""
    length_B = torch.full((users,), length) if lengths is None else torch.tensor(lengths)
    ones = torch.ones(users, max(length, candidates), dtype=torch.int64)
    return ones[:, 0].clone(), ones[:, :length].clone(), length_B, ones[:, :candidates].clone()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress, and warns of torchvision and of its own optimizer."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
