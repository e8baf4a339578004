"""Where things are kept that can be made again: downloads, prepared datasets, compiled kernels."""

import os
from pathlib import Path


def cache_root(cache: str | Path | None = None) -> Path:
    """`cache`, or `$DIEN_CACHE`, or `~/.cache/dien`."""
    return Path(cache or os.environ.get("DIEN_CACHE") or "~/.cache/dien").expanduser()
