"""Checkpoints as files: tensors and plain values, read without running anything that is in them."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from dien.errors import DienError


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of dien-train, on the CPU.

    Raises:
        DienError: if the file is cut, damaged, or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise DienError(f"{path} is not a whole checkpoint: it is damaged, or was cut while written.") from error
    if not isinstance(state, dict) or "state_dict" not in state:
        raise DienError(f"{path} is not a checkpoint of dien-train.")
    return state
