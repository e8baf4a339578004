"""Faults of the machine that end a training: memory and reading processes, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dien.errors import DienError

_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory")


@contextmanager
def faults_in_one_sentence(how_to_go_on: str) -> Iterator[None]:
    """Turn what the libraries raise for such a fault into a `DienError`.

    Args:
        how_to_go_on: the end of the sentence.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DienError(f"out of memory: lower data.batch_size, and {how_to_go_on}.") from error
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if any(words in text for words in _MEMORY):
            raise DienError(f"out of memory: lower data.batch_size, and {how_to_go_on}.") from error
        if text.startswith("DataLoader worker"):
            raise DienError(
                f"a reading process died ({text.rstrip('.')}): if memory was short, lower data.num_workers; "
                f"{how_to_go_on}."
            ) from error
        raise
