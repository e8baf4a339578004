"""A Python for each peer: this one if the peer is installed in it (extra `bench`), else a small environment of its own.

Such an environment sees the packages of this one, torch and numpy above all, and adds the peer on top: peers whose
dependencies contradict each other are measured on the same torch, and nothing here is changed.

    PYTHONPATH=scripts python -m bench.environments COMMAND...  # with DIEN_PYTHON_RECBOLE and DIEN_PYTHON_HOPWISE
"""

import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

from bench.systems import CONVERTED, Installed

logger = logging.getLogger(__name__)

SHARED = ("torch", "numpy")
"""What a peer may not replace: all systems run on the same."""


class SetupError(Exception):
    """Why a peer has no Python here."""


def python_for(system: Installed, cache: Path) -> str:
    """Path of a Python that can import the system; an environment is made in `cache` on the first call.

    Raises:
        SetupError: pip could not install it.
    """
    if system.package is None or importlib.util.find_spec(system.package) is not None:
        return sys.executable
    pins = [f"{name}=={version(name)}" for name in SHARED]
    wanted = "\n".join([sys.version, sysconfig.get_path("purelib"), *pins, *system.bare, *system.requirements])
    folder = cache / f"{system.package}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return str(python)
    logger.info("installing %s into %s (once)", system.package, folder)
    venv.create(folder, with_pip=True, clear=True)
    (_purelib(folder) / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    _pip(python, "--constraint", str(constraints), *system.requirements)
    if system.bare:
        _pip(python, "--no-deps", *system.bare)
    ready.touch()
    return str(python)


def cache_folder() -> Path:
    """`$DIEN_CACHE/benchmark`, by default `~/.cache/dien/benchmark`."""
    return Path(os.environ.get("DIEN_CACHE") or Path.home() / ".cache" / "dien") / "benchmark"


def _purelib(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise SetupError(f"pip install {' '.join(arguments)}: {reason[-1]}")


def main(command: list[str]) -> int:
    """Run a command that finds a Python for each peer of `dien-convert`; its status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        pythons = {f"DIEN_PYTHON_{name.upper()}": python_for(peer, cache_folder()) for name, peer in CONVERTED.items()}
    except SetupError as error:
        logger.error("%s", error)
        return 1
    return subprocess.run(command, env=os.environ | pythons, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
