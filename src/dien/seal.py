"""How a checkpoint file ends: a zip archive whose comment is the SHA-256 of what stands before that comment.

Apart from `dien.checkpoint`, so that who only looks at a file need not load Lightning.
"""

import os
from pathlib import Path

MARK = b"sha256:"
COMMENT = len(MARK) + 64
END = 22
"""Bytes of the record that ends an archive, before its comment."""
_SIGNATURE = b"PK\5\6"


def comment(hexdigest: str) -> bytes:
    """What a sealed archive ends with: the length of its comment in two bytes, and the comment."""
    return COMMENT.to_bytes(2, "little") + MARK + hexdigest.encode()


def is_bare_end(end: bytes) -> bool:
    """Whether bytes end as an archive without a comment does, such as one of `torch.save` alone."""
    return end[-END:].startswith(_SIGNATURE) and end.endswith(b"\0\0")


def has_its_end(path: Path) -> bool:
    """Whether a checkpoint has all of its end, so that nothing was cut off; what stands before it is not read.

    `zipfile.is_zipfile` says yes to a file whose comment was cut. Raises `OSError` if it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END - COMMENT))
        end = file.read()
    sealed = end.startswith(_SIGNATURE) and end[END - 2 :].startswith(comment("")) and len(end) == END + COMMENT
    return sealed or is_bare_end(end)
