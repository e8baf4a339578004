"""The library of the CPU kernels: compiled on first use, kept in a cache folder, loaded with ctypes.

The sources use neither torch nor Python headers, so one compiler call of a few seconds makes a library that outlives
torch's upgrades; it is compiled again when the sources, the compiler, the flags or the processor change.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dien.cache import cache_root

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "native"
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)


class BuildError(Exception):
    """Why there is no library here, in one sentence."""


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library, compiled first if this machine's cache does not have it.

    The cache is `$DIEN_CACHE/kernels`, by default `~/.cache/dien/kernels`. Raises `BuildError` with the reason.
    """
    compiler = _compiler()
    path = cache_folder() / f"kernels-{_fingerprint(compiler)}.so"
    if not path.exists():
        logger.info("compiling the CPU kernels (once, a few seconds)")
        start = time.perf_counter()
        _compile(compiler, path)
        logger.info("compiled the CPU kernels in %.1f s: %s", time.perf_counter() - start, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the compiled kernels do not load ({error})") from error


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    return cache_root() / "kernels"


def _compiler() -> str:
    names = (os.environ["CXX"],) if os.environ.get("CXX") else ("g++", "c++", "clang++")
    for name in names:
        if path := shutil.which(name):
            return path
    raise BuildError(f"no C++ compiler was found (looked for {', '.join(names)}; CXX names another)")


def _fingerprint(compiler: str) -> str:
    """What the library depends on. `-march=native` makes that the processor too: homes are shared in a cluster."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = [compiler, version, *FLAGS, platform.machine(), _processor()]
    parts += [source.read_text() for source in sorted(SOURCES.iterdir()) if source.is_file()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compile(compiler: str, path: Path) -> None:
    """Compile next to `path` and rename: two processes that build at once both end with a whole library.

    `-fopenmp` is given to the compiler, not to the linker: the OpenMP symbols stay open and are bound to the runtime
    that torch has loaded, so that both share one pool of threads instead of fighting over the cores.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            sources = sorted(SOURCES.glob("*.cpp"))
            units = [Path(folder) / f"{source.stem}.o" for source in sources]
            commands = [
                (compiler, *FLAGS, "-fopenmp", "-c", source, "-o", unit)
                for source, unit in zip(sources, units, strict=True)
            ]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(lambda command: _run(*command), commands))
            built = Path(folder) / path.name
            _run(compiler, *FLAGS, "-shared", *units, "-o", built)
            built.replace(path)
    except OSError as error:
        raise BuildError(f"the kernels cannot be compiled in {path.parent} ({error}); set DIEN_CACHE") from error


def _run(*command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.splitlines() or ["no message"]
        reason = next((line for line in lines if "error" in line), lines[-1])
        raise BuildError(f"{command[0]} failed: {reason.strip()}")
